// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What a publish brings, what it revives, what it never shows.
#include "prefix/tree_world.hpp"

#include <oriel/prefix/heal.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <set>
#include <utility>
#include <vector>

namespace publish_test {

using namespace oriel;

namespace {

using logical = std::multiset<std::uint32_t>;

/// Links that a mirror should have for the whole pages of a path.
std::vector<chain_hash> links_of(const tree_world& w, const tree_world::path& tokens) {
  std::vector<chain_hash> links(tokens.size() / w.page_size());
  hash_pages(w.space.digest(), tokens, w.page_size(), links);
  return links;
}

}  // namespace

TEST_CASE("case 14: a page that its request released can be found until it is evicted",
          "[prefix]") {
  tree_world w({.page_size = 4, .windows = {6}});
  const auto tokens = tokens_from(0, 20);
  w.run(tokens);  // The request and all its references are gone.
  CHECK(w.safe_pages(tokens) == 5);
  CHECK(w.tree.evict_window(0, 1).window == 1);
  CHECK(w.safe_pages(tokens) == 0);
  CHECK(w.match(tokens).full_tokens == 20);
  CHECK(w.tree.evict_full(1, ++w.now).full == 1);
  CHECK(w.match(tokens).full_tokens == 16);
}

TEST_CASE("case 22: a publish over lost windows revives exactly what it supplies", "[prefix]") {
  tree_world w({.page_size = 4, .windows = {10}, .slack_pages = 2});
  const auto tokens = tokens_from(0, 32);
  w.run(tokens);
  REQUIRE(w.pages_of(1) == logical{3, 4, 5, 6, 7});
  const std::uint32_t lost = w.tree.evict_window(0, 100).window;
  REQUIRE(lost == 5);
  const auto publish_again = [&](offered_span released_up_to) {
    auto held = w.pin(tokens, {28, 0});
    const auto outcome = w.grow(held, tokens, {released_up_to});
    CHECK(outcome.full_pages == 0);
    CHECK(outcome.switched_pages == 1);
    w.release(held);
    return outcome.window_pages;
  };
  SECTION("all") {
    CHECK(publish_again({3, 8}) == 5);
    CHECK(w.pages_of(1) == logical{3, 4, 5, 6, 7});
    CHECK(w.safe_pages(tokens) == 8);
    CHECK(w.match(tokens_from(0, 25)).window_safe_tokens == 24);
  }
  SECTION("a suffix: the request's ring had slid to page 5") {
    CHECK(publish_again({5, 8}) == 3);
    CHECK(w.pages_of(1) == logical{5, 6, 7});
    CHECK(w.safe_pages(tokens) == 8);
    CHECK(w.match(tokens_from(0, 29)).window_safe_tokens == 0);
  }
  SECTION("a suffix that is too short helps only later boundaries") {
    CHECK(publish_again({6, 8}) == 2);
    CHECK(w.safe_pages(tokens) == 0);
    auto held = w.pin(tokens_from(0, 36), {32, 0});
    w.grow(held, tokens_from(0, 36), {{8, 9}});
    w.release(held);
    CHECK(w.safe_pages(tokens_from(0, 36)) == 9);
  }
  SECTION("none") {
    CHECK(publish_again({8, 8}) == 0);
    CHECK(w.tree.window_pages(0) == 0);
    CHECK(w.match(fork_of(tokens, 32, tokens_from(100, 1))).heal_tokens == 32);
  }
  SECTION("another lease on the path changes nothing") {
    auto other = w.pin(tokens, {28, 0});
    CHECK(publish_again({3, 8}) == 5);
    CHECK(w.safe_pages(tokens) == 8);
    w.release(other);
  }
  SECTION("pages offered below what the lease holds come back too") {
    auto held = w.pin(fork_of(tokens, 32, tokens_from(100, 1)), {32, 0});
    const auto outcome = w.grow(held, tokens, {{4, 8}});
    CHECK(outcome.window_pages == 4);
    CHECK(held.window_tokens() == 32);
    w.release(held);
  }
}

TEST_CASE("case 23: a new span whose first windows were released already", "[prefix]") {
  tree_world w({.page_size = 4, .windows = {10}});
  const auto tokens = tokens_from(0, 24);
  auto held = w.pin(tokens);
  const auto outcome = w.grow(held, tokens, {{4, 6}});  // Page 3 has gone; need(24) has it.
  CHECK(outcome.full_pages == 6);
  CHECK(outcome.window_pages == 2);
  CHECK(held.full_tokens() == 24);
  CHECK(held.window_tokens() == 0);
  CHECK(w.safe_pages(tokens) == 0);
  CHECK(w.match(tokens).full_tokens == 24);
  w.grow(held, tokens_from(0, 28), {{6, 7}});  // Pages 4, 5, 6 are all that 28 needs.
  CHECK(held.window_tokens() == 28);
  CHECK(w.safe_pages(tokens_from(0, 28)) == 7);
  w.release(held);
}

TEST_CASE("case 24: a lease on a long leaf pins one window, not the leaf", "[prefix]") {
  for (const std::uint32_t length : {64u, 400u}) {
    tree_world w({.page_size = 4, .windows = {10}, .pages = 128, .retention = dense_retention()});
    const auto tokens = tokens_from(0, length);
    w.run(tokens);
    REQUIRE(w.tree.window_pages(0) == length / 4);
    auto held = w.pin(fork_of(tokens, length, tokens_from(1'000, 1)));
    CHECK(held.window_tokens() == length);
    CHECK(w.tree.evictable_window_pages(0) == length / 4 - 3);
    w.release(held);
  }
}

TEST_CASE("case 30: an evicted window page's id lives on elsewhere, and is not freed twice",
          "[prefix]") {
  tree_world w({.page_size = 4, .windows = {6}, .pages = 16});
  const auto tokens = tokens_from(0, 20), other = tokens_from(100, 20);
  w.run(tokens);
  std::set<std::uint32_t> before;
  w.tree.visit_pages([&](const cached_page&, std::uint32_t pool, page_handle page) {
    if (pool == 1) {
      before.insert(to_index(page.id));
    }
  });
  REQUIRE(w.tree.evict_window(0, 2).window == 2);
  w.run(other, {{3, 5}});
  std::multiset<std::uint32_t> reused;
  w.tree.visit_pages([&](const cached_page&, std::uint32_t pool, page_handle page) {
    if (pool == 1) {
      reused.insert(to_index(page.id));
    }
  });
  REQUIRE(std::any_of(
      reused.begin(), reused.end(), [&](std::uint32_t id) { return before.contains(id); }));
  auto held = w.pin(tokens, {16, 0});
  w.grow(held, tokens, {{3, 5}});  // The first path gets its windows again.
  w.release(held);
  CHECK(w.safe_pages(tokens) == 5);
  CHECK(w.safe_pages(other) == 5);
  CHECK(w.tree.window_pages(0) == 4);
  CHECK(w.tree.evict_full(5, ++w.now).window == 2);
  w.check();
  CHECK(w.tree.window_pages(0) == 2);
}

TEST_CASE("case 39: events after a split, a reload and a clear", "[prefix]") {
  tree_world w({.page_size = 4, .windows = {6}});
  const auto a = tokens_from(0, 32), b = fork_of(a, 12, tokens_from(100, 20));
  const auto expect_paths = [&](const std::vector<tree_world::path>& paths, std::size_t pages) {
    CHECK(w.mirror.wrong == nullptr);
    CHECK(w.mirror.pages.size() == pages);
    for (const auto& path : paths) {
      event_mirror::key parent = event_mirror::key_of(w.space.digest());
      const auto links = links_of(w, path);
      for (std::size_t i = 0; i < links.size(); ++i) {
        const auto at = w.mirror.pages.find(event_mirror::key_of(links[i]));
        REQUIRE(at != w.mirror.pages.end());
        CHECK(at->second.parent == parent);
        CHECK(at->second.page == i);
        CHECK(at->second.tokens ==
              tree_world::path(path.begin() + static_cast<std::ptrdiff_t>(4 * i),
                               path.begin() + static_cast<std::ptrdiff_t>(4 * i + 4)));
        parent = at->first;
      }
    }
  };
  w.run(a);
  expect_paths({a}, 8);
  w.run(b);  // Splits the node of a in the middle: the chain goes on as it was.
  expect_paths({a, b}, 13);
  REQUIRE(w.tree.evict_full(5, ++w.now).full == 5);  // The rest of a, which is older.
  expect_paths({b}, 8);
  w.run(a);  // Back again.
  expect_paths({a, b}, 13);
  auto held = w.pin(b);
  w.tree.clear();
  CHECK(w.mirror.clears == 1);
  expect_paths({}, 0);
  w.mirror.removals.clear();
  w.release(held);  // What the lease still held goes without a word: it was gone for all.
  CHECK(w.mirror.removals.empty());
  w.run(a);
  expect_paths({a}, 8);
  w.tree.drop(w.space);
  expect_paths({}, 0);
  w.check();
}

TEST_CASE("case 43: the pages that a heal publishes are whole", "[prefix]") {
  constexpr std::uint32_t page = 4, window = 8;
  const std::vector<std::uint32_t> layers{0, window, window, 0, window};
  for (const std::uint32_t slack : {0u, 1u}) {
    CAPTURE(slack);
    tree_world w({.page_size = page, .windows = {window}, .slack_pages = slack});
    const auto tokens = tokens_from(0, 40);
    w.run(tokens);
    w.tree.evict_window(0, 100);

    const auto prompt = fork_of(tokens, 40, tokens_from(100, 5));
    const prefix_match m = w.match(prompt);
    REQUIRE(m.window_safe_tokens == 0);
    REQUIRE(m.heal_tokens == 40);
    const heal_plan plan = plan_heal({layers, page, slack},
                                     {.full_length = m.full_tokens,
                                      .prompt_tokens = static_cast<std::uint32_t>(prompt.size()),
                                      .safe_length = m.window_safe_tokens});
    REQUIRE(plan.length == 40);
    auto held = w.pin(prompt, pin_extent::heal(m));
    w.grow(held, tokens, {{plan.first_healed_page(window), 10}});
    w.release(held);
    CHECK(w.safe_pages(tokens) == 10);

    // Whoever hits now, at 40 or by leaving at 36, borrows only rows that every layer wrote.
    const auto leaves = fork_of(tokens, 36, tokens_from(200, 5));
    for (const auto& next : {prompt, leaves}) {
      const std::uint32_t safe = w.match(next).window_safe_tokens;
      const std::uint32_t first_page = (safe - std::min(safe, window - 1)) / page;
      for (std::size_t layer = 0; layer < layers.size(); ++layer) {
        CHECK((safe == 0 || layers[layer] == 0 || plan.frontier[layer] <= first_page * page));
      }
    }
    CHECK(w.match(leaves).window_safe_tokens == (slack == 0 ? 0 : 36));
    CHECK(w.match(leaves).heal_tokens == 36);
  }
}

TEST_CASE("case 46: pages that are being filled cannot be found, aborted ones never", "[prefix]") {
  tree_world w({.page_size = 4, .windows = {6}});
  const auto tokens = tokens_from(0, 16);
  auto held = w.pin(tokens);
  auto full = w.take(0, 4), windows = w.take(1, 4);
  const window_page_span span{.first_page = 0, .pages = windows};
  const publish_source source{.first_page = 0, .full = full, .windows = std::span(&span, 1)};
  auto fresh = w.tree.reserve(source);
  CHECK(w.match(tokens).full_tokens == 0);
  CHECK(w.tree.full_pages() == 0);
  CHECK(w.tree.evict_full(100, ++w.now) == evicted_pages{});  // Nor can they be evicted.
  CHECK(w.pools[0].ref_count(full[0]) == 2);
  SECTION("aborted") {
    w.tree.abort(fresh);
    w.tree.abort(fresh);  // Once is enough, twice does no harm.
    CHECK(w.match(tokens).full_tokens == 0);
    CHECK(w.pools[0].ref_count(full[0]) == 1);
    CHECK(w.pools[1].ref_count(windows[3]) == 1);
  }
  SECTION("forgotten") {
    { const auto gone = std::move(fresh); }
    CHECK(w.match(tokens).full_tokens == 0);
    CHECK(w.pools[0].ref_count(full[0]) == 1);
  }
  SECTION("committed") {
    CHECK(w.tree.commit(held, fresh, tokens, ++w.now).full_pages == 4);
    CHECK(w.match(tokens).full_tokens == 16);
  }
  SECTION("aborted, beside a twin that committed") {
    auto twin = w.tree.reserve(source);
    w.tree.commit(held, twin, tokens, ++w.now);
    w.tree.abort(fresh);
    CHECK(w.match(tokens).full_tokens == 16);
  }
  CHECK(w.mirror.pages.size() * 4 == w.match(tokens).full_tokens);
  w.pools[0].release(full);
  w.pools[1].release(windows);
  w.release(held);
}

TEST_CASE("a lease of nothing publishes nothing", "[prefix]") {
  tree_world w({});
  tree_world::lease nothing;
  CHECK_FALSE(static_cast<bool>(nothing));
  const auto full = w.take(0, 2);
  auto fresh = w.tree.reserve({.first_page = 0, .full = full, .windows = {}});
  CHECK(w.tree.commit(nothing, fresh, tokens_from(0, 8), ++w.now).tokens == 0);
  CHECK(w.tree.full_pages() == 0);
  w.pools[0].release(full);
  w.tree.release(nothing, {}, ++w.now);
  w.check();
}

TEST_CASE("a publish in the middle of a prompt hangs what the policy keeps, and nothing else",
          "[prefix]") {
  for (const bool every : {false, true}) {
    CAPTURE(every);
    tree_world w({.page_size = 4,
                  .windows = {10},
                  .retention = world_retention({every ? 16u : 0u}, {.on = false}, {})});
    auto held = w.pin(tokens_from(0, 40));
    CHECK(w.grow(held, tokens_from(0, 20), {{0, 5}}, false).window_pages == (every ? 3 : 0));
    CHECK(held.full_tokens() == 20);
    CHECK(held.window_tokens() == 0);
    w.grow(held, tokens_from(0, 40), {{5, 10}});
    w.release(held);
    CHECK(w.safe_pages(tokens_from(0, 40)) == 10);
    CHECK(w.match(tokens_from(0, 17)).window_safe_tokens == (every ? 16 : 0));
    CHECK(w.match(tokens_from(0, 21)).window_safe_tokens == (every ? 16 : 0));
  }
}

TEST_CASE("a fork keeps its window, in however many steps its path goes on, and whoever does",
          "[prefix]") {
  for (const bool forks : {false, true}) {
    CAPTURE(forks);
    tree_world w(
        {.page_size = 4, .windows = {10}, .retention = world_retention({}, {.on = forks}, {})});
    const auto first = tokens_from(0, 40), second = fork_of(first, 20, tokens_from(100, 40));
    w.run(first, {{7, 10}});
    auto held = w.pin(second, {20, 0});  // It heals to the fork,
    w.grow(held, fork_of(second, 20, {}), {{2, 5}});
    REQUIRE(held.window_tokens() == 20);
    for (std::uint32_t length = 24; length <= 60; length += 4) {  // goes on a page at a time,
      const std::uint32_t page = length / 4 - 1;
      w.grow(held, fork_of(second, length, {}), {{page, page + 1}}, length == 60);
    }
    w.release(held);
    auto next = w.pin(fork_of(first, 20, {}));  // and another ends in front of it.
    w.release(next);
    // All goes but 3 pages of the first tail, 1 that the second had, and 3 of the fork if it stays.
    w.tree.evict_window(0, w.tree.window_pages(0) - (forks ? 7 : 4));
    w.check();
    CHECK(w.match(fork_of(first, 20, tokens_from(200, 4))).window_safe_tokens == (forks ? 20 : 0));
  }
}

}  // namespace publish_test
