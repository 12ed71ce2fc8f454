// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The obvious prefix cache: a map from (namespace, all tokens up to the end of a page) to what is
/// there, and answers found by looking at every position of every boundary. It does not choose what
/// to evict; it is told, and knows what must never go.
#pragma once

#include <oriel/core/ids.hpp>

#include <algorithm>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

/// What the model keeps of a page.
struct model_page {
  std::uint32_t page = 0;  ///< logical
  oriel::page_handle full;
  std::vector<oriel::page_handle> windows;  ///< [kinds]; null: absent
};

/// How a cache is set up, as plain numbers.
struct model_habits {
  std::uint32_t page_size = 1;
  std::vector<std::uint32_t> windows = {};  ///< [kinds] W
  std::uint32_t slack_pages = 0;
  std::uint32_t keep_every = 0;  ///< tokens; 0: no checkpoints
  bool keep_forks = false;
  std::uint32_t dense_head = 0;  ///< tokens
};

struct model_match {
  std::uint32_t full_tokens = 0, window_safe_tokens = 0, heal_tokens = 0;
};

class prefix_model {
 public:
  /// One byte for the namespace and one for each token: the model wants ids below 256.
  using path = std::string;
  using page_map = std::map<path, model_page>;
  using place = page_map::iterator;

  explicit prefix_model(model_habits habits) : habits_(std::move(habits)) {}

  [[nodiscard]] const model_habits& habits() const { return habits_; }
  [[nodiscard]] page_map& pages() { return pages_; }

  static path path_of(std::uint32_t space, std::span<const oriel::token_id> tokens) {
    path p(1, static_cast<char>(space));
    for (const oriel::token_id token : tokens) {
      p.push_back(static_cast<char>(to_index(token)));
    }
    return p;
  }

  /// The pages of `tokens` from the first on, as far as all are there.
  [[nodiscard]] std::vector<place> find(std::uint32_t space,
                                        std::span<const oriel::token_id> tokens) {
    std::vector<place> found;
    const path whole = path_of(space, tokens);
    for (std::size_t end = habits_.page_size; end <= tokens.size(); end += habits_.page_size) {
      const place at = pages_.find(whole.substr(0, 1 + end));
      if (at == pages_.end()) {
        break;
      }
      found.push_back(at);
    }
    return found;
  }

  /// Is every position that computing `tokens` reads there, in every kind?
  [[nodiscard]] bool is_safe(const std::vector<place>& found, std::uint32_t tokens) const {
    for (std::size_t kind = 0; kind < habits_.windows.size(); ++kind) {
      const std::uint32_t behind = std::min(tokens, habits_.windows[kind] - 1);
      for (std::uint32_t position = tokens; position-- > tokens - behind;) {
        if (!found[position / habits_.page_size]->second.windows[kind]) {
          return false;
        }
      }
    }
    return true;
  }

  /// The largest window-safe boundary that is at most `limit` tokens.
  [[nodiscard]] std::uint32_t safe_boundary(const std::vector<place>& found,
                                            std::uint32_t limit) const {
    std::uint32_t pages = std::min<std::uint32_t>(static_cast<std::uint32_t>(found.size()),
                                                  limit / habits_.page_size);
    while (!is_safe(found, pages * habits_.page_size)) {
      --pages;
    }
    return pages * habits_.page_size;
  }

  [[nodiscard]] model_match match(std::uint32_t space, std::span<const oriel::token_id> tokens) {
    const std::vector<place> found = find(space, tokens);
    const auto full = static_cast<std::uint32_t>(found.size()) * habits_.page_size;
    const auto most = static_cast<std::uint32_t>(tokens.empty() ? 0 : tokens.size() - 1);
    return {full,
            safe_boundary(found, std::min(full, most)),
            std::min(full, most) / habits_.page_size * habits_.page_size};
  }

  /// Does another path go on behind this one?
  [[nodiscard]] bool has_below(const path& p) const {
    const auto next = pages_.upper_bound(p);
    return next != pages_.end() && next->first.starts_with(p);
  }

  /// Does computing boundary `pages` read logical page `page` of a kind?
  [[nodiscard]] bool needs(std::size_t kind, std::uint32_t page, std::uint32_t pages) const {
    const std::uint32_t tokens = pages * habits_.page_size;
    const std::uint32_t first = tokens - std::min(tokens, habits_.windows[kind] - 1);
    return page < pages && (page + 1) * habits_.page_size > first && first < tokens;
  }

  /// Do two pages follow this path?
  [[nodiscard]] bool is_fork(const path& p) const {
    std::size_t pages = 0;
    for (auto next = pages_.upper_bound(p); next != pages_.end() && next->first.starts_with(p);
         ++next) {
      pages += next->first.size() == p.size() + habits_.page_size;
    }
    return pages > 1;
  }

  /// Is a window page worth keeping that was offered by a publish of `whole`, which is there now,
  /// up to `end` pages?
  [[nodiscard]] bool keeps(std::size_t kind,
                           std::uint32_t page,
                           const path& whole,
                           std::uint32_t end,
                           bool keeps_tail) const {
    for (std::uint32_t boundary = page + 1; boundary <= end; ++boundary) {
      const std::uint32_t tokens = boundary * habits_.page_size;
      const bool kept = (boundary == end && keeps_tail) || tokens <= habits_.dense_head ||
                        (habits_.keep_every != 0 && tokens % habits_.keep_every == 0) ||
                        (habits_.keep_forks && is_fork(whole.substr(0, 1 + tokens)));
      for (std::uint32_t back = 0; kept && back <= std::min(habits_.slack_pages, boundary);
           ++back) {
        if (needs(kind, page, boundary - back)) {
          return true;
        }
      }
    }
    return false;
  }

 private:
  model_habits habits_;
  page_map pages_;
};
