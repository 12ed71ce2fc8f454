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

using figure = std::optional<double>;

double of_tokens(std::uint64_t tokens) {
  return static_cast<double>(tokens);
}

/// Of requests that were served: none were, none is.
figure of_served(const run_figures& r, double value) {
  return r.completed == 0 ? std::nullopt : figure(value);
}

constexpr std::array metrics{
    fleet_metric{"token_hit_rate",
                 "Token hit rate",
                 unit::share,
                 true,
                 [](const run_figures& r) { return of_served(r, r.token_hit_rate()); }},
    fleet_metric{"ttft_mean_ms",
                 "TTFT mean",
                 unit::milliseconds,
                 false,
                 [](const run_figures& r) { return of_served(r, r.ttft.mean_ms); }},
    fleet_metric{"ttft_p50_ms",
                 "TTFT p50",
                 unit::milliseconds,
                 false,
                 [](const run_figures& r) { return of_served(r, r.ttft.p50_ms); }},
    fleet_metric{"ttft_p90_ms",
                 "TTFT p90",
                 unit::milliseconds,
                 false,
                 [](const run_figures& r) { return of_served(r, r.ttft.p90_ms); }},
    fleet_metric{"ttft_p99_ms",
                 "TTFT p99",
                 unit::milliseconds,
                 false,
                 [](const run_figures& r) { return of_served(r, r.ttft.p99_ms); }},
    fleet_metric{"max_wait_ms",
                 "Longest wait",
                 unit::milliseconds,
                 false,
                 [](const run_figures& r) { return of_served(r, r.max_wait_ms); }},
    fleet_metric{"gpu_seconds",
                 "GPU time",
                 unit::seconds,
                 false,
                 [](const run_figures& r) { return figure(r.gpu_seconds); }},
    fleet_metric{"gpu_seconds_per_mtoken",
                 "GPU time per M tokens",
                 unit::seconds,
                 false,
                 [](const run_figures& r) { return r.per_million_tokens(r.gpu_seconds); }},
    fleet_metric{"local_miss_tokens",
                 "Local misses",
                 unit::tokens,
                 false,
                 [](const run_figures& r) { return figure(of_tokens(r.local_miss_tokens)); }},
    fleet_metric{
        "local_miss_tokens_per_mtoken",
        "Local misses per M tokens",
        unit::tokens,
        false,
        [](const run_figures& r) { return r.per_million_tokens(of_tokens(r.local_miss_tokens)); }},
    fleet_metric{"duplicated_tokens",
                 "Duplicated",
                 unit::tokens,
                 false,
                 [](const run_figures& r) { return figure(of_tokens(r.duplicated_tokens)); }},
    fleet_metric{"fetched_tokens",
                 "Fetched",
                 unit::tokens,
                 false,
                 [](const run_figures& r) { return figure(of_tokens(r.fetched_tokens)); }},
    fleet_metric{"tokens_per_second",
                 "Input rate",
                 unit::tokens_per_second,
                 true,
                 [](const run_figures& r) { return figure(r.tokens_per_second); }},
    fleet_metric{"utilisation",
                 "Utilisation",
                 unit::share,
                 false,
                 [](const run_figures& r) { return figure(r.utilisation); }},
    fleet_metric{"rejected",
                 "Rejected",
                 unit::count,
                 false,
                 [](const run_figures& r) { return figure(static_cast<double>(r.rejected)); }},
};

/// Of each run; nothing, if a run has none: a mean of the others would be of other seeds.
std::optional<std::vector<double>> values_of(std::span<const run_figures> runs,
                                             const fleet_metric& metric) {
  std::vector<double> values;
  for (const run_figures& run : runs) {
    const figure value = metric.of(run);
    if (!value) {
      return std::nullopt;
    }
    values.push_back(*value);
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
      const auto values = values_of(runs, metric), references = values_of(first, metric);
      metric_summary summary;
      if (values) {
        summary.mean = mean_of(*values);
      }
      if (values && references) {
        summary.difference = paired_difference(*values, *references);
        summary.ratio = paired_ratio(*values, *references);
      }
      made.metrics.push_back(summary);
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
