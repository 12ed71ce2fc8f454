// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `table_mirror`: the host's copy of the page tables that lie on a device, so that a step sends
/// what changed alone. A decoding sequence changes an entry every page.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/ids.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/kv/block_table.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel::engine {

/// Entries [first, first + count) of all tables.
struct table_range {
  std::size_t first = 0, count = 0;
};

/// Tables [pools][members][pages_max of the pool], one behind the other. A member is a place in the
/// batch: who stands there may be another one in the next step.
class table_mirror {
 public:
  /// @param pages_max  [pools] entries of a table, at most
  /// @throws std::bad_alloc
  table_mirror(std::span<const std::uint32_t> pages_max, std::uint32_t members_max)
      : pages_max_(pages_max.begin(), pages_max.end()),
        pages_in_use_(pages_max.size(), 0),
        members_max_(members_max) {
    std::size_t end = 0;
    for (const std::uint32_t pages : pages_max) {
      first_.push_back(end);
      end += std::size_t{pages} * members_max;
    }
    entries_.assign(end, 0);
    changes_.reserve(pages_max.size() * members_max);
  }

  /// Puts a table in its place; what differs becomes a change. O(table.pages.size()).
  /// @pre the table has at most pages_max entries
  void set(std::uint32_t pool, std::uint32_t member, const block_table_view& table) {
    ORIEL_EXPECTS(table.pages.size() <= pages_max_[pool] && member < members_max_);
    const std::size_t at = index_of(pool, member);
    std::size_t first = table.pages.size(), end = 0;
    for (std::size_t i = 0; i < table.pages.size(); ++i) {
      const bool changes = entries_[at + i] != table.pages[i];
      if (changes) {
        entries_[at + i] = table.pages[i];
        first = std::min(first, i);
        end = i + 1;
      }
      // Also what does not change: an entry that nobody ever set says 0, and so does page 0.
      const bool counts = changes || !ORIEL_MUTANT(unchanged_pages_are_not_needed);
      if (counts && page_id{table.pages[i]} != null_page) {
        pages_in_use_[pool] = std::max(pages_in_use_[pool], table.pages[i] + 1);
      }
    }
    if (end != 0) {
      changes_.push_back({at + first, end - first});
    }
  }

  /// Index of a table's first entry.
  [[nodiscard]] std::size_t index_of(std::uint32_t pool, std::uint32_t member) const noexcept {
    return first_[pool] + std::size_t{pages_max_[pool]} * member;
  }
  [[nodiscard]] std::span<const std::uint32_t> entries() const noexcept { return entries_; }
  /// What `set` changed since `forget_changes`.
  [[nodiscard]] std::span<const table_range> changes() const noexcept { return changes_; }
  void forget_changes() noexcept { changes_.clear(); }
  /// No page that a table of the pool ever named is this one or a later one.
  [[nodiscard]] std::uint32_t pages_in_use(std::uint32_t pool) const noexcept {
    return pages_in_use_[pool];
  }
  [[nodiscard]] std::uint32_t pools() const noexcept {
    return static_cast<std::uint32_t>(pages_max_.size());
  }

 private:
  std::vector<std::uint32_t> pages_max_, pages_in_use_;  // [pools]
  std::vector<std::size_t> first_;                       // [pools]
  std::uint32_t members_max_;
  std::vector<std::uint32_t> entries_;
  std::vector<table_range> changes_;
};

}  // namespace oriel::engine
