// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The obvious page allocator: a list of free pages and, for each page, how many references it has
/// and how often it changed hands.
#pragma once

#include <cstdint>
#include <deque>
#include <numeric>
#include <vector>

/// Which free page goes next.
enum class slow_order { last_released_first, first_released_first };

struct slow_pages {
  slow_order order;
  std::vector<std::uint32_t> references;  // [capacity]
  std::vector<std::uint32_t> changes;     // [capacity]; grows when a handle goes stale
  std::deque<std::uint32_t> free;         // the next page is in front

  slow_pages(std::uint32_t capacity, slow_order which)
      : order(which), references(capacity), changes(capacity), free(capacity) {
    std::iota(free.begin(), free.end(), 0u);
  }

  /// The page an allocation of one page gives. @pre a page is free
  std::uint32_t take() {
    const std::uint32_t page = free.front();
    free.pop_front();
    references[page] = 1;
    return page;
  }

  void release(std::uint32_t page) {
    if (--references[page] == 0) {
      ++changes[page];
      if (order == slow_order::last_released_first) {
        free.push_front(page);
      } else {
        free.push_back(page);
      }
    }
  }
};
