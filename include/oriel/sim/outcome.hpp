// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a simulated run measured: one record for each request, and what is of no single one.
#pragma once

#include <oriel/metrics/histogram.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace oriel::sim {

/// How a request ended; exactly once.
enum class request_end_kind : std::uint8_t {
  completed,
  rejected,   ///< by admission: 429
  cancelled,  ///< by its client
  timed_out,  ///< its deadline passed before its first token
  failed,     ///< its worker died once too often
};

/// "completed", "rejected", "cancelled", "timed_out", "failed".
[[nodiscard]] const char* name_of(request_end_kind end) noexcept;

/// Where cached tokens came from.
enum class hit_tier : std::uint8_t { device, host, shared, remote };
inline constexpr std::size_t hit_tiers = 4;

/// One request that was measured. Times are on the clock of the run.
struct request_outcome {
  std::uint32_t request = 0;  ///< index into workload::requests
  std::uint32_t clone = 0;
  std::uint32_t session = 0;  ///< of this clone: two clones of one session differ
  std::uint32_t worker = 0;   ///< that served it last
  double arrived_s = 0.0;
  double started_s = 0.0;      ///< first served; of one that never was: when it ended
  double first_token_s = 0.0;  ///< the same
  double completed_s = 0.0;    ///< its last token, or its end
  double estimated_s =
      0.0;  ///< of its prefill by the worker at its arrival there, cached prefix left out
  double served_s = 0.0;  ///< of prefill that it took, of all attempts
  double ahead_s = 0.0;   ///< B: estimated work ahead of it when it arrived at its worker
  /// Promised - waited: max(D, k * B) + E + one step - wait, in seconds of prefill service. Not
  /// negative by the theorem; infinite without a guard.
  double guard_slack_s = std::numeric_limits<double>::infinity();
  std::uint32_t input_tokens = 0, output_tokens = 0;
  std::array<std::uint32_t, hit_tiers> hit_tokens = {};  ///< not computed, by where they were
  std::uint32_t local_miss_tokens = 0;  ///< in neither device nor host of its worker
  std::uint32_t fetched_tokens = 0;     ///< brought to the device from host or shared
  std::uint32_t healed_tokens = 0;      ///< of the hits, beyond a window-safe boundary
  /// Computed although some worker had their full pages; itself too, where their windows are gone
  /// or a fetch is not worth it.
  std::uint32_t duplicated_tokens = 0;
  request_end_kind end = request_end_kind::completed;
  std::uint8_t attempts = 1;  ///< workers that it was given to

  [[nodiscard]] double ttft_s() const noexcept { return first_token_s - arrived_s; }
  [[nodiscard]] double wait_s() const noexcept { return started_s - arrived_s; }
  [[nodiscard]] std::uint32_t cached_tokens() const noexcept {
    std::uint32_t sum = 0;
    for (const std::uint32_t tokens : hit_tokens) {
      sum += tokens;
    }
    return sum;
  }
};

/// Counts over the whole run, also outside of what is measured.
struct run_counters {
  std::uint64_t arrived = 0;  ///< requests that came to a router: each ends exactly once
  std::uint64_t completed = 0, rejected = 0, cancelled = 0, timed_out = 0, failed = 0;
  std::uint64_t retried = 0;  ///< attempts beyond the first
  std::uint64_t heals = 0;
  std::uint64_t twin_waits = 0;     ///< requests that waited for an equal prefix under way
  std::uint64_t guard_demands = 0;  ///< steps in which the guard chose
  std::uint64_t preemptions = 0;
  std::uint64_t fetches = 0;       ///< requests that brought pages up
  std::uint64_t fetch_stalls = 0;  ///< of them, those whose compute waited for pages
  double fetch_stall_s = 0.0;
  std::uint64_t stale_decisions =
      0;  ///< the worker had less than the router believed, by a page or more
  std::uint64_t lost_events = 0, replays = 0;  ///< of the workers' caches, on their way to a router
  std::uint64_t degraded_decisions = 0;        ///< made while the state store was away
  std::uint64_t steps = 0;                     ///< of all workers
  std::uint64_t evicted_pages = 0, evicted_window_pages = 0;
  std::uint64_t prefill_tokens = 0;  ///< computed, whatever became of them
  double heal_s = 0.0;               ///< seconds of prefill that heals took
};

/// A run: one policy, one seed.
struct run_outcome {
  std::string router, order;
  std::uint64_t seed = 0;
  double load = 0.0;  ///< asked for; 0: none was
  bool is_open = false;
  double measure_begin_s = 0.0, measure_end_s = 0.0;
  std::vector<request_outcome>
      requests;               ///< that arrived in [measure_begin_s, measure_end_s), by end
  std::vector<double> gpu_s;  ///< [workers] busy between begin and end of measuring, node seconds
  /// [workers][minute of the run] share of the minute that a worker was busy.
  std::vector<std::vector<float>> busy;
  double guard_slack_ms = std::numeric_limits<double>::infinity();  ///< least of all requests
  double offered_load = 0.0;  ///< input tokens that arrived, per second and worker
  double utilisation = 0.0;   ///< mean of busy shares while measured
  run_counters counters;
  histogram decision_ns;  ///< a router's wall clock per decision
  double wall_s = 0.0;    ///< of the simulator itself
  std::uint64_t simulated_requests = 0;
  // What must be zero at the end, and is told so that tests can see it.
  std::uint64_t left_requests = 0, left_leases = 0;

  [[nodiscard]] double requests_per_s() const noexcept {
    return wall_s > 0.0 ? static_cast<double>(simulated_requests) / wall_s : 0.0;
  }
};

}  // namespace oriel::sim
