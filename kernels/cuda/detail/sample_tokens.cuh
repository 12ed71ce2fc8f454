// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What sampling's steps work on: tokens as keys in the shared memory of blocks, in their order,
/// and what they weigh.
///
/// A cluster, on a device or on the host:
///
///     C::parts         blocks
///     c.each_part(f)   f(group, part, shared, keys) for each block (a device: for its own)
///     c.sync()         a barrier among all; what was written before is seen after
///     c.front()        the shared memory of a block; asked for what all blocks have alike
///
/// and, of those that load rows,
///
///     c.copy_ahead(to, from)   a thread starts to copy 16 bytes into its block's shared memory
///     c.wait_for_copies()      each thread sees those it has started
#pragma once

#include "ordered_key.cuh"
#include "sample_shared.hpp"
#include "scalar_math.cuh"
#include "thread_group.cuh"

#include <oriel/kernels/sample.hpp>

#include <math.h>

namespace oriel::detail {

/// Greater for the token that comes first: larger key, then lower id. Of -infinity and of NaN it is
/// less than first_order.
ORIEL_HOST_DEVICE inline std::uint64_t order_of(std::uint32_t key, std::uint32_t id) {
  return (std::uint64_t{key} << sample_id_bits) | ((1u << sample_id_bits) - 1 - id);
}
inline constexpr std::uint64_t first_order = std::uint64_t{lowest_key + 1} << sample_id_bits;

/// The tokens of a cluster: a row's, by id, or a list of some, in the order of their ids.
struct sample_tokens {
  std::uint32_t count;                 ///< of all blocks
  std::uint32_t part_tokens;           ///< of a block
  const std::uint32_t* ids = nullptr;  ///< [count] null: token i has the id i
  std::uint64_t outside_mass = 0;      ///< of tokens that are none of these, but count for top_p

  ORIEL_HOST_DEVICE std::uint32_t first_of(std::uint32_t part) const { return part * part_tokens; }
  ORIEL_HOST_DEVICE std::uint32_t count_of(std::uint32_t part) const {
    const std::uint32_t first = first_of(part);
    return first >= count ? 0 : count - first < part_tokens ? count - first : part_tokens;
  }
  ORIEL_HOST_DEVICE std::uint32_t id_of(std::uint32_t part, std::uint32_t i) const {
    return ids != nullptr ? ids[first_of(part) + i] : first_of(part) + i;
  }
};

/// What a key weighs.
struct sample_scales {
  float largest;
  float inverse_temperature;
  float min_p;

  /// 0 or less, or a NaN.
  ORIEL_HOST_DEVICE float exponent(std::uint32_t key) const {
    const float v = value_of_key(key);
    return v == largest ? 0.0f : (v - largest) * inverse_temperature;
  }
  /// The same where that is below far_exponent; elsewhere it is not, or a NaN.
  ORIEL_HOST_DEVICE float quick_exponent(std::uint32_t key) const {
    return (value_of_key(key) - largest) * inverse_temperature;
  }
  /// 0 below min_p.
  ORIEL_HOST_DEVICE std::uint64_t mass(float exponent) const {
    if (!(exponent >= -32.0f)) {  // Below 2^-46, which is no multiple of 2^-44; or a NaN.
      return 0;
    }
    const float w = exp_unfused_normal(exponent);
    return w >= min_p ? mass_of(w) : 0;
  }
};
ORIEL_HOST_DEVICE inline sample_scales scales_of(const sample_shared& shared,
                                                 const sample_filters& filters,
                                                 float min_p) {
  return {value_of_key(shared.largest_key), 1.0f / filters.temperature, min_p};
}

/// Below it masses are less than 2^22, and far_mass is sample_scales::mass without a min_p: a sum
/// with an ulp of 2^-44 rounds the weight, and the low bits are its mass.
inline constexpr float far_exponent = -16.0f;
ORIEL_HOST_DEVICE inline std::uint32_t far_mass(float exponent) {
  constexpr float ulp_44 = 0x1.8p-21f;
  const float w = exp_unfused_normal(::fmaxf(exponent, -80.0f));
  return std::bit_cast<std::uint32_t>(ulp_44 + w) - std::bit_cast<std::uint32_t>(ulp_44);
}

/// Whose masses a pass of top_p adds to its bins first: tokens with an exponent of near_exponent or
/// more. Exponents fall with the order, so they come first.
inline constexpr float near_exponent = -8.0f;  // A token of 1 / 2,981 of the first's mass.

/// What top_p's prefix must hold of `total`.
ORIEL_HOST_DEVICE inline std::uint64_t top_p_target(const sample_filters& filters,
                                                    std::uint64_t total) {
  const auto target =
      static_cast<std::uint64_t>(double{filters.top_p} * static_cast<double>(total));
  return target > 0 ? target : 1;  // The first token is always kept.
}

ORIEL_HOST_DEVICE inline std::uint64_t sum_of(const std::uint64_t (&warp_value)[sample_warps]) {
  std::uint64_t sum = 0;
  for (const std::uint64_t value : warp_value) {
    sum += value;
  }
  return sum;
}

}  // namespace oriel::detail
