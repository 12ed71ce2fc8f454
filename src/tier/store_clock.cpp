// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/tier/store_clock.hpp>

#include <ctime>

namespace oriel {
namespace {

std::uint64_t read_us(clockid_t clock) noexcept {
  timespec now{};
  ::clock_gettime(clock, &now);
  return now.tv_sec < 0 ? 0
                        : static_cast<std::uint64_t>(now.tv_sec) * 1'000'000 +
                              static_cast<std::uint64_t>(now.tv_nsec) / 1'000;
}

}  // namespace

std::uint64_t monotonic_clock::now_us() noexcept {
  return read_us(CLOCK_MONOTONIC);
}

std::uint64_t realtime_clock::now_us() const noexcept {
  return read_us(CLOCK_REALTIME);
}

}  // namespace oriel
