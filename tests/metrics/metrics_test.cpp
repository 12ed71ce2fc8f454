// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/metrics/counter.hpp>
#include <oriel/metrics/histogram.hpp>

#include <catch2/catch.hpp>
#include <support/death.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

TEST_CASE("a counter adds up") {
  oriel::counter c;
  c.add();
  c.add(41);
  CHECK(c.value() == 42);
}

TEST_CASE("an empty histogram says 0") {
  const oriel::histogram h;
  CHECK(h.count() == 0);
  CHECK(h.mean() == 0.0);
  CHECK(h.percentile(0.5) == 0);
  CHECK(aborts([&] { (void)h.percentile(0.0); }));
}

TEST_CASE("percentiles are at least the true ones, and at most 1/32 above") {
  for (const std::uint32_t seed : {1u, 2u, 3u}) {
    CAPTURE(seed);
    std::mt19937_64 random{seed};
    oriel::histogram whole, first, second;
    std::vector<std::uint64_t> values;
    std::uint64_t sum = 0;
    for (int i = 0; i < 20'000; ++i) {
      const std::uint64_t value = random() >> (random() % 64);  // All magnitudes.
      values.push_back(value);
      sum += value;
      whole.add(value);
      (i % 3 == 0 ? first : second).add(value);
    }
    first.merge(second);
    std::sort(values.begin(), values.end());
    for (const double fraction : {0.0001, 0.01, 0.25, 0.5, 0.9, 0.99, 0.9999, 1.0}) {
      const auto rank = static_cast<std::size_t>(std::ceil(fraction * 20'000)) - 1;
      const std::uint64_t exact = values[rank], told = whole.percentile(fraction);
      CAPTURE(fraction, exact, told);
      CHECK(told >= exact);
      CHECK(told - exact <= exact / 32);
      CHECK(first.percentile(fraction) == told);
    }
    CHECK(whole.sum() == sum);
    CHECK(first.sum() == sum);
    CHECK(first.count() == 20'000);
  }
}

TEST_CASE("the ends of the range have buckets") {
  oriel::histogram h;
  h.add(0);
  CHECK(h.percentile(1.0) == 0);
  h.add(~std::uint64_t{0});
  CHECK(h.percentile(1.0) == ~std::uint64_t{0});
  CHECK(h.percentile(0.5) == 0);
}
