// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// bf16 and e4m3 as the ISA's conversions make them: to nearest, ties to even.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace oriel::ptx_machine {

[[nodiscard]] inline float bf16_to_float(std::uint32_t bits) {
  return std::bit_cast<float>(bits << 16);
}

[[nodiscard]] inline std::uint16_t bf16_from(float value) {
  if (value != value) {
    return 0x7FFF;
  }
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

/// The float between, if inexact, gets an odd last bit, so that rounding twice is rounding once.
[[nodiscard]] inline std::uint16_t bf16_from(double value) {
  float between = static_cast<float>(value);
  if (value == value && double{between} != value) {
    if (std::fabs(double{between}) > std::fabs(value)) {
      between = std::nextafter(between, 0.0F);
    }
    between = std::bit_cast<float>(std::bit_cast<std::uint32_t>(between) | 1U);
  }
  return bf16_from(between);
}

/// Sign, 4 bits of exponent (bias 7), 3 of fraction; no infinities: all ones is NaN, and 448 the largest number.
[[nodiscard]] inline std::uint8_t e4m3_from_saturating(float value) {
  const std::uint32_t sign = (std::bit_cast<std::uint32_t>(value) >> 24) & 0x80;
  if (value != value) {
    return 0x7F;
  }
  const float size = std::fabs(value);
  if (size >= 448.0F) {
    return static_cast<std::uint8_t>(sign | 0x7E);
  }
  int exponent = -6;
  if (size >= 0x1p-6F) {
    exponent = std::ilogb(size);
  }
  // A unit of the last place; the quotient is exact, and nearbyint's ties go to even.
  const float unit = std::ldexp(1.0F, exponent - 3);
  const auto steps = static_cast<std::uint32_t>(std::nearbyint(size / unit));
  // A normal number's steps are 8..16: 16 carries into the exponent, which is what adding does.
  const std::uint32_t bits = static_cast<std::uint32_t>(exponent + 6) * 8 + steps;
  return static_cast<std::uint8_t>(sign | bits);
}

}  // namespace oriel::ptx_machine
