// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// A kind that no boundary needs: what drafts keep. It is cached, lent and evicted like a window,
// and never decides where a request resumes.
#include "prefix/tree_world.hpp"

#include <catch2/catch.hpp>

#include <cstdint>

namespace soft_kind_test {

using namespace oriel;

namespace {

/// Kind 0 has W = 6, kind 1 is soft with W = 10: 2 and 3 pages of 4 tokens.
tree_world soft_world() {
  return tree_world({.page_size = 4, .windows = {6, 10}, .soft_kind = 1});
}

}  // namespace

TEST_CASE("a boundary does not need pages of the soft kind", "[prefix]") {
  tree_world w = soft_world();
  const auto tokens = tokens_from(0, 40);
  w.run(tokens, {{0, 10}, {0, 0}});
  CHECK(w.safe_pages(tokens) == 10);
  w.run(tokens, {{0, 10}, {0, 10}});  // They come later.
  CHECK(w.tree.window_pages(1) == 3);
  CHECK(w.tree.evict_window(1, 1).window == 1);
  CHECK(w.safe_pages(tokens) == 10);
}

TEST_CASE("a lease lends the soft pages before its boundary up to the first gap", "[prefix]") {
  for (const std::uint32_t first : {6u, 7u, 8u, 9u, 10u}) {
    tree_world w = soft_world();
    const auto tokens = tokens_from(0, 40);
    w.run(tokens, {{0, 10}, {first, 10}});
    auto next = tokens;
    next.push_back(token_id{99});
    auto held = w.pin(next);
    REQUIRE(held.window_tokens() == 40);
    borrowed_pages lent;
    w.tree.borrow(held, lent);
    CHECK(lent.windows[0].size() == 2);
    CHECK(lent.windows[1].size() == std::min(3u, 10 - first));
    CHECK(w.tree.evict_window(1, 100).window == 0);  // All that is left is pinned.
    w.release(held);
    CHECK(w.tree.evict_window(1, 100).window == std::min(3u, 10 - first));
  }
}

TEST_CASE("a soft page that comes while a boundary is pinned is not unpinned with it", "[prefix]") {
  tree_world w = soft_world();
  const auto tokens = tokens_from(0, 40);
  w.run(tokens, {{0, 10}, {9, 10}});
  auto next = tokens;
  next.push_back(token_id{99});
  auto before = w.pin(next);  // Pins one soft page.
  w.run(tokens, {{0, 10}, {7, 10}});
  auto after = w.pin(next);  // Pins three.
  w.release(before);
  borrowed_pages lent;
  w.tree.borrow(after, lent);
  CHECK(lent.windows[1].size() == 3);
  CHECK(w.tree.evict_window(1, 100).window == 0);
  w.release(after);
  CHECK(w.tree.evict_window(1, 100).window == 3);
}

}  // namespace soft_kind_test
