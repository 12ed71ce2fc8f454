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

/// Of a row's first tokens: the largest top_k that they are listed for, how many of them a warp may
/// find, and how many a list may have. (There is no more room beside the largest vocabulary.)
inline constexpr std::uint32_t sample_list_top_k = 256;
inline constexpr std::uint32_t sample_warp_list = 128;
inline constexpr std::uint32_t sample_list_max = 1'792;
struct sample_listed {
  std::uint32_t key;
  std::uint32_t id;
};

/// What a block tells the others.
struct sample_slot {
  sample_mass_pair mass[sample_pairs];
  std::uint32_t count[sample_pairs];  ///< 16 bits each, the lower bin's low
  sample_listed list[sample_warps * sample_warp_list];
  std::uint64_t value;
  std::uint64_t rest;  ///< mass that no bin has, of tokens that are not listed
  std::uint32_t listed;
  std::uint32_t bound;         ///< keys of top_k tokens are no less
  std::uint32_t bound_of_all;  ///< so for the least of all blocks'
};
static_assert(sample_part_tokens(sample_vocabulary_max) < 1u << 16);

/// Of a cluster: two sets in turn, and one of the block that finishes a row alone.
inline constexpr std::uint32_t sample_slots = 2 * sample_parts + 1;

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
  std::uint64_t random;    ///< that decides the row
  std::uint64_t warp_rest[sample_warps];
  std::uint64_t list_outside;                  ///< mass of tokens that are not listed
  std::uint32_t warp_listed[sample_warps];     ///< tokens that a warp found, even with no room
  std::uint32_t list_begin[sample_parts + 1];  ///< of a block's tokens in the list
  std::uint32_t is_listed;
  std::uint32_t bound;  ///< the least key that is listed for top_k
  std::uint32_t largest_key;
  std::uint32_t first_id;  ///< the lowest with largest_key
  std::uint32_t range_begin;
  std::uint32_t range_end;
  std::uint32_t limb[sample_limbs][sample_bins];  ///< of bins' masses, the lowest first
  union {
    std::uint32_t count[sample_bins];
    std::uint16_t found[sample_warps][sample_warp_list];  ///< tokens of the part, to be listed
  };
  std::uint32_t list_key[sample_list_max];
  std::uint32_t list_id[sample_list_max];
};

}  // namespace oriel::detail
