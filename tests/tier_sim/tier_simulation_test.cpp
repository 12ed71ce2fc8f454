// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Deterministic simulation of an engine with tiers: see tier_world.hpp.
#include "sim/first_failure.hpp"
#include "support/scale.hpp"
#include "tier_simulation.hpp"

#include <catch2/catch.hpp>

#include <cstdio>
#include <cstdlib>

namespace tier_simulation_test {

namespace {

void check_seeds(std::uint64_t first, std::uint64_t count) {
  const std::string found = sim::first_failure(first, count, sim::make_tier_scenario);
  INFO(found);
  CHECK(found.empty());
}

void print(const sim::tier_tally& t) {
  std::printf(
      "%llu worlds, %llu operations, %llu turns, %llu requests, %llu hits, %llu heals, "
      "%llu fetches, %llu pages up, %llu down, %llu refused, %llu restarts; F",
      static_cast<unsigned long long>(t.healed_worlds),
      static_cast<unsigned long long>(t.operations),
      static_cast<unsigned long long>(t.turns),
      static_cast<unsigned long long>(t.requests),
      static_cast<unsigned long long>(t.hits),
      static_cast<unsigned long long>(t.heals),
      static_cast<unsigned long long>(t.fetches),
      static_cast<unsigned long long>(t.fetched_pages),
      static_cast<unsigned long long>(t.copied_pages),
      static_cast<unsigned long long>(t.refused_copies),
      static_cast<unsigned long long>(t.restarts));
  for (std::size_t f = 0; f < t.faults.size(); ++f) {
    if (t.faults[f] != 0) {
      std::printf(" %zu: %llu", f, static_cast<unsigned long long>(t.faults[f]));
    }
  }
  std::printf("; lies");
  for (const std::uint64_t told : t.lies) {
    std::printf(" %llu", static_cast<unsigned long long>(told));
  }
  std::printf("; %llu compared with a world without faults\n",
              static_cast<unsigned long long>(t.compared_worlds));
}

}  // namespace

TEST_CASE("tiers: the seeds from ORIEL_SIM_SEED on", "[tier][sim]") {
  if (const char* seed = std::getenv("ORIEL_SIM_SEED"); seed != nullptr) {
    const char* count = std::getenv("ORIEL_SIM_COUNT");
    check_seeds(std::strtoull(seed, nullptr, 10),
                count != nullptr ? std::strtoull(count, nullptr, 10) : 1);
  }
}

TEST_CASE("tiers: seeds that once failed hold", "[tier][sim]") {
  for (const std::uint64_t seed : sim::seeds_of(ORIEL_TEST_DIR "/tier_sim/seeds.txt")) {
    check_seeds(seed, 1);
  }
}

// In parts, for machines with several cores.
TEST_CASE("simulated engines with tiers keep every invariant: seeds 1 to 1000", "[tier][sim]") {
  check_seeds(1, scaled(1'000));
}

TEST_CASE("simulated engines with tiers keep every invariant: seeds 1001 to 2000", "[tier][sim]") {
  check_seeds(1'001, scaled(1'000));
}

TEST_CASE("simulated engines with tiers keep every invariant: 20 000 seeds with --long",
          "[tier][sim]") {
  if (is_long_run()) {
    check_seeds(10'001, scaled(20'000));
  }
}

TEST_CASE("F24: whichever allocation fails, a prefix is fetched and deleted all the same",
          "[tier][sim]") {
  using enum sim::tier_verb;
  std::uint64_t plain = 1;
  while (!sim::make_tier_scenario(plain).sizes.is_plain()) {
    ++plain;
  }
  sim::tier_scenario s = sim::make_tier_scenario(plain);
  s.sizes.device.plain = false;  // What cannot begin is not fetched.
  s.sizes.host = s.sizes.disk = {true, oriel::placement::write_through};
  s.sizes.remote = {true, oriel::placement::write_back};
  for (std::uint32_t n = 0; n < scaled(150); ++n) {
    s.operations = {{.what = start, .d = 9, .salt = 5},
                    {.what = submit, .b = 3},
                    {.what = run, .a = 60},
                    {.what = evict_full, .a = 1000},
                    {.what = submit, .b = 1},
                    {.what = starve, .b = n},
                    {.what = step},
                    {.what = run, .a = 60},
                    {.what = starve, .b = n},
                    {.what = drop_session},
                    {.what = run, .a = 20}};
    const std::string why = sim::run(s).failure;
    INFO("allocation " << n << ": " << why);
    REQUIRE(why.empty());
  }
}

TEST_CASE("I18: the same seed with tiers gives the same trace", "[tier][sim]") {
  for (std::uint64_t seed = 1; seed <= scaled(60); ++seed) {
    const sim::tier_outcome first = sim::run(sim::make_tier_scenario(seed));
    const sim::tier_outcome second = sim::run(sim::make_tier_scenario(seed));
    INFO("seed " << seed);
    REQUIRE(first.failure.empty());
    CHECK(first.trace == second.trace);
  }
}

TEST_CASE("the seeds with tiers meet the faults that they are meant to meet", "[tier][sim]") {
  sim::tier_tally all;
  const std::uint64_t seeds = scaled(1'200);
  for (std::uint64_t seed = 5'001; seed <= 5'000 + seeds; ++seed) {
    all += sim::run(sim::make_tier_scenario(seed)).counts;
  }
  print(all);
  if (seeds < 1'200) {
    return;  // The rare ones need so many.
  }
  constexpr std::size_t meant[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 14,
                                   15, 16, 19, 20, 21, 23, 24, 25, 27, 28, 29, 37, 38};
  for (const std::size_t fault : meant) {
    INFO("F" << fault);
    CHECK(all.faults[fault] >= (fault == 9 ? 1 : 5));
  }
  for (const std::uint64_t told : all.lies) {
    CHECK(told >= 1);
  }
  CHECK(all.fetched_pages > 1'000);
  CHECK(all.hits > 500);
  CHECK(all.heals > 50);
  CHECK(all.waited > 50);
  CHECK(all.compared_worlds >= 10);
  CHECK(all.drops_repeated >= 5);
}

}  // namespace tier_simulation_test
