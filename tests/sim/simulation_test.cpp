// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Deterministic simulation of tree and pools under a fake model: see world.hpp.
#include "sim/first_failure.hpp"
#include "sim/simulation.hpp"
#include "support/scale.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdlib>

namespace simulation_test {

namespace {

void check_seeds(std::uint64_t first, std::uint64_t count) {
  const std::string found = sim::first_failure(first, count, sim::make_scenario);
  INFO(found);
  CHECK(found.empty());
}

}  // namespace

TEST_CASE("the seeds from ORIEL_SIM_SEED on: one or ORIEL_SIM_COUNT of them", "[sim]") {
  if (const char* seed = std::getenv("ORIEL_SIM_SEED"); seed != nullptr) {
    const char* count = std::getenv("ORIEL_SIM_COUNT");
    check_seeds(std::strtoull(seed, nullptr, 10),
                count != nullptr ? std::strtoull(count, nullptr, 10) : 1);
  }
}

TEST_CASE("seeds that once failed hold", "[sim]") {
  for (const std::uint64_t seed : sim::seeds_of(ORIEL_TEST_DIR "/sim/seeds.txt")) {
    check_seeds(seed, 1);
  }
}

// In parts, for machines with several cores.
TEST_CASE("simulated engines keep every invariant: seeds 1 to 2000", "[sim]") {
  check_seeds(1, scaled(2000));
}

TEST_CASE("simulated engines keep every invariant: seeds 2001 to 4000", "[sim]") {
  check_seeds(2001, scaled(2000));
}

TEST_CASE("simulated engines keep every invariant: 50 000 seeds with --long", "[sim]") {
  if (std::getenv("ORIEL_TEST_LONG") != nullptr) {
    check_seeds(10'001, scaled(50'000));
  }
}

TEST_CASE("the same seed gives the same trace", "[sim]") {
  for (std::uint64_t seed = 1; seed <= scaled(100); ++seed) {
    const sim::outcome first = sim::run(sim::make_scenario(seed));
    const sim::outcome second = sim::run(sim::make_scenario(seed));
    REQUIRE(first.failure.empty());
    CHECK(first.trace == second.trace);
  }
}

TEST_CASE("the seeds meet what they are meant to meet", "[sim]") {
  sim::tally all;
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    all += sim::run(sim::make_scenario(seed)).counts;
  }
  INFO("operations " << all.operations << ", steps " << all.steps << ", requests " << all.requests
                     << ", hits " << all.hits << ", heals " << all.heals << ", tokens "
                     << all.tokens_out << ", rejected rows " << all.rejected_rows << ", switched "
                     << all.switched << ", refused " << all.refused_full << " and "
                     << all.refused_large << ", evictions " << all.evictions << ", preempted "
                     << all.preempted << ", resumed " << all.resumed << ", publications "
                     << all.publications << ", stale pins " << all.stale_pins << ", pages checked "
                     << all.pages_checked);
  CHECK(all.hits > 100);
  CHECK(all.heals > 100);
  CHECK(all.rejected_rows > 100);
  CHECK(all.switched > 20);
  CHECK(all.refused_full > 50);
  CHECK(all.refused_large > 20);
  CHECK(all.evictions > 500);
  CHECK(all.resumed > 20);
  CHECK(all.stale_pins > 100);
}

TEST_CASE("a failing list is made as small as it gets", "[sim]") {
  const sim::scenario made = sim::make_scenario(3);
  const auto count = [](const std::vector<sim::operation>& operations, sim::verb what) {
    return std::ranges::count(operations, what, &sim::operation::what);
  };
  // As if two steps after each other were a bug once somebody had submitted.
  const auto fails = [&](const std::vector<sim::operation>& operations) {
    return count(operations, sim::verb::submit) >= 1 && count(operations, sim::verb::step) >= 2;
  };
  REQUIRE(fails(made.operations));
  CHECK(sim::shrink(made.operations, fails).size() == 3);
}

}  // namespace simulation_test
