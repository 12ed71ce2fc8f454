// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The same laws of a machine that the real scheduler drives, step by step.
#include "queue_world.hpp"

#include <oriel/sched/step_scheduler.hpp>

#include <catch2/catch.hpp>
#include <support/scale.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

namespace oriel::sim::step_laws_test {
namespace {

constexpr double token_s = 2.5e-6;
constexpr std::uint32_t chunk_tokens = 16'384;

/// Work in whole tokens, since steps are.
void round_to_tokens(std::vector<queue_job>& jobs) {
  for (queue_job& j : jobs) {
    j.uncached_tokens = 1 + static_cast<std::uint32_t>(std::min(j.work_s / token_s, 4e9));
    j.work_s = j.estimated_s = j.uncached_tokens * token_s;
  }
}

/// One sequence at a time, in chunks, as the scheduler plans; arrivals and ends of steps are
/// events.
template <class Order>
class stepped_machine {
 public:
  stepped_machine(std::vector<queue_job>& jobs, const guard_options& guard)
      : jobs_(jobs),
        scheduler_({.budget_tokens = chunk_tokens, .sequences_max = 1}),
        guard_(guard),
        places_(jobs.size()),
        ahead_s_(jobs.size()) {}

  void run() {
    loop_.at(jobs_.front().arrived_s, 0);
    while (const auto what = loop_.next()) {
      if (*what == end_of_step) {
        finish_step();
      } else {
        arrive(*what);
      }
      if (rows_ == 0 && !(queued_.empty() && running_.empty())) {
        begin_step();
      }
    }
  }
  [[nodiscard]] double worst_step_s() const { return worst_step_s_; }
  /// What the guard had ahead of a job when it arrived; a step under way counts in full.
  [[nodiscard]] double ahead_s(std::size_t i) const { return ahead_s_[i]; }

 private:
  static constexpr std::uint32_t end_of_step = ~std::uint32_t{0};

  void arrive(std::uint32_t i) {
    const queue_job& j = jobs_[i];
    if (i + 1 < jobs_.size()) {
      loop_.at(jobs_[i + 1].arrived_s, i + 1);
    }
    ahead_s_[i] = guard_.work_s();
    places_[i] = guard_.arrive(loop_.now_s(), j.estimated_s);
    queued_.push_back({.facts = {.arrived_s = j.arrived_s,
                                 .remaining_s = j.estimated_s,
                                 .uncached_tokens = j.uncached_tokens}});
    queued_jobs_.push_back(i);
  }

  /// Where the oldest is: an index of step_state.
  [[nodiscard]] std::uint32_t demanded() const {
    if (!guard_.demands_oldest(loop_.now_s())) {
      return step_state::no_demand;
    }
    for (std::uint32_t q = 0; q < queued_.size(); ++q) {
      if (places_[queued_jobs_[q]] == guard_.oldest()) {
        return q;
      }
    }
    return static_cast<std::uint32_t>(queued_.size());
  }

  void begin_step() {
    const step_plan& plan =
        scheduler_.plan({.queued = queued_, .running = running_, .demanded = demanded()});
    // Who is displaced has computed what it has: its chunks are a prefix that hits again.
    for (std::size_t p = 0; p < plan.preempt.size(); ++p) {
      queued_.push_back({.facts = running_[0].facts});
      queued_jobs_.push_back(running_job_);
      running_.clear();
    }
    if (plan.admit.size() > 1) {  // (A check costs more than a step.)
      FAIL("two jobs at once");
    }
    if (!plan.admit.empty()) {
      const std::uint32_t q = plan.admit[0];
      running_job_ = queued_jobs_[q];
      running_.push_back(
          {.facts = queued_[q].facts, .missing_rows = queued_[q].facts.uncached_tokens});
      queued_.erase(queued_.begin() + q);
      queued_jobs_.erase(queued_jobs_.begin() + q);
      if (jobs_[running_job_].started_s < 0.0) {
        jobs_[running_job_].started_s = loop_.now_s();
      }
    }
    rows_ = plan.rows.back();
    if (rows_ == 0) {
      FAIL("a step without work: not work-conserving");
    }
    worst_step_s_ = std::max(worst_step_s_, rows_ * token_s);
    loop_.after(rows_ * token_s, end_of_step);
  }

  void finish_step() {
    guard_.serve(places_[running_job_], rows_ * token_s);
    running_sequence& r = running_[0];
    r.missing_rows -= rows_;
    r.facts.uncached_tokens -= rows_;
    r.facts.cached_tokens += rows_;
    r.facts.remaining_s = r.missing_rows * token_s;
    rows_ = 0;
    if (r.missing_rows == 0) {
      jobs_[running_job_].ended_s = loop_.now_s();
      guard_.leave(places_[running_job_]);
      running_.clear();
    }
  }

  std::vector<queue_job>& jobs_;
  step_scheduler<Order> scheduler_;
  wait_guard guard_;
  std::vector<wait_guard::place> places_;  // [jobs]
  std::vector<double> ahead_s_;            // [jobs]
  event_loop<std::uint32_t> loop_;
  std::vector<queued_request> queued_;
  std::vector<std::uint32_t> queued_jobs_;
  std::vector<running_sequence> running_;
  std::uint32_t running_job_ = 0;
  std::uint32_t rows_ = 0;  // of the step that is on
  double worst_step_s_ = 0.0;
};

TEST_CASE("every wait behind the real scheduler and guard is Lindley's") {
  for (const service_law law :
       {service_law::exponential, service_law::constant, service_law::pareto}) {
    INFO("law " << static_cast<int>(law) << ", seed 1");
    auto jobs = poisson_jobs(lindley_jobs(), 0.7, {.law = law}, 1);
    round_to_tokens(jobs);
    stepped_machine<fcfs_order> machine(jobs, {});
    machine.run();
    CHECK(distance_from_lindley(jobs) <= 1e-9);
  }
}

TEST_CASE("the guard's bound holds behind the real scheduler, on every path") {
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    for (const double load : {0.9, 1.1}) {
      INFO("seed " << seed << ", load " << load);
      const guard_options guard = {.least_wait_s = 0.05, .factor = 1.5};
      auto jobs = poisson_jobs(scaled(20'000), load, {.law = service_law::hyperexponential}, seed);
      round_to_tokens(jobs);
      auto fcfs = jobs;
      server<fcfs_order> reference;
      run(reference, fcfs);  // its waits are the work ahead at arrival, whatever the order
      stepped_machine<least_seconds_order> machine(jobs, guard);
      machine.run();
      double served_s = 0.0, work_s = 0.0, wait_s = 0.0, fcfs_wait_s = 0.0;
      for (std::size_t i = 0; i < jobs.size(); ++i) {
        const double ahead_s = fcfs[i].started_s - fcfs[i].arrived_s;
        REQUIRE(machine.ahead_s(i) >= ahead_s - 1e-9);
        REQUIRE(machine.ahead_s(i) <= ahead_s + machine.worst_step_s() + 1e-9);
        REQUIRE(jobs[i].started_s - jobs[i].arrived_s <=
                std::max(guard.least_wait_s, guard.factor * machine.ahead_s(i)) +
                    machine.worst_step_s() + 1e-9);
        REQUIRE(jobs[i].ended_s > 0.0);
        served_s = std::max(served_s, jobs[i].ended_s);
        work_s = std::max(work_s, fcfs[i].ended_s);
        wait_s += jobs[i].started_s - jobs[i].arrived_s;
        fcfs_wait_s += ahead_s;
      }
      CHECK(served_s == Approx(work_s));  // work-conserving: both end when the work does
      CHECK(wait_s < fcfs_wait_s);
    }
  }
}

}  // namespace
}  // namespace oriel::sim::step_laws_test
