// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Functions of one number with the bits of kernels/host/detail/lanes.hpp: the same operations in
/// the same order, none fused. Units that include this are built with -fmad=false.
#pragma once

#include <oriel/device/host_device.cuh>

#include <bit>
#include <cstdint>

namespace oriel::detail {

/// exp(x) as fraction * 2^whole, the fraction in [0.7, 1.42].
struct exp_parts {
  float fraction;
  std::uint32_t whole;  ///< two's complement, plus 0x4B40'0000, of which the low 9 bits are 0
};

/// @pre x is in [-87.3, 89], or a NaN
ORIEL_HOST_DEVICE inline exp_parts exp_parts_of(float x) {
  constexpr float shift = 12'582'912.0f;  // 1.5 * 2^23: adding it rounds to an integer.
  const float shifted = x * 1.442'695'04f + shift;
  const float n = shifted - shift;
  const float r = (x - n * 0.693'359'375f) - n * -2.121'944'4e-4f;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = (p * r) * r + r + 1.0f;
  return {p, std::bit_cast<std::uint32_t>(shifted)};
}

/// exp(x) within 2 ulp; 0 below -87.3, +infinity above 88.7, NaN for NaN. See lanes::exp.
ORIEL_HOST_DEVICE inline float exp_unfused(float x) {
  constexpr float low = -87.3f, high = 89.0f;
  const exp_parts y = exp_parts_of(x < low ? low : (x > high ? high : x));
  const auto whole = static_cast<std::int32_t>(y.whole - 0x4B40'0000u);
  const std::int32_t half = whole >> 1;
  const auto power = [](std::int32_t e) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(e + 127) << 23);
  };
  const float scaled = (y.fraction * power(half)) * power(whole - half);
  return x < low ? 0.0f : (x != x ? x : scaled);
}

/// exp_unfused(x), bit for bit: where the result is a normal number, a power of two is one sum of
/// exponents, and there is nothing to clamp. @pre x is in [-80, 80]
ORIEL_HOST_DEVICE inline float exp_unfused_normal(float x) {
  const exp_parts y = exp_parts_of(x);
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(y.fraction) + (y.whole << 23));
}

/// 1 / (1 + exp(-x)).
ORIEL_HOST_DEVICE inline float sigmoid_unfused(float x) {
  return 1.0f / (1.0f + exp_unfused(-x));
}

}  // namespace oriel::detail
