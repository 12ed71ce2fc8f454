// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What a lease locks: its own pages, and not the rest of a node in which it ends.
#include "prefix/tree_world.hpp"

#include <catch2/catch.hpp>

using namespace oriel;

TEST_CASE("a lease keeps nothing from eviction but what it holds", "[prefix]") {
  tree_world w({.page_size = 4, .windows = {6}});
  const auto tokens = tokens_from(0, 33);
  w.run(tokens);
  auto held = w.pin(tokens, {12, 0});
  REQUIRE(held.full_tokens() == 12);
  CHECK(w.tree.evictable_full_pages() == 5);

  SECTION("a longer branch came and went") {
    w.run(fork_of(tokens, 32, tokens_from(100, 16)));
    CHECK(w.tree.evict_full(100, ++w.now).full == 9);
  }
  SECTION("another let the tree grow right behind its end") {
    CHECK(w.tree.evict_full(100, ++w.now).full == 5);
    w.run(tokens);
    CHECK(w.tree.evict_full(100, ++w.now).full == 5);
  }
  SECTION("another ended with a part of it") {
    auto other = w.pin(tokens, {20, 0});
    w.release(held);
    CHECK(w.tree.evict_full(100, ++w.now).full == 3);
    w.release(other);
    held = w.pin(tokens, {12, 0});
    CHECK(w.tree.evict_full(100, ++w.now).full == 2);
  }
  CHECK(w.tree.full_pages() == 3);
  w.release(held);
  CHECK(w.tree.evict_full(100, ++w.now).full == 3);
}
