// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Numbers as integers of the same order, for what a device compares and counts as integers.
#pragma once

#include <oriel/device/host_device.cuh>

#include <bit>
#include <cstdint>

namespace oriel::detail {

inline constexpr std::uint32_t lowest_key = 0x007F'FFFFu;  // Of -infinity, and of NaN.

/// An integer that orders as the float does; -0 and 0 are equal, NaN is -infinity. Never 0.
ORIEL_HOST_DEVICE inline std::uint32_t ordered_key(float v) {
  const float number = v != v ? -std::bit_cast<float>(0x7F80'0000u) : v + 0.0f;
  const auto bits = std::bit_cast<std::uint32_t>(number);
  return (bits & 0x8000'0000u) != 0 ? ~bits : bits | 0x8000'0000u;
}

/// The float of `ordered_key`.
ORIEL_HOST_DEVICE inline float value_of_key(std::uint32_t key) {
  return std::bit_cast<float>((key & 0x8000'0000u) != 0 ? key & 0x7FFF'FFFFu : ~key);
}

}  // namespace oriel::detail
