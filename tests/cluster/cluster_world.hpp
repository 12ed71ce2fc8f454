// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Small workloads and fleets, and what must hold after any run.
#pragma once

#include <oriel/core/random.hpp>
#include <oriel/sim/cluster.hpp>
#include <oriel/sim/workload_builder.hpp>

#include <catch2/catch.hpp>
#include <support/scale.hpp>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace oriel::sim {

struct chat_options {
  std::uint32_t sessions = 40, turns = 8;
  std::uint32_t first_tokens = 20'000;  ///< of the first turn, up to twice as many
  std::uint32_t more_tokens = 4'000;    ///< of a further turn, up to
  double gap_s = 5.0;                   ///< up to
  std::uint32_t output_tokens = 100;
  std::uint64_t seed = 1;
};

/// Names for all whole pages of so many tokens; new ones where there are none.
inline void extend(std::vector<std::uint32_t>& names, std::uint32_t tokens, std::uint32_t& next) {
  while (names.size() < tokens / 64) {
    names.push_back(next++);
  }
  names.resize(tokens / 64);
}

/// Sessions that grow turn by turn; some fork at an earlier turn, and join a sub-agent.
inline workload chats(const chat_options& o) {
  workload_builder b(64);
  random_stream draw(o.seed, 77);
  for (std::uint32_t s = 0; s < o.sessions; ++s) {
    b.begin_session(s, 0.0);
    std::vector<std::uint32_t> names, waits;
    std::uint32_t tokens = o.first_tokens + draw.next_below(o.first_tokens + 1), next = 0;
    double at_s = 0.0;
    for (std::uint32_t t = 0; t < o.turns; ++t) {
      if (t != 0) {
        tokens += 64 + draw.next_below(o.more_tokens + 1);
        if (draw.next_below(8) == 0) {  // An edit: the path forks.
          names.resize(names.size() / 2);
        }
      }
      extend(names, tokens + 1, next);
      const double gap_s = o.gap_s * draw.next_uniform();
      at_s += gap_s;
      const std::uint32_t turn = b.add({.input_tokens = tokens + 1,
                                        .output_tokens = o.output_tokens,
                                        .arrival_s = at_s,
                                        .gap_s = gap_s},
                                       names,
                                       waits);
      std::vector<std::uint32_t> joined{turn};
      if (draw.next_below(4) == 0) {  // A sub-agent, beside the next gap.
        std::vector<std::uint32_t> own = names;
        extend(own, tokens + 500, next);
        joined.push_back(b.add({.input_tokens = tokens + 500,
                                .output_tokens = 10,
                                .arrival_s = at_s,
                                .gap_s = 0.5,
                                .agent = t + 1},
                               own,
                               {&turn, 1}));
      }
      waits = joined;
    }
  }
  return b.finish();
}

/// Nodes with little room, so that tiers have something to do.
inline cluster_options small_fleet(std::uint32_t workers = 3) {
  cluster_options o;
  o.workers = workers;
  o.tiers.device_tokens = 200'000;
  o.tiers.host_tokens = 600'000;
  o.tiers.window_share = 0.05;
  return o;
}

/// What arrives ends exactly once, and leaves nothing behind.
inline void check_books(const run_outcome& run) {
  const run_counters& c = run.counters;
  CHECK(c.arrived == c.completed + c.rejected + c.cancelled + c.timed_out + c.failed);
  CHECK(run.left_requests == 0);
  CHECK(run.left_leases == 0);
  CHECK(run.guard_slack_ms >= 0.0);
  for (const request_outcome& r : run.requests) {
    const bool is_ordered = r.arrived_s <= r.started_s && r.started_s <= r.first_token_s &&
                            r.first_token_s <= r.completed_s;
    if (!is_ordered || r.cached_tokens() >= r.input_tokens) {
      INFO("request " << r.request << " clone " << r.clone << " arrived " << r.arrived_s
                      << " started " << r.started_s << " first token " << r.first_token_s
                      << " completed " << r.completed_s);
      CHECK(is_ordered);
      CHECK(r.cached_tokens() < r.input_tokens);
    }
  }
}

inline double sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

inline double share_of_input(const run_outcome& run, std::uint64_t (*of)(const request_outcome&)) {
  std::uint64_t part = 0, all = 0;
  for (const request_outcome& r : run.requests) {
    part += of(r);
    all += r.input_tokens;
  }
  return all == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(all);
}
inline double hit_rate(const run_outcome& run) {
  return share_of_input(
      run, [](const request_outcome& r) -> std::uint64_t { return r.cached_tokens(); });
}
inline double local_miss_rate(const run_outcome& run) {
  return share_of_input(
      run, [](const request_outcome& r) -> std::uint64_t { return r.local_miss_tokens; });
}

}  // namespace oriel::sim
