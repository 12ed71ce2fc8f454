// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The theorem of docs/scheduling.md on random paths, for orders that mean no good; and the guard
// beside one that counts everything anew.
#include "support/scale.hpp"

#include <oriel/core/random.hpp>
#include <oriel/sched/wait_guard.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace wait_guard_test {

using namespace oriel;

namespace {

/// The definition, word by word.
struct obvious_guard {
  struct request {
    std::uint32_t who;
    double remaining_s, promised_s;
  };
  guard_options options;
  std::vector<request> here;  // by arrival

  [[nodiscard]] double work_s() const {
    double work_s = 0.0;
    for (const request& r : here) {
      work_s += r.remaining_s;
    }
    return work_s;
  }
  void arrive(std::uint32_t who, double now_s, double seconds) {
    here.push_back(
        {who, seconds, now_s + std::max(options.least_wait_s, options.factor * work_s())});
  }
  request& at(std::uint32_t who) { return *std::ranges::find(here, who, &request::who); }
  [[nodiscard]] double demands_from_s() const {
    double from_s = std::numeric_limits<double>::infinity(), before_s = 0.0;
    for (const request& r : here) {
      from_s = std::min(from_s, r.promised_s - before_s);
      before_s += r.remaining_s;
    }
    return from_s;
  }
};

double drawn(random_stream& draw, double least, double most) {
  constexpr std::uint32_t parts = 1u << 30;
  return least + (most - least) * draw.next_below(parts) / parts;
}

}  // namespace

TEST_CASE("the guard says what its definition says") {
  for (std::uint64_t seed = 1; seed <= scaled(60); ++seed) {
    INFO("seed " << seed);
    random_stream draw(seed, 71);
    const guard_options options{.least_wait_s = drawn(draw, 0.0, 20.0),
                                .factor = drawn(draw, 1.0, 3.0)};
    wait_guard guard(options);
    obvious_guard model{options, {}};
    double now_s = 0.0;
    const std::uint32_t crowd = 1 + draw.next_below(200);
    for (int i = 0; i < 2000; ++i) {
      now_s += drawn(draw, 0.0, 1.0);
      const std::uint32_t what = draw.next_below(8);
      const auto any = [&] {
        return model.here[draw.next_below(static_cast<std::uint32_t>(model.here.size()))].who;
      };
      if (model.here.empty() || (what < 3 && model.here.size() < crowd)) {
        const double seconds = draw.next_below(8) == 0 ? 0.0 : drawn(draw, 0.0, 9.0);
        const double work_s = model.work_s();
        REQUIRE(guard.work_s() == Approx(work_s).margin(1e-6));
        const auto who = guard.arrive(now_s, seconds);
        model.arrive(who, now_s, seconds);
        REQUIRE(guard.promised_s(who) == Approx(model.at(who).promised_s).margin(1e-6));
      } else if (what < 5) {
        const auto who = any();
        const double seconds = drawn(draw, 0.0, 3.0);
        guard.serve(who, seconds);
        model.at(who).remaining_s = std::max(0.0, model.at(who).remaining_s - seconds);
      } else if (what == 5) {
        const auto who = any();
        const double seconds = drawn(draw, 0.0, 9.0);
        guard.estimate(who, seconds);
        model.at(who).remaining_s = seconds;
      } else {
        const auto who = any();
        guard.leave(who);
        std::erase_if(model.here, [&](const auto& r) { return r.who == who; });
      }
      REQUIRE(guard.size() == model.here.size());
      REQUIRE(guard.work_s() == Approx(model.work_s()).margin(1e-6));
      if (!model.here.empty()) {
        REQUIRE(guard.oldest() == model.here.front().who);
        REQUIRE(guard.demands_from_s() == Approx(model.demands_from_s()).margin(1e-6));
        REQUIRE(guard.demands_oldest(model.demands_from_s() + 1e-5));
        REQUIRE(!guard.demands_oldest(model.demands_from_s() - 1e-5));
      } else {
        REQUIRE(!guard.demands_oldest(1e18));
      }
    }
  }
}

TEST_CASE(
    "nobody waits longer than the theorem says, whatever the order and however wrong the "
    "estimates") {
  std::uint64_t demanded = 0, served = 0;
  double tightest_s = std::numeric_limits<double>::infinity();
  for (std::uint64_t seed = 1; seed <= scaled(400); ++seed) {
    INFO("seed " << seed);
    random_stream draw(seed, 72);
    const guard_options options{.least_wait_s = drawn(draw, 0.0, 30.0),
                                .factor = drawn(draw, 1.0, 3.0)};
    const double load = drawn(draw, 0.5, 1.8);  // Overload, too.
    const double step_s = drawn(draw, 0.05, 1.0);
    const double wrong = draw.next_below(3) == 0 ? 0.0 : drawn(draw, 0.0, 0.9);
    const std::uint32_t order = draw.next_below(4);
    wait_guard guard(options);

    struct job {
      wait_guard::place place;
      double arrived_s, bound_s, estimated_s, actual_s;  // bound: max(D, k B); actual: left
      double excess_s = 0.0;                             // E
      bool has_started = false;
    };
    std::vector<job> here;  // by arrival
    double now_s = 0.0, next_arrival_s = 0.0;
    std::uint32_t left = 300;
    while (left != 0 || !here.empty()) {
      while (left != 0 && next_arrival_s <= now_s) {
        const double seconds =
            draw.next_below(20) == 0 ? drawn(draw, 5.0, 40.0) : drawn(draw, 0.0, 2.0);
        const double bound_s = std::max(options.least_wait_s, options.factor * guard.work_s());
        const auto place = guard.arrive(now_s, seconds);
        here.push_back(
            {place, now_s, bound_s, seconds, seconds * (1.0 + drawn(draw, -wrong, wrong))});
        next_arrival_s += drawn(draw, 0.0, 2.0) * 1.95 / load;
        --left;
      }
      if (here.empty()) {
        now_s = next_arrival_s;
        continue;
      }
      auto chosen = here.begin();
      if (guard.demands_oldest(now_s)) {
        ++demanded;
        REQUIRE(guard.oldest() == here.front().place);
      } else if (order == 0) {  // Last come, first served.
        chosen = std::prev(here.end());
      } else if (order == 1) {  // Least seconds.
        chosen = std::ranges::min_element(
            here, {}, [&](const job& j) { return guard.remaining_s(j.place); });
      } else if (order == 2) {  // Most seconds.
        chosen = std::ranges::max_element(
            here, {}, [&](const job& j) { return guard.remaining_s(j.place); });
      } else {
        chosen += draw.next_below(static_cast<std::uint32_t>(here.size()));
      }
      job& j = *chosen;
      if (!j.has_started) {
        j.has_started = true;
        ++served;
        const double slack_s =
            j.bound_s + j.excess_s + step_s * (1 + wrong) - (now_s - j.arrived_s);
        REQUIRE(slack_s >= -1e-6);
        tightest_s = std::min(tightest_s, slack_s);
      }
      const double estimate_before_s = guard.remaining_s(j.place);
      const double share =
          estimate_before_s <= step_s ? 1.0 : step_s / estimate_before_s;  // of what is left
      const double took_s = j.actual_s * share;
      guard.serve(j.place, estimate_before_s * share);
      j.actual_s -= took_s;
      for (auto younger = std::next(chosen); younger != here.end(); ++younger) {
        younger->excess_s = std::max(0.0, younger->excess_s + took_s - estimate_before_s * share);
      }
      now_s += took_s;
      if (share == 1.0) {
        guard.leave(j.place);
        here.erase(chosen);
      }
    }
    REQUIRE(guard.size() == 0);
    REQUIRE(guard.work_s() == 0.0);
  }
  WARN("served " << served << ", demanded " << demanded << ", least slack " << tightest_s << " s");
  CHECK(demanded >= served / 10);
  CHECK(tightest_s < 5.0);  // The bound is not a loose one.
}

}  // namespace wait_guard_test
