// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `store_clock`: the clock by which a store counts deadlines and expiries. Simulations bring one
/// that they turn themselves.
#pragma once

#include <concepts>
#include <cstdint>

namespace oriel {

/// `now_us()` never goes back. A copy shows the same time.
template <class C>
concept store_clock = std::copyable<C> && requires(const C& c) {
  { c.now_us() }
  noexcept->std::same_as<std::uint64_t>;
};

/// Microseconds since the machine started (CLOCK_MONOTONIC): setting the wall clock does not
/// concern it.
struct monotonic_clock {
  [[nodiscard]] std::uint64_t now_us() const noexcept;
};

static_assert(store_clock<monotonic_clock>);

}  // namespace oriel
