// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Runs scenarios: one after the other, or in a child process that may die of a broken contract,
/// and makes a failing one small.
#pragma once

#include "fake_model.hpp"
#include "scenario.hpp"
#include "tally.hpp"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace sim {

struct outcome {
  std::string failure;  ///< empty: everything held
  word trace = 0;
  std::size_t operations_done = 0;
  tally counts;
};

/// Runs one scenario here. A broken contract of the library aborts.
[[nodiscard]] outcome run(const scenario& what);

/// Runs `body` in a child; what it returns, or how the child died. Nothing else it does is seen
/// here. A child that takes longer than `seconds` is killed.
[[nodiscard]] std::string run_isolated(const std::function<std::string()>& body,
                                       unsigned seconds = 60);

/// A scenario in a child: why it failed, or empty.
[[nodiscard]] std::string failure_of(const scenario& what);

/// Takes operations out as long as `fails` still says so: no single one of the rest can go.
/// Calls `fails` at most `most` times.
[[nodiscard]] std::vector<operation> shrink(
    std::vector<operation> operations,
    const std::function<bool(const std::vector<operation>&)>& fails,
    std::uint32_t most = 4000);

/// Shrinks a failing scenario and tells it: why, sizes, operations, and how to see it again.
[[nodiscard]] std::string report(const scenario& failing, const std::string& why);

}  // namespace sim
