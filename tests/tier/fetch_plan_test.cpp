// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "support/toy_model.hpp"

#include <oriel/kv/pool_plan.hpp>
#include <oriel/model/presets.hpp>
#include <oriel/tier/fetch_plan.hpp>

#include <catch2/catch.hpp>

#include <random>
#include <vector>

namespace fetch_plan_test {

using namespace oriel;

namespace {

constexpr std::uint32_t page = 4;

/// A model with one full and two window kinds; what a planner is asked.
struct question {
  model_geometry geometry = toy_model({0, 10, 10, 7}, false);
  std::vector<std::uint32_t> layers = layer_windows(geometry);
  fetch_model model{.model = &geometry,
                    .healing = {.windows = layers, .page_size = page, .slack_pages = 1},
                    .windows = {10, 7},
                    .page_bytes = {1000, 500, 300}};
  compute_rates rates{1e9, 1e9};
  prefix_match device;
  std::uint32_t prompt = 100;
  tier_coverage coverage{
      .full = std::vector<std::uint8_t>(25, no_tier),
      .windows = {std::vector<std::uint8_t>(25, no_tier), std::vector<std::uint8_t>(25, no_tier)}};
  std::vector<transfer_rates> tiers{{0.0, 1e12}, {0.0, 1e12}};

  void has_full(std::uint32_t end, std::uint8_t tier = 0) {
    std::fill_n(coverage.full.begin(), end, tier);
  }
  void has_windows(std::uint32_t first, std::uint32_t end, std::uint8_t tier = 0) {
    for (auto& kind : coverage.windows) {
      std::fill(kind.begin() + first, kind.begin() + end, tier);
    }
  }
  [[nodiscard]] fetch_plan plan() const {
    return plan_fetch(model, rates, device, prompt, coverage, tiers);
  }
};

}  // namespace

TEST_CASE("where no tier has anything, nothing is fetched", "[tier]") {
  question q;
  const fetch_plan p = q.plan();
  CHECK(p.way == fetch_way::nothing);
  CHECK(p.length == 0);
  CHECK(p.full == page_range{0, 0});
  CHECK(p.seconds == p.seconds_without);
}

TEST_CASE("a whole prompt's pages with the windows at their end are fetched, N - 1 at most",
          "[tier]") {
  question q;
  q.has_full(25);
  q.has_windows(0, 25);
  fetch_plan p = q.plan();
  CHECK(p.way == fetch_way::window_safe);
  CHECK(p.length == 96);  // 99 tokens at most, whole pages.
  CHECK(p.full == page_range{0, 24});
  // need(96) and the slack before it: W = 10 from 92 - 9 = 83, W = 7 from 92 - 6 = 86.
  CHECK(p.windows == std::vector<page_range>{{20, 24}, {21, 24}});
  CHECK(p.seconds < p.seconds_without);
  q.prompt = 101;
  p = q.plan();
  CHECK(p.length == 100);
}

TEST_CASE("the boundary is the deepest that every kind agrees on", "[tier]") {
  question q;
  q.model.may_heal = false;
  q.has_full(20);
  q.has_windows(0, 25);
  CHECK(q.plan().length == 80);
  q.coverage.windows[1][18] = no_tier;  // 80 needs 74.. of W = 7: pages 18, 19.
  CHECK(q.plan().length == 72);
  q.coverage.windows[0][17] = no_tier;  // 72 needs 63.. of W = 10: pages 15..17.
  CHECK(q.plan().length == 68);
  q.coverage.full[10] = no_tier;
  CHECK(q.plan().length == 40);
}

TEST_CASE("without windows the full pages are fetched for a heal, if that is less work", "[tier]") {
  question q;
  q.prompt = 4000;
  q.coverage.full.assign(1000, 0);
  for (auto& kind : q.coverage.windows) {
    kind.assign(1000, no_tier);
  }
  const fetch_plan p = q.plan();
  CHECK(p.way == fetch_way::full_and_heal);
  CHECK(p.length == 3996);
  CHECK(p.windows == std::vector<page_range>{{0, 0}, {0, 0}});
  q.model.may_heal = false;
  CHECK(q.plan().way == fetch_way::nothing);
}

TEST_CASE("what the device has is not fetched; its windows may be", "[tier]") {
  question q;
  q.device = {.full_tokens = 60, .window_safe_tokens = 0, .heal_tokens = 60};
  q.has_full(15);
  q.has_windows(12, 15);
  fetch_plan p = q.plan();
  CHECK(p.way == fetch_way::window_safe);
  CHECK(p.full == page_range{15, 15});
  CHECK(p.windows == std::vector<page_range>{{12, 15}, {12, 15}});
  q.device.window_safe_tokens = 60;
  p = q.plan();
  CHECK(p.way == fetch_way::nothing);
  CHECK(p.length == 60);
}

TEST_CASE("a tier that is slower than computing is left alone, page by page", "[tier]") {
  question q;
  q.has_full(25, 1);
  q.has_windows(0, 25, 1);
  q.tiers[1] = {.latency_s = 10.0, .bytes_per_s = 1e12};
  CHECK(q.plan().way == fetch_way::nothing);
  q.tiers[1] = {.latency_s = 0.0, .bytes_per_s = 1.0};
  CHECK(q.plan().way == fetch_way::nothing);
  q.tiers[1] = {.latency_s = 0.0, .bytes_per_s = 1e12};
  CHECK(q.plan().way == fetch_way::window_safe);
}

TEST_CASE("a plan asks only for what is there, and needs all that it asks for", "[tier]") {
  std::mt19937_64 random(3);
  for (int round = 0; round < 3000; ++round) {
    question q;
    q.prompt = 1 + static_cast<std::uint32_t>(random() % 100);
    const std::uint32_t pages = q.prompt / page;
    q.coverage.full.assign(pages, no_tier);
    for (auto& kind : q.coverage.windows) {
      kind.assign(pages, no_tier);
      for (std::uint8_t& tier : kind) {
        tier = random() % 4 == 0 ? no_tier : static_cast<std::uint8_t>(random() % 2);
      }
    }
    for (std::uint8_t& tier : q.coverage.full) {
      tier = random() % 10 == 0 ? no_tier : static_cast<std::uint8_t>(random() % 2);
    }
    const auto had = static_cast<std::uint32_t>(random() % (pages + 1));
    const std::uint32_t most = (q.prompt - 1) / page;
    q.device = {.full_tokens = had * page,
                .window_safe_tokens = 0,
                .heal_tokens = std::min(had, most) * page};
    q.model.may_heal = random() % 2 == 0;
    const fetch_plan p = q.plan();
    CAPTURE(round, q.prompt, had);
    REQUIRE(p.length < q.prompt);
    REQUIRE(p.seconds <= p.seconds_without);
    if (p.way == fetch_way::nothing) {
      continue;
    }
    REQUIRE(p.full.end == p.length / page);
    REQUIRE(p.full.first == std::min(had, p.full.end));
    for (std::uint32_t i = p.full.first; i < p.full.end; ++i) {
      REQUIRE(q.coverage.full[i] != no_tier);
    }
    for (std::size_t kind = 0; kind < 2; ++kind) {
      const std::uint32_t window = q.model.windows[kind];
      for (std::uint32_t i = p.windows[kind].first; i < p.windows[kind].end; ++i) {
        REQUIRE(q.coverage.windows[kind][i] != no_tier);
      }
      if (p.way == fetch_way::window_safe) {  // Every position that the boundary reads.
        REQUIRE(p.windows[kind].end == p.full.end);
        REQUIRE(p.windows[kind].first * page <= p.length - std::min(p.length, window - 1));
      }
    }
  }
}

TEST_CASE("a hit at 128 K tokens of mimo-v2.5-pro moves a seventh of what an all-full cache moves",
          "[tier]") {
  const model_geometry pro = preset("mimo-v2.5-pro").value();
  const pool_plan plan = *pool_plan::make(kv_shapes_of(pro.layers, dtype::bf16), {.page_size = 64});
  REQUIRE(plan.window_kinds() == 1);
  const fetch_model model = fetch_model_of(pro, plan);
  CHECK(model.model == &pro);
  CHECK(model.healing.windows == layer_windows(pro));
  CHECK(model.healing.page_size == 64);
  CHECK(model.healing.slack_pages == 1);
  CHECK(model.windows == std::vector{plan.ring(0).window_tokens});
  CHECK(model.page_bytes == std::vector<std::uint64_t>{plan.layout(full_pool).page_bytes(),
                                                       plan.layout(window_pool(0)).page_bytes()});
  REQUIRE(model.layers.size() == pro.layers.size());
  CHECK(model.layers[7] == plan.home(7));
  CHECK(!model.soft_kind);
  constexpr std::uint32_t tokens = 131'072;
  const tier_coverage all{.full = std::vector<std::uint8_t>(tokens / 64, 0),
                          .windows = {std::vector<std::uint8_t>(tokens / 64, 0)}};
  const transfer_rates fast{0.0, 1e11};
  const fetch_plan p = plan_fetch(model, {1e15, 1e15}, {}, tokens + 1, all, {&fast, 1});
  REQUIRE(p.way == fetch_way::window_safe);
  REQUIRE(p.length == tokens);
  const std::uint64_t moved = (p.full.end - p.full.first) * model.page_bytes[0] +
                              (p.windows[0].end - p.windows[0].first) * model.page_bytes[1];
  const double all_full = static_cast<double>(kv_bytes_uniform(pro, tokens, dtype::bf16));
  CAPTURE(moved, all_full);
  CHECK(static_cast<double>(moved) * 6.9 <= all_full);
}

TEST_CASE("the soft kind comes along as far as there is no gap, and no boundary waits for it",
          "[tier]") {
  question q;
  q.model.soft_kind = 1;
  q.has_full(25);
  std::fill_n(q.coverage.windows[0].begin(), 25, std::uint8_t{0});
  CHECK(q.plan().length == 96);
  CHECK(q.plan().windows == std::vector<page_range>{{20, 24}, {24, 24}});
  q.coverage.windows[1][23] = 0;
  CHECK(q.plan().windows[1] == page_range{23, 24});
  q.coverage.windows[1][22] = 1;
  q.coverage.windows[1][21] = 0;
  CHECK(q.plan().windows[1] == page_range{22, 24});  // W = 7 needs no more.
  q.coverage.windows[1][23] = no_tier;
  CHECK(q.plan().windows[1] == page_range{24, 24});
}

}  // namespace fetch_plan_test
