// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The commands of the program `oriel`, one function each. A command throws engine::error for what
/// the user can mend (exit 1) and returns the exit code otherwise.
#pragma once

#include <oriel/kernels/adjust_logits.hpp>
#include <oriel/sched/length_buckets.hpp>
#include <oriel/sched/order.hpp>
#include <oriel/sched/wait_guard.hpp>
#include <oriel/sim/cluster.hpp>

#include <replay/cache_replay.hpp>
#include <replay/cache_sizes.hpp>
#include <replay/tier_sizes.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace oriel::cli {

/// Exit codes (docs/cli.md).
inline constexpr int exit_ok = 0, exit_failure = 1, exit_usage = 2, exit_interrupted = 130;

/// Where KV is kept below the pools, and how much of it.
struct tier_options {
  double host_gib = 0.0;           ///< --host-cache-gib; 0: none
  std::string disk_folder;         ///< --disk-cache; empty: none
  double disk_gib = 8.0;           ///< --disk-cache-gib
  std::string remote_url;          ///< --remote redis://HOST:PORT; empty: none
  std::string writes = "through";  ///< --tier-writes through, selective, back
  double ttl_s = 0.0;              ///< --tier-ttl; 0: none
  double disk_mb_per_s = 0.0;      ///< --disk-mb-per-s; 0: no limit
  double cpu_share = 1.0;          ///< --tier-cpu
};

/// Who drafts, how much at once, and how drafts are judged.
struct draft_options {
  std::string spec = "off";      ///< off, lookup, mtp
  std::string length;            ///< auto, or a number; empty: auto, and 3 for drawn drafts
  std::string accept = "match";  ///< match, rejection

  [[nodiscard]] bool any() const noexcept { return spec != "off"; }
  [[nodiscard]] bool uses_mtp() const noexcept { return spec == "mtp"; }
};

/// Options of `oriel run`.
struct run_options {
  std::string model_dir;                  ///< -m; empty: the nano model
  std::vector<std::string> prompts;       ///< -p, repeatable
  std::string prompt_file;                ///< -f; "-" is standard input
  std::vector<std::uint32_t> prompt_ids;  ///< --ids
  std::uint32_t new_tokens = 128;         ///< -n
  std::uint32_t context_tokens = 0;       ///< -c; 0: what the model allows, at most 4,096
  std::uint32_t threads = 0;              ///< -t; 0: all cores
  std::uint64_t seed = 0;                 ///< -s
  float temperature = 0.7f;
  std::uint32_t top_k = 40;
  float top_p = 0.95f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  std::vector<token_bias> logit_bias;     ///< --logit-bias
  std::optional<std::uint32_t> logprobs;  ///< --logprobs
  std::vector<std::string> stop;          ///< --stop, repeatable
  bool chat = false;
  bool json = false;
  std::uint32_t chunk_tokens = 512;  ///< --chunk
  std::uint32_t page_tokens = 16;    ///< --page
  bool no_cache = false;             ///< --no-cache
  replay::retain_choice retain;      ///< --retain
  std::string heal = "on";           ///< on, off
  draft_options drafts;              ///< --spec, --draft-len, --spec-accept
  tier_options tiers;                ///< --host-cache-gib, --disk-cache, --remote
  std::optional<std::uint32_t> qkv_shards;
  std::string device = "cpu";       ///< --device: cpu, cuda
  std::optional<bool> order_fixed;  ///< --products: fixed, fastest
  std::string kv_type;              ///< --kv-type: f32, bf16, e4m3; empty: the weights'
};

/// Options of `oriel inspect`.
struct inspect_options {
  std::string model_dir;
  std::string preset;
  std::optional<std::uint64_t>
      context_tokens;  ///< --context; none: 131,072, or what the model allows
  double budget_gib = 80.0;
  std::uint32_t page_tokens = 16;
  bool json = false;
};

/// Options of `oriel bench`.
struct bench_options {
  std::string model_dir;
  std::string random_preset;
  std::uint32_t prompt_tokens = 512;
  std::uint32_t new_tokens = 128;
  std::uint32_t repetitions = 5;
  std::uint32_t threads = 1;
  std::uint32_t batch = 1;  ///< -b: sequences that decode together
  std::uint32_t chunk_tokens = 512;
  std::uint64_t seed = 1;
  std::string format = "md";        ///< md, csv, json
  std::string prompt_file;          ///< -f; empty: random tokens
  draft_options drafts;             ///< --spec, --draft-len
  std::string device = "cpu";       ///< --device: cpu, cuda
  std::optional<bool> order_fixed;  ///< --products: fixed, fastest
};

inline constexpr double default_capacity_gib = 400;

/// A way to choose a worker, and the order in which that serves.
struct fleet_policy {
  sim::router_kind router = sim::router_kind::predicted_seconds;
  order_kind order = order_kind::least_seconds;
};

/// Something of a fleet is away: from a share of the measured time on, for a while or for good.
struct fleet_outage {
  enum class part : std::uint8_t { worker, router, store };
  part what = part::store;
  std::uint32_t index = 0;  ///< of the worker or router
  double from_share = 0.5;
  std::optional<double> seconds;  ///< none: for good
};

/// Options of `oriel replay --workers N`.
struct fleet_options {
  std::uint32_t workers = 0;  ///< 0: the replay is of one cache, not of a fleet
  std::uint32_t ranks = 1, routers = 1;
  bool sticky_ranks = false;
  fleet_policy policy;                ///< --router, --order
  std::vector<std::string> compared;  ///< --compare; empty: the policy alone
  std::optional<guard_options> guard = guard_options{};
  std::optional<length_buckets> buckets;
  std::optional<length_buckets> lengths;  ///< told apart in the report; none: as buckets
  sim::tier_sizes tiers;
  std::optional<double> load;  ///< --load; none: sessions start over --hours
  std::uint32_t clones = 1;    ///< of each session
  bool is_open = false;
  std::uint32_t seeds = 5;
  std::optional<double> ahead_max_s;  ///< --ahead-max
  double step_ms = 5;                 ///< t0
  double event_loss = 0, delay_s = 0;
  std::vector<fleet_outage> outages;
  std::uint32_t threads = 0;  ///< -t; 0: all cores
  std::string page_file;      ///< --html; empty: none
};

/// Options of `oriel replay`. One capacity is given at most.
struct replay_options {
  std::string trace;
  std::string preset = "mimo-v2.5-pro";
  std::optional<double> capacity_gib;  ///< default_capacity_gib if neither is given
  std::optional<std::uint64_t> capacity_tokens;
  std::optional<replay::tier_question> tiers;  ///< --tiers, which gives the capacity too
  std::string tier_writes = "through";         ///< through, selective, back
  std::string pools = "dual";                  ///< uniform, dual
  double window_share =
      replay::cache_question{}.window_share;  ///< of all bytes, to the window pools
  std::string evict = "hit-density";          ///< lru, s3-fifo, cost-aware, hit-density
  replay::retain_choice retain;               ///< --retain
  std::string heal = "on";                    ///< on, off
  std::uint64_t seed = 1;                     ///< of orders that sample
  double hours = 8;                           ///< over which sessions start
  std::uint32_t page_tokens = 0;              ///< --page; 0: the trace's own
  bool json = false;
  fleet_options fleet = {};  ///< --workers and what goes with it
};

enum class cache_action : std::uint8_t { list, verify, clear };

/// Options of `oriel cache`.
struct cache_options {
  cache_action action = cache_action::list;
  std::string folder;
  std::string tenant, session;  ///< of clear: hex digits; a session is one of a tenant
  std::string name_space;       ///< of clear: hex digits it begins with
  bool yes = false;
  bool json = false;
};

int run(const run_options& options);
int inspect(const inspect_options& options);
int bench(const bench_options& options);
int replay(const replay_options& options);
/// `oriel replay --workers N`.
int replay_fleet(const replay_options& options);
int cache(const cache_options& options);

}  // namespace oriel::cli
