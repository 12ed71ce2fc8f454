// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "support/scale.hpp"

#include <oriel/core/random.hpp>
#include <oriel/sched/length_buckets.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

using namespace oriel;

TEST_CASE("each length has one bucket") {
  const length_buckets three;
  CHECK(three.size() == 3);
  CHECK(three.of(0) == 0);
  CHECK(three.of(65'535) == 0);
  CHECK(three.of(65'536) == 1);
  CHECK(three.of(262'143) == 1);
  CHECK(three.of(262'144) == 2);
  CHECK(three.of(~0u) == 2);
  CHECK(length_buckets(std::vector<std::uint32_t>{}).of(77) == 0);
}

TEST_CASE("balanced buckets have like work, whatever the lengths are") {
  for (std::uint64_t seed = 1; seed <= scaled(60); ++seed) {
    INFO("seed " << seed);
    random_stream draw(seed, 91);
    length_load load(1e12);  // Nothing fades.
    std::vector<std::pair<std::uint32_t, double>> added;
    const std::uint32_t top = 1000 + draw.next_below(1'000'000);
    for (int i = 0; i < 4000; ++i) {
      const std::uint32_t tokens = 1 + draw.next_below(1 + draw.next_below(top));
      const double seconds = 1e-4 * tokens * (1.0 + 1e-5 * tokens);
      load.add(tokens, seconds);
      added.emplace_back(tokens, seconds);
    }
    const auto count = static_cast<std::size_t>(2 + draw.next_below(5));
    const length_buckets buckets = load.balanced(count);
    REQUIRE(buckets.size() == count);
    std::vector<double> share(count);
    double total = 0.0;
    for (const auto& [tokens, seconds] : added) {
      share[buckets.of(tokens)] += seconds;
      total += seconds;
    }
    CHECK(load.total_s() == Approx(total));
    for (const double s : share) {
      CHECK(s == Approx(total / static_cast<double>(count)).epsilon(0.12));
    }
  }
}

TEST_CASE("what is old fades, and the bounds follow") {
  length_load load(100.0);
  for (int i = 0; i < 1000; ++i) {
    load.add(1000, 1.0);
    load.add(2000, 1.0);
  }
  CHECK(load.total_s() == Approx(100.0 / std::log(2.0)).epsilon(0.05));
  const std::uint32_t before = load.balanced(2).bounds()[0];
  CHECK(before > 1000);
  CHECK(before <= 2000);
  for (int i = 0; i < 5000; ++i) {
    load.add(100'000, 1.0);
    load.add(200'000, 1.0);
  }
  const std::uint32_t after = load.balanced(2).bounds()[0];
  CHECK(after > 100'000);
  CHECK(after <= 200'000);
  for (int i = 0; i < 100'000; ++i) {  // The unit is renewed on the way.
    load.add(7, 1.0);
  }
  CHECK(load.total_s() == Approx(100.0 / std::log(2.0)).epsilon(0.05));
}

TEST_CASE("workers go where the work is, one to each bucket at least") {
  length_load load(1e12);
  load.add(1'000, 10.0);
  load.add(100'000, 70.0);
  load.add(500'000, 20.0);
  CHECK(load.workers_of(length_buckets(), 10) == std::vector<std::uint32_t>{1, 7, 2});
  CHECK(load.workers_of(length_buckets(), 3) == std::vector<std::uint32_t>{1, 1, 1});
  CHECK(length_load(1.0).workers_of(length_buckets(), 6) == std::vector<std::uint32_t>{2, 2, 2});
}
