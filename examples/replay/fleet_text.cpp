// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <replay/fleet_text.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>

namespace oriel::replay {
namespace {

using unit = fleet_metric::unit;

/// How a value of this size is written: value * factor, then the suffix.
struct scale {
  double factor;
  std::string_view suffix;
};

scale scale_of(unit in, double value) {
  const double size = std::abs(value);
  switch (in) {
    case unit::share:
      return {100, " %"};
    case unit::seconds:
      return size < 7'200 ? scale{1, " s"} : scale{1 / 3'600.0, " h"};
    case unit::milliseconds:
      return size < 1'000   ? scale{1, " ms"}
             : size < 600e3 ? scale{1e-3, " s"}
                            : scale{1 / 60e3, " min"};
    case unit::tokens:
      return size < 1e3   ? scale{1, ""}
             : size < 1e6 ? scale{1e-3, " K"}
             : size < 1e9 ? scale{1e-6, " M"}
                          : scale{1e-9, " G"};
    case unit::tokens_per_second:
      return size < 1e3 ? scale{1, "/s"} : size < 1e6 ? scale{1e-3, " K/s"} : scale{1e-6, " M/s"};
    case unit::count:
      return {1, ""};
  }
  return {1, ""};
}

/// So many digits after the point that the number has three; a number of events has none.
int decimals_of(double value) {
  const double size = std::abs(value);
  return size >= 100 || size == 0 ? 0 : size >= 10 ? 1 : 2;
}

/// Where one figure of the policies is least and most, of those that have it.
struct extremes {
  std::size_t least = 0, most = 0;
  double least_value = std::numeric_limits<double>::max(), most_value = -1;

  [[nodiscard]] bool is_none() const noexcept { return most_value < least_value; }
};

template <class Of>
extremes extremes_of(const fleet_report& report, Of of) {
  extremes found;
  for (std::size_t policy = 0; policy < report.policies.size(); ++policy) {
    const std::optional<double> value = seed_mean(report, policy, of);
    if (value && *value < found.least_value) {
      found.least_value = *value;
      found.least = policy;
    }
    if (value && *value > found.most_value) {
      found.most_value = *value;
      found.most = policy;
    }
  }
  return found;
}

std::string percent(double share) {
  return quantity_text(unit::share, share);
}

const metric_summary& metric_of(const policy_summary& policy, std::string_view key) {
  return policy.metrics[metric_index(key)];
}

std::string mean_duration(const policy_summary& policy, std::string_view key) {
  const std::optional<sample_mean>& mean = metric_of(policy, key).mean;
  return duration_text(mean ? std::optional(mean->mean) : std::nullopt);
}

std::string over_seeds(const fleet_report& report) {
  return report.seeds == 1 ? "one seed, so without intervals"
                           : fmt::format("means over {} seeds with 95 % intervals", report.seeds);
}

}  // namespace

std::string short_number(double value) {
  const double size = std::abs(value);
  return fmt::format("{:.{}f}",
                     value,
                     size >= 9.95 || size == 0 ? 0
                     : size >= 1               ? 1
                     : size >= 0.1             ? 2
                                               : 3);
}

std::string quantity_text(unit in, double value) {
  const scale s = scale_of(in, value);
  if (in == unit::count) {
    return fmt::format("{:.{}f}", value, value == std::round(value) ? 0 : 1);
  }
  return fmt::format("{:.{}f}{}", value * s.factor, decimals_of(value * s.factor), s.suffix);
}

std::string mean_text(unit in, const std::optional<sample_mean>& mean) {
  if (!mean) {
    return no_figure;
  }
  if (!mean->half_width || (mean->mean == 0 && *mean->half_width == 0)) {
    return quantity_text(in, mean->mean);
  }
  const scale s = scale_of(in, mean->mean);
  const double middle = mean->mean * s.factor, half = *mean->half_width * s.factor;
  const int decimals = std::max(decimals_of(middle), half < 1 ? decimals_of(half) : 0);
  return fmt::format("{:.{}f} ± {:.{}f}{}", middle, decimals, half, decimals, s.suffix);
}

std::string ratio_text(const std::optional<sample_ratio>& ratio) {
  if (!ratio) {
    return no_figure;
  }
  const int decimals = ratio->mean < 0.1 ? 3 : ratio->mean < 10 ? 2 : 0;
  const std::string mean = fmt::format("{:.{}f}×", ratio->mean, decimals);
  return ratio->has_interval
             ? fmt::format(
                   "{} ({:.{}f}-{:.{}f})", mean, ratio->low, decimals, ratio->high, decimals)
             : mean;
}

std::string_view verdict(const sample_ratio& ratio, bool more_is_better) noexcept {
  constexpr double nothing = 0.005;  // What is written as 1.00 is no difference, however certain.
  return !ratio.is_certain() || std::abs(ratio.mean - 1) < nothing ? "same"
         : (ratio.mean > 1) == more_is_better                      ? "better"
                                                                   : "worse";
}

std::string duration_text(std::optional<double> ms) {
  return ms ? quantity_text(unit::milliseconds, *ms) : no_figure;
}

std::string comparison_sentence(const fleet_report& report) {
  const policy_summary& first = report.policies.front();
  if (report.policies.size() == 1) {
    return fmt::format("{}: TTFT p50 {}, p90 {}, p99 {}; {}.",
                       policy_name(first),
                       mean_duration(first, "ttft_p50_ms"),
                       mean_duration(first, "ttft_p90_ms"),
                       mean_duration(first, "ttft_p99_ms"),
                       over_seeds(report));
  }
  const extremes p99 = extremes_of(
      report, [](const run_figures& r) { return time_of(r.ttft, &ttft_figures::p99_ms); });
  if (p99.is_none()) {
    return fmt::format("No policy completed a request; {}.", over_seeds(report));
  }
  const policy_summary& best = report.policies[p99.least];
  if (p99.least == 0) {
    return fmt::format(
        "No policy has a lower TTFT p99 than the reference, {}: {}. Ratios are to it, seed by "
        "seed; {}.",
        policy_name(first),
        duration_text(p99.least_value),
        over_seeds(report));
  }
  return fmt::format(
      "{} has the lowest TTFT p99: {}, {} that of the reference, {}, for {} its GPU time per "
      "token. "
      "Ratios "
      "compare seed by seed; {}.",
      policy_name(best),
      duration_text(p99.least_value),
      ratio_text(metric_of(best, "ttft_p99_ms").ratio),
      policy_name(first),
      ratio_text(metric_of(best, "gpu_seconds_per_mtoken").ratio),
      over_seeds(report));
}

std::string bucket_sentence(const fleet_report& report) {
  std::string text;
  for (std::size_t bucket = 0; bucket < report.buckets.size(); ++bucket) {
    const auto p90 = [&](const run_figures& r) {
      return time_of(r.ttft_by_bucket[bucket], &ttft_figures::p90_ms);
    };
    const auto some = [&](const run_figures& r) {
      return static_cast<double>(r.ttft_by_bucket[bucket].requests);
    };
    const extremes requests = extremes_of(report, some), found = extremes_of(report, p90);
    if (requests.most_value == 0) {
      continue;
    }
    text += text.empty() ? "" : " ";
    text += fmt::format(
        "{}: p90 {}", bucket_name(report.buckets, bucket), duration_text(found.least_value));
    text += found.least == found.most ? "."
                                      : fmt::format(" with {}, up to {} with {}.",
                                                    policy_name(report.policies[found.least]),
                                                    duration_text(found.most_value),
                                                    policy_name(report.policies[found.most]));
  }
  return text;
}

std::string cold_sentence(const fleet_report& report) {
  const auto share = [](const run_figures& r) {
    return r.completed == 0 ? std::nullopt
                            : std::optional(static_cast<double>(r.cold.requests) /
                                            static_cast<double>(r.completed));
  };
  const auto of_ttft = [](const run_figures& r) {
    return r.completed == 0 ? std::nullopt : std::optional(r.cold_share_of_ttft);
  };
  if (extremes_of(report, share).is_none()) {
    return "No request was completed.";
  }
  const extremes count = extremes_of(report, share), waits = extremes_of(report, of_ttft);
  const std::string who =
      count.least == count.most || percent(count.least_value) == percent(count.most_value)
          ? percent(count.least_value)
          : fmt::format("{} to {}", percent(count.least_value), percent(count.most_value));
  std::string text = fmt::format(
      "Cold requests, of which a cache without end would have less than half, are {} of all and "
      "wait for ",
      who);
  text += waits.least == waits.most ? fmt::format("{} of all TTFT.", percent(waits.least_value))
                                    : fmt::format("{} ({}) to {} ({}) of all TTFT.",
                                                  percent(waits.least_value),
                                                  policy_name(report.policies[waits.least]),
                                                  percent(waits.most_value),
                                                  policy_name(report.policies[waits.most]));
  return text;
}

std::string hits_sentence(const fleet_report& report) {
  const extremes hits = extremes_of(report, [](const run_figures& r) {
    return r.input_tokens == 0 ? std::nullopt : std::optional(r.token_hit_rate());
  });
  if (hits.is_none()) {
    return "No request was completed.";
  }
  return percent(hits.least_value) == percent(hits.most_value)
             ? fmt::format("{} of the input tokens were cached somewhere.",
                           percent(hits.least_value))
             : fmt::format(
                   "{} ({}) to {} ({}) of the input tokens were cached "
                   "somewhere; the rest was computed.",
                   percent(hits.least_value),
                   policy_name(report.policies[hits.least]),
                   percent(hits.most_value),
                   policy_name(report.policies[hits.most]));
}

std::string load_sentence(const fleet_report& report) {
  const extremes spread =
      extremes_of(report, [](const run_figures& r) { return r.gpu_most_over_mean; });
  std::string text = fmt::format(
      "Line: mean busy share of the workers, seed {}; band: from the least to the most "
      "busy one. What begins in the grey part fills the caches and is not measured. ",
      report.runs.front().seed);
  text += spread.least == spread.most
              ? fmt::format("The busiest worker does {:.2f}× the mean.", spread.least_value)
              : fmt::format("The busiest worker does {:.2f}× the mean with {}, {:.2f}× with {}.",
                            spread.least_value,
                            policy_name(report.policies[spread.least]),
                            spread.most_value,
                            policy_name(report.policies[spread.most]));
  return text;
}

std::string wait_sentence(const fleet_report& report) {
  double slack = std::numeric_limits<double>::infinity();
  for (const run_figures& run : report.runs) {
    slack = std::min(slack, run.guard_slack_ms.value_or(slack));
  }
  if (std::isinf(slack)) {
    return "Waits for the first service, without a guard: nothing bounds them.";
  }
  return slack >= 0
             ? fmt::format(
                   "Waits for the first service. The guard's bound held in every run; the tightest "
                   "wait ended {} before it.",
                   duration_text(slack))
             : fmt::format("The guard's bound was BROKEN by {}: that is a bug.",
                           duration_text(-slack));
}

std::string calibration_sentence(const fleet_report& report) {
  double worst = 0;
  for (const sim::prefill_point& point : report.calibrations.front().points) {
    worst = point.is_held_out && std::abs(point.error) > std::abs(worst) ? point.error : worst;
  }
  return fmt::format(
      "The time of a prompt follows from two rates, fitted to published speeds of a node; at the "
      "points "
      "held out from the fit it is off by {:+.1f} % at most.",
      100 * worst);
}

}  // namespace oriel::replay
