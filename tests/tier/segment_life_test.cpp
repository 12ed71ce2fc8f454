// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Random lives of the segment store. A failure names its seed; the same seed is the same life.
#include "support/scale.hpp"
#include "tier/segment_life.hpp"

#include <catch2/catch.hpp>

#include <array>
#include <cstdio>

namespace segment_life_test {

using namespace oriel_test;

namespace {

struct totals {
  std::uint64_t hits = 0, operations = 0;
  std::array<std::uint64_t, 41> faults = {};
};

totals run_lives(std::uint64_t first, std::uint64_t lives, bool has_faults, bool loses_power) {
  totals all;
  for (std::uint64_t seed = first; seed < first + lives; ++seed) {
    segment_life life(make_life(seed, has_faults, loses_power));
    const std::string why = life.run();
    if (!why.empty()) {
      FAIL(why << (has_faults ? ", faults" : "") << (loses_power ? ", power" : ", kill"));
    }
    all.hits += life.hits();
    all.operations += life.operations();
    for (std::size_t f = 0; f < all.faults.size(); ++f) {
      all.faults[f] += life.disk().fault_counts()[f];
    }
  }
  return all;
}

void print(const char* what, const totals& t) {
  std::printf("%s: %llu operations, %llu hits;",
              what,
              static_cast<unsigned long long>(t.operations),
              static_cast<unsigned long long>(t.hits));
  for (std::size_t f = 0; f < t.faults.size(); ++f) {
    if (t.faults[f] != 0) {
      std::printf(" F%zu %llu", f, static_cast<unsigned long long>(t.faults[f]));
    }
  }
  std::printf("\n");
}

}  // namespace

TEST_CASE("lives that end by kill -9 keep what was acknowledged", "[tier][segment][life]") {
  const totals t = run_lives(1, scaled(2'700), false, false);
  print("seeds from 1, kill -9", t);
  CHECK(t.hits > 0);
}

TEST_CASE("lives that end by loss of power keep what was synced", "[tier][segment][life]") {
  const totals t = run_lives(100'001, scaled(2'700), false, true);
  print("seeds from 100001, loss of power", t);
  CHECK(t.hits > 0);
}

TEST_CASE("lives full of faults never see a wrong byte, and heal", "[tier][segment][life]") {
  const totals t = run_lives(200'001, scaled(1'500), true, false);
  print("seeds from 200001, faults and kill -9", t);
  const totals u = run_lives(300'001, scaled(1'500), true, true);
  print("seeds from 300001, faults and loss of power", u);
  CHECK(t.hits + u.hits > 0);
}

}  // namespace segment_life_test
