// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a router keeps of a prefix cache: nothing but its events, replayed.
#pragma once

#include <oriel/prefix/events.hpp>

#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

/// Starts empty. Anything that cannot be is written down, because events may not throw.
class event_mirror {
 public:
  using key = std::pair<std::uint64_t, std::uint64_t>;
  struct page {
    std::uint32_t page = 0;  ///< logical
    key parent;
    key space;
    std::vector<oriel::token_id> tokens;
    std::set<std::uint32_t> windows;  ///< kinds
  };
  struct removal {
    std::uint32_t pool = 0;
    key hash;
  };

  static key key_of(oriel::chain_hash hash) { return {hash.low, hash.high}; }

  void take(const oriel::cache_event& event) {
    expect(event.sequence == ++sequence_, "events were lost");
    const key hash = key_of(event.hash);
    if (event.kind == oriel::cache_event_kind::cleared) {
      pages.clear();
      ++clears;
    } else if (event.kind == oriel::cache_event_kind::stored && event.pool == 0) {
      const bool is_first = event.page == 0;
      const auto above = pages.find(key_of(event.parent));
      expect(is_first == (event.parent == event.space), "page 0 hangs below its namespace");
      expect(is_first || (above != pages.end() && above->second.page + 1 == event.page &&
                          above->second.space == key_of(event.space)),
             "a page is stored after its parent");
      const page stored{event.page,
                        key_of(event.parent),
                        key_of(event.space),
                        {event.tokens.begin(), event.tokens.end()},
                        {}};
      expect(pages.emplace(hash, stored).second, "a page is stored once");
    } else if (event.kind == oriel::cache_event_kind::stored) {
      const auto at = pages.find(hash);
      expect(at != pages.end() && at->second.windows.insert(event.pool - 1).second,
             "a window page is stored once, below its full page");
    } else {
      remove(event.pool, hash);
    }
  }

  std::map<key, page> pages;
  std::vector<removal> removals;  ///< since somebody emptied it
  std::uint32_t clears = 0;
  const char* wrong = nullptr;

 private:
  void remove(std::uint32_t pool, key hash) {
    const auto at = pages.find(hash);
    expect(at != pages.end(), "what is removed was stored");
    if (at != pages.end() && pool == 0) {
      expect(at->second.windows.empty(), "window pages go before their full page");
      pages.erase(at);
    } else if (at != pages.end()) {
      expect(at->second.windows.erase(pool - 1) == 1, "a removed window page was stored");
    }
    removals.push_back({pool, hash});
  }
  void expect(bool holds, const char* what) { wrong = holds || wrong != nullptr ? wrong : what; }

  std::uint64_t sequence_ = 0;
};

/// The sink of a tree: the mirror outlives it.
struct mirror_sink {
  static constexpr bool enabled = true;
  event_mirror* mirror = nullptr;
  void operator()(const oriel::cache_event& event) noexcept { mirror->take(event); }
};
