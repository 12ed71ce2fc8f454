// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// A step that computes while the pages it starts on still come, layer by layer.
#include "support/death.hpp"
#include "tier/tiered_world.hpp"

#include <catch2/catch.hpp>

#include <cstdint>
#include <vector>

namespace joined_fetch_test {

using namespace tiered;

namespace {

/// A world whose tiers have a prompt and whose device has poison.
struct joined_world : world {
  explicit joined_world(const media& kept, world_options o = {}) : world(kept, by_layers(o)) {}

  static world_options by_layers(world_options o) {
    o.by_layers = true;
    o.limits.layers.read_bytes_min = 1;  // Each layer alone.
    return o;
  }

  void keep_below(const std::vector<token_id>& tokens) {
    compute(tokens);
    REQUIRE(tiers->finish(no_deadline));
    forget();
    poison_free_pages();
  }

  /// Until a step could join; its number.
  std::uint32_t begin_to_join(const std::vector<token_id>& tokens) {
    const std::uint32_t id = begin(tokens);
    for (int turns = 0; !tiers->can_join(id); ++turns) {
      REQUIRE(turns < 10'000);
      REQUIRE(tiers->is_fetching(id));
      tiers->turn();
    }
    return id;
  }

  /// A sequence of its own on what was lent.
  pools_type::sequence_type admit(const std::vector<token_id>& tokens,
                                  const borrowed_prefix& lent) {
    auto kv = pools.try_admit({.tokens_now = lent.length,
                               .tokens_max = static_cast<std::uint32_t>(tokens.size()),
                               .prefix = lent});
    REQUIRE(kv);
    return std::move(*kv);
  }

  /// A layer of all that was lent is there.
  [[nodiscard]] bool has_layer_of(const std::vector<token_id>& tokens,
                                  const borrowed_prefix& lent,
                                  layer_home home) {
    const std::span<const page_handle> pages =
        home.pool == full_pool ? lent.full : lent.windows[to_index(home.pool) - 1];
    const auto first = static_cast<std::uint32_t>(lent.length / page - pages.size());
    for (std::uint32_t i = 0; i < pages.size(); ++i) {
      if (!has_layer(tokens, home, first + i, pages[i])) {
        return false;
      }
    }
    return true;
  }

  /// Nothing of the fetch is left but what the tree has.
  void check_end() {
    CHECK(tiers->finish(no_deadline));
    CHECK(tiers->fetches() == 0);
    CHECK(tree.leases() == 0);
    CHECK(tree.audit() == nullptr);
    CHECK(pools.pool(full_pool).used() == tree.full_pages());
    CHECK(pools.pool(window_pool(0)).used() == tree.window_pages(0));
  }
};

}  // namespace

TEST_CASE("behind the gate of a layer its KV is there, and that of later layers need not be",
          "[tier]") {
  std::uint32_t early = 0, late = 0;  // layers that had not come when the one before was passed
  for (std::uint32_t device_pages : {0u, 1u, 7u}) {
    const media kept = new_media(2);
    joined_world w(kept, {.faults = {.turns_max = 40}});
    const auto tokens = tokens_of(12 * page + 3);
    w.keep_below(tokens);
    if (device_pages != 0) {  // The device still has the start.
      w.compute({tokens.begin(), tokens.begin() + device_pages * page});
    }
    const std::uint32_t id = w.begin_to_join(tokens);
    const borrowed_prefix lent = w.tiers->lend(id);
    REQUIRE(lent.length == 12 * page);
    REQUIRE(lent.full.size() == 12);
    auto kv = w.admit(tokens, lent);
    auto gate = w.tiers->join(id);
    const std::vector<layer_home> homes = world::homes();
    for (std::uint32_t layer = 0; layer < homes.size(); ++layer) {
      REQUIRE(gate.wait(layer));
      REQUIRE(w.has_layer_of(tokens, lent, homes[layer]));
      const bool has_next =
          layer + 1 == homes.size() || w.has_layer_of(tokens, lent, homes[layer + 1]);
      ++(has_next ? early : late);
      CHECK(w.tree.match(w.space, tokens).full_tokens == device_pages * page);  // Nobody's yet.
    }
    const auto got = w.tiers->end_fetch(id);
    CHECK(got[0] == (12 - device_pages) * page);
    CHECK(w.check_hit(tokens) == 12 * page);
    CHECK(w.tiers->waits().loads == 1);
    CHECK(w.tiers->waits().failed_loads == 0);
    CHECK(w.tiers->waits().layers == homes.size());
    kv.release();
    w.check_end();
  }
  CHECK(late >= 3);
  CHECK(early >= 3);
}

TEST_CASE("a tier is as fast as it is, however seldom a step looks at what has come", "[tier]") {
  constexpr double bytes_per_us = 0.2;
  const media kept = new_media(1);
  joined_world w(
      kept,
      {.faults = {.queue_max = 100'000, .bytes_per_us = bytes_per_us, .now_us = ticking_us},
       .limits = {.fetch_us_max = 1'000'000'000'000},
       .pages = 2'500,
       .rates = {.latency_s = 0.0, .bytes_per_s = 1e6 * bytes_per_us}});
  const auto tokens = tokens_of(2'000 * page + 3);
  w.keep_below(tokens);
  for (int fetch = 0; fetch < 8; ++fetch) {
    const std::uint32_t id = w.begin(tokens);
    for (int turns = 0; w.tiers->is_fetching(id); ++turns) {
      REQUIRE(turns < 1'000);
      w.tiers->turn();
      for (int i = 0; i < 100'000; ++i) {  // A step of ten seconds.
        static_cast<void>(ticking_us());
      }
    }
    REQUIRE(w.tiers->end_fetch(id)[0] == 2'000 * page);
    REQUIRE(w.tiers->finish(no_deadline));
    w.forget();
  }
  REQUIRE(w.tiers->counters().fetched_bytes[0] > 8u << 20);
  CHECK(w.tiers->tiers()[0].rates.bytes_per_s > 0.9e6 * bytes_per_us);
  CHECK(w.tiers->tiers()[0].rates.bytes_per_s < 1.1e6 * bytes_per_us);
}

TEST_CASE("a layer that does not come shuts its gate; whole pages come the second time", "[tier]") {
  const auto tokens = tokens_of(12 * page + 3);
  std::uint32_t cut_off = 0, retried = 0;
  for (std::uint64_t round = 0; round < 40; ++round) {
    const media kept = new_media(1);
    {
      world w(kept);
      w.compute(tokens);
      w.tiers->finish(no_deadline);
    }
    auto lost = kept[0]->pages.begin();
    std::advance(lost, static_cast<std::ptrdiff_t>(round % kept[0]->pages.size()));
    lost->second.parent = {};  // exists says yes, the get says no.
    joined_world w(kept, {.faults = {.turns_max = 8}});
    w.poison_free_pages();
    const std::uint32_t id = w.begin(tokens);
    while (w.tiers->is_fetching(id) && !w.tiers->can_join(id)) {
      w.tiers->turn();
    }
    REQUIRE(w.tiers->can_join(id));
    const borrowed_prefix lent = w.tiers->lend(id);
    auto kv = w.admit(tokens, lent);
    auto gate = w.tiers->join(id);
    const std::vector<layer_home> homes = world::homes();
    bool is_open = true;
    for (std::uint32_t layer = 0; layer < homes.size(); ++layer) {
      const bool came = gate.wait(layer);
      REQUIRE(came <= w.has_layer_of(tokens, lent, homes[layer]));
      is_open = is_open && came;
    }
    REQUIRE(!is_open);
    ++cut_off;
    const std::uint64_t until_us = w.tiers->retry_until_us(id);
    w.tiers->end_fetch(id);
    kv.release();
    w.check_hit(tokens);
    REQUIRE(until_us != 0);
    const std::uint32_t again = w.begin(tokens, until_us);
    while (w.tiers->is_fetching(again)) {
      REQUIRE(!w.tiers->can_join(again));
      w.tiers->turn();
    }
    w.tiers->end_fetch(again);
    const std::uint32_t came = w.tree.match(w.space, tokens).full_tokens;
    CHECK(came == (lost->first.pool == 0 ? lost->second.first_token : 12 * page));
    w.check_hit(tokens);
    retried += came != 0;
    w.check_end();
  }
  CHECK(cut_off == 40);
  CHECK(retried >= 20);
}

TEST_CASE("F15: a gate is shut at the deadline of its fetch, whatever the store does", "[tier]") {
  const media kept = new_media(1);
  const auto tokens = tokens_of(8 * page + 1);
  {
    world w(kept);
    w.compute(tokens);
    w.tiers->finish(no_deadline);
  }
  joined_world w(
      kept,
      {.faults = {.stuck = 1000, .turns_max = 0, .stuck_polls = 50'000, .only_gets_stick = true},
       .limits = {.fetch_us_min = 0, .fetch_us_max = 900'000}});
  const std::uint32_t id = w.begin_to_join(tokens);
  const borrowed_prefix lent = w.tiers->lend(id);
  auto kv = w.admit(tokens, lent);
  auto gate = w.tiers->join(id);
  CHECK(!gate.wait(0));
  CHECK(!gate.wait(1));
  CHECK(w.tiers->counters().fetches_late == 1);
  CHECK(w.tiers->retry_until_us(id) == 0);  // No time is left.
  CHECK(w.tiers->waits().stall_us == 0);    // Not before the end.
  w.tiers->end_fetch(id);
  CHECK(w.tiers->waits().stall_us >= 100'000);
  CHECK(w.tiers->waits().failed_loads == 1);
  kv.release();
  CHECK(w.tiers->late_pages(0) != 0);  // The store may write to them yet.
  CHECK(w.pools.pool(full_pool).used() >= w.tiers->late_pages(0));
  w.check_end();
}

TEST_CASE("F21: pages of a cancelled step stay taken until their stores let go", "[tier]") {
  const media kept = new_media(1);
  joined_world w(kept, {.faults = {.turns_max = 30}});
  const auto tokens = tokens_of(8 * page + 1);
  w.keep_below(tokens);
  const std::uint32_t id = w.begin_to_join(tokens);
  const borrowed_prefix lent = w.tiers->lend(id);
  auto kv = w.admit(tokens, lent);
  w.tiers->cancel_fetch(id);
  kv.release();
  CHECK(w.tree.leases() == 0);
  std::uint32_t held = 0;
  w.tiers->visit_pages([&](std::uint32_t, page_handle) { ++held; });
  CHECK(held != 0);
  CHECK(held == w.pools.pool(full_pool).used() + w.pools.pool(window_pool(0)).used());
  w.check_end();
  CHECK(w.pools.pool(full_pool).used() == 0);
}

TEST_CASE("the stall of a step that joins is predicted from what is missing", "[tier]") {
  const media kept = new_media(1);
  joined_world w(kept, {.faults = {.turns_max = 30}});
  const auto tokens = tokens_of(8 * page + 1);
  w.keep_below(tokens);
  const std::uint32_t id = w.begin_to_join(tokens);
  const std::vector<double> no_compute(world::homes().size(), 0.0);
  const std::vector<double> much_compute(world::homes().size(), 1e9);
  double before = w.tiers->predict_stall_s(id, no_compute);
  CHECK(before > 0.0);
  CHECK(w.tiers->predict_stall_s(id, much_compute) < before);
  while (w.tiers->can_join(id)) {
    const double now = w.tiers->predict_stall_s(id, no_compute);
    CHECK(now <= before);
    before = now;
    w.tiers->turn();
  }
  CHECK(w.tiers->end_fetch(id)[0] == 8 * page);
  CHECK(w.check_hit(tokens) == 8 * page);
  w.check_end();
}

TEST_CASE("a number of no fetch breaks the contract", "[tier]") {
  const media kept = new_media(1);
  joined_world w(kept);
  CHECK(!w.tiers->can_join(7));
  CHECK(!w.tiers->is_fetching(7));
  CHECK(aborts([&] { static_cast<void>(w.tiers->length_of(7)); }));
  CHECK(aborts([&] { static_cast<void>(w.tiers->predict_stall_s(7, {})); }));
  CHECK(aborts([&] { static_cast<void>(w.tiers->lend(7)); }));
  CHECK(aborts([&] { static_cast<void>(w.tiers->join(7)); }));
  CHECK(aborts([&] { w.tiers->end_fetch(7); }));
}

}  // namespace joined_fetch_test
