// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What the attention driver (attention.cpp) hands to the units built per instruction set.
///
/// Keys are cut into splits of `split_tokens` at absolute multiples. A split of a row gives a
/// partial (max, sum, out); partials are folded into the row's state in ascending order. Both steps
/// are functions of the row alone, so any schedule of them gives the same bits.
#pragma once

#include <oriel/kernels/attention.hpp>

#include <cstddef>
#include <cstdint>

namespace oriel::host::detail {

/// Keys of one split. Part of the arithmetic: changing it changes bits.
inline constexpr std::uint32_t split_tokens = 512;
inline constexpr std::uint32_t split_tiles = split_tokens / kv_tile_tokens;

/// Rows (tokens x query heads of one KV head) that a block aims at: enough to read K and V once
/// for all of them, few enough for scores and queries to stay in the inner caches.
inline constexpr std::uint32_t block_rows_target = 64;

/// Floats from one row of scores to the next; the padding spreads rows over cache sets.
inline constexpr std::size_t score_stride = split_tokens + kv_tile_tokens;

/// Consecutive tokens of one sequence x the query heads of one KV head.
/// Row r is token r / group, query head r % group of the KV head.
struct attention_block {
  const attention_shape* shape;
  const paged_sequence* sequence;
  const std::byte* k;  ///< K of this KV head in page 0
  const std::byte* v;  ///< V of this KV head in page 0
  std::size_t page_stride_bytes;
  const float* q;                ///< of row 0
  std::size_t q_stride;          ///< elements from one token's queries to the next
  float* out;                    ///< of row 0
  const float* sinks;            ///< [group], or null
  float scale_log2e;             ///< attention_args::scale * log2(e): scores are powers of two
  std::uint32_t first_position;  ///< of token 0
  std::uint32_t tokens;
  std::uint32_t group;

  [[nodiscard]] std::uint32_t rows() const noexcept { return tokens * group; }
};

/// What a worker will probably compute next, to be fetched meanwhile. Speed, not arithmetic.
struct attention_ahead {
  const attention_block* block;  ///< null: nothing
  std::uint32_t split;           ///< one that some row of `block` sees
};

/// Keys [first, last) counted from the start of a split. Empty if first >= last.
struct key_range {
  std::uint32_t first;
  std::uint32_t last;
};

/// Softmax numerators of some rows, relative to their largest score so far.
struct attention_rows {
  float* max;  ///< [rows] largest score, times scale * log2(e)
  float* sum;  ///< [rows] of 2^(score - max)
  float* out;  ///< [rows, out_stride(shape)] sum of 2^(score - max) * v
};

/// Work space of one worker, for one block.
struct attention_scratch {
  float* queries;          ///< [rows, query_stride(shape)] packed per register tile
  float* scores;           ///< [rows, score_stride] scores, then probabilities in place
  attention_rows partial;  ///< of the current split
  attention_rows state;    ///< of all splits so far
};

[[nodiscard]] constexpr std::size_t query_stride(const attention_shape& s) noexcept {
  return (s.head_dim_qk + 1u) / 2u * 2u;
}

[[nodiscard]] constexpr std::size_t out_stride(const attention_shape& s) noexcept {
  return (s.head_dim_vo + 15u) / 16u * 16u;
}

/// First key that the query at `position` of the block's sequence sees.
[[nodiscard]] constexpr std::uint32_t first_key(const attention_block& b,
                                                std::uint32_t position) noexcept {
  const std::uint32_t window = b.shape->window_tokens, begin = b.sequence->first_key;
  const std::uint32_t first = window != 0 && position >= window ? position + 1 - window : 0;
  return first > begin ? first : begin;
}

/// The keys of `split` that the query at `position` of the block's sequence sees.
[[nodiscard]] constexpr key_range keys_in_split(const attention_block& b,
                                                std::uint32_t position,
                                                std::uint32_t split) noexcept {
  const std::uint32_t base = split * split_tokens, first = first_key(b, position);
  const std::uint32_t end = position + 1 < base ? base : position + 1;
  return {first > base ? first - base : 0u, end - base < split_tokens ? end - base : split_tokens};
}

/// The steps of attention on one path and storage type.
struct attention_steps {
  /// Copies and rounds the block's queries into scratch.queries.
  void (*pack_queries)(const attention_block&, const attention_scratch&) noexcept;
  /// state = nothing seen but the sink.
  void (*begin)(const attention_block&, const attention_rows& state) noexcept;
  /// partial = the keys of `split`. Rows that see none of them are left alone.
  void (*split)(const attention_block&,
                std::uint32_t split,
                const attention_ahead& next,
                const attention_scratch&,
                const attention_rows& partial) noexcept;
  /// state = state + partial.
  void (*fold)(const attention_block&,
               std::uint32_t split,
               const attention_rows& partial,
               const attention_rows& state) noexcept;
  /// block.out = state.
  void (*finish)(const attention_block&, const attention_rows& state) noexcept;
};

// One unit each: attention_<path>.cpp. Entered only on a CPU that has the path.
[[nodiscard]] attention_steps attention_steps_scalar(dtype kv) noexcept;
[[nodiscard]] attention_steps attention_steps_avx2(dtype kv) noexcept;
[[nodiscard]] attention_steps attention_steps_avx512(dtype kv) noexcept;
[[nodiscard]] attention_steps attention_steps_avx512_bf16(dtype kv) noexcept;

}  // namespace oriel::host::detail
