// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Storage types of weights and KV, and their exact conversions: bf16 and fp8 e4m3.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace oriel {

/// Element type of a tensor in memory or in a checkpoint.
enum class dtype : std::uint8_t {
  f32,   ///< IEEE 754 binary32
  bf16,  ///< upper half of binary32
  e4m3,  ///< 8 bits: sign, 4 exponent (bias 7), 3 mantissa; no infinity (OCP "E4M3FN")
};

/// Bytes of one element.
[[nodiscard]] constexpr std::size_t size_bytes(dtype t) noexcept {
  return t == dtype::f32 ? 4 : t == dtype::bf16 ? 2 : 1;
}

/// "f32", "bf16", "e4m3".
[[nodiscard]] constexpr const char* name_of(dtype t) noexcept {
  return t == dtype::f32 ? "f32" : t == dtype::bf16 ? "bf16" : "e4m3";
}

/// A bf16 bit pattern. No arithmetic: convert, compute in f32, convert back.
enum class bf16 : std::uint16_t {};

/// Exact.
[[nodiscard]] constexpr float to_float(bf16 x) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x) << 16);
}

/// Rounds to nearest, ties to even; a NaN stays a (quiet) NaN.
[[nodiscard]] constexpr bf16 to_bf16(float x) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if ((bits & 0x7FFF'FFFFu) > 0x7F80'0000u) {
    return static_cast<bf16>((bits >> 16) | 0x0040u);
  }
  return static_cast<bf16>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

/// `x` rounded to bf16 and widened again.
[[nodiscard]] constexpr float round_to_bf16(float x) noexcept {
  return to_float(to_bf16(x));
}

/// An e4m3 bit pattern (OCP 8-bit floating point specification, E4M3: max 448, S.1111.111 = NaN).
enum class e4m3 : std::uint8_t {};

/// Exact.
[[nodiscard]] constexpr float to_float(e4m3 x) noexcept {
  const auto bits = static_cast<std::uint32_t>(x);
  const std::uint32_t sign = (bits & 0x80u) << 24, exponent = (bits >> 3) & 15u,
                      mantissa = bits & 7u;
  if (exponent == 15u && mantissa == 7u) {
    return std::bit_cast<float>(sign | 0x7FC0'0000u);
  }
  if (exponent == 0u) {  // Subnormal: mantissa * 2^-9.
    const float magnitude = static_cast<float>(mantissa) * 0x1p-9f;
    return sign != 0u ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 120u) << 23) | (mantissa << 20));
}

/// Rounds to nearest, ties to even, and stops at +-448; a NaN becomes 0x7F.
[[nodiscard]] constexpr e4m3 to_e4m3(float x) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = (bits >> 24) & 0x80u, magnitude = bits & 0x7FFF'FFFFu;
  if (magnitude > 0x7F80'0000u) {
    return static_cast<e4m3>(0x7Fu);
  }
  if (magnitude >= std::bit_cast<std::uint32_t>(448.0f)) {
    return static_cast<e4m3>(sign | 0x7Eu);
  }
  if (magnitude < std::bit_cast<std::uint32_t>(0x1p-6f)) {
    // Subnormal there: 2^14 + x has an ulp of 2^-9, so the sum rounds to a multiple of it.
    const float shifted = 16384.0f + std::bit_cast<float>(magnitude);
    return static_cast<e4m3>(sign | (std::bit_cast<std::uint32_t>(shifted) & 0xFu));
  }
  const std::uint32_t rounded = (magnitude + 0x7'FFFFu + ((magnitude >> 20) & 1u)) >> 20;
  return static_cast<e4m3>(sign | (rounded - (120u << 3)));
}

}  // namespace oriel
