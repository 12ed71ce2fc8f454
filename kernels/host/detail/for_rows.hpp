// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Cuts independent rows into tasks that are worth a thread's while.
#pragma once

#include <oriel/core/executor.hpp>

#include <algorithm>
#include <cstdint>

namespace oriel::detail {

/// Elements that one task should touch: about 10 us of work, against 1 us to hand it out.
inline constexpr std::uint64_t elements_per_task = 32'768;

/// Calls `f(begin, end)` over parts of [0, rows); on the calling thread when there is one part.
template <class F>
void for_rows(executor_ref executor, std::uint32_t rows, std::uint64_t elements_per_row, F&& f) {
  const std::uint64_t wanted = elements_per_task / std::max<std::uint64_t>(elements_per_row, 1);
  const auto part = static_cast<std::uint32_t>(std::clamp<std::uint64_t>(wanted, 1, 1u << 20));
  if (rows <= part) {
    f(0u, rows);
    return;
  }
  const std::uint32_t tasks = rows / part + (rows % part != 0 ? 1 : 0);
  executor.for_each(tasks, [&](std::uint32_t task, std::uint32_t) {
    const std::uint32_t begin = task * part;
    f(begin, begin + std::min(part, rows - begin));
  });
}

}  // namespace oriel::detail
