// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <replay/fleet_figures.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace oriel::replay {
namespace {

using sim::request_outcome;

constexpr std::size_t longest_waits_max = 10;
constexpr double bin_s = 60;  // of run_outcome::busy

/// The least value that `share` of all values do not exceed. @pre ascending, not empty
double percentile(const std::vector<double>& values, double share) {
  const double rank = std::ceil(share * static_cast<double>(values.size()));
  return values[static_cast<std::size_t>(std::max(rank, 1.0)) - 1];
}

using sim::request_end_kind;

bool is_cold(const request_outcome& r, std::span<const std::uint32_t> ideal_hits) {
  return std::uint64_t{ideal_hits[r.request]} * 2 < r.input_tokens;
}

double ttft_ms(const request_outcome& r) {
  return r.ttft_s() * 1e3;
}

bool was_served(const request_outcome& r) {
  return r.end == request_end_kind::completed;
}

void count_end(run_figures& f, request_end_kind end) {
  switch (end) {
    case request_end_kind::completed:
      f.completed += 1;
      break;
    case request_end_kind::rejected:
      f.rejected += 1;
      break;
    case request_end_kind::cancelled:
      f.cancelled += 1;
      break;
    case request_end_kind::timed_out:
      f.timed_out += 1;
      break;
    case request_end_kind::failed:
      f.failed += 1;
      break;
  }
}

void count_tokens(run_figures& f, const request_outcome& r) {
  f.input_tokens += r.input_tokens;
  for (std::size_t tier = 0; tier < hit_tiers; ++tier) {
    f.hit_tokens[tier] += r.hit_tokens[tier];
  }
  f.local_miss_tokens += r.local_miss_tokens;
  f.fetched_tokens += r.fetched_tokens;
  f.healed_tokens += r.healed_tokens;
  f.duplicated_tokens += r.duplicated_tokens;
}

void add_ttft(run_figures& f,
              const sim::run_outcome& run,
              const length_buckets& buckets,
              std::span<const std::uint32_t> ideal_hits) {
  std::vector<double> all, cold, hot;
  std::vector<std::vector<double>> by_bucket(buckets.size());
  for (const request_outcome& r : run.requests) {
    if (was_served(r)) {
      all.push_back(ttft_ms(r));
      by_bucket[buckets.of(r.input_tokens)].push_back(ttft_ms(r));
      (is_cold(r, ideal_hits) ? cold : hot).push_back(ttft_ms(r));
    }
  }
  const double sum = std::accumulate(all.begin(), all.end(), 0.0);
  const double cold_sum = std::accumulate(cold.begin(), cold.end(), 0.0);
  f.cold_share_of_ttft = sum > 0 ? cold_sum / sum : 0;
  f.ttft = ttft_of(all);
  f.cold = ttft_of(cold);
  f.hot = ttft_of(hot);
  for (std::vector<double>& bucket : by_bucket) {
    f.ttft_by_bucket.push_back(ttft_of(bucket));
  }
}

void add_waits(run_figures& f, const sim::run_outcome& run) {
  std::vector<long_wait>& waits = f.longest_waits;
  for (const request_outcome& r : run.requests) {
    if (was_served(r)) {
      waits.push_back({.wait_ms = r.wait_s() * 1e3,
                       .ahead_ms = r.ahead_s * 1e3,
                       .ttft_ms = ttft_ms(r),
                       .arrived_s = r.arrived_s,
                       .worker = r.worker,
                       .input_tokens = r.input_tokens,
                       .hit_tokens = r.cached_tokens()});
    }
  }
  const auto count = static_cast<std::ptrdiff_t>(std::min(waits.size(), longest_waits_max));
  std::partial_sort(
      waits.begin(), waits.begin() + count, waits.end(), [](const auto& a, const auto& b) {
        return a.wait_ms != b.wait_ms ? a.wait_ms > b.wait_ms : a.arrived_s < b.arrived_s;
      });
  waits.resize(static_cast<std::size_t>(count));
  f.max_wait_ms = waits.empty() ? 0 : waits.front().wait_ms;
}

void add_load(run_figures& f, const sim::run_outcome& run, std::size_t points_max) {
  std::size_t bins = 0;
  for (const auto& worker : run.busy) {
    bins = std::max(bins, worker.size());
  }
  // What began in time ends later, on workers that get nothing new: that tells nothing.
  bins = std::min(bins, static_cast<std::size_t>(std::ceil(run.measure_end_s / bin_s)));
  const std::size_t step = std::max<std::size_t>(1, (bins + points_max - 1) / points_max);
  for (std::size_t begin = 0; begin < bins; begin += step) {
    const std::size_t end = std::min(begin + step, bins);
    load_point point{.at_s = static_cast<double>(begin + end) / 2 * bin_s, .least = 1e300};
    for (const auto& worker : run.busy) {
      double sum = 0;
      for (std::size_t bin = begin; bin < std::min(end, worker.size()); ++bin) {
        sum += static_cast<double>(worker[bin]);
      }
      const double share = sum / static_cast<double>(end - begin);
      point.mean += share / static_cast<double>(run.busy.size());
      point.least = std::min(point.least, share);
      point.most = std::max(point.most, share);
    }
    f.load.push_back(point);
  }
}

/// Of one window of bins: the busiest worker against the mean; 0: all are idle.
double most_over_mean(const sim::run_outcome& run, std::size_t begin, std::size_t end) {
  double sum = 0, most = 0;
  for (const auto& worker : run.busy) {
    double busy = 0;
    for (std::size_t bin = begin; bin < std::min(end, worker.size()); ++bin) {
      busy += static_cast<double>(worker[bin]);
    }
    sum += busy;
    most = std::max(most, busy);
  }
  return sum > 0 ? most * static_cast<double>(run.busy.size()) / sum : 0;
}

void add_ten_minutes(run_figures& f, const sim::run_outcome& run) {
  constexpr std::size_t bins = 10;
  const auto begin = static_cast<std::size_t>(std::ceil(run.measure_begin_s / bin_s));
  const auto end = static_cast<std::size_t>(std::floor(run.measure_end_s / bin_s));
  for (std::size_t first = begin; first + bins <= end; ++first) {
    f.ten_minutes_most_over_mean =
        std::max(f.ten_minutes_most_over_mean, most_over_mean(run, first, first + bins));
  }
}

void add_fleet(run_figures& f, const sim::run_outcome& run) {
  f.gpu_seconds = std::accumulate(run.gpu_s.begin(), run.gpu_s.end(), 0.0);
  if (f.gpu_seconds > 0) {
    f.gpu_most_over_mean = *std::max_element(run.gpu_s.begin(), run.gpu_s.end()) *
                           static_cast<double>(run.gpu_s.size()) / f.gpu_seconds;
  }
  f.offered_load = run.offered_load;
  f.utilisation = run.utilisation;
  if (std::isfinite(run.guard_slack_ms)) {
    f.guard_slack_ms = run.guard_slack_ms;
  }
  f.measure_begin_s = run.measure_begin_s;
  f.measure_end_s = run.measure_end_s;
  const double seconds = run.measure_end_s - run.measure_begin_s;
  f.tokens_per_second = seconds > 0 ? static_cast<double>(f.input_tokens) / seconds : 0;
  f.counters = run.counters;
  f.simulated_requests_per_s = run.requests_per_s();
}

}  // namespace

ttft_figures ttft_of(std::vector<double>& ms) {
  if (ms.empty()) {
    return {};
  }
  std::sort(ms.begin(), ms.end());
  return {.requests = ms.size(),
          .mean_ms = std::accumulate(ms.begin(), ms.end(), 0.0) / static_cast<double>(ms.size()),
          .p50_ms = percentile(ms, 0.50),
          .p90_ms = percentile(ms, 0.90),
          .p99_ms = percentile(ms, 0.99),
          .max_ms = ms.back()};
}

std::uint64_t run_figures::all_hit_tokens() const noexcept {
  return std::accumulate(hit_tokens.begin(), hit_tokens.end(), std::uint64_t{0});
}

double run_figures::token_hit_rate() const noexcept {
  return input_tokens == 0
             ? 0
             : static_cast<double>(all_hit_tokens()) / static_cast<double>(input_tokens);
}

double run_figures::hit_share(std::size_t tier) const noexcept {
  return input_tokens == 0
             ? 0
             : static_cast<double>(hit_tokens[tier]) / static_cast<double>(input_tokens);
}

std::optional<double> run_figures::per_million_tokens(double figure) const noexcept {
  return input_tokens == 0 ? std::nullopt
                           : std::optional(figure / (1e-6 * static_cast<double>(input_tokens)));
}

run_figures figures_of(const sim::run_outcome& run,
                       const length_buckets& buckets,
                       std::span<const std::uint32_t> ideal_hits,
                       std::size_t points_max) {
  run_figures f{.router = run.router, .order = run.order, .seed = run.seed};
  for (const request_outcome& r : run.requests) {
    count_end(f, r.end);
    if (was_served(r)) {
      count_tokens(f, r);
    }
  }
  add_ttft(f, run, buckets, ideal_hits);
  add_waits(f, run);
  add_load(f, run, points_max);
  add_fleet(f, run);
  add_ten_minutes(f, run);
  return f;
}

}  // namespace oriel::replay
