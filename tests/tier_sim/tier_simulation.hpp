// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Runs scenarios of engines with tiers, and makes a failing one small.
#pragma once

#include "tier_scenario.hpp"
#include "tier_world.hpp"

#include <string>

namespace sim {

struct tier_outcome {
  std::string failure;  ///< empty: everything held
  word trace = 0;
  tier_tally counts;
};

/// Runs one scenario here: its operations, then healing. A broken contract aborts.
[[nodiscard]] tier_outcome run(const tier_scenario& what);

/// A scenario in a child: why it failed, or empty.
[[nodiscard]] std::string failure_of(const tier_scenario& what);

/// Shrinks a failing scenario and tells it: why, sizes, operations, and how to see it again.
[[nodiscard]] std::string report(const tier_scenario& failing, const std::string& why);

}  // namespace sim
