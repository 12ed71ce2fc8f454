// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A random life of a prefix tree: requests that share and split paths, publish, slide, end;
/// evictions and drops between them; and after every operation the questions of `watched_tree`.
#pragma once

#include "prefix/watched_tree.hpp"

template <oriel::evict_order Order>
class tree_life : watched_tree<Order> {
  using base = watched_tree<Order>;
  using base::advisory;
  using base::below;
  using base::by_hash_;
  using base::bytes;
  using base::check_bytes;
  using base::cold_bytes;
  using base::counts_;
  using base::erase;
  using base::expect;
  using base::habits;
  using base::kinds;
  using base::learn;
  using base::lent_;
  using base::mirror_;
  using base::model_;
  using base::now_;
  using base::operation_;
  using base::options_;
  using base::page_size;
  using base::poison;
  using base::pools_;
  using base::probe;
  using base::random_;
  using base::requests_;
  using base::spaces_;
  using base::store;
  using base::tree_;
  using typename base::place;
  using typename base::request;

 public:
  explicit tree_life(const life_options& options) : base(options) {}

  life_counts run(std::uint64_t operations) {
    for (operation_ = 0; operation_ < operations; ++operation_) {
      now_ += random_() % 3;
      step(random_() % 64);
      look();
    }
    while (!requests_.empty()) {
      end(requests_.size() - 1);
      look();
    }
    expect(tree_.leases() == 0, "no lease is left");
    expect(tree_.evictable_full_pages() == tree_.full_pages(), "all that is cached can go");
    tree_.clear();
    learn();
    for (const auto& p : pools_) {
      expect(p.available() == p.capacity(), "every page came back");
    }
    return counts_;
  }

 private:
  void look() {
    const std::uint32_t space = below(spaces_.size());
    base::check(space, draw_tokens(space));
  }

  void step(std::uint64_t draw) {
    if (draw < 14) {
      start();
    } else if (draw < 34) {
      publish();
    } else if (draw < 46) {
      if (!requests_.empty()) {
        end(below(requests_.size()));
      }
    } else if (draw < 50) {
      evict_full(below(4));
    } else if (draw < 54) {
      evict_window(below(4));
    } else if (draw < 57) {
      if (!requests_.empty()) {
        tree_.drop_windows(requests_[below(requests_.size())].held);
      }
    } else if (draw < 60) {
      slide();
    } else if (draw == 60 && below(8) == 0) {
      forget(below(spaces_.size()));
    } else if (draw == 61 && below(24) == 0) {
      tree_.clear();
      forgotten_all();
    }
  }

  // --- Requests ----------------------------------------------------------------------------------

  /// Tokens that share beginnings: of another path, cut anywhere, and on with few symbols.
  std::vector<oriel::token_id> draw_tokens(std::uint32_t space) {
    std::vector<oriel::token_id> tokens;
    if (!paths_[space].empty() && below(8) != 0) {
      tokens = paths_[space][below(paths_[space].size())];
      if (below(3) == 0) {
        tokens.resize(below(tokens.size() + 1));
      }
    }
    grow(tokens);
    return tokens;
  }
  void grow(std::vector<oriel::token_id>& tokens) {
    for (std::uint32_t more = below(below(4) == 0 ? 4 * page_size() + 8 : page_size() + 2);
         more > 0;
         --more) {
      if (tokens.size() < options_.length_max) {
        tokens.push_back(oriel::token_id{below(3) == 0 ? below(options_.vocabulary) : 0});
      }
    }
  }
  void remember(const request& r) {
    auto& paths = paths_[r.space];
    if (paths.size() < 12) {
      paths.push_back(r.tokens);
    } else {
      paths[below(paths.size())] = r.tokens;
    }
  }

  void start() {
    if (requests_.size() >= options_.requests_max) {
      return;
    }
    request r;
    r.space = below(spaces_.size());
    r.tokens = draw_tokens(r.space);
    r.windows.resize(kinds());
    const auto found = below(3) == 0 ? advisory(r.space, r.tokens) : probe(r.space, r.tokens);
    for (std::uint32_t n = below(4) == 0 ? 1 + below(4) : 0; n > 0; --n) {
      step(below(62));  // The match goes stale.
      learn();
    }
    const oriel::pin_extent extents[] = {oriel::pin_extent::hit(found),
                                         oriel::pin_extent::heal(found),
                                         {},
                                         {below(options_.length_max), below(options_.length_max)}};
    const oriel::pin_extent extent = extents[below(8) < 5 ? 0 : below(4)];
    r.held = tree_.pin(spaces_[r.space], r.tokens, found, extent, now_);
    const std::vector<place> path = model_.find(r.space, r.tokens);
    const model_match want = model_.match(r.space, r.tokens);
    const std::uint32_t full =
        std::min(extent.full_tokens, want.heal_tokens) / page_size() * page_size();
    expect(static_cast<bool>(r.held), "a lease is given");
    expect(r.held.full_tokens() == full, "the lease holds what was asked and is there");
    expect(
        r.held.window_tokens() == model_.safe_boundary(path, std::min(extent.window_tokens, full)),
        "the lease pins the deepest boundary of what was asked");
    borrow(r);
    remember(r);
    requests_.push_back(std::move(r));
    ++counts_.pins;
  }

  /// Takes references to what the lease holds.
  void borrow(request& r) {
    tree_.borrow(r.held, lent_);
    expect(lent_.full.size() * page_size() == r.held.full_tokens(), "borrows the full pages");
    for (std::uint32_t page = 0; page < lent_.full.size(); ++page) {
      check_bytes(r, 0, page, lent_.full[page]);
      pools_[0].add_ref(lent_.full[page]);
    }
    r.full = lent_.full;
    for (std::size_t kind = 0; kind < kinds(); ++kind) {
      const std::uint32_t end = r.held.window_tokens() / page_size();
      std::uint32_t page = end - static_cast<std::uint32_t>(lent_.windows[kind].size());
      expect(page == end || model_.needs(kind, page, end), "borrows needed window pages only");
      expect(page == 0 || !model_.needs(kind, page - 1, end), "borrows every needed window page");
      for (const oriel::page_handle h : lent_.windows[kind]) {
        check_bytes(r, kind + 1, page, h);
        pools_[kind + 1].add_ref(h);
        r.windows[kind][page++] = h;
      }
    }
  }

  /// A page of its own, for a request that computes it now.
  bool allocate(std::size_t pool, oriel::page_handle& out) {
    if (pools_[pool].available() == 0 && below(4) != 0) {
      pool == 0 ? evict_full(1) : evict_window_of(pool - 1, 1);
    }
    if (!pools_[pool].try_allocate(std::span(&out, 1))) {
      return false;
    }
    bytes(pool, out) = poison;  // Until it is filled.
    return true;
  }

  void publish() {
    if (requests_.empty()) {
      return;
    }
    request& r = requests_[below(requests_.size())];
    if (r.is_reserved) {
      below(5) == 0 ? abort(r) : commit(r);
      return;
    }
    grow(r.tokens);
    const auto whole = static_cast<std::uint32_t>(r.tokens.size()) / page_size();
    const auto had = static_cast<std::uint32_t>(r.full.size());
    for (oriel::page_handle page; r.full.size() < whole && allocate(0, page);) {
      r.full.push_back(page);
    }
    const auto end = static_cast<std::uint32_t>(r.full.size());
    const std::uint32_t held = r.held.full_tokens() / page_size();
    r.fresh_end = end - (below(4) == 0 ? below(end - held + 1) : 0);
    r.fresh_first = below(3) == 0 ? below(held + 1) : held;
    r.fresh_full.assign(r.full.begin() + r.fresh_first, r.full.begin() + r.fresh_end);
    r.fresh_windows.clear();
    for (std::size_t kind = 0; kind < kinds(); ++kind) {
      offer_windows(r, kind);
    }
    reserve(r);
    for (std::uint32_t page = had; page < end; ++page) {  // Filled after it was reserved.
      bytes(0, r.full[page]) = cold_bytes(r, 0, page);
    }
    for (std::size_t kind = 0; kind < kinds(); ++kind) {
      for (const auto& [page, handle] : r.windows[kind]) {
        if (bytes(kind + 1, handle) == poison) {
          bytes(kind + 1, handle) = cold_bytes(r, kind + 1, page);
        }
      }
    }
    remember(r);
    if (below(4) != 0) {
      commit(r);
    }
  }

  /// Chooses a span of one kind and gives the request the pages that it lacks, as a prefill or a
  /// heal would: all of the new pages, a part of them, none, or pages below them.
  void offer_windows(request& r, std::size_t kind) {
    const std::uint32_t held = r.held.full_tokens() / page_size();
    const std::uint32_t end = r.fresh_end - (below(6) == 0 ? below(r.fresh_end + 1) : 0);
    std::uint32_t first = end;
    switch (below(5)) {
      case 0:
        first = below(end + 1);
        break;
      case 1:
        break;  // None.
      default: {
        const std::uint32_t behind = (habits().windows[kind] - 1) / page_size() + 2;
        first = below(2) == 0 ? std::min(held, end) : end - std::min(end, behind);
      }
    }
    std::vector<oriel::page_handle> span;
    for (std::uint32_t page = first; page < end; ++page) {
      auto& mine = r.windows[kind][page];
      if (!mine && !allocate(kind + 1, mine)) {
        r.windows[kind].erase(page);
        break;
      }
      span.push_back(mine);
    }
    r.fresh_windows.emplace_back(first, std::move(span));
  }

  void reserve(request& r) {
    std::vector<oriel::window_page_span> spans;
    for (const auto& [first, pages] : r.fresh_windows) {
      spans.push_back({first, pages});
    }
    r.keeps_tail = below(3) != 0;
    r.fresh = tree_.reserve({.first_page = r.fresh_first,
                             .full = r.fresh_full,
                             .windows = spans,
                             .keeps_tail = r.keeps_tail});
    r.is_reserved = true;
  }

  void abort(request& r) {
    if (below(2) == 0) {
      tree_.abort(r.fresh);
    } else {
      const auto gone = std::move(r.fresh);
    }
    r.is_reserved = false;
    expect(mirror_.removals.empty(), "an abort says nothing");
  }

  void commit(request& r) {
    r.is_reserved = false;
    ++counts_.commits;
    if (r.is_forgotten) {
      const auto out = tree_.commit(r.held, r.fresh, r.tokens, now_);
      expect(out.tokens == 0, "a dropped namespace takes nothing");
      return;
    }
    const std::span<const oriel::token_id> tokens =
        std::span(r.tokens).first(std::size_t{r.fresh_end} * page_size());
    std::vector<place> path = model_.find(r.space, tokens);
    const auto found = static_cast<std::uint32_t>(path.size());
    const prefix_model::path whole = prefix_model::path_of(r.space, tokens);
    counts_.splits += found != 0 && found < r.fresh_end && model_.has_below(path.back()->first);
    oriel::publish_outcome want{.tokens = r.fresh_end * page_size(),
                                .full_pages = r.fresh_end - found};
    for (std::uint32_t page = r.fresh_first; page < found; ++page) {
      want.switched_pages += !(path[page]->second.full == r.fresh_full[page - r.fresh_first]);
    }
    for (std::uint32_t page = found; page < r.fresh_end; ++page) {
      path.push_back(store(whole.substr(0, 1 + std::size_t{page + 1} * page_size()),
                           page,
                           r.fresh_full[page - r.fresh_first]));
    }
    want.window_pages = attach(r, path, found, whole);

    const auto out = tree_.commit(r.held, r.fresh, r.tokens, now_);
    expect(out.tokens == want.tokens && out.full_pages == want.full_pages, "pages published");
    expect(out.window_pages == want.window_pages, "window pages published");
    expect(out.switched_pages == want.switched_pages, "pages switched");
    counts_.twins += want.switched_pages != 0;
    expect(r.held.full_tokens() == want.tokens, "the lease moves to the end");
    expect(r.held.window_tokens() == (model_.is_safe(path, want.tokens) ? want.tokens : 0),
           "the lease pins the windows at its end if they are whole");
    counts_.beyond_3_windows +=
        kinds() != 0 &&
        want.tokens > 3 * *std::max_element(habits().windows.begin(), habits().windows.end());
    switch_pages(r);
  }

  /// Hangs the offered window pages into the model; how many were worth it.
  std::uint32_t attach(request& r,
                       std::vector<place>& path,
                       std::uint32_t found,
                       const prefix_model::path& whole) {
    std::uint32_t attached = 0;
    for (std::size_t kind = 0; kind < kinds(); ++kind) {
      const auto& [first, pages] = r.fresh_windows[kind];
      for (std::uint32_t i = 0; i < pages.size(); ++i) {
        oriel::page_handle& there = path[first + i]->second.windows[kind];
        if (!there && model_.keeps(kind, first + i, whole, r.fresh_end, r.keeps_tail)) {
          there = pages[i];
          ++attached;
          counts_.revived += first + i < found;
        }
      }
    }
    return attached;
  }

  /// The sequence goes on with the tree's pages.
  void switch_pages(request& r) {
    const auto pages = r.fresh.full_pages();
    expect(pages.size() == r.fresh_full.size(), "a handle for every page");
    for (std::uint32_t i = 0; i < pages.size(); ++i) {
      oriel::page_handle& mine = r.full[r.fresh_first + i];
      check_bytes(r, 0, r.fresh_first + i, pages[i]);
      if (!(mine == pages[i])) {
        pools_[0].add_ref(pages[i]);
        pools_[0].release(mine);
        mine = pages[i];
      }
    }
  }

  /// Window pages leave a request's ring, published or not.
  void slide() {
    if (requests_.empty() || kinds() == 0) {
      return;
    }
    request& r = requests_[below(requests_.size())];
    auto& ring = r.windows[below(kinds())];
    const std::size_t kind = static_cast<std::size_t>(&ring - r.windows.data());
    for (std::uint32_t n = below(ring.size() + 1); n > 0; --n) {
      pools_[kind + 1].release(ring.begin()->second);
      ring.erase(ring.begin());
    }
  }

  void end(std::size_t i) {
    request& r = requests_[i];
    tree_.borrow(r.held, lent_);  // What is leased is as it was.
    for (std::uint32_t page = 0; page < lent_.full.size(); ++page) {
      check_bytes(r, 0, page, lent_.full[page]);
    }
    if (r.is_reserved) {
      abort(r);
    }
    pools_[0].release(r.full);
    for (std::size_t kind = 0; kind < kinds(); ++kind) {
      for (const auto& [page, handle] : r.windows[kind]) {
        pools_[kind + 1].release(handle);
      }
    }
    if (below(5) == 0) {
      const auto gone = std::move(r.held);
    } else {
      tree_.release(r.held,
                    {static_cast<oriel::request_end>(below(4)),
                     below(2) == 0 ? oriel::no_forecast : now_ + below(9)},
                    now_);
    }
    if (i + 1 != requests_.size()) {
      std::swap(requests_[i], requests_.back());
    }
    requests_.pop_back();
  }

  // --- Evict -------------------------------------------------------------------------------------

  void evict_full(std::uint32_t pages) {
    std::uint32_t free_before[2] = {pools_[0].available(), 0};
    for (std::size_t kind = 0; kind < kinds(); ++kind) {
      free_before[1] += pools_[kind + 1].available();
    }
    const oriel::evicted_pages freed = tree_.evict_full(pages, now_);
    std::uint32_t windows = 0;
    for (std::size_t kind = 0; kind < kinds(); ++kind) {
      windows += pools_[kind + 1].available();
    }
    expect(freed.full == pools_[0].available() - free_before[0], "full pages freed, recounted");
    expect(freed.window == windows - free_before[1], "window pages freed, recounted");
    expect(freed.full <= pages, "never more than asked");
    expect(freed.full == pages || tree_.evictable_full_pages() == 0, "less only if all is leased");
    counts_.evicted_full += freed.full;
    learn();
  }
  void evict_window(std::uint32_t pages) {
    if (kinds() != 0) {
      evict_window_of(below(kinds()), pages);
    }
  }
  void evict_window_of(std::size_t kind, std::uint32_t pages) {
    const std::uint32_t before = pools_[kind + 1].available();
    const auto k = static_cast<std::uint32_t>(kind);
    const oriel::evicted_pages freed = tree_.evict_window(k, pages);
    expect(freed.full == 0 && freed.window == pools_[kind + 1].available() - before,
           "window pages freed, recounted");
    expect(freed.window <= pages, "never more than asked");
    expect(freed.window == pages || tree_.evictable_window_pages(k) == 0,
           "less only if all is pinned");
    counts_.evicted_window += freed.window;
    learn();
  }

  void forget(std::uint32_t space) {
    tree_.drop(spaces_[space]);
    ++counts_.drops;
    for (request& r : requests_) {
      r.is_forgotten = r.is_forgotten || r.space == space;
    }
    erase_space(space);
    for (const event_mirror::removal& gone : mirror_.removals) {
      expect(!options_.hashes_differ || !by_hash_.contains(gone.hash), "one namespace was dropped");
    }
    mirror_.removals.clear();
  }
  void forgotten_all() {
    for (std::uint32_t space = 0; space < spaces_.size(); ++space) {
      erase_space(space);
    }
    for (request& r : requests_) {
      r.is_forgotten = true;
    }
    mirror_.removals.clear();
    expect(model_.pages().empty(), "nothing is left");
  }
  void erase_space(std::uint32_t space) {
    for (place at = model_.pages().begin(); at != model_.pages().end();) {
      const place next = std::next(at);
      if (at->first[0] == static_cast<char>(space)) {
        erase(at);
      }
      at = next;
    }
  }
  std::map<std::uint32_t, std::vector<std::vector<oriel::token_id>>> paths_;  // by namespace
};
