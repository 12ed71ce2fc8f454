// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What sampling's steps work on: logits in the shared memory of blocks, the tokens' order, and
/// what they weigh.
///
/// A cluster, on a device or on the host:
///
///     C::parts         blocks
///     c.each_part(f)   f(group, part, shared, logits) for each block (a device: for its own)
///     c.sync()         a barrier among all; what was written before is seen after
///     c.front()        the shared memory of a block; asked for what all blocks have alike
///
/// of those that load rows,
///
///     c.copy_ahead(to, from)   a thread starts to copy 16 bytes into its block's shared memory
///     c.wait_for_copies()      each thread sees those it has started
///
/// and of those whose blocks send messages, one from each to each, in rounds:
///
///     c.open()                     before the first round
///     c.publish()                  a thread: what its block wrote to device memory before the last
///                                  barrier of the block is seen by who hears what it then sends
///     c.send(shared, part, to, m)  a thread: m, to the block `to`, from its block, which is `part`
///     c.hear(group, shared)        waits for the round's messages and ends it. @returns them: one
///                                  of each block, there until the next round but one is sent
#pragma once

#include "near_math.cuh"
#include "ordered_key.cuh"
#include "sample_shared.hpp"
#include "scalar_math.cuh"
#include "thread_group.cuh"

#include <oriel/kernels/sample.hpp>

#include <limits>

#include <math.h>

namespace oriel::detail {

inline constexpr std::uint32_t last_id = (1u << sample_id_bits) - 1;

/// Greater for the token that comes first: larger logit, then lower id. Of -infinity and of NaN it
/// is less than first_order.
ORIEL_HOST_DEVICE inline std::uint64_t order_of(float logit, std::uint32_t id) {
  return (std::uint64_t{ordered_key(logit)} << sample_id_bits) | (last_id - id);
}
inline constexpr std::uint64_t first_order = std::uint64_t{lowest_key + 1} << sample_id_bits;

/// How many a number has, 1 or more.
ORIEL_HOST_DEVICE inline std::uint32_t bits_of(std::uint64_t number) {
#ifdef __CUDA_ARCH__
  return 64 - static_cast<std::uint32_t>(__clzll(static_cast<long long>(number | 1)));
#else
  return static_cast<std::uint32_t>(std::bit_width(number | 1));
#endif
}

/// The tokens of a cluster: a row's, by id, or a list of some, in the order of their ids.
struct sample_tokens {
  std::uint32_t count;                 ///< of all blocks
  std::uint32_t part_tokens;           ///< of a block
  const std::uint32_t* ids = nullptr;  ///< [count] null: token i has the id i
  std::uint64_t outside_mass = 0;      ///< of tokens that are none of these, but count for top_p
  std::uint64_t outside_spread = 0;    ///< it is at most that much more
  std::uint64_t base = 0;              ///< no order that counts is less
  /// Of what orders are above it; at least sample_id_bits.
  std::uint32_t order_bits = sample_order_bits;

  ORIEL_HOST_DEVICE std::uint32_t first_of(std::uint32_t part) const { return part * part_tokens; }
  ORIEL_HOST_DEVICE std::uint32_t count_of(std::uint32_t part) const {
    const std::uint32_t first = first_of(part);
    return first >= count ? 0 : count - first < part_tokens ? count - first : part_tokens;
  }
  ORIEL_HOST_DEVICE std::uint32_t id_of(std::uint32_t part, std::uint32_t i) const {
    return ids != nullptr ? ids[first_of(part) + i] : first_of(part) + i;
  }
};

inline constexpr float negative_infinity = -std::numeric_limits<float>::infinity();

/// What a logit weighs.
struct sample_scales {
  float largest;
  float inverse_temperature;
  float min_p;

  /// 0 or less, or a NaN.
  ORIEL_HOST_DEVICE float exponent(float logit) const {
    return logit == largest ? 0.0f : (logit - largest) * inverse_temperature;
  }
  /// 0 below min_p.
  ORIEL_HOST_DEVICE std::uint64_t mass(float exponent) const {
    if (!(exponent >= lowest_exponent)) {
      return 0;
    }
    const float w = exp_unfused_normal(exponent);
    return w >= min_p ? mass_of(w) : 0;
  }
  /// The weight, nearly (see mass_bounds); a NaN where the logit is one.
  ORIEL_HOST_DEVICE float near_weight(float logit) const {
    return near_exp2((logit - largest) * inverse_temperature * 1.442'695'04f);
  }

  /// Below it a mass is 0: less than 2^-46, which is no multiple of 2^-44.
  static constexpr float lowest_exponent = -32.0f;
};
ORIEL_HOST_DEVICE inline sample_scales scales_of(const sample_shared& shared,
                                                 const sample_filters& filters,
                                                 float min_p) {
  return {shared.largest, 1.0f / filters.temperature, min_p};
}

/// Whose masses a pass of top_p adds to its bins first: tokens with an exponent of near_exponent or
/// more. Exponents fall with the order, so they come first.
inline constexpr float near_exponent = -8.0f;  // A token of 1 / 2,981 of the first's mass.

/// No token of near_exponent has so little near_weight.
inline constexpr float far_weight = 3.3538e-4f;  // (1 - 2^-12) / 2,981

/// A sum of masses from above and below, from a thread's sums of near weights.
///
/// Against the exponential that masses are made of, which is within 2^-22, a near weight is off by
/// at most 2^-18.4 of itself: its exponent, of at most 32 (lowest_exponent), is rounded once more,
/// and `ex2` is within 2^-22. A thread makes at most 30 additions to a sum, each within 2^-24. 2^-17
/// is enough for both. A mass is rounded to a multiple of 2^-44, below lowest_exponent to none, and
/// a thread's sum is cut off.
struct mass_bounds {
  std::uint64_t low;
  std::uint64_t spread;
};
ORIEL_HOST_DEVICE inline std::uint64_t near_mass(float weights) {
  return static_cast<std::uint64_t>(weights * 0x1p44f);
}
/// @param roundings  how many there were at most: tokens and threads
ORIEL_HOST_DEVICE inline mass_bounds bounds_of(std::uint64_t near_masses, std::uint32_t roundings) {
  const std::uint64_t slack = (near_masses >> 17) + roundings;
  const std::uint64_t low = near_masses > slack ? near_masses - slack : 0;
  return {low, near_masses + slack - low};
}

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
