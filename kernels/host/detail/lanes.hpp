// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Vectors of f32 lanes as wide as the unit's registers: 16 with AVX-512, 8 with AVX, else 4.
/// Only additions, multiplications, divisions, comparisons and bit operations, never fused, so a
/// lane's bits do not depend on the width; sums over lanes are the callers' to fix (see
/// sum_of_lanes).
///
/// Everything is in an unnamed namespace on purpose: this header is compiled once per instruction
/// set, and a function shared between those units would be one the linker chose.
#pragma once

#include <cstddef>
#include <cstdint>

namespace {
namespace lanes {

#define ORIEL_INLINE [[maybe_unused]] [[gnu::always_inline]] inline

#if defined(__AVX512F__)
inline constexpr std::uint32_t width = 16;
#elif defined(__AVX__)
inline constexpr std::uint32_t width = 8;
#else
inline constexpr std::uint32_t width = 4;
#endif

/// Lanes of a sum whose order is fixed, whatever the width: element i belongs to lane i % 64.
inline constexpr std::uint32_t sum_lanes = 64;

using f32 = float __attribute__((vector_size(4 * width)));
using i32 = std::int32_t __attribute__((vector_size(4 * width)));
using u32 = std::uint32_t __attribute__((vector_size(4 * width)));
using f32_half = float __attribute__((vector_size(2 * width)));
using f64_half = double __attribute__((vector_size(4 * width)));
using u64_half = std::uint64_t __attribute__((vector_size(4 * width)));

inline constexpr float infinity = __builtin_inff();

ORIEL_INLINE f32 splat(float x) {
  return f32{} + x;
}

ORIEL_INLINE f32 load(const float* p) {
  f32 v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

ORIEL_INLINE void store(float* p, f32 v) {
  __builtin_memcpy(p, &v, sizeof v);
}

/// The first n < width lanes from memory, the others `fill`.
ORIEL_INLINE f32 load_first(const float* p, std::uint32_t n, float fill) {
  f32 v = splat(fill);
  __builtin_memcpy(&v, p, n * sizeof(float));
  return v;
}

ORIEL_INLINE void store_first(float* p, f32 v, std::uint32_t n) {
  __builtin_memcpy(p, &v, n * sizeof(float));
}

ORIEL_INLINE u32 bits_of(f32 v) {
  u32 b;
  __builtin_memcpy(&b, &v, sizeof b);
  return b;
}

ORIEL_INLINE f32 floats_of(u32 b) {
  f32 v;
  __builtin_memcpy(&v, &b, sizeof v);
  return v;
}

/// Calls `f(offset, lanes)` for each `width` of n elements; lanes < width in the last call only.
/// `f` must be inlined.
template <class F>
ORIEL_INLINE void for_lanes(std::uint32_t n, F&& f) {
  std::uint32_t i = 0;
  for (; i + width <= n; i += width) {
    f(i, width);
  }
  if (i < n) {
    f(i, n - i);
  }
}

/// As load_first, but `lanes` may be `width` (the usual case, and then one plain load).
ORIEL_INLINE f32 load_lanes(const float* p, std::uint32_t lanes, float fill = 0.0f) {
  return lanes == width ? load(p) : load_first(p, lanes, fill);
}

ORIEL_INLINE void store_lanes(float* p, f32 v, std::uint32_t lanes) {
  if (lanes == width) {
    store(p, v);
  } else {
    store_first(p, v, lanes);
  }
}

/// Rounds each lane to bf16 (nearest, ties to even; NaN stays NaN) and widens it again.
ORIEL_INLINE f32 round_to_bf16(f32 v) {
  const u32 b = bits_of(v);
  const u32 rounded = (b + 0x7FFFu + ((b >> 16) & 1u)) & 0xFFFF'0000u;
  const u32 quiet = (b | 0x0040'0000u) & 0xFFFF'0000u;
  return floats_of((b & 0x7FFF'FFFFu) > 0x7F80'0000u ? quiet : rounded);
}

template <bool Bf16>
ORIEL_INLINE f32 round_activation(f32 v) {
  if constexpr (Bf16) {
    return round_to_bf16(v);
  } else {
    return v;
  }
}

/// exp(x) within 2 ulp; 0 below -87.3 (no subnormal results), +infinity above 88.7, NaN for NaN.
///
/// x = n * ln 2 + r with |r| <= 0.35; e^r by its Taylor polynomial of degree 7 (error 1e-9), times
/// 2^n in two factors, because 2^128 is no float.
ORIEL_INLINE f32 exp(f32 x) {
  const f32 low = splat(-87.3f), high = splat(89.0f);
  const f32 clamped = x < low ? low : (x > high ? high : x);
  const f32 shift = splat(12'582'912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const f32 shifted = clamped * 1.442'695'04f + shift;
  const f32 n = shifted - shift;
  // ln 2 in two parts; the first has 9 trailing zero bits, so n * part is exact.
  const f32 r = (clamped - n * 0.693'359'375f) - n * -2.121'944'4e-4f;
  f32 p = splat(1.0f / 5040.0f);
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = (p * r) * r + r + 1.0f;
  const i32 whole = (i32)(bits_of(shifted) - 0x4B40'0000u);
  const i32 half = whole >> 1;
  const f32 scale1 = floats_of((u32)(half + 127) << 23);
  const f32 scale2 = floats_of((u32)(whole - half + 127) << 23);
  const f32 y = (p * scale1) * scale2;
  return x < low ? f32{} : (x != x ? x : y);
}

/// 1 / (1 + exp(-x)).
ORIEL_INLINE f32 sigmoid(f32 x) {
  return 1.0f / (1.0f + exp(-x));
}

/// Sum of sum_lanes partial sums by halves: 32 + 32, 16 + 16, ... Overwrites them.
ORIEL_INLINE float sum_of_lanes(float* partial) {
  for (std::uint32_t half = sum_lanes / 2; half != 0; half /= 2) {
    for (std::uint32_t i = 0; i < half; ++i) {
      partial[i] += partial[i + half];
    }
  }
  return partial[0];
}

/// The largest lane; lanes are not NaN.
ORIEL_INLINE float largest(f32 v) {
  float lane[width];
  __builtin_memcpy(lane, &v, sizeof lane);
  for (std::uint32_t half = width / 2; half != 0; half /= 2) {
    for (std::uint32_t i = 0; i < half; ++i) {
      lane[i] = lane[i] < lane[i + half] ? lane[i + half] : lane[i];
    }
  }
  return lane[0];
}

}  // namespace lanes
}  // namespace
