// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `fleet_report`: policies on the same trace with the same seeds, and how they compare.
#pragma once

#include <oriel/sched/length_buckets.hpp>
#include <oriel/sim/node_cost.hpp>

#include <replay/fleet_figures.hpp>
#include <replay/paired.hpp>

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace oriel::replay {

/// One figure of a run that policies are compared by.
struct fleet_metric {
  const char* key;    ///< in JSON, with its unit
  const char* label;  ///< for people, without it
  enum class unit : std::uint8_t { share, milliseconds, seconds, tokens, tokens_per_second, count };
  unit in;
  bool more_is_better;
  std::optional<double> (*of)(const run_figures&);  ///< none: nothing that it could be of
};

/// All of them, in the order in which they are told.
[[nodiscard]] std::span<const fleet_metric> fleet_metrics() noexcept;
/// @pre there is one of that name
[[nodiscard]] std::size_t metric_index(std::string_view key) noexcept;

/// A figure over all seeds, and against the first policy with the same seeds.
struct metric_summary {
  std::optional<sample_mean> mean;        ///< none where a run has none
  std::optional<sample_mean> difference;  ///< of the first policy itself 0; none where one has none
  std::optional<sample_ratio> ratio;      ///< none where one of the two is 0, or there is none
};

struct policy_summary {
  std::string router, order;
  std::vector<metric_summary> metrics = {};  ///< [fleet_metrics()]
};

/// A fact of the question as people read it: "workers", "8".
struct fleet_fact {
  std::string name, value;
};

struct fleet_report {
  std::string trace = {};
  std::vector<fleet_fact> facts = {};
  length_buckets buckets = {};
  std::size_t seeds = 0;
  std::vector<run_figures> runs = {};               ///< policy by policy, the same seeds in each
  std::vector<policy_summary> policies = {};        ///< as in runs
  std::vector<sim::calibration> calibrations = {};  ///< with other costs of a step; first: in use

  [[nodiscard]] std::span<const run_figures> runs_of(std::size_t policy) const noexcept {
    return std::span{runs}.subspan(policy * seeds, seeds);
  }
};

/// Fills `policies` from `runs`. @pre runs has `seeds` of each policy, with the same seeds
void summarise(fleet_report& report);

/// "predicted_seconds + least_seconds".
[[nodiscard]] std::string policy_name(const policy_summary& policy);
/// "0-64K", "256K and more".
[[nodiscard]] std::string bucket_name(const length_buckets& buckets, std::size_t bucket);

}  // namespace oriel::replay
