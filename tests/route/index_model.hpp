// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A prefix index that is a set of pages, and prompts that share prefixes.
#pragma once

#include <oriel/core/random.hpp>
#include <oriel/route/prefix_index.hpp>

#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <tuple>
#include <vector>

/// What one worker has, page by page; and what that is of a prompt, by the words of the definition.
class obvious_pages {
 public:
  void apply(const oriel::worker_event& event) {
    if (event.kind == oriel::worker_event_kind::cleared) {
      std::erase_if(pages_, [&](const page& p) { return std::get<0>(p) == event.tier; });
    }
    std::uint32_t position = event.first_page;
    for (const oriel::chain_hash link : event.links) {
      const page p{event.tier, event.pool, position++, link.low, link.high};
      if (event.kind == oriel::worker_event_kind::stored) {
        pages_.insert(p);
      } else if (event.kind == oriel::worker_event_kind::removed) {
        pages_.erase(p);
      }
    }
  }

  [[nodiscard]] oriel::worker_prefix row(const oriel::prefix_index_options& options,
                                         std::span<const oriel::chain_hash> prompt) const {
    oriel::worker_prefix row;
    for (std::uint32_t tier = 0; tier < oriel::page_tiers; ++tier) {
      const auto has = [&](std::uint32_t pool, std::uint32_t position) {
        for (std::uint32_t t = 0; t <= tier; ++t) {
          const oriel::chain_hash link = prompt[position];
          if (pages_.contains(
                  {static_cast<std::uint8_t>(t), pool, position, link.low, link.high})) {
            return true;
          }
        }
        return false;
      };
      std::uint32_t& full = row.full_pages[tier];
      while (full < prompt.size() && has(0, full)) {
        ++full;
      }
      for (std::uint32_t pages = 1; pages <= full; ++pages) {
        bool is_safe = true;
        for (std::uint32_t kind = 0; kind < options.windows.size(); ++kind) {
          // Positions [length - (W - 1), length), one after the other.
          const std::int64_t length = std::int64_t{pages} * options.page_size;
          for (std::int64_t at = length - (options.windows[kind] - 1); at < length; ++at) {
            is_safe = is_safe &&
                      (at < 0 || has(1 + kind, static_cast<std::uint32_t>(at / options.page_size)));
          }
        }
        row.safe_pages[tier] = is_safe ? pages : row.safe_pages[tier];
      }
    }
    return row;
  }

  [[nodiscard]] const auto& pages() const { return pages_; }

 private:
  using page = std::tuple<std::uint8_t, std::uint32_t, std::uint32_t, std::uint64_t, std::uint64_t>;
  std::set<page> pages_;  // tier, pool, position, link
};

inline bool is_same(const oriel::worker_prefix& a, const oriel::worker_prefix& b) {
  for (std::size_t tier = 0; tier < oriel::page_tiers; ++tier) {
    if (a.full_pages[tier] != b.full_pages[tier] || a.safe_pages[tier] != b.safe_pages[tier]) {
      return false;
    }
  }
  return true;
}

inline bool is_at_most(const oriel::worker_prefix& a, const oriel::worker_prefix& b) {
  for (std::size_t tier = 0; tier < oriel::page_tiers; ++tier) {
    if (a.full_pages[tier] > b.full_pages[tier] || a.safe_pages[tier] > b.safe_pages[tier]) {
      return false;
    }
  }
  return true;
}

/// Chains of links that fork from one another. With `weak` their lower 64 bits agree.
inline std::vector<std::vector<oriel::chain_hash>> forking_chains(oriel::random_stream& draw,
                                                                  std::size_t count,
                                                                  std::uint32_t pages_max,
                                                                  bool weak) {
  std::vector<std::vector<oriel::chain_hash>> chains;
  std::uint32_t fresh = 0;
  while (chains.size() < count) {
    std::vector<oriel::chain_hash> chain;
    if (!chains.empty() && draw.next_below(8) != 0) {
      chain = chains[draw.next_below(static_cast<std::uint32_t>(chains.size()))];
      chain.resize(draw.next_below(static_cast<std::uint32_t>(chain.size()) + 1));
    }
    const std::uint32_t pages = 1 + draw.next_below(pages_max);
    while (chain.size() < pages) {
      const auto token = oriel::token_id{++fresh};
      oriel::chain_hash link =
          oriel::next_link(chain.empty() ? oriel::chain_hash{} : chain.back(), {&token, 1});
      link.low = weak ? 0 : link.low;
      chain.push_back(link);
    }
    chains.push_back(chain);
  }
  return chains;
}
