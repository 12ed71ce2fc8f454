// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What goes when room is needed, what never goes, and what locks hold.
#include "prefix/tree_world.hpp"

#include <catch2/catch.hpp>

#include <cstdint>
#include <set>
#include <utility>
#include <vector>

namespace evict_test {

using namespace oriel;

namespace {

using logical = std::multiset<std::uint32_t>;

}  // namespace

TEST_CASE("case 19: the window of any node can go, its full part stays", "[prefix]") {
  tree_world w({.page_size = 4, .windows = {10}, .pages = 128, .retention = dense_retention()});
  const auto trunk = tokens_from(0, 160);  // Two nodes, and two leaves below them.
  w.run(fork_of(trunk, 160, tokens_from(200, 16)));
  w.run(fork_of(trunk, 160, tokens_from(300, 16)));
  const std::uint32_t pages = w.tree.full_pages(), windows = w.tree.window_pages(0);
  REQUIRE(pages == 48);
  const auto leaf = fork_of(trunk, 160, tokens_from(200, 17));
  REQUIRE(w.safe_pages(fork_of(trunk, 160, tokens_from(200, 16))) == 44);

  SECTION("all at once") {
    CHECK(w.tree.evict_window(0, 1'000) == evicted_pages{0, windows});
    CHECK(w.match(leaf).full_tokens == 176);
    CHECK(w.match(leaf).window_safe_tokens == 0);
    CHECK(w.match(leaf).heal_tokens == 176);
  }
  SECTION("of a leaf whose full pages a heal holds") {
    auto held = w.pin(leaf, {176, 0});
    CHECK(w.tree.evict_window(0, 1'000) == evicted_pages{0, windows});
    CHECK(held.full_tokens() == 176);
    CHECK(w.tree.full_pages() == pages);
    CHECK(w.tree.evict_full(1'000, ++w.now) == evicted_pages{4, 0});  // The other leaf.
    w.release(held);
  }
  SECTION("but not what is pinned, until its lease has moved past it") {
    auto held = w.pin(leaf);
    CHECK(w.tree.evict_window(0, 1'000) == evicted_pages{0, windows - 3});
    CHECK(w.tree.evict_window(0, 1'000) == evicted_pages{});
    CHECK(w.safe_pages(fork_of(trunk, 160, tokens_from(200, 16))) == 44);
    w.tree.drop_windows(held);
    w.tree.drop_windows(held);  // Once is enough, twice does no harm.
    CHECK(held.window_tokens() == 0);
    CHECK(w.tree.evict_window(0, 1'000) == evicted_pages{0, 3});
    CHECK(held.full_tokens() == 176);
    w.release(held);
  }
  w.check();
}

TEST_CASE("case 20: locks are symmetric across splits", "[prefix]") {
  tree_world w({.page_size = 4, .windows = {10}, .pages = 128, .retention = dense_retention()});
  const auto trunk = tokens_from(0, 80);  // One node of 20 pages.
  w.run(trunk);
  // Leases end at every page, then others fork off at every page: each fork is a split.
  std::vector<tree_world::lease> held;
  for (std::uint32_t page = 1; page <= 20; ++page) {
    held.push_back(w.pin(trunk, {page * 4, page % 2 * page * 4}));
    w.check();
  }
  for (const std::uint32_t page : {10u, 3u, 17u, 1u, 19u, 2u, 11u, 9u}) {
    w.run(fork_of(trunk, page * 4, tokens_from(1'000 + page * 10, 8)));
    w.check();
  }
  borrowed_pages lent;
  for (std::uint32_t i = 0; i < 19; ++i) {
    w.tree.borrow(held[i], lent);
    REQUIRE(lent.full.size() == i + 1);
    for (const page_handle page : lent.full) {
      REQUIRE(w.pools[0].is_live(page));
    }
  }
  // The forks and the last page; the rest of the trunk is leased.
  CHECK(w.tree.evict_full(1'000, ++w.now).full == 17);
  CHECK(w.tree.full_pages() == 19);
  for (std::uint32_t i = 0; i < held.size(); ++i) {
    w.release(held[i * 7 % held.size()]);
  }
  CHECK(w.tree.leases() == 0);
  CHECK(w.tree.evictable_full_pages() == 19);
  CHECK(w.tree.evictable_window_pages(0) == w.tree.window_pages(0));
  CHECK(w.tree.evict_full(1'000, ++w.now).full == 19);
  CHECK(w.tree.nodes() == 0);
  w.check();
}

TEST_CASE("case 26: out-of-window pages of any branch go before a tail of any branch", "[prefix]") {
  tree_world w({.page_size = 4, .windows = {10}});
  const auto idle = tokens_from(0, 20), hot = tokens_from(500, 60);
  w.run(idle);  // Its tail is the oldest thing here.
  const auto grow_hot = [&](bool drops_windows) {
    for (std::uint32_t tokens = 20; tokens <= 60; tokens += 20) {
      const tree_world::path now(hot.begin(), hot.begin() + tokens);
      auto held = w.pin(fork_of(now, tokens - 20, tokens_from(500 + tokens - 20, 20)));
      if (drops_windows) {
        w.tree.drop_windows(held);
      }
      w.grow(held, now, {{0, tokens / 4}});
      w.release(held);
    }
  };
  SECTION("windows dropped when the request goes on") {
    grow_hot(false);
  }
  SECTION("windows dropped early") {
    grow_hot(true);
  }
  REQUIRE(w.tree.window_pages(0) == 3 + 9);
  CHECK(w.tree.evict_window(0, 6).window == 6);  // The tails at 20 and 40, passed since.
  CHECK(w.safe_pages(idle) == 5);
  CHECK(w.safe_pages(hot) == 15);
  CHECK(w.tree.evict_window(0, 1).window == 1);  // Now the oldest tail.
  CHECK(w.safe_pages(idle) == 0);
  CHECK(w.safe_pages(hot) == 15);
  w.check();
}

TEST_CASE("case 33: full pages go run by run, deepest page first", "[prefix]") {
  tree_world w({.page_size = 4, .windows = {10}});
  CHECK(w.tree.evict_full(5, ++w.now) == evicted_pages{});  // An empty tree.
  CHECK(w.tree.evict_window(0, 5) == evicted_pages{});
  const auto trunk = tokens_from(0, 16);
  const auto a = fork_of(trunk, 16, tokens_from(100, 12)),
             b = fork_of(trunk, 16, tokens_from(200, 12));
  w.run(a);
  w.run(b);
  REQUIRE(w.tree.full_pages() == 4 + 3 + 3);
  CHECK(w.tree.evict_full(0, ++w.now) == evicted_pages{});
  CHECK(w.tree.evict_window(0, 0) == evicted_pages{});
  CHECK(w.tree.full_pages() == 10);

  // The branch of a is older; the trunk belongs to b, who came last.
  CHECK(w.tree.evict_full(2, ++w.now).full == 2);
  CHECK(w.match(a).full_tokens == 20);
  CHECK(w.match(b).full_tokens == 28);
  auto again = w.pin(a, pin_extent::heal(w.match(a)));  // Refreshes what is left of its path.
  w.release(again);
  CHECK(w.tree.evict_full(3, ++w.now).full == 3);
  CHECK(w.match(b).full_tokens == 16);
  CHECK(w.match(a).full_tokens == 20);
  CHECK(w.tree.evict_full(3, ++w.now).full == 3);
  CHECK(w.pages_of(0) == logical{0, 1});
  const std::uint32_t windows = w.tree.window_pages(0);
  CHECK(w.tree.evict_full(100, ++w.now) == evicted_pages{2, windows});
  CHECK(w.tree.evict_full(100, ++w.now) == evicted_pages{});
  CHECK(w.tree.counters().evicted_full_pages == 10);
  w.check();
}

TEST_CASE("case 33: a page that a sequence still holds is not counted as freed", "[prefix]") {
  tree_world w({});
  const auto tokens = tokens_from(0, 16);
  w.run(tokens);
  auto held = w.pin(tokens);
  borrowed_pages lent;
  w.tree.borrow(held, lent);
  w.pools[0].add_ref(lent.full[2]);
  w.release(held);
  CHECK(w.tree.evict_full(4, ++w.now).full == 3);
  CHECK(w.tree.full_pages() == 0);
  CHECK(w.pools[0].is_live(lent.full[2]));
  w.pools[0].release(lent.full[2]);
  w.check();
}

TEST_CASE("a leased page is never evicted, and the rest is", "[prefix]") {
  tree_world w({.page_size = 4, .windows = {6}});
  const auto tokens = tokens_from(0, 200);
  w.run(tokens);
  auto held = w.pin(tokens, {180, 180});
  const std::uint32_t evictable = w.tree.evictable_full_pages();
  CHECK(evictable == 50 - 45);
  CHECK(w.tree.evict_full(1'000, ++w.now).full == evictable);
  CHECK(w.match(tokens).full_tokens == 180);
  w.release(held);
}

TEST_CASE("case 35: what cannot be had allocates and pins nothing, and leaves recency alone",
          "[prefix]") {
  tree_world w({.page_size = 4, .windows = {6}, .pages = 12});
  const auto old = tokens_from(0, 16), fresh = tokens_from(100, 16);
  w.run(old);
  w.run(fresh);
  // The request finds the old prefix, but its pages do not fit: it only probed.
  for (int i = 0; i < 3; ++i) {
    const auto m = w.match(fork_of(old, 16, tokens_from(300, 40)));
    REQUIRE(m.window_safe_tokens == 16);
    std::vector<page_handle> more(10);
    REQUIRE_FALSE(w.pools[0].try_allocate(more));
  }
  CHECK(w.tree.leases() == 0);
  CHECK(w.tree.evictable_full_pages() == 8);
  w.check();
  CHECK(w.tree.evict_full(4, ++w.now).full == 4);
  CHECK(w.match(old).full_tokens == 0);  // Still the oldest.
  CHECK(w.match(fresh).full_tokens == 16);
}

}  // namespace evict_test
