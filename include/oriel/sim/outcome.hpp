// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `run_outcome`: what one simulated run of a fleet did, request by request.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace oriel::sim {

enum class request_end : std::uint8_t { completed, rejected, cancelled, timed_out, failed };

/// One request that was measured. Seconds are on the clock of the simulation.
struct request_outcome {
  std::uint32_t request = 0, clone = 0, worker = 0, session = 0;
  double arrived_s = 0, started_s = 0, first_token_s = 0, completed_s = 0;
  double estimated_s = 0, served_s = 0;
  double ahead_s = 0;
  std::uint32_t input_tokens = 0, output_tokens = 0;
  std::uint32_t hit_tokens[4] = {};
  std::uint32_t local_miss_tokens = 0;
  std::uint32_t fetched_tokens = 0, healed_tokens = 0, duplicated_tokens = 0;
  request_end end = request_end::completed;
  std::uint8_t attempts = 1;
};

struct run_outcome {
  std::string router, order;
  std::uint64_t seed = 0;
  double load = 0;
  bool is_open = false;
  std::vector<request_outcome> requests;
  double measure_begin_s = 0, measure_end_s = 0;
  std::vector<double> gpu_s;
  std::vector<std::vector<float>> busy;
  double guard_slack_ms = std::numeric_limits<double>::infinity();
  double offered_load = 0, utilisation = 0;
  double wall_s = 0;
  std::uint64_t simulated_requests = 0;
};

}  // namespace oriel::sim
