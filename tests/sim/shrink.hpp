// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Makes a failing list of operations small.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace sim {

/// Takes operations out as long as `fails` still says so: no single one of the rest can go.
/// Calls `fails` at most `most` times.
template <class Operation, class Fails>
[[nodiscard]] std::vector<Operation> shrink(std::vector<Operation> operations,
                                            const Fails& fails,
                                            std::uint32_t most = 4000) {
  std::uint32_t tries = 0;
  for (std::size_t chunk = operations.size(); chunk > 0;) {
    bool removed = false;
    for (std::size_t at = 0; at < operations.size() && tries < most;) {
      std::vector<Operation> fewer = operations;
      const auto first = fewer.begin() + static_cast<std::ptrdiff_t>(at);
      fewer.erase(first, first + static_cast<std::ptrdiff_t>(std::min(chunk, fewer.size() - at)));
      ++tries;
      if (fails(fewer)) {
        operations = std::move(fewer);
        removed = true;
      } else {
        at += chunk;
      }
    }
    if (tries >= most) {
      break;
    }
    if (chunk > 1) {
      chunk = (chunk + 1) / 2;
    } else if (!removed) {
      break;
    }
  }
  return operations;
}

}  // namespace sim
