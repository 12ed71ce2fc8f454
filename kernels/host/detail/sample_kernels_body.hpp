// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The sampling passes, written once over lanes; included by one unit per instruction set.
#pragma once

#include "lanes.hpp"
#include "sample_kernels.hpp"

namespace {

using oriel::detail::sample_block;

/// mass_of each lane, added pairwise: integers, so the order of a sum is free.
ORIEL_INLINE lanes::u64_half mass_of_lanes(lanes::f32 weights) {
  lanes::f32_half half[2];
  __builtin_memcpy(half, &weights, sizeof weights);
  lanes::u64_half sum = {};
  for (const lanes::f32_half h : half) {
    const lanes::f64_half shifted = __builtin_convertvector(h, lanes::f64_half) + 256.0;
    lanes::u64_half b;
    __builtin_memcpy(&b, &shifted, sizeof b);
    sum += b - 0x4070'0000'0000'0000u;  // The bits of 256.0.
  }
  return sum;
}

ORIEL_INLINE std::uint64_t sum_of(lanes::u64_half v) {
  std::uint64_t sum = 0;
  for (std::uint32_t lane = 0; lane < lanes::width / 2; ++lane) {
    sum += v[lane];
  }
  return sum;
}

float block_maxima(const float* logits, std::uint32_t n, float* maxima) {
  float largest = -lanes::infinity;
  for (std::uint32_t first = 0; first < n; first += sample_block) {
    const std::uint32_t count = n - first < sample_block ? n - first : sample_block;
    lanes::f32 best = lanes::splat(-lanes::infinity);
    lanes::for_lanes(count, [&](std::uint32_t i, std::uint32_t lane_count) {
      const lanes::f32 v = lanes::load_lanes(logits + first + i, lane_count, -lanes::infinity);
      best = v > best ? v : best;  // False for NaN.
    });
    const float of_block = lanes::largest(best);
    maxima[first / sample_block] = of_block;
    largest = of_block > largest ? of_block : largest;
  }
  return largest;
}

std::uint64_t weigh(const float* logits,
                    std::uint32_t n,
                    float largest,
                    float inverse_temperature,
                    float* weights) {
  lanes::u64_half mass = {};
  lanes::for_lanes(n, [&](std::uint32_t i, std::uint32_t count) {
    const lanes::f32 v = lanes::load_lanes(logits + i, count, -lanes::infinity);
    // The comparison first: infinity - infinity, and 0 * infinity at a tiny temperature, are NaN.
    const lanes::f32 z = v == largest ? lanes::f32{} : (v - largest) * inverse_temperature;
    const lanes::f32 w = lanes::exp(z);
    const lanes::f32 weight = w == w ? w : lanes::f32{};
    lanes::store_lanes(weights + i, weight, count);
    mass += mass_of_lanes(weight);
  });
  return sum_of(mass);
}

std::uint64_t mass(const float* weights, std::uint32_t n) {
  lanes::u64_half sum = {};
  lanes::for_lanes(n, [&](std::uint32_t i, std::uint32_t count) {
    sum += mass_of_lanes(lanes::load_lanes(weights + i, count));
  });
  return sum_of(sum);
}

inline constexpr oriel::detail::sample_kernels this_isa = {block_maxima, weigh, mass};

}  // namespace
