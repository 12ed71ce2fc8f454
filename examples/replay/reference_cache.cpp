// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <replay/reference_cache.hpp>

#include <algorithm>
#include <cstddef>
#include <queue>
#include <span>
#include <vector>

namespace oriel::replay {
namespace {

/// Counts the leading run of pages for which `present` holds. @returns its length in pages
template <class Present>
std::size_t count_run(hit_count& hits,
                      const trace& requests,
                      const trace_request& request,
                      Present present) {
  const auto pages = requests.pages_of(request);
  const auto run =
      static_cast<std::size_t>(std::ranges::find_if_not(pages, present) - pages.begin());
  hits.input_tokens += request.input_tokens;
  hits.hit_tokens +=
      std::min<std::uint64_t>(std::uint64_t{run} * requests.page_tokens, request.input_tokens);
  return run;
}

/// Pages by recency: a ring of links through one that is no page.
class recency_list {
 public:
  explicit recency_list(std::uint32_t pages) : links_(std::size_t{pages} + 1), head_(pages) {
    std::ranges::fill(links_, link{absent, absent});
    links_[head_] = {head_, head_};
  }

  [[nodiscard]] bool contains(std::uint32_t page) const noexcept {
    return links_[page].newer != absent;
  }
  [[nodiscard]] std::uint32_t oldest() const noexcept { return links_[head_].newer; }

  void erase(std::uint32_t page) noexcept {
    const link old = links_[page];
    links_[old.newer].older = old.older;
    links_[old.older].newer = old.newer;
    links_[page] = {absent, absent};
  }

  /// Makes it the newest. @pre it is absent
  void insert(std::uint32_t page) noexcept {
    const std::uint32_t second = links_[head_].older;
    links_[page] = {.newer = head_, .older = second};
    links_[second].newer = page;
    links_[head_].older = page;
  }

 private:
  static constexpr std::uint32_t absent = 0xFFFF'FFFFu;
  struct link {
    std::uint32_t newer, older;
  };
  std::vector<link> links_;  // [pages + 1]; the last is the head: older is newest, newer is oldest.
  std::uint32_t head_;
};

constexpr std::uint32_t never = 0xFFFF'FFFFu;

/// Consecutive pages of a request that are needed again by the same later one.
struct next_use {
  std::uint32_t pages;
  std::uint32_t request;  // or `never`
};

/// When each page of each request is needed again, in runs.
class next_uses {
 public:
  explicit next_uses(const trace& requests) : first_(requests.requests.size() + 1) {
    std::vector<std::uint32_t> seen(requests.distinct_pages, never);
    for (std::size_t i = requests.requests.size(); i-- > 0;) {
      first_[i + 1] = runs_.size();
      const auto pages = requests.pages_of(requests.requests[i]);
      for (std::size_t p = pages.size(); p-- > 0;) {
        const std::uint32_t needed_by = seen[pages[p]];
        if (runs_.size() == first_[i + 1] || runs_.back().request != needed_by) {
          runs_.push_back({0, needed_by});
        }
        ++runs_.back().pages;
      }
      for (const std::uint32_t page : pages) {
        seen[page] = static_cast<std::uint32_t>(i);
      }
    }
    first_[0] = runs_.size();
  }

  /// Those of a request, last page first.
  [[nodiscard]] std::span<const next_use> of(std::size_t request) const noexcept {
    return std::span{runs_}.subspan(first_[request + 1], first_[request] - first_[request + 1]);
  }

 private:
  std::vector<next_use> runs_;      // Of the last request first.
  std::vector<std::size_t> first_;  // [requests + 1]: those of i are [first_[i + 1], first_[i]).
};

/// Present pages by the request that needs them next. A page that none needs is not kept.
class future_order {
 public:
  explicit future_order(const trace& requests)
      : requests_(requests),
        needs_(requests.requests.size()),
        needed_by_(requests.distinct_pages, never) {}

  [[nodiscard]] bool contains(std::uint32_t page) const noexcept {
    return needed_by_[page] != never;
  }
  [[nodiscard]] std::uint32_t size() const noexcept { return size_; }

  /// Puts a page in, or changes who needs it.
  void set(std::uint32_t page, std::uint32_t request) {
    remove(page);
    if (request == never) {
      return;
    }
    need& n = needs_[request];
    if (n.present == 0) {
      latest_.push(request);
    }
    ++n.present;
    n.searched = requests_.requests[request].pages;  // It may be deeper than where the search is.
    needed_by_[page] = request;
    ++size_;
  }

  /// Takes out the deepest of the pages that are needed last. @pre size() > 0
  void remove_last() {
    while (needs_[latest_.top()].present == 0) {
      latest_.pop();
    }
    const std::uint32_t request = latest_.top();
    const auto pages = requests_.pages_of(requests_.requests[request]);
    std::uint32_t& i = needs_[request].searched;
    do {
      --i;
    } while (needed_by_[pages[i]] != request);
    remove(pages[i]);
  }

 private:
  struct need {
    std::uint32_t present = 0;   // pages
    std::uint32_t searched = 0;  // No page of it from here on is present.
  };

  void remove(std::uint32_t page) noexcept {
    if (needed_by_[page] != never) {
      --needs_[needed_by_[page]].present;
      needed_by_[page] = never;
      --size_;
    }
  }

  const trace& requests_;
  std::vector<need> needs_;                    // [requests]
  std::vector<std::uint32_t> needed_by_;       // [distinct pages]: a request, never: absent.
  std::priority_queue<std::uint32_t> latest_;  // Requests with pages present, and some without.
  std::uint32_t size_ = 0;
};

}  // namespace

hit_count infinite_cache(const trace& requests) {
  hit_count hits;
  std::vector<char> seen(requests.distinct_pages, 0);
  for (const trace_request& request : requests.requests) {
    count_run(hits, requests, request, [&](std::uint32_t page) { return seen[page] != 0; });
    for (const std::uint32_t page : requests.pages_of(request)) {
      seen[page] = 1;
    }
  }
  return hits;
}

hit_count lru_cache(const trace& requests, std::uint32_t capacity_pages) {
  hit_count hits;
  recency_list cached{requests.distinct_pages};
  std::uint32_t size = 0;
  for (const trace_request& request : requests.requests) {
    count_run(hits, requests, request, [&](std::uint32_t page) { return cached.contains(page); });
    const auto pages = requests.pages_of(request);
    for (std::size_t p = pages.size(); p-- > 0;) {
      const std::uint32_t page = pages[p];
      if (cached.contains(page)) {
        cached.erase(page);
      } else if (size < capacity_pages) {
        ++size;
      } else if (capacity_pages > 0) {
        cached.erase(cached.oldest());
      } else {
        continue;
      }
      cached.insert(page);
    }
  }
  return hits;
}

hit_count clairvoyant_cache(const trace& requests, std::uint32_t capacity_pages) {
  hit_count hits;
  const next_uses uses{requests};
  future_order cached{requests};
  for (std::size_t i = 0; i < requests.requests.size(); ++i) {
    const trace_request& request = requests.requests[i];
    count_run(hits, requests, request, [&](std::uint32_t page) { return cached.contains(page); });
    const auto pages = requests.pages_of(request);
    std::size_t end = pages.size();
    for (const next_use& use : uses.of(i)) {
      for (std::uint32_t n = 0; n < use.pages; ++n) {
        cached.set(pages[--end], use.request);
      }
    }
    while (cached.size() > capacity_pages) {
      cached.remove_last();
    }
  }
  return hits;
}

}  // namespace oriel::replay
