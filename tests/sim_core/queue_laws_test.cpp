// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What theory says of queues, of the parts that the simulator is made of.
#include "queue_world.hpp"

#include <catch2/catch.hpp>
#include <support/scale.hpp>

#include <algorithm>
#include <numeric>

namespace oriel::sim::queue_laws_test {
namespace {

constexpr service_law all_laws[] = {
    service_law::exponential, service_law::constant, service_law::pareto};

TEST_CASE("every wait of a single server is Lindley's") {
  for (const service_law law : all_laws) {
    INFO("law " << static_cast<int>(law) << ", seed 1");
    auto jobs = poisson_jobs(lindley_jobs(), 0.7, {.law = law}, 1);
    server<fcfs_order> s;
    run(s, jobs);
    CHECK(distance_from_lindley(jobs) <= 1e-9);
  }
}

/// Mean waits behind a half-width of the 99 % interval, by means of batches.
struct interval {
  double mean = 0.0, half_width = 0.0;
};
interval wait_of(const std::vector<queue_job>& jobs) {
  constexpr std::size_t batches = 64;
  constexpr double t_99 = 2.656;  // of Student's distribution, 63 degrees of freedom
  std::vector<double> means;
  const std::size_t first = jobs.size() / 20, each = (jobs.size() - first) / batches;
  for (std::size_t b = 0; b < batches; ++b) {
    double sum = 0.0;
    for (std::size_t i = first + b * each; i < first + (b + 1) * each; ++i) {
      sum += jobs[i].started_s - jobs[i].arrived_s;
    }
    means.push_back(sum / static_cast<double>(each));
  }
  const double mean = std::reduce(means.begin(), means.end()) / batches;
  double squares = 0.0;
  for (const double m : means) {
    squares += (m - mean) * (m - mean);
  }
  return {mean, t_99 * std::sqrt(squares / (batches - 1) / batches)};
}

TEST_CASE("mean waits are those of Pollaczek and Khinchine") {
  struct known {
    service_law law;
    double load;
    std::uint64_t jobs;
  };
  // As many as a half-width of 1 % takes. At load 0.7 and a variation of 4 that is 30 million.
  std::vector<known> all = {{service_law::exponential, 0.5, 2'500'000},
                            {service_law::exponential, 0.7, 6'000'000},
                            {service_law::constant, 0.7, 2'500'000},
                            {service_law::hyperexponential, 0.3, 8'000'000}};
  if (is_long_run()) {
    all.push_back({service_law::hyperexponential, 0.7, 30'000'000});
  }
  for (const known& k : all) {
    const service_draw service = {.law = k.law};
    const bool is_whole = scaled(100) >= 100;  // A sanitizer has nothing new to see after a while.
    auto jobs = poisson_jobs(is_whole ? k.jobs : scaled(k.jobs) / 5, k.load, service, 3);
    server<fcfs_order> s;
    run(s, jobs);
    // Wq = load / (1 - load) * mean service * (1 + variation) / 2.
    const double exact =
        k.load / (1.0 - k.load) * service.mean_s * (1.0 + service.variation()) / 2.0;
    const interval found = wait_of(jobs);
    INFO("law " << static_cast<int>(k.law) << ", load " << k.load << ", seed 3: " << found.mean
                << " +- " << found.half_width << ", exact " << exact);
    CHECK(std::abs(found.mean - exact) <= found.half_width);
    if (is_whole) {
      CHECK(found.half_width <= 0.01 * exact);
    }
  }
}

double mean_sojourn(const std::vector<queue_job>& jobs) {
  double sum = 0.0;
  for (const queue_job& j : jobs) {
    sum += j.ended_s - j.arrived_s;
  }
  return sum / static_cast<double>(jobs.size());
}

/// Of a fluid server: who arrives displaces whom the order ranks behind.
template <class Order>
double fluid_sojourn(std::vector<queue_job> jobs,
                     Order order,
                     std::optional<guard_options> guard = std::nullopt) {
  server<Order> s({.is_preemptive = true, .guard = guard}, order);
  run(s, jobs);
  // Work in is work out, and nobody is left.
  double work_s = 0.0;
  for (const queue_job& j : jobs) {
    REQUIRE(j.ended_s >= j.arrived_s + j.work_s - 1e-9);
    work_s += j.work_s;
  }
  REQUIRE(s.arrived_work_s() == Approx(work_s).epsilon(1e-12));
  REQUIRE(s.served_work_s() == Approx(work_s).epsilon(1e-9));
  REQUIRE(s.waiting() == 0);
  REQUIRE_FALSE(s.is_busy());
  return mean_sojourn(jobs);
}

struct lifo_order {
  static constexpr bool is_strict = false;
  [[nodiscard]] double rank(const service_facts& f) const noexcept { return -f.arrived_s; }
};

std::vector<queue_job> random_jobs(std::uint32_t count, random_stream& draw) {
  std::vector<queue_job> jobs(count);
  const bool is_batch = draw.next_below(4) == 0;
  double now_s = 0.0;
  for (queue_job& j : jobs) {
    now_s += is_batch ? 0.0 : exponential(draw, 1.0);
    j.arrived_s = now_s;
    j.work_s =
        service_draw{.law = static_cast<service_law>(draw.next_below(4)), .mean_s = 1.0}(draw);
    j.estimated_s = j.work_s;
    j.cached_tokens = draw.next_below(1000);
    j.uncached_tokens = draw.next_below(1000);
  }
  return jobs;
}

TEST_CASE("nobody has a lower mean sojourn than the least work first") {
  random_stream draw(5);
  for (std::uint64_t i = 0; i < scaled(1'000); ++i) {
    INFO("seed 5, instance " << i);
    const auto jobs = random_jobs(2 + draw.next_below(60), draw);
    const double least = fluid_sojourn(jobs, least_seconds_order{}) * (1.0 - 1e-9);
    CHECK(least <= fluid_sojourn(jobs, fcfs_order{}));
    CHECK(least <= fluid_sojourn(jobs, longest_prefix_order{}));
    CHECK(least <= fluid_sojourn(jobs, least_tokens_order{}));
    CHECK(least <= fluid_sojourn(jobs, lifo_order{}));
    CHECK(least <= fluid_sojourn(jobs, least_seconds_order{}, guard_options{.least_wait_s = 1.0}));
    // Estimates that are wrong.
    auto wrong = jobs;
    for (queue_job& j : wrong) {
      j.estimated_s *= 0.1 + 2.0 * unit(draw);
    }
    CHECK(least <= fluid_sojourn(wrong, least_seconds_order{}));
  }
}

/// The least sum of sojourns of all schedules that change at arrivals and ends. A branch ends where
/// even without further arrivals the shortest first would not be less.
class all_schedules {
 public:
  explicit all_schedules(const std::vector<queue_job>& jobs) : jobs_(jobs) {
    for (const queue_job& j : jobs) {
      left_.push_back(j.work_s);
    }
    search(0.0, 0, 0.0);
  }
  [[nodiscard]] double best_sum() const { return best_; }

 private:
  void search(double now_s, std::size_t arrived, double sum) {
    while (arrived < jobs_.size() && jobs_[arrived].arrived_s <= now_s) {
      ++arrived;
    }
    if (sum + bound(now_s, arrived) >= best_) {
      return;
    }
    bool is_idle = true;
    const double next_s =
        arrived < jobs_.size() ? jobs_[arrived].arrived_s : std::numeric_limits<double>::infinity();
    for (std::size_t j = 0; j < arrived; ++j) {
      if (left_[j] <= 0.0) {
        continue;
      }
      is_idle = false;
      const double left_s = left_[j];
      if (now_s + left_s <= next_s) {
        left_[j] = 0.0;
        search(now_s + left_s, arrived, sum + now_s + left_s - jobs_[j].arrived_s);
      } else {
        left_[j] = left_s - (next_s - now_s);
        search(next_s, arrived, sum);
      }
      left_[j] = left_s;
    }
    if (is_idle) {
      if (arrived == jobs_.size()) {
        best_ = sum;
      } else {
        search(next_s, arrived, sum);
      }
    }
  }
  [[nodiscard]] double bound(double now_s, std::size_t arrived) const {
    std::vector<double> lefts;
    double sum = 0.0;
    for (std::size_t j = 0; j < arrived; ++j) {
      if (left_[j] > 0.0) {
        lefts.push_back(left_[j]);
        sum += now_s - jobs_[j].arrived_s;
      }
    }
    std::ranges::sort(lefts);
    double end = 0.0;
    for (const double left : lefts) {
      end += left;
      sum += end;
    }
    return sum;
  }

  const std::vector<queue_job>& jobs_;
  std::vector<double> left_;
  double best_ = std::numeric_limits<double>::infinity();
};

TEST_CASE("the least work first is as good as the best of all schedules") {
  random_stream draw(6);
  for (std::uint64_t i = 0; i < scaled(300); ++i) {
    INFO("seed 6, instance " << i);
    const auto jobs = random_jobs(1 + draw.next_below(8), draw);
    const double best = all_schedules(jobs).best_sum() / static_cast<double>(jobs.size());
    CHECK(fluid_sojourn(jobs, least_seconds_order{}) == Approx(best).epsilon(1e-9));
  }
}

TEST_CASE("a server without preemption keeps the guard's bound") {
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    INFO("seed " << seed);
    const guard_options guard = {.least_wait_s = 0.05, .factor = 2.0};
    auto jobs = poisson_jobs(scaled(100'000), 0.95, {.law = service_law::hyperexponential}, seed);
    double longest_s = 0.0;
    for (const queue_job& j : jobs) {
      longest_s = std::max(longest_s, j.work_s);
    }
    auto fcfs = jobs;
    server<fcfs_order> reference;
    run(reference, fcfs);  // its waits are the work ahead at arrival
    auto bare = jobs;
    server<least_seconds_order> without;
    run(without, bare);
    server<least_seconds_order> s({.guard = guard});
    run(s, jobs);
    bool bare_keeps_it = true;
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      const double ahead_s = fcfs[i].started_s - fcfs[i].arrived_s;
      const double bound_s =
          std::max(guard.least_wait_s, guard.factor * ahead_s) + longest_s + 1e-9;
      REQUIRE(jobs[i].started_s - jobs[i].arrived_s <= bound_s);
      bare_keeps_it = bare_keeps_it && bare[i].started_s - bare[i].arrived_s <= bound_s;
    }
    CHECK((!bare_keeps_it || scaled(10) < 10));
  }
}

}  // namespace
}  // namespace oriel::sim::queue_laws_test
