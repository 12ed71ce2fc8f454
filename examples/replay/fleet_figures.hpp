// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `figures_of`: what a simulated run of a fleet comes to, in the figures that `oriel replay`
/// tells.
#pragma once

#include <oriel/sched/length_buckets.hpp>
#include <oriel/sim/outcome.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace oriel::replay {

/// Time to first token of some requests. A percentile is the time of one of them: the least that so
/// many of them do not exceed. Without requests there are no times: 0 means nothing.
struct ttft_figures {
  std::size_t requests = 0;
  double mean_ms = 0, p50_ms = 0, p90_ms = 0, p99_ms = 0, max_ms = 0;
};

/// @param ms  any order; sorted afterwards
[[nodiscard]] ttft_figures ttft_of(std::vector<double>& ms);

using sim::hit_tiers;
/// In JSON, [hit_tier].
inline constexpr std::array<const char*, hit_tiers> hit_tier_names{
    "device", "host", "l3", "remote"};

/// A request that waited long for its first service.
struct long_wait {
  double wait_ms = 0, ahead_ms = 0, ttft_ms = 0;  ///< ahead: estimated work before it at arrival
  double arrived_s = 0;
  std::uint32_t worker = 0, input_tokens = 0, hit_tokens = 0;
};

/// Busy share of the workers at one time.
struct load_point {
  double at_s = 0, mean = 0, least = 0, most = 0;
};

struct run_figures {
  std::string router, order;
  std::uint64_t seed = 0;
  std::size_t completed = 0, rejected = 0, cancelled = 0, timed_out = 0, failed = 0;
  // Of the completed ones:
  std::uint64_t input_tokens = 0;
  std::array<std::uint64_t, hit_tiers> hit_tokens = {};  ///< [tier]
  std::uint64_t local_miss_tokens = 0, fetched_tokens = 0, healed_tokens = 0, duplicated_tokens = 0;
  /// Cold: a cache without end would have had less than half of the input. The trace says so, the
  /// same requests with every policy.
  ttft_figures ttft = {}, cold = {}, hot = {};
  std::vector<ttft_figures> ttft_by_bucket = {};
  double cold_share_of_ttft = 0;              ///< of the sum of all times to first token
  double tokens_per_second = 0;               ///< of inputs, over the measured time
  std::vector<long_wait> longest_waits = {};  ///< of all that were served, longest first
  // Of the whole fleet:
  double gpu_seconds = 0;         ///< sum over workers
  double gpu_most_over_mean = 0;  ///< the busiest worker against the mean; 0: nothing done
  /// The same of the most uneven ten minutes that were measured; 0: there are none.
  double ten_minutes_most_over_mean = 0;
  double offered_load = 0;  ///< input tokens that came, per second and worker
  double utilisation = 0;   ///< mean of busy shares while measured
  double max_wait_ms = 0;
  std::optional<double> guard_slack_ms = {};  ///< none without a guard
  double measure_begin_s = 0, measure_end_s = 0;
  std::vector<load_point> load = {};
  sim::run_counters counters = {};
  double simulated_requests_per_s = 0;

  [[nodiscard]] std::uint64_t all_hit_tokens() const noexcept;
  [[nodiscard]] double token_hit_rate() const noexcept;
  /// Of the input, that a tier had.
  [[nodiscard]] double hit_share(std::size_t tier) const noexcept;
  /// A figure over millions of input tokens that were served: policies that complete different
  /// amounts of work compare by it. Nothing was served: none.
  [[nodiscard]] std::optional<double> per_million_tokens(double figure) const noexcept;
};

/// O(requests log requests).
/// @param ideal_hits  [requests of the workload] tokens, as from ideal_hit_tokens
/// @param points_max  of the load over time; bins are averaged to fit
[[nodiscard]] run_figures figures_of(const sim::run_outcome& run,
                                     const length_buckets& buckets,
                                     std::span<const std::uint32_t> ideal_hits,
                                     std::size_t points_max = 120);

}  // namespace oriel::replay
