// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/sim/load.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

namespace oriel::sim::load_test {
namespace {

TEST_CASE("hours are found for fleets of any size, in few runs") {
  for (const double work : {0.01, 0.3, 4.0, 900.0}) {
    for (const double target : {0.1, 0.6, 0.9}) {
      INFO("work " << work << ", target " << target);
      // A closed loop never gets over 1.
      const auto utilisation = [&](double hours) { return 1.0 - std::exp(-work / hours); };
      const load_found found = find_hours(target, utilisation);
      CHECK(found.is_near);
      CHECK(std::abs(utilisation(found.hours) - target) <= 0.005);
      CHECK(found.utilisation == utilisation(found.hours));
      CHECK(found.runs <= 12);
      CHECK(find_hours(target, utilisation).hours == found.hours);
    }
  }
}

TEST_CASE("the hours of an exact law take three runs") {
  std::vector<double> asked;
  const load_found found = find_hours(0.6, [&](double hours) {
    asked.push_back(hours);
    return 5.4 / hours;
  });
  CHECK(found.is_near);
  CHECK(found.hours == Approx(9.0).epsilon(0.01));
  CHECK(asked.size() <= 3);
  CHECK(asked.front() == 8.0);
}

TEST_CASE("noise and steps give the nearest run, and say that it is not near") {
  const load_found step =
      find_hours(0.5, [](double hours) { return hours < 3.0 ? 0.8 : 0.45; }, {.runs_max = 12});
  CHECK_FALSE(step.is_near);
  CHECK(step.runs == 12);
  CHECK(step.utilisation == 0.45);
  CHECK(step.hours >= 3.0);
  // Noise of 2 % that depends on H alone, as that of a run with fixed seeds does.
  const load_found noisy = find_hours(
      0.7, [](double hours) { return 20.0 / hours * (1.0 + 0.02 * std::sin(1'000.0 * hours)); });
  CHECK(noisy.is_near);
  const load_found never = find_hours(0.9, [](double) { return 0.5; }, {.runs_max = 5});
  CHECK_FALSE(never.is_near);
  CHECK(never.runs == 5);
}

}  // namespace
}  // namespace oriel::sim::load_test
