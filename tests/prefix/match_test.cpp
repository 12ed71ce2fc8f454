// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Which boundary a match finds. Patterns list the window pages that are there (1) or not (0).
#include "prefix/tree_world.hpp"

#include <oriel/prefix/prefix_cache.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <set>
#include <vector>

namespace match_test {

using namespace oriel;

namespace {

static_assert(prefix_cache<tree_world::tree_type>);
static_assert(prefix_cache<radix_tree<paged_allocator<>>>);

/// Pages of the boundary found by a prompt longer than the pattern.
std::uint32_t safe_pages(std::uint32_t page,
                         std::uint32_t window,
                         const std::vector<int>& pattern) {
  tree_world w({.page_size = page, .windows = {window}});
  const auto tokens = tokens_from(0, static_cast<std::uint32_t>(pattern.size()) * page);
  w.run_patterns(tokens, {pattern});
  REQUIRE(w.tree.full_pages() == pattern.size());
  return w.safe_pages(tokens);
}

}  // namespace

TEST_CASE("case 1: the deepest boundary whose window pages are all there", "[prefix]") {
  CHECK(safe_pages(2, 4, {}) == 0);
  CHECK(safe_pages(2, 4, {1}) == 1);
  CHECK(safe_pages(2, 4, {1, 0}) == 1);
  CHECK(safe_pages(2, 4, {1, 1}) == 2);
  CHECK(safe_pages(2, 4, {1, 1, 0}) == 2);
  CHECK(safe_pages(2, 4, {1, 1, 1}) == 3);
  CHECK(safe_pages(2, 4, {1, 1, 1, 0}) == 3);
  CHECK(safe_pages(2, 4, {1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 1, 1}) == 12);
  CHECK(safe_pages(2, 4, {1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0}) == 8);
}

TEST_CASE("case 1: only the window pages that the boundary needs are borrowed", "[prefix]") {
  tree_world w({.page_size = 2, .windows = {4}});
  const auto tokens = tokens_from(0, 24);
  w.run_patterns(tokens, {{1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 1, 1}});
  auto held = w.pin(fork_of(tokens, 24, tokens_from(100, 1)));
  borrowed_pages lent;
  w.tree.borrow(held, lent);
  CHECK(lent.full.size() == 12);
  CHECK(lent.windows.at(0).size() == 2);
  CHECK(w.tree.window_pages(0) == 8);
  CHECK(w.tree.evictable_window_pages(0) == 6);
  w.release(held);
}

TEST_CASE("cases 2, 4, 8, 9, 10: holes before the window do not matter, holes inside do",
          "[prefix]") {
  CHECK(safe_pages(4, 10, {0, 1, 1, 1, 0}) == 4);
  CHECK(safe_pages(4, 4, {1, 0, 1}) == 3);
  CHECK(safe_pages(4, 10, {0, 0, 1, 1}) == 0);
  CHECK(safe_pages(4, 10, {0, 1, 1, 1}) == 4);
  CHECK(safe_pages(4, 10, {0, 1, 1, 1, 0}) == 4);
}

TEST_CASE("case 5: a prompt one token longer than what is there", "[prefix]") {
  tree_world w({.page_size = 4, .windows = {10}});
  w.run_patterns(tokens_from(0, 8), {{1, 1}});
  CHECK(w.match(tokens_from(0, 9)).window_safe_tokens == 8);
  CHECK(w.match(tokens_from(0, 8)).window_safe_tokens == 4);  // One token is always computed.
}

TEST_CASE("case 6: window pages that a hit does not need are not refreshed", "[prefix]") {
  tree_world w({.page_size = 4, .windows = {10}});
  const auto tokens = tokens_from(0, 20);
  w.run_patterns(tokens, {{1, 1, 0, 1, 1}});
  REQUIRE(w.safe_pages(tokens) == 2);  // A run that reaches position 0 is enough.
  auto held = w.pin(fork_of(tokens, 20, tokens_from(100, 1)));
  w.release(held);
  REQUIRE(w.tree.evict_window(0, 2).window == 2);
  CHECK(w.pages_of(1) == std::multiset<std::uint32_t>{0, 1});
  CHECK(w.safe_pages(tokens) == 2);
}

TEST_CASE("a hit refreshes its window, not the path before it", "[prefix]") {
  tree_world w({.page_size = 4, .windows = {10}, .retention = dense_retention()});
  const auto first = tokens_from(0, 33), second = tokens_from(100, 33);
  w.run(first);
  w.run(second);
  auto held = w.pin(first);
  REQUIRE(held.window_tokens() == 32);
  w.release(held);
  // The three pages of its window are the newest now; its five others are still the oldest.
  CHECK(w.tree.evict_window(0, 5).window == 5);
  CHECK(w.safe_pages(first) == 8);
  CHECK(w.safe_pages(fork_of(second, 12, {})) == 3);
  CHECK(w.safe_pages(fork_of(first, 12, {})) == 0);
}

TEST_CASE("case 7: a window of one token needs no page", "[prefix]") {
  tree_world w({.page_size = 4, .windows = {1}});
  const auto tokens = tokens_from(0, 40);
  w.run(tokens);
  CHECK(w.tree.window_pages(0) == 0);
  for (std::uint32_t length = 1; length <= 40; ++length) {
    const auto m = w.match(tokens_from(0, length));
    CHECK(m.window_safe_tokens == (length - 1) / 4 * 4);
    auto held = w.pin(tokens_from(0, length));
    borrowed_pages lent;
    w.tree.borrow(held, lent);
    CHECK(lent.windows.at(0).empty());
    CHECK(lent.full.size() == (length - 1) / 4);
  }
}

TEST_CASE("case 28: a prompt that leaves inside the last page still hits", "[prefix]") {
  for (const std::uint32_t window : {2u, 4u, 5u, 10u, 17u}) {
    CAPTURE(window);
    tree_world w({.page_size = 4, .windows = {window}, .slack_pages = 1});
    const auto tokens = tokens_from(0, 40);
    w.run(tokens);
    CHECK(w.match(fork_of(tokens, 38, tokens_from(100, 9))).window_safe_tokens == 36);
    tree_world without({.page_size = 4, .windows = {window}, .slack_pages = 0});
    without.run(tokens);
    // The one extra page is what it takes.
    CHECK(without.match(fork_of(tokens, 38, tokens_from(100, 9))).window_safe_tokens <
          (window > 1 ? 36u : 37u));
  }
}

TEST_CASE("case 36: a prompt that is cached whole still computes a token", "[prefix]") {
  tree_world w({.page_size = 4, .windows = {6}, .slack_pages = 1});
  w.run(tokens_from(0, 40));
  const auto m = w.match(tokens_from(0, 40));
  CHECK(m.full_tokens == 40);
  CHECK(m.heal_tokens == 36);
  CHECK(m.window_safe_tokens == 36);
  CHECK(w.match(tokens_from(0, 41)).window_safe_tokens == 40);
  CHECK(w.match({}).full_tokens == 0);
  CHECK(w.match(tokens_from(0, 1)).window_safe_tokens == 0);
  auto held = w.pin(tokens_from(0, 40), {1'000, 1'000});
  CHECK(held.full_tokens() == 36);
}

TEST_CASE("case 45: lookups leave no pins behind", "[prefix]") {
  tree_world w({.page_size = 4, .windows = {6, 10}, .slack_pages = 1});
  w.run(tokens_from(0, 80));
  const auto prompt = fork_of(tokens_from(0, 80), 80, tokens_from(100, 3));
  std::uint64_t found = 0;
  for (int i = 0; i < 100'000; ++i) {
    const prefix_match m = w.match(prompt);
    found += m.window_safe_tokens;
    if (i % 2 == 0) {  // The engine recomputes instead.
      auto held = w.tree.pin(w.space, prompt, m, {}, ++w.now);
      REQUIRE(held.full_tokens() == 0);
    }
  }
  CHECK(found == 100'000u * 80);
  CHECK(w.tree.leases() == 0);
  CHECK(w.tree.evictable_full_pages() == 20);
  CHECK(w.tree.evictable_window_pages(0) == w.tree.window_pages(0));
  CHECK(w.tree.evict_full(1'000, ++w.now).full == 20);
  w.check();
}

TEST_CASE("several windows: the largest boundary that all of them allow, in any order",
          "[prefix]") {
  // Window 4 allows pages 1, 3, 4; window 10 allows 1, 2, 3.
  const std::vector<int> narrow{1, 0, 1, 1}, wide{1, 1, 1, 0};
  for (const bool swapped : {false, true}) {
    tree_world w(
        {.page_size = 4, .windows = swapped ? std::vector{10u, 4u} : std::vector{4u, 10u}});
    const auto tokens = tokens_from(0, 16);
    w.run_patterns(tokens, swapped ? std::vector{wide, narrow} : std::vector{narrow, wide});
    CHECK(w.safe_pages(tokens) == 3);
  }
}

}  // namespace match_test
