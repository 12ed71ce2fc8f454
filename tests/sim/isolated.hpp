// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Runs in a child process what may crash, hang or die of a broken contract.
#pragma once

#include <functional>
#include <string>

namespace sim {

/// Runs `body` in a child; what it returns, or how the child died. Nothing else it does is seen
/// here. A child that takes longer than `seconds` is killed.
/// @throws std::runtime_error where there can be no child: nothing was run
[[nodiscard]] std::string run_isolated(const std::function<std::string()>& body,
                                       unsigned seconds = 60);

}  // namespace sim
