// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/random.hpp>
#include <oriel/sim/event_loop.hpp>

#include <catch2/catch.hpp>
#include <support/scale.hpp>

#include <cstdint>
#include <iterator>
#include <limits>
#include <map>
#include <utility>
#include <vector>

namespace oriel::sim::event_loop_test {
namespace {

TEST_CASE("events happen by time, those of one instant in the order of planning") {
  event_loop<int> loop;
  CHECK(loop.empty());
  CHECK(loop.next_s() == std::numeric_limits<double>::infinity());
  CHECK_FALSE(loop.next().has_value());
  loop.at(2.0, 20);
  loop.at(1.0, 10);
  loop.at(2.0, 21);
  loop.at(2.0, 22);
  CHECK(loop.next_s() == 1.0);
  CHECK(loop.now_s() == 0.0);
  CHECK(loop.next() == 10);
  CHECK(loop.now_s() == 1.0);
  loop.after(1.0, 23);  // also at 2
  std::vector<int> rest;
  while (const auto e = loop.next()) {
    rest.push_back(*e);
  }
  CHECK(rest == std::vector<int>{20, 21, 22, 23});
  CHECK(loop.now_s() == 2.0);
  CHECK(loop.happened() == 5);
}

TEST_CASE("what is cancelled does not happen") {
  event_loop<int> loop;
  const auto first = loop.at(1.0, 1);
  const auto second = loop.at(2.0, 2);
  CHECK(loop.is_planned(first));
  CHECK(loop.cancel(first));
  CHECK_FALSE(loop.cancel(first));
  CHECK_FALSE(loop.is_planned(first));
  CHECK(loop.size() == 1);
  const auto third = loop.at(3.0, 3);  // has the slot of the first
  CHECK_FALSE(loop.cancel(first));
  CHECK(loop.next_s() == 2.0);
  CHECK(loop.next() == 2);
  CHECK_FALSE(loop.cancel(second));  // it has happened
  CHECK(loop.cancel(third));
  CHECK(loop.empty());
  CHECK_FALSE(loop.next().has_value());
  CHECK(loop.now_s() == 2.0);
  CHECK_FALSE(loop.cancel({}));
}

/// Beside a sorted map.
TEST_CASE("the loop does what a sorted map would") {
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    INFO("seed " << seed);
    random_stream draw(seed);
    event_loop<std::uint64_t> loop;
    std::map<std::pair<double, std::uint64_t>, event_loop<std::uint64_t>::handle> model;
    std::uint64_t planned = 0;
    const std::uint64_t steps = scaled(40'000);
    for (std::uint64_t i = 0; i < steps; ++i) {
      const std::uint32_t what = draw.next_below(10);
      if (what < 5 || model.empty()) {
        const double when_s = loop.now_s() + draw.next_below(what == 0 ? 1'000 : 8);
        ++planned;
        model[{when_s, planned}] = loop.at(when_s, planned);
      } else if (what < 8) {
        const auto first = model.begin();
        REQUIRE(loop.next_s() == first->first.first);
        REQUIRE(loop.next() == first->first.second);
        REQUIRE(loop.now_s() == first->first.first);
        model.erase(first);
      } else {
        auto some = model.begin();
        std::advance(some, draw.next_below(static_cast<std::uint32_t>(model.size())));
        REQUIRE(loop.cancel(some->second));
        REQUIRE_FALSE(loop.cancel(some->second));
        model.erase(some);
      }
      REQUIRE(loop.size() == model.size());
    }
  }
}

}  // namespace
}  // namespace oriel::sim::event_loop_test
