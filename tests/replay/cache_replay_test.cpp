// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "replay/replay_world.hpp"

#include <catch2/catch.hpp>
#include <replay/cache_replay.hpp>
#include <replay/reference_cache.hpp>
#include <support/scale.hpp>

#include <cstdint>
#include <vector>

using namespace oriel_test;

TEST_CASE("the tree under LRU hits what the simple LRU cache hits") {
  const std::uint64_t seeds = scaled(60);
  for (std::uint64_t seed = 0; seed < seeds; ++seed) {
    const trace t = random_trace(seed, 60, 8);
    for (const std::uint32_t pages : {1u, 2u, 5u, 17u, 40u, 90u, 1'000u}) {
      CAPTURE(seed, pages);
      const cache_outcome real =
          outcome_of(t, one_pool(pages), beside(t, {.evict = evict_choice::lru}));
      REQUIRE(real.input_tokens == t.input_tokens());
      REQUIRE(real.hit_tokens == lru_cache(t, pages).hit_tokens);
      REQUIRE(real.net_hit_rate() == real.hit_rate());
      REQUIRE(real.cached_pages <= pages);
    }
  }
}

TEST_CASE("every order hits all there is while nothing is evicted, and some of it later") {
  const trace t = random_trace(7, 200, 20);
  const std::uint64_t all = infinite_cache(t).hit_tokens;
  for (const evict_choice evict : every_order) {
    CAPTURE(static_cast<int>(evict));
    CHECK(outcome_of(t, one_pool(t.distinct_pages), {.evict = evict}).hit_tokens == all);
    const cache_outcome less = outcome_of(t, one_pool(150), beside(t, {.evict = evict}));
    CHECK(less.hit_tokens < all);
    CHECK(less.hit_tokens > 0);
    CHECK(less.evicted_full_pages > 0);
    CHECK(less.hit_tokens <= clairvoyant_cache(t, 150).hit_tokens);
  }
}

TEST_CASE("dual pools: the accounts agree, whatever the policies") {
  const std::uint64_t seeds = scaled(12);
  for (std::uint64_t seed = 0; seed < seeds; ++seed) {
    const trace t = random_trace(seed, 80, 25);
    const std::uint64_t all = infinite_cache(t).hit_tokens;
    for (const std::uint32_t pages : {60u, 250u, 4'000u}) {
      for (const bool heal : {true, false}) {
        for (const retain_choice& retain :
             {retain_choice{}, retain_choice{.every_tokens = 512, .branch_points = true}}) {
          CAPTURE(seed, pages, heal, retain.branch_points);
          const cache_sizes sizes = dual_pools(pages, 0.1);
          const cache_outcome c = outcome_of(
              t, sizes, {.evict = every_order[seed % 4], .retain = retain, .heal = heal});
          REQUIRE(c.input_tokens == t.input_tokens());
          REQUIRE(c.hit_tokens + c.clipped_tokens <= all);
          REQUIRE((pages < 4'000 || c.hit_tokens + c.clipped_tokens == all));
          REQUIRE(c.healed_tokens <= c.hit_tokens);
          REQUIRE(c.healed_tokens >= c.heals * page);
          REQUIRE(c.net_hit_rate() <= c.hit_rate());
          REQUIRE((c.heals == 0) == (c.heal_token_equivalents == 0));
          REQUIRE((heal || c.heals == 0));
          REQUIRE(c.heal_token_equivalents < static_cast<double>(c.healed_tokens + 1));
          REQUIRE(c.peak_bytes <= sizes.bytes);
          REQUIRE(c.top_hit_tokens <= c.top_input_tokens);
        }
      }
    }
  }
}

TEST_CASE("a fork far behind the tail heals; without heal it is clipped") {
  trace t;
  t.page_tokens = page;
  t.sessions = {"a"};
  std::vector<std::uint32_t> input(60);
  for (std::uint32_t i = 0; i < 60; ++i) {
    input[i] = t.distinct_pages++;
  }
  add_request(t, input, 0);
  input.resize(40);
  input.push_back(t.distinct_pages++);
  add_request(t, input, 0);
  const cache_sizes sizes = dual_pools(200, 0.2);
  const cache_outcome healed = outcome_of(t, sizes, {});
  CHECK(healed.hit_tokens == 40 * page);
  CHECK(healed.clipped_tokens == 0);
  CHECK(healed.heals == 1);
  CHECK(healed.heal_token_equivalents > 400);
  CHECK(healed.heal_token_equivalents < 1'200);
  CHECK(healed.top_hit_tokens == 40 * page);  // The only session.
  const cache_outcome clipped = outcome_of(t, sizes, {.heal = false});
  CHECK(clipped.hit_tokens == 0);
  CHECK(clipped.clipped_tokens == 40 * page);
  const cache_outcome kept = outcome_of(t, sizes, {.retain = {.every_tokens = 1'280}});
  CHECK(kept.hit_tokens == 40 * page);
  CHECK(kept.heals == 0);
}

TEST_CASE("a window pool of one ring serves every request, and heal makes up for the rest") {
  const trace t = random_trace(3, 300, 30);
  const cache_sizes sizes = dual_pools(t.distinct_pages, 0);
  REQUIRE(sizes.sizes.pages[1] == sizes.plan.ring(0).ring_pages());
  const cache_outcome healed = outcome_of(t, sizes, {}),
                      clipped = outcome_of(t, sizes, {.heal = false});
  CHECK(healed.heals > 100);
  CHECK(healed.evicted_window_pages > 0);
  CHECK(healed.hit_tokens > 2 * clipped.hit_tokens);
  CHECK(clipped.hit_tokens + clipped.clipped_tokens == infinite_cache(t).hit_tokens);
}

TEST_CASE("what is larger than the pool is computed, and cached as far as it fits") {
  trace t;
  t.page_tokens = page;
  t.sessions = {"a"};
  for (std::uint32_t i = 0; i < 2; ++i) {
    std::vector<std::uint32_t> input(100);
    for (std::uint32_t p = 0; p < 100; ++p) {
      input[p] = p;
    }
    t.distinct_pages = 100;
    add_request(t, input, 0);
  }
  for (const evict_choice evict : every_order) {
    const cache_sizes sizes = one_pool(30);
    const cache_outcome c = outcome_of(t, sizes, {.evict = evict});
    CHECK(c.hit_tokens == 29 * page);  // Of what fits, one token is computed.
    CHECK(c.peak_bytes <= sizes.bytes);
  }
  CHECK(outcome_of(t, one_pool(30), beside(t, {.evict = evict_choice::lru})).hit_tokens ==
        30 * page);
}

TEST_CASE("pages of another size than the trace's give nearly the same") {
  const trace t = random_trace(5, 100, 20);
  const model_geometry model = small_model();
  const auto sizes = plan_cache(model.layers, {.capacity_tokens = 1'000'000, .page_tokens = 16});
  REQUIRE(sizes);
  const auto c = replay_cache(t, model, *sizes, {.evict = evict_choice::lru}, {});
  REQUIRE(c);
  CHECK(c->hit_tokens + c->clipped_tokens == infinite_cache(t).hit_tokens);
}

TEST_CASE("a seed fixes everything, and progress counts to the end") {
  const trace t = random_trace(11, 200, 20);
  std::size_t calls = 0, last = 0;
  const auto count = [&](std::size_t done) {
    ++calls;
    last = done;
  };
  const model_geometry model = small_model();
  const cache_sizes sizes = dual_pools(150, 0.1);
  const auto a = replay_cache(t, model, sizes, {.seed = 9}, count);
  const cache_outcome b = outcome_of(t, sizes, {.seed = 9});
  REQUIRE(a);
  CHECK(a->hit_tokens == b.hit_tokens);
  CHECK(a->heals == b.heals);
  CHECK(a->evicted_full_pages == b.evicted_full_pages);
  CHECK(a->evicted_window_pages == b.evicted_window_pages);
  CHECK(calls == 200);
  CHECK(last == 200);
}

TEST_CASE("no requests, and requests of nothing, are no hit") {
  trace t;
  t.page_tokens = page;
  CHECK(outcome_of(t, one_pool(4), {}).hit_rate() == 0.0);
  t.requests.push_back({});
  const cache_outcome c = outcome_of(t, one_pool(4), {});
  CHECK(c.hit_rate() == 0.0);
  CHECK(c.top_decile_hit_rate() == 0.0);
}
