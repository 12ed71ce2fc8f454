// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `store_clock`: the clock by which a store counts deadlines and expiries. `wall_clock`: the one
/// by which expiries are written down where pages outlive the machine's uptime. Simulations bring
/// clocks that they turn themselves.
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
  [[nodiscard]] static std::uint64_t now_us() noexcept;
};

static_assert(store_clock<monotonic_clock>);

/// `now_us()` is microseconds since 1970 (UTC), and may jump, forward and back. A copy shows the
/// same time.
template <class C>
concept wall_clock = std::copyable<C> && requires(const C& c) {
  { c.now_us() }
  noexcept->std::same_as<std::uint64_t>;
};

/// CLOCK_REALTIME; 0 before 1970.
struct realtime_clock {
  [[nodiscard]] std::uint64_t now_us() const noexcept;
};

static_assert(wall_clock<realtime_clock>);

/// What another clock, which shows `other_now_us` when this one shows `now_us`, will show at this
/// one's `at_us`. What is past is now; never wraps.
[[nodiscard]] constexpr std::uint64_t by_other_clock(std::uint64_t at_us,
                                                     std::uint64_t now_us,
                                                     std::uint64_t other_now_us) noexcept {
  const std::uint64_t left_us = at_us > now_us ? at_us - now_us : 0;
  return left_us > ~other_now_us ? ~std::uint64_t{0} : other_now_us + left_us;
}

/// When what is put now expires; 0: never. Never wraps.
[[nodiscard]] constexpr std::uint64_t expiry_us(std::uint64_t now_us,
                                                std::uint64_t ttl_us) noexcept {
  return ttl_us == 0 ? 0 : ttl_us > ~now_us ? ~std::uint64_t{0} : now_us + ttl_us;
}

}  // namespace oriel
