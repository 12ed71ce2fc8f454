// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Steps whose loads come late, out of order, not at all, or are cancelled, on a clock turned by
// hand: nothing is read before it is there, pages are held until stores let go, and stall and lead
// are what the times say, to the microsecond.
#include "support/death.hpp"
#include "support/scale.hpp"
#include "tier/layer_world.hpp"

#include <oriel/tier/any_store.hpp>
#include <oriel/tier/layer_loader.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

namespace layer_loader_test {

using namespace oriel;
using loader = layer_loader<scripted_store, hand_clock>;

static_assert(layer_gate<loader> && layer_gate<layer_loader<any_store>>);

namespace {

/// A step in the making: clock, world, stores and loader.
struct step {
  step(layer_world w, const std::vector<store_script>& scripts, const layer_load_options& options)
      : world(std::move(w)) {
    std::vector<scripted_store*> lanes;
    for (const store_script& script : scripts) {
      lanes.push_back(stores.emplace_back(std::make_unique<scripted_store>(now_us, script)).get());
    }
    subject = std::make_unique<loader>(lanes, options, hand_clock(now_us));
  }

  void begin(std::uint64_t deadline_us = no_deadline) {
    pages = world.pages();
    subject->begin(world.homes, pages, deadline_us);
  }

  /// Time passes, and the loader is turned whenever a store has something.
  void compute(std::uint64_t us) {
    const std::uint64_t end_us = *now_us + us;
    while (*now_us < end_us) {
      std::uint64_t next_us = end_us;
      for (const auto& store : stores) {
        next_us = std::min(next_us, store->next_us());
      }
      *now_us = std::max(*now_us, next_us);
      subject->turn();
    }
  }

  [[nodiscard]] bool has_arrived(std::uint32_t layer) const {
    const auto [pool, slot] = world.homes[layer];
    return std::ranges::all_of(world.rooms, [&, p = to_index(pool), s = slot](const auto& r) {
      return r.page.key.pool != p || stores[r.tier]->arrived.contains({r.page.key, s});
    });
  }

  /// What the test's owner of the pages does: gives back those that the loader lets go of.
  void give_back() {
    for (std::uint32_t p = 0; p < pages.size(); ++p) {
      if (!subject->is_held(p)) {
        stores[pages[p].tier]->released.insert(pages[p].key);
      }
    }
  }

  std::shared_ptr<std::uint64_t> now_us = std::make_shared<std::uint64_t>(1'000);
  layer_world world;
  std::vector<std::unique_ptr<scripted_store>> stores;
  std::unique_ptr<loader> subject;
  std::vector<layer_page> pages;
};

/// 10 layers of 80 bytes: one page of 4 full layers, one of 6 window layers.
layer_world small_world() {
  return layer_world({0, 1, 1, 0, 1, 1, 0, 1, 1, 0}, std::vector<std::uint32_t>(10, 80), {1, 1});
}

layer_world random_world(random_stream& draw, std::uint32_t tiers) {
  const std::uint32_t layers = 1 + draw.next_below(14), pools = 1 + draw.next_below(3);
  std::vector<std::uint32_t> pool_of, bytes, pages_in;
  for (std::uint32_t l = 0; l < layers; ++l) {
    pool_of.push_back(draw.next_below(pools));
    bytes.push_back(1 + draw.next_below(64));
  }
  for (std::uint32_t p = 0; p < pools; ++p) {
    pages_in.push_back(draw.next_below(6));
  }
  layer_world world(pool_of, bytes, pages_in);
  for (auto& room : world.rooms) {
    room.tier = static_cast<std::uint8_t>(draw.next_below(tiers));
  }
  return world;
}

step random_step(std::uint64_t seed, random_stream& draw, std::uint32_t failing_of_64) {
  const std::uint32_t tiers = 1 + draw.next_below(2);
  const layer_load_options options{.read_bytes_min = 1 + draw.next_below(200),
                                   .ahead_layers_max = draw.next_below(9),
                                   .in_flight_bytes_max = 1 + draw.next_below(1'000),
                                   .user_base = std::uint64_t{draw.next_below(2)} << 40};
  const store_outcome failures[]{
      store_outcome::miss, store_outcome::corrupt, store_outcome::failed};
  std::vector<store_script> scripts;
  for (std::uint32_t t = 0; t < tiers; ++t) {
    store_script s{.latency_us = draw.next_below(200),
                   .us_per_byte = draw.next_below(3),
                   .jitter_us = draw.next_below(2) == 0 ? 0u : 1 + draw.next_below(2'000),
                   .queue_items = 1 + draw.next_below(40),
                   .failure = failures[draw.next_below(3)],
                   .seed = seed};
    for (std::uint64_t n = 0; n < 64; ++n) {
      if (draw.next_below(64) < failing_of_64) {
        s.failing.insert(options.user_base + n);
      }
    }
    scripts.push_back(s);
  }
  return {random_world(draw, tiers), scripts, options};
}

/// Computes all layers; says in which the gate said no. Every yes is checked, and nothing else.
std::vector<bool> compute_layers(step& s, random_stream& draw, std::uint32_t us_max) {
  std::vector<bool> passed;
  for (std::uint32_t l = 0; l < s.world.layers(); ++l) {
    s.compute(draw.next_below(us_max));
    const bool was_ready = s.subject->ready(l);
    REQUIRE(was_ready == s.has_arrived(l));
    const bool is_open = s.subject->wait(l);
    passed.push_back(is_open);
    REQUIRE((is_open || !was_ready));
    REQUIRE(is_open == s.has_arrived(l));
    REQUIRE((!is_open || s.world.has_layer(l)));
    REQUIRE((!was_ready || s.subject->waits()[l].stall_us() == 0));
  }
  return passed;
}

/// The slot's layer, from the world and not from the plan.
std::uint32_t first_layer_of(const step& s, const store_item& item) {
  return s.world.layer_in[item.key.pool][item.first_slice];
}

}  // namespace

TEST_CASE("a layer opens when all its reads are acknowledged (F22)", "[tier]") {
  for (std::uint64_t seed = 0; seed < scaled(2'000); ++seed) {
    CAPTURE(seed);
    random_stream draw(seed, 43);
    step s = random_step(seed, draw, 0);
    s.begin();
    const std::vector<bool> passed = compute_layers(s, draw, 300);
    REQUIRE(std::ranges::count(passed, false) == 0);
    REQUIRE(s.subject->idle());
    REQUIRE(s.subject->counters().failed_loads == 0);
    for (const auto& store : s.stores) {
      for (std::size_t i = 1; i < store->log.size(); ++i) {
        REQUIRE(first_layer_of(s, store->log[i - 1]) <= first_layer_of(s, store->log[i]));
      }
    }
  }
}

TEST_CASE("k of n loads fail: exactly the layers that lack something stay shut (F20)", "[tier]") {
  std::uint64_t failed = 0, whole = 0;
  for (std::uint64_t seed = 0; seed < scaled(3'000); ++seed) {
    CAPTURE(seed);
    random_stream draw(seed, 44);
    const std::uint32_t share[]{1, 3, 16, 64};
    step s = random_step(seed, draw, share[draw.next_below(4)]);
    s.begin(draw.next_below(4) == 0 ? *s.now_us + draw.next_below(2'000) : no_deadline);
    const std::vector<bool> passed = compute_layers(s, draw, 300);
    const bool has_failed = std::ranges::count(passed, false) != 0;
    (has_failed ? failed : whole) += 1;
    REQUIRE(s.subject->counters().failed_loads == (has_failed ? 1 : 0));
    s.subject->finish();
    s.give_back();
    for (const auto& store : s.stores) {
      REQUIRE(store->pending() == 0);
    }
    REQUIRE(std::ranges::none_of(
        s.pages, [&](const layer_page& p) { return !s.stores[p.tier]->released.contains(p.key); }));
    // The loader is as good as new: the same pages once more, from a store that has them all.
    if (!has_failed) {
      for (const auto& store : s.stores) {
        store->released.clear();
        store->arrived.clear();
      }
      s.world.wipe();
      s.begin();
      REQUIRE(std::ranges::count(compute_layers(s, draw, 300), false) == 0);
    }
  }
  CHECK(failed > 0);
  CHECK(whole > 0);
}

TEST_CASE("after a failure nothing more is handed out", "[tier]") {
  step s(small_world(),
         {{.latency_us = 10, .us_per_byte = 1, .failing = {1}}},
         {.read_bytes_min = 1, .in_flight_bytes_max = 240});
  s.begin();
  CHECK(s.subject->wait(0));
  CHECK(s.stores[0]->log.size() == 4);
  CHECK(!s.subject->wait(1));
  CHECK(s.subject->wait(2));  // It was under way, and came.
  CHECK(s.subject->wait(3));
  CHECK(!s.subject->wait(4));
  CHECK(!s.subject->wait(9));
  CHECK(s.subject->idle());
  CHECK(s.stores[0]->log.size() == 4);
  CHECK(s.subject->load().failed_reads() == 1);
  CHECK(s.subject->load().done_bytes() == 3 * 80);
}

TEST_CASE("a load may be cancelled in the middle: pages stay held until acknowledged (F21)",
          "[tier]") {
  std::uint64_t held_after_cancel = 0;
  for (std::uint64_t seed = 0; seed < scaled(3'000); ++seed) {
    CAPTURE(seed);
    random_stream draw(seed, 45);
    step s = random_step(seed, draw, draw.next_below(2));
    s.begin();
    s.compute(draw.next_below(400));
    const std::uint32_t last = draw.next_below(s.world.layers());
    for (std::uint32_t l = 0; l < last; ++l) {
      (void)s.subject->wait(l);
    }
    s.subject->cancel();
    std::size_t taken = 0, under_way = 0;
    for (const auto& store : s.stores) {
      taken += store->log.size();
      under_way += store->pending();
    }
    REQUIRE(s.subject->idle() == (under_way == 0));
    held_after_cancel += under_way != 0;
    s.give_back();  // A store that writes into one of these fails the test.
    while (!s.subject->idle()) {
      s.compute(1 + draw.next_below(100));
      s.give_back();
    }
    for (const auto& store : s.stores) {
      REQUIRE(store->pending() == 0);
      taken -= store->log.size();
    }
    REQUIRE(taken == 0);
    // A gate is told the truth also now.
    for (std::uint32_t l = 0; l < s.world.layers(); ++l) {
      REQUIRE(s.subject->wait(l) == s.has_arrived(l));
    }
  }
  CHECK(held_after_cancel > 0);
}

TEST_CASE("a loader that goes in the middle waits for what stores still write", "[tier]") {
  step s(small_world(), {{.latency_us = 500}}, {.together_share_max = 1e3});
  s.begin();
  CHECK(s.stores[0]->pending() == 3);  // Layer 0 alone; three full layers, six window layers.
  s.subject.reset();
  CHECK(s.stores[0]->pending() == 0);
}

TEST_CASE("no more bytes than allowed are in flight", "[tier]") {
  for (const std::uint64_t bytes_max : {1u, 80u, 160u, 200u, 500u}) {
    CAPTURE(bytes_max);
    step s(small_world(),
           {{.latency_us = 7}},
           {.read_bytes_min = 1, .in_flight_bytes_max = bytes_max});
    s.begin();
    for (std::uint32_t l = 0; l < 10; ++l) {
      CHECK(s.subject->wait(l));
    }
    CHECK(s.stores[0]->in_flight_bytes_max == std::max<std::uint64_t>(bytes_max / 80, 1) * 80);
  }
}

TEST_CASE("stall and lead are what the times say", "[tier]") {
  // A layer loads in 80 us and computes in 100; layer 0 hides behind nothing.
  step s(small_world(), {{.us_per_byte = 1}}, {.read_bytes_min = 1});
  SECTION("begun with the step: layer 0 costs its load") {
    s.begin();
    for (std::uint32_t l = 0; l < 10; ++l) {
      REQUIRE(s.subject->wait(l));
      CHECK(s.subject->waits()[l].stall_us() == (l == 0 ? 80 : 0));
      CHECK(s.subject->waits()[l].lead_us() == 20 * l);
      s.compute(100);
    }
    CHECK(*s.now_us == 1'000 + 80 + 10 * 100);
    CHECK(s.subject->counters().stall_us == 80);
    CHECK(s.subject->counters().lead_us == 20 * 45);
    CHECK(s.subject->counters().late_layers == 1);
    CHECK(s.subject->counters().layers == 10);
    CHECK(s.subject->counters().bytes == 800);
  }
  SECTION("begun during the step before: nothing waits") {
    s.begin();
    s.compute(95);
    for (std::uint32_t l = 0; l < 10; ++l) {
      REQUIRE(s.subject->wait(l));
      CHECK(s.subject->waits()[l].lead_us() == 15 + 20 * l);
      s.compute(100);
    }
    CHECK(s.subject->counters().stall_us == 0);
    CHECK(s.subject->counters().late_layers == 0);
  }
  SECTION("without overlap the whole load is waited for") {
    s.begin();
    for (std::uint32_t l = 0; l < 10; ++l) {
      REQUIRE(s.subject->wait(l));
    }
    CHECK(s.subject->counters().stall_us == 800);
  }
}

TEST_CASE("the measured stall is the predicted one", "[tier]") {
  std::uint64_t stalled = 0;
  for (std::uint64_t seed = 0; seed < scaled(2'000); ++seed) {
    CAPTURE(seed);
    random_stream draw(seed, 46);
    const store_script script{.latency_us = draw.next_below(200), .us_per_byte = 1};
    step s(random_world(draw, 1),
           {script},
           {.read_bytes_min = 1 + draw.next_below(200), .ahead_layers_max = draw.next_below(9)});
    const std::uint64_t lead_us = draw.next_below(3) == 0 ? draw.next_below(400) : 0;
    s.begin();
    const layer_plan plan = s.subject->load().plan();
    s.compute(lead_us);
    std::vector<double> seconds;
    for (std::uint32_t l = 0; l < s.world.layers(); ++l) {
      REQUIRE(s.subject->wait(l));
      const std::uint64_t us = draw.next_below(300);
      s.compute(us);
      seconds.push_back(1e-6 * static_cast<double>(us));
    }
    const double predicted = predict_stall(plan.arrival_bytes,
                                           seconds,
                                           {1e-6 * static_cast<double>(script.latency_us), 1e6},
                                           1e-6 * static_cast<double>(lead_us));
    REQUIRE(s.subject->counters().stall_us == static_cast<std::uint64_t>(predicted * 1e6 + 0.5));
    stalled += predicted > 0;
  }
  CHECK(stalled > 0);
}

TEST_CASE("a loader brings one load at a time", "[tier]") {
  step s(small_world(), {{.latency_us = 500}}, {.together_share_max = 1e3});
  s.begin();
  CHECK(aborts([&] { s.begin(); }));
  s.subject->finish();
  s.begin();
  CHECK(s.subject->wait(9));
}

TEST_CASE("a gate that is no gate is open", "[tier]") {
  layer_gate_ref open;
  CHECK(!open);
  CHECK(open.wait(7));
  step s(small_world(), {{.us_per_byte = 1, .failing = {0}}}, {});
  s.begin();
  layer_gate_ref gate = *s.subject;
  CHECK(gate);
  CHECK(!gate.wait(0));
}

}  // namespace layer_loader_test
