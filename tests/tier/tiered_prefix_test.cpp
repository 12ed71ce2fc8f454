// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Pages go down when the cache takes them in, and come up with the same bytes, whatever happens.
#include "support/death.hpp"
#include "tier/tiered_world.hpp"

#include <catch2/catch.hpp>

#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

using namespace tiered;

TEST_CASE("what was computed comes back with its bytes, also in another process", "[tier]") {
  const media kept = new_media(2);
  const auto tokens = tokens_of(20 * page + 5);
  {
    world w(kept);
    w.compute(tokens);
    REQUIRE(w.tiers->finish(no_deadline));
    CHECK(w.tiers->copies_under_way() == 0);
    CHECK(w.tiers->counters().copied_pages[0] == pages_of(*kept[0], 0) + pages_of(*kept[0], 1));
    CHECK(pages_of(*kept[0], 0) == 20);
    CHECK(pages_of(*kept[0], 1) == 3);  // need(320) of W = 20, and the page of slack.
    w.forget();
    CHECK(w.fetch(tokens) == std::array{320u, 0u, 0u});
    CHECK(w.check_hit(tokens) == 320);
  }
  kept[0]->pages.clear();  // Memory does not outlive the process; the second tier does.
  world again(kept);
  CHECK(again.fetch(tokens) == std::array{0u, 320u, 0u});
  CHECK(again.check_hit(tokens) == 320);
  REQUIRE(again.tiers->finish(no_deadline));
  CHECK(pages_of(*kept[0], 0) == 20);                   // Promoted to the faster tier,
  CHECK(again.tiers->counters().copied_pages[1] == 0);  // not written again where it came from.
}

TEST_CASE("a prefix is fetched as far as the prompts agree, another namespace's never", "[tier]") {
  const media kept = new_media(1);
  world w(kept);
  const auto tokens = tokens_of(12 * page);
  w.compute(tokens);
  w.tiers->finish(no_deadline);
  w.forget();
  auto other = tokens;
  other[100] = token_id{9999};
  w.fetch(other);
  const prefix_match m = w.tree.match(w.space, other);
  CHECK(m.full_tokens == 96);
  w.space = cache_namespace({.tenant_salt = "u", .model = "m"});
  w.start = chain_start(w.space, {.page_size = page});
  CHECK(w.fetch(tokens) == std::array{0u, 0u, 0u});
}

TEST_CASE("a failed page ends what is published, and nothing is left behind", "[tier]") {
  for (std::uint64_t round = 0; round < 60; ++round) {
    const media kept = new_media(1);
    const auto tokens = tokens_of(20 * page + 1, static_cast<std::uint32_t>(round) * 1000);
    {
      world w(kept);
      w.compute(tokens);
      w.tiers->finish(no_deadline);
    }
    auto lost = kept[0]->pages.begin();
    std::advance(lost, static_cast<std::ptrdiff_t>(round % kept[0]->pages.size()));
    lost->second.parent = {};  // exists says yes, the get says no.
    world w(kept);
    const auto got = w.fetch(tokens);
    CHECK(got[0] < 320 + (lost->first.pool != 0 ? 1 : 0));
    CHECK(w.tree.match(w.space, tokens).full_tokens == got[0]);
    w.check_hit(tokens);
    w.tiers->finish(no_deadline);
    CHECK(w.tree.leases() == 0);
    CHECK(w.pools.pool(full_pool).used() == w.tree.full_pages());
    CHECK(w.pools.pool(window_pool(0)).used() == w.tree.window_pages(0));
  }
}

TEST_CASE("F21: a cancelled fetch keeps its pages until the store lets go of them", "[tier]") {
  const media kept = new_media(1);
  world w(
      kept,
      {.faults = {.stuck = 1000, .turns_max = 0, .stuck_polls = 10}, .limits = {.fetches_max = 1}});
  const auto tokens = tokens_of(8 * page + 1);
  w.compute(tokens);
  w.tiers->finish(no_deadline);
  w.forget();
  const std::uint32_t id = w.begin(tokens);
  const auto held = [&] {
    std::uint32_t pages = 0;
    w.tiers->visit_pages([&](std::uint32_t, page_handle) { ++pages; });
    return pages;
  };
  while (held() == 0) {
    w.tiers->turn();
  }
  w.tiers->cancel_fetch(id);
  CHECK(w.tree.leases() == 0);
  CHECK(held() == 8 + 3);
  CHECK(w.tiers->late_pages(0) == 8);
  CHECK(w.pools.pool(full_pool).used() == 8);
  CHECK(!w.tiers->can_fetch());
  w.tiers->cancel_fetch(id);  // Again: nothing.
  w.tiers->finish(no_deadline);
  CHECK(w.tiers->late_pages(0) == 0);
  CHECK(w.pools.pool(full_pool).used() == 0);
  CHECK(w.tiers->can_fetch());
}

TEST_CASE("tiers that go while a fetch is half done give back what is theirs, once", "[tier]") {
  for (std::uint32_t turns = 1; turns < 40; ++turns) {
    const media kept = new_media(1);
    world w(kept, {.faults = {.stuck = 400, .turns_max = 4, .stuck_polls = 30}});
    const auto tokens = tokens_of(8 * page + 1);
    w.compute(tokens);
    w.tiers->finish(no_deadline);
    w.forget();
    const std::uint32_t id = w.begin(tokens);
    for (std::uint32_t i = 0; i < turns; ++i) {
      w.tiers->turn();
    }
    if (turns % 2 == 0) {
      w.tiers->end_fetch(id);
    } else {
      w.tiers->cancel_fetch(id);
    }
    w.tiers.reset();
    CHECK(w.tree.events().object == nullptr);
    CHECK(w.pools.pool(full_pool).used() == w.tree.full_pages());
    w.check_hit(tokens);
  }
}

TEST_CASE("a slower tier that is silent costs none of a faster one's pages", "[tier]") {
  const media kept = new_media(2);
  const auto tokens = tokens_of(8 * page + 1);
  world(media{kept[0]}).compute(tokens);
  world w(kept, {.silent_tier = 1, .limits = {.fetch_us_max = 60'000}});
  CHECK(w.fetch(tokens)[0] == 128);
  CHECK(w.check_hit(tokens) == 128);
}

TEST_CASE("an eviction hands a few pages to write-back tiers, not the whole cache", "[tier]") {
  const media kept = new_media(1);
  world w(kept, {.writes = {placement::write_back}, .pages = 256});
  w.compute(tokens_of(200 * page));
  const std::uint32_t windows = w.tree.window_pages(0);
  CHECK(w.tree.evict_full(3, ticking_us()).full == 3);  // No more than that, and none is lost.
  CHECK(w.tree.full_pages() == 200 - 3);
  CHECK(w.tiers->leaving().pages[0] == 3);
  CHECK(w.tiers->copies_under_way() == 3 + (windows - w.tree.window_pages(0)));
  w.tiers->finish(no_deadline);
  CHECK(w.tiers->leaving().pages[0] == 0);
  CHECK(w.tiers->leaving().pages[1] == 0);
  CHECK(w.tiers->counters().dropped_copies == 0);
  const std::size_t written = kept[0]->pages.size();
  w.tree.drop(w.space);  // What is dropped is not written any more.
  w.tiers->finish(no_deadline);
  CHECK(kept[0]->pages.size() == written);
}

TEST_CASE("an eviction of more than may be copied goes step by step, and loses none", "[tier]") {
  const media kept = new_media(1);
  world w(kept,
          {.writes = {placement::write_back},
           .faults = {.turns_max = 6},
           .limits = {.copies_max = 16},
           .pages = 256});
  w.compute(tokens_of(200 * page));
  std::vector<std::uint32_t> missing{250, 1};
  std::uint32_t rounds = 0;
  for (; !make_room(w.tree,
                    w.pools,
                    std::span<const std::uint32_t>(missing),
                    ticking_us(),
                    w.tiers->leaving());
       ++rounds) {
    REQUIRE(w.tiers->copies_under_way() != 0);
    REQUIRE(w.tiers->copies_under_way() <= 16);
    w.tiers->turn();
  }
  CHECK(rounds > 30);
  w.tiers->finish(no_deadline);
  CHECK(w.tiers->counters().dropped_copies == 0);
  CHECK(pages_of(*kept[0], 0) == 200 - w.tree.full_pages());
  CHECK(w.tree.full_pages() == 6);  // No more than was asked for.
}

TEST_CASE("time may run out at any look at the clock, also with nothing left to probe for",
          "[tier]") {
  const auto tokens = tokens_of(12 * page);
  for (std::uint64_t time_us = 100; time_us < 6'000; time_us += 100) {
    const media kept = new_media(2);
    world w(kept, {.limits = {.fetch_us_max = time_us}});
    w.compute(tokens);
    w.tiers->finish(no_deadline);
    w.tree.evict_window(0, w.tree.evictable_window_pages(0));  // All full pages, no window.
    w.fetch(tokens);
    w.check_hit(tokens);
    w.tiers->finish(no_deadline);
    CHECK(w.tree.leases() == 0);
  }
}

TEST_CASE("a late fetch gives what came in time", "[tier]") {
  const media kept = new_media(1);
  world w(kept,
          {.faults = {.stuck = 300, .turns_max = 0, .stuck_polls = 4000},
           .limits = {.fetches_max = 1, .fetch_us_max = 20'000}});
  const auto tokens = tokens_of(16 * page + 1);
  w.compute(tokens);
  w.tiers->finish(no_deadline);
  w.forget();
  w.fetch(tokens);
  CHECK(w.tiers->counters().fetches_late >= 1);
  w.check_hit(tokens);
  w.tiers->finish(no_deadline);
  CHECK(w.pools.pool(full_pool).used() == w.tree.full_pages());
}

TEST_CASE("at the end what is on its way is waited for so long, and then dropped", "[tier]") {
  for (const std::uint64_t drain_us : {std::uint64_t{0}, std::uint64_t{3'600'000'000}}) {
    const media kept = new_media(1);
    world w(kept,
            {.faults = {.stuck = 1000, .turns_max = 0, .stuck_polls = 2'000},
             .limits = {.drain_us_max = drain_us}});
    w.compute(tokens_of(8 * page));
    REQUIRE(w.tiers->copies_under_way() != 0);
    w.tiers.reset();
    CHECK(w.tree.events().object == nullptr);
    CHECK(kept[0]->pages.empty() == (drain_us == 0));
    CHECK(w.pools.pool(full_pool).used() == w.tree.full_pages());
    CHECK(w.pools.pool(window_pool(0)).used() == w.tree.window_pages(0));
  }
}

TEST_CASE("R6: a page that is evicted while it is copied is not handed out before", "[tier]") {
  const media kept = new_media(1);
  world w(kept, {.faults = {.stuck = 1000, .turns_max = 0, .stuck_polls = 30}, .pages = 24});
  for (std::uint32_t i = 0; i < 12; ++i) {
    w.compute(tokens_of(16 * page, i * 1000));  // Room comes from pages that are being copied.
  }
  w.tiers->finish(no_deadline);
  for (const auto& [key, stored] : kept[0]->pages) {
    for (std::uint32_t i = 0; i < stored.slices.size(); ++i) {
      const auto first = to_index(stored.tokens[0]) / 1000 * 1000;
      const auto tokens = tokens_of(16 * page, first);
      std::size_t at = 0;
      for (std::uint32_t before = 0; before < i; ++before) {
        at += stored.slices[before].size();
      }
      for (std::size_t b = 0; b < stored.slices[i].size(); ++b) {
        REQUIRE(
            stored.slices[i][b] ==
            world::byte_at(world::bytes_of(tokens, key.pool, stored.first_token / page), at + b));
      }
    }
  }
}

TEST_CASE("selective tiers get a prefix when it is hit often enough", "[tier]") {
  const media kept = new_media(1);
  world w(kept, {.writes = {placement::selective}, .limits = {.selective_hits = 2}});
  const auto tokens = tokens_of(8 * page + 1);
  w.compute(tokens);
  w.hit(tokens);
  CHECK(kept[0]->pages.empty());
  w.hit(tokens);
  CHECK(pages_of(*kept[0], 0) == 8);
  CHECK(pages_of(*kept[0], 1) == 2);  // need(128) of W = 20, as the hit borrowed it.
}

TEST_CASE("write-back tiers get a page when it is evicted, and once", "[tier]") {
  const media kept = new_media(1);
  world w(kept, {.writes = {placement::write_back}});
  const auto tokens = tokens_of(8 * page + 1);
  w.compute(tokens);
  w.tiers->finish(no_deadline);
  CHECK(kept[0]->pages.empty());
  w.forget();
  w.tiers->finish(no_deadline);
  CHECK(pages_of(*kept[0], 0) == 8);
  CHECK(w.fetch(tokens)[0] == 128);
  CHECK(w.check_hit(tokens) == 128);
  const std::uint64_t before = w.tiers->counters().copied_pages[0];
  w.forget();
  w.tiers->finish(no_deadline);
  CHECK(w.tiers->counters().copied_pages[0] == before);  // It is there already.
}

TEST_CASE("consistency case 1: what a tier refused is offered again at the next hit", "[tier]") {
  const media kept = new_media(1);
  world w(kept, {.faults = {.refuses = 700}});
  const auto tokens = tokens_of(8 * page + 1);
  w.compute(tokens);
  w.tiers->finish(no_deadline);
  REQUIRE(pages_of(*kept[0], 0) < 8);
  for (int hits = 0; pages_of(*kept[0], 0) < 8; ++hits) {
    REQUIRE(hits < 200);
    w.hit(tokens);
  }
  CHECK(w.check_hit(tokens) == 128);
}

TEST_CASE("consistency case 1: what a tier lost is offered again while it is in use", "[tier]") {
  const media kept = new_media(1);
  world w(kept, {.limits = {.touch_period_us = 0}});
  const auto tokens = tokens_of(8 * page + 1);
  w.compute(tokens);
  w.tiers->finish(no_deadline);
  const std::size_t all = kept[0]->pages.size();
  REQUIRE(pages_of(*kept[0], 0) == 8);
  kept[0]->pages.clear();  // Evicted there, or its server began anew.
  w.hit(tokens);           // Hears it;
  w.hit(tokens);           // offers.
  CHECK(pages_of(*kept[0], 0) == 8);
  CHECK(kept[0]->pages.size() <= all);  // Of the windows what the hit uses.
  w.forget();
  CHECK(w.fetch(tokens)[0] == 128);
  CHECK(w.check_hit(tokens) == 128);
}

TEST_CASE("consistency case 2: what the device lost is brought by the next fetch", "[tier]") {
  const media kept = new_media(1);
  world w(kept);
  const auto tokens = tokens_of(10 * page + 1);
  w.compute(tokens);
  w.tiers->finish(no_deadline);
  w.tree.evict_full(4, ticking_us());  // The deepest pages, with their windows.
  REQUIRE(w.tree.match(w.space, tokens).full_tokens == 96);
  CHECK(w.fetch(tokens)[0] == 64);
  CHECK(w.check_hit(tokens) == 160);
  w.tree.evict_window(0, w.tree.evictable_window_pages(0));  // Windows alone.
  REQUIRE(w.tree.match(w.space, tokens).window_safe_tokens == 0);
  CHECK(w.fetch(tokens)[0] == 0);
  CHECK(w.check_hit(tokens) == 160);
}

TEST_CASE("consistency case 3: a prefix that is hot above is touched below, now and then",
          "[tier]") {
  const media kept = new_media(1);
  world w(kept, {.limits = {.touch_period_us = 1'000'000}});
  const auto tokens = tokens_of(4 * page + 1);
  const auto links = w.links_of(tokens);
  w.compute(tokens);
  w.tiers->finish(no_deadline);
  const std::vector<page_handle> full(4);
  w.tiers->keep_warm({w.start, tokens, links, {}}, {.length = 4 * page, .full = full});
  CHECK(!w.tiers->idle());
  w.tiers->finish(no_deadline);
  w.tiers->keep_warm({w.start, tokens, links, {}}, {.length = 4 * page, .full = full});
  CHECK(w.tiers->idle());
}

TEST_CASE("consistency case 4: a tier gets the windows that retention keeps", "[tier]") {
  const media kept = new_media(1);
  world w(kept);
  const auto first = tokens_of(10 * page);
  auto second = tokens_of(10 * page);
  second[70] = token_id{5000};  // They part in page 4.
  w.compute(first);
  w.compute(second);
  w.tiers->finish(no_deadline);
  w.forget();
  auto third = first;
  third[70] = token_id{6000};
  CHECK(w.fetch(third)[0] == 64);
  CHECK(w.tree.match(w.space, third).window_safe_tokens == 64);  // The fork's windows were kept.
  CHECK(w.check_hit(third) == 64);
}

TEST_CASE("a tenant's and a session's pages are forgotten in every tier", "[tier]") {
  const media kept = new_media(2);
  world w(kept);
  w.compute(tokens_of(4 * page, 0), {.tenant = 1, .session = 1});
  w.compute(tokens_of(4 * page, 1000), {.tenant = 1, .session = 2});
  w.compute(tokens_of(4 * page, 2000), {.tenant = 2, .session = 1});
  w.tiers->finish(no_deadline);
  const std::size_t each = kept[0]->pages.size() / 3;
  w.tiers->begin_order(store_op::drop_session, {}, {.tenant = 1, .session = 2});
  w.tiers->finish(no_deadline);
  CHECK(kept[0]->pages.size() == 2 * each);
  w.tiers->begin_order(store_op::drop_tenant, {}, {.tenant = 1});
  w.tiers->finish(no_deadline);
  CHECK(kept[1]->pages.size() == each);
  const std::uint32_t order = w.tiers->begin_order(store_op::drop_space, w.start);
  CHECK(w.tiers->take_result(order)->unanswered == 2);
  w.tiers->finish(no_deadline);
  CHECK(kept[0]->pages.empty());
}

TEST_CASE("what a fetch and its tiers have to be told, and what not", "[tier]") {
  CHECK(tier_limits{}.now_us == &monotonic_clock::now_us);
  const media kept = new_media(1);
  world w(kept);
  const auto tokens = tokens_of(8 * page);
  const fetch_request without_rates{
      .space = w.space, .start = w.start, .tokens = tokens, .links = w.links_of(tokens)};
  CHECK(aborts([&] { w.tiers->begin_fetch(without_rates); }));
  const auto without = [&](fetch_model model, std::uint64_t (*now_us)()) {
    tiers_type(w.tree, w.pools, {}, std::move(model), {.now_us = now_us});
  };
  CHECK(aborts([&] { without({}, ticking_us); }));
  CHECK(aborts([&] { without(fetch_model_of(w.geometry, w.pools.plan()), nullptr); }));
}
