// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <replay/fleet_figures.hpp>
#include <replay/fleet_report.hpp>
#include <replay/paired.hpp>

#include <cstddef>
#include <vector>

namespace fleet_report_test {

using namespace oriel;
using namespace oriel::replay;

namespace {

/// Arrives at `at_s`, is served after `wait_s`, has its first token after `ttft_s`.
sim::request_outcome served(double at_s, double wait_s, double ttft_s, std::uint32_t input_tokens) {
  return {.arrived_s = at_s,
          .started_s = at_s + wait_s,
          .first_token_s = at_s + ttft_s,
          .completed_s = at_s + ttft_s + 1,
          .input_tokens = input_tokens};
}

sim::run_outcome run_of(std::vector<sim::request_outcome> requests) {
  sim::run_outcome run;
  run.router = "least_load";
  run.order = "fcfs";
  run.requests = std::move(requests);
  run.measure_begin_s = 100;
  run.measure_end_s = 200;
  return run;
}

/// 1 to `count` seconds, in an order that is none.
std::vector<sim::request_outcome> seconds_up_to(std::uint32_t count) {
  std::vector<sim::request_outcome> requests;
  for (std::uint32_t i = 0; i < count; ++i) {
    requests.push_back(served(100, 0, 1 + (i * 37) % count, 1000));
  }
  return requests;
}

/// Of the first requests of a workload: a cache without end has nothing.
const std::vector<std::uint32_t> no_hits(16);

fleet_report two_policies(const std::vector<double>& first_s, const std::vector<double>& second_s) {
  fleet_report report{.seeds = first_s.size()};
  for (const auto* policy : {&first_s, &second_s}) {
    for (std::size_t seed = 0; seed < policy->size(); ++seed) {
      sim::run_outcome run = run_of({served(100, 0, (*policy)[seed], 1000)});
      run.seed = seed;
      report.runs.push_back(figures_of(run, report.buckets, no_hits));
    }
  }
  summarise(report);
  return report;
}

const metric_summary& metric_of(const policy_summary& policy, const char* key) {
  return policy.metrics[metric_index(key)];
}

}  // namespace

TEST_CASE("a percentile is the least time that so many requests do not exceed") {
  const run_figures f = figures_of(run_of(seconds_up_to(100)), {}, no_hits);
  CHECK(f.ttft.requests == 100);
  CHECK(f.ttft.mean_ms == Approx(50'500));
  CHECK(f.ttft.p50_ms == Approx(50'000));
  CHECK(f.ttft.p90_ms == Approx(90'000));
  CHECK(f.ttft.p99_ms == Approx(99'000));
  CHECK(f.ttft.max_ms == Approx(100'000));
  const run_figures one = figures_of(run_of({served(100, 1, 3, 10)}), {}, no_hits);
  CHECK(one.ttft.p50_ms == Approx(3'000));
  CHECK(one.ttft.p99_ms == Approx(3'000));
  const run_figures none = figures_of(run_of({}), {}, no_hits);
  CHECK(none.ttft.requests == 0);
  CHECK(none.ttft.p99_ms == 0);
  CHECK(none.token_hit_rate() == 0);
  CHECK(!none.per_million_tokens(1));
}

TEST_CASE("policies that complete different amounts compare by what was served") {
  fleet_report report{.seeds = 1};
  for (const std::uint32_t tokens : {4'000'000u, 1'000'000u}) {
    sim::run_outcome run = run_of({served(100, 0, 1, tokens)});
    run.requests[0].local_miss_tokens = 500'000;
    run.gpu_s = {30, 10};
    report.runs.push_back(figures_of(run, report.buckets, no_hits));
  }
  summarise(report);
  const policy_summary& second = report.policies[1];
  CHECK(metric_of(second, "gpu_seconds").ratio->mean == Approx(1));
  CHECK(metric_of(second, "gpu_seconds_per_mtoken").mean->mean == Approx(40));
  CHECK(metric_of(second, "gpu_seconds_per_mtoken").ratio->mean == Approx(4));
  CHECK(metric_of(second, "local_miss_tokens_per_mtoken").mean->mean == Approx(500'000));
}

TEST_CASE("who completed nothing has no times, and a seed without them no mean") {
  fleet_report report{.seeds = 2};
  for (const bool completes : {true, true, true, false}) {
    sim::run_outcome run = run_of({served(100, 0, 1, 1000)});
    run.requests[0].end =
        completes ? sim::request_end_kind::completed : sim::request_end_kind::rejected;
    report.runs.push_back(figures_of(run, report.buckets, no_hits));
  }
  summarise(report);
  CHECK(metric_of(report.policies[0], "ttft_p99_ms").mean->mean == Approx(1'000));
  const policy_summary& second = report.policies[1];
  for (const char* const key : {"token_hit_rate",
                                "ttft_mean_ms",
                                "ttft_p99_ms",
                                "max_wait_ms",
                                "gpu_seconds_per_mtoken",
                                "local_miss_tokens_per_mtoken"}) {
    INFO(key);
    CHECK(!metric_of(second, key).mean);
    CHECK(!metric_of(second, key).difference);
    CHECK(!metric_of(second, key).ratio);
  }
  CHECK(metric_of(second, "rejected").mean->mean == Approx(0.5));
}

TEST_CASE("requests are told apart by length and by what a cache without end would have") {
  std::vector<sim::request_outcome> requests{served(100, 0, 1, 65'535),
                                             served(100, 0, 2, 65'536),
                                             served(100, 0, 3, 262'144),
                                             served(100, 0, 4, 1'000'000)};
  requests[0].hit_tokens[0] = 32'767;
  requests[1].hit_tokens[1] = 32'768;
  requests[3].hit_tokens[2] = 500'000;
  requests[3].hit_tokens[3] = 400'000;
  for (std::uint32_t i = 0; i < 4; ++i) {
    requests[i].request = 3 - i;
  }
  // Of request 3 less than half: cold; of 2 half: hot. What this policy hit does not matter.
  const std::vector<std::uint32_t> ideal{900'000, 100, 32'768, 32'767};
  const run_figures f = figures_of(run_of(requests), {}, ideal);
  REQUIRE(f.ttft_by_bucket.size() == 3);
  CHECK(f.ttft_by_bucket[0].requests == 1);
  CHECK(f.ttft_by_bucket[1].requests == 1);
  CHECK(f.ttft_by_bucket[2].requests == 2);
  CHECK(f.ttft_by_bucket[2].max_ms == Approx(4'000));
  CHECK(f.cold.requests == 2);
  CHECK(f.cold.max_ms == Approx(3'000));
  CHECK(f.hot.p50_ms == Approx(2'000));
  CHECK(f.cold_share_of_ttft == Approx(0.4));
  CHECK(f.hit_tokens == std::array<std::uint64_t, 4>{32'767, 32'768, 500'000, 400'000});
  CHECK(f.token_hit_rate() == Approx(965'535.0 / 1'393'215.0));
  CHECK(f.tokens_per_second == Approx(13'932.15));
}

TEST_CASE("what was not served counts by its end, and nowhere else") {
  std::vector<sim::request_outcome> requests{served(100, 5, 10, 1000)};
  for (const auto end : {sim::request_end_kind::rejected,
                         sim::request_end_kind::rejected,
                         sim::request_end_kind::cancelled,
                         sim::request_end_kind::timed_out,
                         sim::request_end_kind::failed}) {
    requests.push_back(served(100, 50, 70, 9'000));
    requests.back().end = end;
  }
  const run_figures f = figures_of(run_of(requests), {}, no_hits);
  CHECK(f.completed == 1);
  CHECK(f.rejected == 2);
  CHECK(f.cancelled == 1);
  CHECK(f.timed_out == 1);
  CHECK(f.failed == 1);
  CHECK(f.ttft.max_ms == Approx(10'000));
  CHECK(f.max_wait_ms == Approx(5'000));
  CHECK(f.input_tokens == 1000);
}

TEST_CASE("the longest waits come first, the earlier of equal ones before the later") {
  std::vector<sim::request_outcome> requests;
  for (std::uint32_t i = 0; i < 30; ++i) {
    requests.push_back(served(100 + i, (i * 7) % 15, 20, i));
  }
  const run_figures f = figures_of(run_of(requests), {}, no_hits);
  REQUIRE(f.longest_waits.size() == 10);
  CHECK(f.max_wait_ms == Approx(14'000));
  for (std::size_t i = 0; i < 10; ++i) {
    INFO(i);
    CHECK(f.longest_waits[i].wait_ms == Approx(14'000 - 1'000 * static_cast<double>(i / 2)));
  }
  CHECK(f.longest_waits[0].input_tokens == 2);
  CHECK(f.longest_waits[1].input_tokens == 17);
}

TEST_CASE("load over time averages bins to as many points as are asked for") {
  sim::run_outcome run = run_of({});
  run.busy = {{0.0f, 0.5f, 1.0f, 1.0f, 0.25f}, {1.0f, 0.5f, 0.0f, 1.0f, 0.75f}};
  run.gpu_s = {30, 10};
  run.measure_end_s = 300;
  const run_figures all = figures_of(run, {}, no_hits, 5);
  REQUIRE(all.load.size() == 5);
  CHECK(all.load[0].at_s == Approx(30));
  CHECK(all.load[0].mean == Approx(0.5));
  CHECK(all.load[0].least == Approx(0));
  CHECK(all.load[0].most == Approx(1));
  const run_figures fewer = figures_of(run, {}, no_hits, 3);
  REQUIRE(fewer.load.size() == 3);
  CHECK(fewer.load[0].at_s == Approx(60));
  CHECK(fewer.load[0].least == Approx(0.25));
  CHECK(fewer.load[1].most == Approx(1));
  CHECK(fewer.load[2].at_s == Approx(270));
  CHECK(fewer.load[2].mean == Approx(0.5));
  CHECK(all.gpu_seconds == Approx(40));
  CHECK(all.gpu_most_over_mean == Approx(1.5));
  CHECK_FALSE(all.guard_slack_ms);
  run.measure_end_s = 200;
  CHECK(figures_of(run, {}, no_hits).load.size() == 4);  // What comes later is not shown.
}

TEST_CASE("the most uneven ten minutes are looked for where it was measured") {
  sim::run_outcome run = run_of({});
  run.measure_begin_s = 90;  // From the third minute on.
  run.measure_end_s = 900;
  run.busy = {std::vector<float>(20, 0.5f), std::vector<float>(20, 0.5f)};
  run.busy[0][1] = 1.0f;  // Not measured.
  CHECK(figures_of(run, {}, no_hits).ten_minutes_most_over_mean == Approx(1));
  for (std::size_t minute = 5; minute < 15; ++minute) {
    run.busy[1][minute] = 1.0f;
  }
  CHECK(figures_of(run, {}, no_hits).ten_minutes_most_over_mean == Approx(4.0 / 3));
  run.measure_end_s = 600;
  CHECK(figures_of(run, {}, no_hits).ten_minutes_most_over_mean == 0);  // Eight minutes.
}

TEST_CASE("Student's t is that of the tables") {
  CHECK(student_t(1) == Approx(12.7062).epsilon(1e-4));
  CHECK(student_t(4) == Approx(2.7764).epsilon(1e-4));
  CHECK(student_t(20) == Approx(2.0860).epsilon(1e-4));
  CHECK(student_t(21) == Approx(2.0796).epsilon(1e-4));
  CHECK(student_t(60) == Approx(2.0003).epsilon(1e-4));
  CHECK(student_t(1'000'000) == Approx(1.95996).epsilon(1e-5));
}

TEST_CASE("a mean has an interval from two values on") {
  const std::vector<double> five{1, 2, 3, 4, 5};
  const sample_mean m = mean_of(five);
  CHECK(m.n == 5);
  CHECK(m.mean == Approx(3));
  REQUIRE(m.half_width);
  CHECK(*m.half_width == Approx(2.7764 * 1.5811388 / 2.2360680).epsilon(1e-4));
  CHECK(m.low() == Approx(1.0368).epsilon(1e-3));
  CHECK(m.high() == Approx(4.9632).epsilon(1e-3));
  CHECK_FALSE(mean_of(std::span{five}.first(1)).half_width);
  CHECK(mean_of({}).n == 0);
}

TEST_CASE("policies are compared seed by seed: what the seed does to both is no error") {
  // Seeds differ by much, the policies by 10 % with each of them.
  const fleet_report report = two_policies({10, 20, 40, 80, 160}, {9, 18, 36, 72, 144});
  REQUIRE(report.policies.size() == 2);
  const metric_summary& p99 = metric_of(report.policies[1], "ttft_p99_ms");
  REQUIRE(p99.ratio);
  CHECK(p99.ratio->mean == Approx(0.9));
  CHECK(p99.ratio->low == Approx(0.9));
  CHECK(p99.ratio->high == Approx(0.9));
  CHECK(p99.ratio->is_certain());
  CHECK(p99.difference->mean == Approx(-6'200));
  CHECK(p99.difference->high() > 0);  // In seconds it depends on the seed.
  CHECK(*p99.mean->half_width > 50'000);
  const metric_summary& itself = metric_of(report.policies[0], "ttft_p99_ms");
  CHECK(itself.difference->mean == 0);
  CHECK(itself.ratio->mean == 1);
  CHECK_FALSE(metric_of(report.policies[1], "rejected").ratio);  // Nobody was: 0 / 0.
  CHECK_FALSE(two_policies({10}, {9}).policies[1].metrics[0].mean->half_width);
}

TEST_CASE("twice and half as much are equally far from 1") {
  const std::vector<double> values{2, 1}, references{1, 2};
  const auto ratio = paired_ratio(values, references);
  REQUIRE(ratio);
  CHECK(ratio->mean == Approx(1));
  CHECK(ratio->low * ratio->high == Approx(1));
  CHECK_FALSE(ratio->is_certain());
  const std::vector<double> one{3}, other{2}, none{0};
  CHECK(paired_ratio(one, other)->mean == Approx(1.5));
  CHECK_FALSE(paired_ratio(one, other)->has_interval);
  CHECK_FALSE(paired_ratio(one, none));
  CHECK_FALSE(paired_ratio(none, other));
}

TEST_CASE("buckets are named by their bounds") {
  CHECK(bucket_name({}, 0) == "0-64K");
  CHECK(bucket_name({}, 1) == "64K-256K");
  CHECK(bucket_name({}, 2) == "256K and more");
  CHECK(bucket_name(length_buckets{{1000, 1u << 20}}, 1) == "1000-1M");
  CHECK(bucket_name(length_buckets{std::vector<std::uint32_t>{}}, 0) == "all");
}

}  // namespace fleet_report_test
