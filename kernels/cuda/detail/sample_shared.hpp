// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Sizes of sampling's blocks, what a block keeps in shared memory, and what it tells the others
/// of its cluster. For the plan and the agent (sample_agent.cuh).
#pragma once

#include <oriel/kernels/sample.hpp>

#include <cstdint>

namespace oriel::detail {

inline constexpr std::uint32_t sample_parts = 8;  // blocks of a cluster
inline constexpr std::uint32_t sample_threads = 512;
inline constexpr std::uint32_t sample_warps = sample_threads / 32;
inline constexpr std::uint32_t sample_bin_bits = 10;
inline constexpr std::uint32_t sample_bins = 1u << sample_bin_bits;
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
  float value;
  std::uint32_t id;
};

/// What a block tells the others at length, in device memory.
struct sample_slot {
  sample_mass_pair mass[sample_pairs];
  std::uint32_t count[sample_pairs];  ///< 16 bits each, the lower bin's low
  sample_listed list[sample_warps * sample_warp_list];
  std::uint64_t value;
};
static_assert(sample_part_tokens(sample_vocabulary_max) < 1u << 16);

/// Of a cluster: two sets in turn.
inline constexpr std::uint32_t sample_slots = 2 * sample_parts;

/// What a block tells the others in few words, into their shared memory.
struct alignas(16) sample_message {
  std::uint64_t first;
  std::uint64_t second;
};

/// What a warp found of the largest token.
struct alignas(16) sample_warp_largest {
  std::uint32_t key;
  std::uint32_t inverted_id;
  std::uint32_t not_in_block;  ///< inverted: a key that top_k / 16 of its threads reach
  std::uint32_t in_all;        ///< one that top_k / 128 do
};

/// Shared memory of a block, before its part of the row.
struct alignas(16) sample_shared {
  sample_message inbox[2][sample_parts];  ///< from each block; two sets in turn
  std::uint64_t inbox_barrier[2];         ///< of a device: mbarriers
  sample_warp_largest warp_largest[sample_warps];
  std::uint64_t warp_value[sample_warps];
  std::uint64_t cut;            ///< the least order (see order_of) that is kept
  std::uint64_t prefix;         ///< of the orders that select looks at: their upper bits
  std::uint64_t target;         ///< what the prefix must still hold
  std::uint64_t next_target;    ///< of the next bits
  std::uint64_t target_spread;  ///< of which it may be that much more
  std::uint64_t total;
  std::uint64_t left;  ///< mass to step over from range_begin on
  std::uint32_t is_found;
  std::uint32_t is_short;        ///< the masses added to bins so far do not reach the target
  std::uint32_t is_unsure;       ///< the cut depends on the spread
  std::uint32_t unsure_rows;     ///< so far, in the first block
  std::uint32_t may_be_unsure;   ///< some row may be, in all blocks
  std::uint32_t is_second_time;  ///< of the rows that were unsure, with all masses
  sample_filters filters;        ///< of the row
  std::uint64_t random;          ///< that decides it
  std::uint64_t warp_rest[sample_warps];
  std::uint64_t list_outside;                  ///< mass of tokens that are not listed, or less
  std::uint64_t list_outside_spread;           ///< it is at most that much more
  std::uint32_t warp_listed[sample_warps];     ///< tokens that a warp found, even with no room
  std::uint32_t list_begin[sample_parts + 1];  ///< of a block's tokens in the list
  std::uint32_t is_listed;
  float bound;             ///< the least logit that is listed, or a lower one
  float largest;           ///< -infinity where the row has no number above it
  std::uint32_t first_id;  ///< the lowest with `largest`; of greedy rows
  std::uint32_t range_begin;
  std::uint32_t range_end;
  std::uint32_t limb[sample_limbs][sample_bins];  ///< of bins' masses, the lowest first
  union {
    std::uint32_t count[sample_bins];
    std::uint16_t found[sample_warps][sample_warp_list];  ///< tokens of the part, to be listed
  };
  float list_value[sample_list_max];
  std::uint32_t list_id[sample_list_max];
};

}  // namespace oriel::detail
