// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The obvious model of pools and sequences, for random tests: it knows from the rules alone how
/// many pages a sequence holds and which logical pages are live, and it plays the bytes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

/// One window kind. Everything is signed here, so that the rules can be written down as they are.
struct slow_window {
  std::int64_t page_size, window_tokens, step_tokens, slack_pages;

  static std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

  [[nodiscard]] std::int64_t ring_pages(std::int64_t step) const {
    return ceil_div(window_tokens - 1, page_size) + 1 + slack_pages + ceil_div(step, page_size);
  }

  /// The oldest position that a query at `boundary` or at one of the `slack` boundaries before it
  /// reads; boundaries are multiples of the page size.
  [[nodiscard]] std::int64_t oldest_position(std::int64_t length) const {
    const std::int64_t boundary = length / page_size * page_size;
    const std::int64_t first_boundary =
        std::max<std::int64_t>(0, boundary - slack_pages * page_size);
    return std::max<std::int64_t>(0, first_boundary - (window_tokens - 1));
  }
};

/// Which logical pages of one window kind a sequence has: live [first, end), and spares.
struct slow_ring {
  slow_window window;
  std::int64_t first = 0, end = 0, spares = 0;

  [[nodiscard]] std::int64_t held() const { return end - first + spares; }

  /// Pages to take so that `tokens` tokens have room, or as many as the ring holds.
  [[nodiscard]] std::int64_t missing(std::int64_t tokens) const {
    const std::int64_t pages = slow_window::ceil_div(tokens, window.page_size);
    const std::int64_t wanted = std::min(pages - first, window.ring_pages(window.step_tokens));
    return std::max<std::int64_t>(0, wanted - held());
  }

  /// Room for `tokens` tokens is taken, and opened.
  void open(std::int64_t tokens) {
    const std::int64_t pages = slow_window::ceil_div(tokens, window.page_size);
    while (end < pages) {
      ++end;
      --spares;
    }
  }
};

/// One pool: who holds which page, and what its bytes say.
struct slow_pool {
  std::uint32_t page_size;
  std::vector<std::uint32_t> references;  // [capacity]
  std::vector<std::uint64_t> tags;        // [capacity * page_size]; the bytes of a token
  std::uint32_t used = 0;                 // pages with references

  slow_pool(std::uint32_t capacity, std::uint32_t tokens_per_page)
      : page_size(tokens_per_page),
        references(capacity),
        tags(std::size_t{capacity} * tokens_per_page) {}

  [[nodiscard]] std::int64_t available() const {
    return static_cast<std::int64_t>(references.size()) - used;
  }
  void add(std::uint32_t page) { used += references[page]++ == 0 ? 1u : 0u; }
  void drop(std::uint32_t page) { used -= --references[page] == 0 ? 1u : 0u; }
  std::uint64_t& tag(std::uint32_t page, std::uint32_t offset) {
    return tags[std::size_t{page} * page_size + offset];
  }
};
