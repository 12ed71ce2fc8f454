// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a seed stands for: an engine with tiers, its faults, and a list of operations. As with
/// sim/scenario.hpp, any of them may be taken out.
#pragma once

#include "sim/scenario.hpp"
#include "sim_remote.hpp"
#include "tier/sim_disk.hpp"

#include <oriel/tier/segment_options.hpp>
#include <oriel/tier/tier.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace sim {

struct tier_habit {
  bool is_there = false;
  oriel::placement writes = oriel::placement::write_through;
};

struct tier_setup {
  std::uint64_t seed = 0;
  setup device;
  tier_habit host, disk, remote;
  std::uint32_t host_pages = 0;  ///< of each pool, about
  oriel::segment_store_options segments;
  std::uint32_t disk_latency_us = 0, remote_latency_us = 0, device_latency_us = 0, streams = 1;
  oriel::tier_limits limits;
  bool computes_fast = false;   ///< so that fetching seldom pays
  bool shares_fetches = true;   ///< who shares a prefix waits for its fetch
  std::uint32_t sink_room = 0;  ///< events that a slow mirror leaves waiting

  // Faults; all off in a plain setup.
  bool is_extreme = false;
  oriel_test::sim_faults disk_faults;
  remote_faults remote_faults_at_times;  ///< while a `trouble` lasts
  bool disk_tears = false;               ///< kills and losses of power happen
  bool disk_has_holes = false;           ///< F5, at restarts
  bool slabs_fail = false;               ///< F23
  bool no_memory = false;                ///< F24
  bool device_breaks = false;            ///< F25
  bool clock_jumps = false;              ///< F19
  bool sink_blocks = false;              ///< F37

  [[nodiscard]] bool is_plain() const noexcept { return device.plain; }
};

enum class tier_verb : std::uint8_t {
  start,         ///< session a: tenant b, shared prompt c, d tokens of its own
  say,           ///< session a: d more tokens
  branch,        ///< session a := the first c per mille of session b
  submit,        ///< session a asks for b tokens
  herd,          ///< session a asks, c times at once (F29)
  step,          ///< request a goes on, where it can
  run,           ///< all do, for a turns
  cancel,        ///< request a is not wanted any more, wherever it is (F21)
  preempt,       ///< request a publishes, lets go of everything and waits
  evict_full,    ///< a pages
  evict_window,  ///< of kind a, b pages
  drop_session,  ///< session a's pages, in all tiers
  drop_tenant,   ///< tenant a's pages everywhere
  drop_space,    ///< the same, by its namespace
  wait,          ///< b microseconds pass
  jump,          ///< the clock jumps by b milliseconds
  freeze,        ///< or stands still for b microseconds
  trouble,       ///< faults of disk and remote begin, or end
  restart,       ///< the process ends in good order, and starts again
  kill,          ///< kill -9; if b, the power fails
  starve,        ///< the allocation b fails
  break_device,  ///< a sticky error
  block_sink,    ///< nobody takes events, for b operations
};

struct tier_operation {
  tier_verb what = tier_verb::run;
  std::uint32_t a = 0, b = 0, c = 0, d = 0;
  std::uint32_t salt = 0;
};

struct tier_scenario {
  tier_setup sizes;
  std::vector<tier_operation> operations;
};

/// The same for ever for one seed.
[[nodiscard]] tier_scenario make_tier_scenario(std::uint64_t seed);

/// One line, as a person reads it.
[[nodiscard]] std::string describe(const tier_operation& op);
[[nodiscard]] std::string describe(const tier_setup& sizes);

}  // namespace sim
