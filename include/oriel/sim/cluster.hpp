// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `run_cluster`: a workload through a fleet of simulated nodes. Router, index, scheduler, guard,
/// prefix trees and planners are the library's own; the simulator gives them a clock and pages
/// without bytes (docs/simulator.md).
///
///     const workload_view view(trace, {.clones = 20, .hours = 2.0, .seed = 1});
///     const run_outcome run = run_cluster(view, {.router = router_kind::predicted_seconds});
#pragma once

#include <oriel/model/cost.hpp>
#include <oriel/model/geometry.hpp>
#include <oriel/sched/length_buckets.hpp>
#include <oriel/sched/order.hpp>
#include <oriel/sched/wait_guard.hpp>
#include <oriel/sim/node_cost.hpp>
#include <oriel/sim/outcome.hpp>
#include <oriel/sim/workload.hpp>
#include <oriel/tier/fetch_plan.hpp>

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

namespace oriel::sim {

/// The scores of route/score.hpp.
enum class router_kind : std::uint8_t {
  predicted_seconds,
  match_minus_load,
  session_hash,
  plain_hash,  ///< session_hash without its bound: a session never moves
  threshold_gate,
  least_load,
  round_robin,
};
inline constexpr std::size_t router_kinds = 7;

/// "predicted_seconds", ...
[[nodiscard]] const char* name_of(router_kind kind) noexcept;

/// What a node computes, and what that takes.
struct node_model {
  model_geometry model;
  node_cost cost;
  compute_rates rates;  ///< the same, for planners that count operations
};
/// mimo-v2.5-pro on 8 H200, fitted to the published rates. @param step_s  t0
[[nodiscard]] node_model mimo_pro_node(double step_s = 0.005);

/// What a node keeps, in tokens of full KV; window pools come on top.
struct tier_sizes {
  std::uint64_t device_tokens = 2'000'000;
  std::uint64_t host_tokens = 30'000'000;  ///< 0: none. Shared by the GPUs of the node
  std::uint64_t shared_tokens = 0;         ///< of the store that all nodes share (L3); 0: none
  /// Of the bytes of each, to the window pools.
  double window_share = 0.015;
  transfer_rates host = {.latency_s = 20e-6, .bytes_per_s = 8 * 50e9};  ///< to the device
  transfer_rates shared = {.latency_s = 280e-6, .bytes_per_s = 170e9};  ///< of a node
};

/// How late and how well routers know.
struct staleness {
  double event_delay_s = 0.0;   ///< of what workers tell of their caches
  double event_loss = 0.0;      ///< share of them that never come
  double replay_delay_s = 1.0;  ///< until a gap is seen and the worker has told all anew
  double report_every_s = 1.0;  ///< of load
  double report_delay_s = 0.0;
  double gossip_delay_s = 0.0;  ///< until routers know of each other's decisions
};

/// Something is away for a while.
struct outage {
  std::uint32_t who = 0;
  double from_s = 0.0;
  double until_s = std::numeric_limits<double>::infinity();
};

struct cluster_options {
  std::uint32_t workers = 8;  ///< nodes of 8 GPUs
  std::uint32_t routers = 1;  ///< a session always meets the same one while that lives
  /// Data-parallel ranks of a node; 1: the node computes as one.
  std::uint32_t ranks = 1;
  bool sticky_ranks = false;  ///< a session's KV is on one rank; else host KV serves all ranks
  router_kind router = router_kind::predicted_seconds;
  order_kind order = order_kind::least_seconds;
  std::optional<guard_options> guard = guard_options{};
  std::optional<length_buckets> buckets = {};  ///< workers of their own for each
  node_model node = mimo_pro_node();
  tier_sizes tiers = {};
  bool may_heal = true;
  std::uint32_t chunk_tokens = 16'384;  ///< of a step, over all its prompts (of a rank, with ranks)
  std::uint32_t sequences_max = 32;     ///< in prefill on a node
  bool is_open = false;  ///< requests come when the trace says, whatever became of those before
  /// Refuse where more estimated seconds are ahead at the worker: B_max.
  double ahead_max_s = std::numeric_limits<double>::infinity();
  std::uint32_t attempts_max = 3;
  double deadline_s =
      std::numeric_limits<double>::infinity();  ///< of the first token, from arrival
  double cancel_share = 0.0;                    ///< of requests, that their client cancels
  double cancel_mean_s = 10.0;                  ///< after so long, exponentially distributed
  bool decode_in_steps = false;  ///< decode rows in the same steps as prompts; else on its own
  double prefill_share = 0.25;   ///< of such steps
  staleness stale = {};
  std::vector<outage> worker_outages = {};  ///< caches are lost
  std::vector<outage> router_outages = {};
  std::vector<outage> store_outages = {};  ///< of the routers' state store; `who` means nothing
  /// A wall clock, for what a decision and the whole run take; null: nobody asks.
  std::uint64_t (*wall_ns)() = nullptr;
  std::uint64_t seed = 1;  ///< of loss, delay, cancellations; starts of sessions are the view's
};

/// Progress: simulated seconds so far. A plain function and its argument.
struct progress_report {
  void (*tell)(void* to, double now_s, double end_s) = nullptr;
  void* to = nullptr;
};

/// Runs until what arrived before the view's end has ended; nothing arrives later. The same
/// arguments give the same outcome, but for wall clocks. O(events * log).
/// @pre workers > 0, routers > 0, chunk_tokens >= sequences_max > 0; pages of the workload hold
///      16 tokens or a multiple
/// @throws std::bad_alloc
[[nodiscard]] run_outcome run_cluster(const workload_view& view,
                                      const cluster_options& options,
                                      progress_report progress = {});

}  // namespace oriel::sim
