// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The arithmetic of the device's benchmarks, which no device is needed for.
#include <bench/cuda/figures.hpp>
#include <catch2/catch.hpp>

#include <numeric>

namespace figures_test {

using namespace oriel::bench;  // NOLINT: a test

TEST_CASE("the median of odd, even and unsorted numbers") {
  CHECK(median({3.0}) == 3.0);
  CHECK(median({5.0, 1.0, 3.0}) == 3.0);
  CHECK(median({4.0, 1.0, 3.0, 2.0}) == 2.5);
  CHECK(median({7.0, 7.0, 1.0, 1.0}) == 4.0);
  CHECK_THROWS(median({}));
}

TEST_CASE("contestants of a race take turns, begin in turn, and warm up first") {
  std::string order;
  race r;
  for (const char name : {'a', 'b', 'c'}) {
    r.add([&order, name] {
      order += name;
      return 1.0;
    });
  }
  r.run(4);
  CHECK(order ==
        "abc"
        "abc"
        "bca"
        "cab"
        "abc");
}

TEST_CASE("a race has medians of each, and ratios of the same round") {
  // The machine gets slower by the round, and slowest in the end.
  race empty;
  empty.add([] { return 1.0; });
  empty.run(0);
  CHECK_THROWS(empty.took(0));  // The warm-up is no round.

  race r;
  const std::vector<double> slower{9, 1, 2, 3, 4, 50};  // The first is the warm-up.
  std::size_t at_x = 0, at_y = 0;
  const auto x = r.add([&] { return slower[at_x++]; });
  const auto y = r.add([&] { return 2 * slower[at_y++]; });
  r.run(5);
  CHECK(r.took(x) == 3.0);
  CHECK(r.took(y) == 6.0);
  CHECK(r.ratio(x, y) == 0.5);
  CHECK(r.ratio(y, x) == 2.0);
}

TEST_CASE("a figure is one line of JSON, and so is one that is missing") {
  CHECK(line_of({"decode", "", 3999.5, "GB/s", "COPY", 4300, 0.93}) ==
        "{\"id\": \"decode\", \"peer\": \"\", \"unit\": \"GB/s\", \"limit\": \"COPY\", "
        "\"value\": 3999.5, \"limit_value\": 4300, \"ratio\": 0.93}");
  CHECK(line_of_missing("x", "", "a \"quoted\"\nreason\\") ==
        "{\"id\": \"x\", \"peer\": \"\", \"missing\": \"a  quoted  reason \"}");
}

TEST_CASE("cold copies lie four caches apart") {
  constexpr std::size_t cache = 60u << 20;
  for (const std::size_t bytes :
       {std::size_t{0}, std::size_t{1000}, cache, 4 * cache - 1, 4 * cache}) {
    const std::size_t copies = cold_copies(bytes, cache);
    CHECK((copies == 1 ? bytes : (copies - 1) * std::max<std::size_t>(bytes, 1)) >= 4 * cache);
  }
}

TEST_CASE("FLOPs of causal attention, by counting") {
  double expected = 0;
  for (int row = 0; row < 50; ++row) {
    expected += 2.0 * (7 + row + 1) * 4 * (192 + 128);
  }
  CHECK(causal_flops(50, 7, 4, 320) == expected);
}

TEST_CASE("skewed lengths have their skew and mean; Zipf's rows are all dealt out") {
  const auto lengths = skewed_lengths(64, 100, 3500);
  CHECK(lengths.size() == 64);
  CHECK(lengths.back() / static_cast<double>(lengths.front()) == Approx(100).epsilon(0.01));
  CHECK(std::accumulate(lengths.begin(), lengths.end(), 0.0) / 64 == Approx(3500).epsilon(0.001));
  CHECK(skewed_lengths(1, 100, 7) == std::vector<std::uint32_t>{7});

  for (const std::uint32_t groups : {1u, 64u, 384u}) {
    const auto rows = zipf_rows(groups, 10'000);
    CHECK(std::accumulate(rows.begin(), rows.end(), 0u) == 10'000);
    CHECK(rows.size() == groups);
  }
  const auto rows = zipf_rows(64, 32'768);
  CHECK(rows[37] == Approx(rows[0] / 2.0).epsilon(0.05));  // The second.
}

}  // namespace figures_test
