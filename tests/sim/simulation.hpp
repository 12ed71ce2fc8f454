// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Runs scenarios: one after the other, or in a child process that may die of a broken contract.
#pragma once

#include "fake_model.hpp"
#include "isolated.hpp"
#include "scenario.hpp"
#include "shrink.hpp"
#include "tally.hpp"

#include <cstdint>
#include <string>

namespace sim {

struct outcome {
  std::string failure;  ///< empty: everything held
  word trace = 0;
  std::size_t operations_done = 0;
  tally counts;
};

/// Runs one scenario here. A broken contract of the library aborts.
[[nodiscard]] outcome run(const scenario& what);

/// A scenario in a child: why it failed, or empty.
[[nodiscard]] std::string failure_of(const scenario& what);

/// Shrinks a failing scenario and tells it: why, sizes, operations, and how to see it again.
[[nodiscard]] std::string report(const scenario& failing, const std::string& why);

}  // namespace sim
