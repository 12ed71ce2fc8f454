// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>

#include <fmt/format.h>
#include <replay/fleet_report.hpp>

#include <algorithm>
#include <array>
#include <string_view>

namespace oriel::replay {
namespace {

using unit = fleet_metric::unit;

double of_tokens(std::uint64_t tokens) {
  return static_cast<double>(tokens);
}

constexpr std::array metrics{
    fleet_metric{"token_hit_rate",
                 "Token hit rate",
                 unit::share,
                 true,
                 [](const run_figures& r) { return r.token_hit_rate(); }},
    fleet_metric{"ttft_mean_ms",
                 "TTFT mean",
                 unit::milliseconds,
                 false,
                 [](const run_figures& r) { return r.ttft.mean_ms; }},
    fleet_metric{"ttft_p50_ms",
                 "TTFT p50",
                 unit::milliseconds,
                 false,
                 [](const run_figures& r) { return r.ttft.p50_ms; }},
    fleet_metric{"ttft_p90_ms",
                 "TTFT p90",
                 unit::milliseconds,
                 false,
                 [](const run_figures& r) { return r.ttft.p90_ms; }},
    fleet_metric{"ttft_p99_ms",
                 "TTFT p99",
                 unit::milliseconds,
                 false,
                 [](const run_figures& r) { return r.ttft.p99_ms; }},
    fleet_metric{"max_wait_ms",
                 "Longest wait",
                 unit::milliseconds,
                 false,
                 [](const run_figures& r) { return r.max_wait_ms; }},
    fleet_metric{"gpu_seconds",
                 "GPU time",
                 unit::seconds,
                 false,
                 [](const run_figures& r) { return r.gpu_seconds; }},
    fleet_metric{"local_miss_tokens",
                 "Local misses",
                 unit::tokens,
                 false,
                 [](const run_figures& r) { return of_tokens(r.local_miss_tokens); }},
    fleet_metric{"duplicated_tokens",
                 "Duplicated",
                 unit::tokens,
                 false,
                 [](const run_figures& r) { return of_tokens(r.duplicated_tokens); }},
    fleet_metric{"fetched_tokens",
                 "Fetched",
                 unit::tokens,
                 false,
                 [](const run_figures& r) { return of_tokens(r.fetched_tokens); }},
    fleet_metric{"tokens_per_second",
                 "Input rate",
                 unit::tokens_per_second,
                 true,
                 [](const run_figures& r) { return r.tokens_per_second; }},
    fleet_metric{"utilisation",
                 "Utilisation",
                 unit::share,
                 false,
                 [](const run_figures& r) { return r.utilisation; }},
    fleet_metric{"rejected",
                 "Rejected",
                 unit::count,
                 false,
                 [](const run_figures& r) { return static_cast<double>(r.rejected); }},
};

std::vector<double> values_of(std::span<const run_figures> runs, const fleet_metric& metric) {
  std::vector<double> values;
  for (const run_figures& run : runs) {
    values.push_back(metric.of(run));
  }
  return values;
}

/// 65536 as "64K".
std::string length_text(std::uint32_t tokens) {
  return tokens % (1u << 20) == 0 ? fmt::format("{}M", tokens >> 20)
         : tokens % 1024 == 0     ? fmt::format("{}K", tokens / 1024)
                                  : fmt::format("{}", tokens);
}

}  // namespace

std::span<const fleet_metric> fleet_metrics() noexcept {
  return metrics;
}

std::size_t metric_index(std::string_view key) noexcept {
  const auto* const found =
      std::find_if(metrics.begin(), metrics.end(), [&](const auto& m) { return key == m.key; });
  ORIEL_EXPECTS(found != metrics.end());
  return static_cast<std::size_t>(found - metrics.begin());
}

void summarise(fleet_report& report) {
  ORIEL_EXPECTS(report.seeds > 0 && report.runs.size() % report.seeds == 0);
  report.policies.clear();
  for (std::size_t policy = 0; policy < report.runs.size() / report.seeds; ++policy) {
    const auto runs = report.runs_of(policy), first = report.runs_of(0);
    for (std::size_t i = 0; i < report.seeds; ++i) {
      ORIEL_EXPECTS(runs[i].seed == first[i].seed);
    }
    policy_summary made{.router = runs[0].router, .order = runs[0].order};
    for (const fleet_metric& metric : metrics) {
      const std::vector<double> values = values_of(runs, metric);
      const std::vector<double> references = values_of(first, metric);
      made.metrics.push_back({.mean = mean_of(values),
                              .difference = paired_difference(values, references),
                              .ratio = paired_ratio(values, references)});
    }
    report.policies.push_back(std::move(made));
  }
}

std::string policy_name(const policy_summary& policy) {
  return policy.router + " + " + policy.order;
}

std::string bucket_name(const length_buckets& buckets, std::size_t bucket) {
  const auto bounds = buckets.bounds();
  const std::string from = bucket == 0 ? "0" : length_text(bounds[bucket - 1]);
  return bucket == bounds.size() ? bucket == 0 ? "all" : from + " and more"
                                 : from + "-" + length_text(bounds[bucket]);
}

}  // namespace oriel::replay
