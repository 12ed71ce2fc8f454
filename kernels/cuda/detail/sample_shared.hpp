// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Sizes of sampling's blocks, what a block keeps in shared memory, and what it tells the others
/// of its cluster. For the plan and the agent (sample_agent.cuh).
#pragma once

#include <cstdint>

namespace oriel::detail {

inline constexpr std::uint32_t sample_parts = 8;  // blocks of a cluster
inline constexpr std::uint32_t sample_threads = 512;
inline constexpr std::uint32_t sample_warps = sample_threads / 32;
/// Accesses of 16 bytes that a thread has under way: 10 of them are its share of a usual row.
inline constexpr std::uint32_t sample_batch = 5;
inline constexpr std::uint32_t sample_bins = 1'024;
inline constexpr std::uint32_t sample_id_bits = 19;
inline constexpr std::uint32_t sample_order_bits = 32 + sample_id_bits;
inline constexpr std::uint32_t sample_vocabulary_max = 400'000;

/// Tokens of a block: an eighth of a row, a multiple of 8.
[[nodiscard]] constexpr std::uint32_t sample_part_tokens(std::uint32_t vocabulary) noexcept {
  const std::uint32_t eighth = (vocabulary - 1) / sample_parts + 1;
  return (eighth + 7) / 8 * 8;
}

/// Shared memory adds 32 bits by itself, so a bin's mass is summed in limbs of 16 bits of each
/// token's. A mass is at most 2^44 (three limbs), and a limb's sum cannot overflow:
inline constexpr std::uint32_t sample_limbs = 3;
inline constexpr std::uint32_t sample_limb_bits = 16;
static_assert(std::uint64_t{sample_part_tokens(sample_vocabulary_max)} *
                  ((1u << sample_limb_bits) - 1) <=
              UINT32_MAX);

/// Two neighbouring bins' masses. A thread reads and writes two bins.
struct alignas(16) sample_mass_pair {
  std::uint64_t of[2];
};
inline constexpr std::uint32_t sample_pairs = sample_bins / 2;
static_assert(sample_pairs == sample_threads);

/// What a block tells the others.
struct sample_slot {
  sample_mass_pair mass[sample_pairs];
  std::uint32_t count[sample_pairs];  ///< 16 bits each, the lower bin's low
  std::uint64_t value;
};
static_assert(sample_part_tokens(sample_vocabulary_max) < 1u << 16);

/// Shared memory of a block, before its keys.
struct alignas(16) sample_shared {
  std::uint64_t warp_value[sample_warps];
  std::uint64_t cut;     ///< the least order (see order_of) that is kept
  std::uint64_t prefix;  ///< of the orders that select looks at: their upper bits
  std::uint64_t target;  ///< what the prefix must still hold
  std::uint64_t total;
  std::uint64_t above;  ///< held by the bins before `bin`
  std::uint64_t left;   ///< mass to step over from range_begin on
  std::uint32_t bin;
  std::uint32_t bin_count;  ///< tokens of `bin`
  std::uint32_t is_found;
  std::uint32_t is_short;  ///< the masses added to bins so far do not reach the target
  std::uint32_t largest_key;
  std::uint32_t first_id;  ///< the lowest with largest_key
  std::uint32_t range_begin;
  std::uint32_t range_end;
  std::uint32_t limb[sample_limbs][sample_bins];  ///< of bins' masses, the lowest first
  std::uint32_t count[sample_bins];
};

}  // namespace oriel::detail
