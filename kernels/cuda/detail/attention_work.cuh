// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What the blocks of the attention kernel work on, computed from the sequences in device memory.
///
///     tile     64 keys at an absolute multiple of 64
///     split    1,024 keys at an absolute multiple of 1,024: where a row's sum is cut, whatever the
///              batch (docs/arithmetic.md)
///     rows     64 a warpgroup: tokens x query heads of one KV head, the heads of a token together
///     block    the rows of all warpgroups of a thread block; they share tiles of K and V
///     item     a block of one sequence and KV head, with all its splits or, where the plan cuts,
///              with one of them
///
/// Items of a sequence are numbered by as many KV heads as the L2 cache keeps, then block of rows,
/// last rows first, then split, then KV head: the longest begin first, and a round of them, one to
/// a thread block, has nearly equal ones, which read the same keys at about the same time. Thread
/// block b of B takes items b, B + b, 2 B + b, ... Where one sequence has all items every other
/// round is dealt out backwards: else low b would have the longest of each round.
#pragma once

#include "items.cuh"

#include <oriel/device/host_device.cuh>
#include <oriel/kernels/attention.hpp>

namespace oriel::detail {

inline constexpr std::uint32_t tile_keys = 64;
inline constexpr std::uint32_t split_keys = 1024;

/// What a split's keys weigh for a row and head.
struct alignas(8) split_weight {
  float largest;  ///< score times scale x log2(e); -inf: the row sees nothing of it
  float sum;      ///< of weights relative to it
};

/// Where a split's share of a row goes until the merge, if the row has several. Row r of sequence s
/// has slot s * sequence_rows_max + r: sequences that are another call's take no room for their
/// rows.
struct attention_partials {
  float* out;                 ///< [slots, q_heads, splits_max, head_dim_vo]
  split_weight* weights;      ///< [slots, q_heads, splits_max]
  std::uint32_t* batch_rows;  ///< [slots]: which row of the batch it is
};

/// All that a kernel is told.
struct attention_call {
  attention_shape shape;
  attention_args args;  ///< its q and out are null where those below are not
  const bf16* q_bf16;   ///< null with KV in f32
  bf16* out_bf16;
  attention_partials partials;
  std::uint32_t group;            ///< query heads of a KV head
  std::uint32_t tokens_per_tile;  ///< of a warpgroup: 64 / group
  std::uint32_t warpgroups;       ///< that share a block
  std::uint32_t splits_max;       ///< 0: an item has all splits of its block
  /// Sequences with fewer or more rows are not this call's.
  std::uint32_t sequence_rows_min, sequence_rows_max;
};

struct attention_work {
  const paged_sequence* sequence;
  std::uint32_t kv_head;
  std::uint32_t token;      ///< first of the block, in its sequence
  std::uint32_t tokens;     ///< of the block
  std::uint32_t batch_row;  ///< of the first token
  std::uint32_t position;   ///< of the first token
  std::uint32_t first_key;  ///< of the sequence; kept, since each tile asks for it
  std::uint32_t key_begin;  ///< some row of the block sees it in this item
  std::uint32_t key_end;    ///< one past the last such key; <= key_begin: nothing to do

  [[nodiscard]] ORIEL_HOST_DEVICE bool is_empty() const { return key_end <= key_begin; }
  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t first_tile() const { return key_begin / tile_keys; }
  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t last_tile() const {  // Exclusive.
    return (key_end - 1) / tile_keys + 1;
  }
};

/// Keys [begin, end) of a tile of 64 that are there: some are.
struct tile_part {
  std::uint32_t begin, end;
  [[nodiscard]] ORIEL_HOST_DEVICE bool has(std::uint32_t key) const {
    return key >= begin && key < end;
  }
  [[nodiscard]] ORIEL_HOST_DEVICE bool is_whole() const { return begin == 0 && end == tile_keys; }
  /// A bit for each key.
  [[nodiscard]] ORIEL_HOST_DEVICE std::uint64_t keys() const {
    return (~std::uint64_t{0} << begin) & (~std::uint64_t{0} >> (tile_keys - end));
  }
};
[[nodiscard]] ORIEL_HOST_DEVICE inline tile_part seen_part(const attention_work& work,
                                                           std::uint32_t tile) {
  const std::uint32_t begin = tile * tile_keys;
  const std::uint32_t first = work.key_begin < begin ? begin : work.key_begin;
  const std::uint32_t end = work.key_end < begin + tile_keys ? work.key_end : begin + tile_keys;
  return {first - begin, end - begin};
}

/// The first key that a row at `position` sees. `first_key`: of its sequence.
[[nodiscard]] ORIEL_HOST_DEVICE inline std::uint32_t first_seen(std::uint32_t window_tokens,
                                                                std::uint32_t first_key,
                                                                std::uint32_t position) {
  const std::uint32_t first =
      window_tokens != 0 && position >= window_tokens ? position + 1 - window_tokens : 0;
  return first < first_key ? first_key : first;
}

[[nodiscard]] ORIEL_HOST_DEVICE inline std::uint32_t row_blocks_of(const attention_call& call,
                                                                   const paged_sequence& sequence) {
  const std::uint32_t tokens = call.tokens_per_tile * call.warpgroups;
  return (sequence.rows + tokens - 1) / tokens;
}

/// Splits that some row of the sequence sees. @pre sequence.rows != 0
[[nodiscard]] ORIEL_HOST_DEVICE inline std::uint32_t splits_of(const attention_call& call,
                                                               const paged_sequence& sequence) {
  const std::uint32_t first = sequence.first_position, last = first + sequence.rows - 1;
  const std::uint32_t key = first_seen(call.shape.window_tokens, sequence.first_key, first);
  return last / split_keys - key / split_keys + 1;
}

/// Are the sequence's rows this call's to compute? It has some, then.
[[nodiscard]] ORIEL_HOST_DEVICE inline bool is_served(const attention_call& call,
                                                      const paged_sequence& sequence) {
  return sequence.rows >= call.sequence_rows_min && sequence.rows <= call.sequence_rows_max;
}

[[nodiscard]] ORIEL_HOST_DEVICE inline std::uint32_t items_of(const attention_call& call,
                                                              const paged_sequence& sequence) {
  if (!is_served(call, sequence)) {
    return 0;
  }
  return row_blocks_of(call, sequence) * call.shape.kv_heads *
         (call.splits_max != 0 ? splits_of(call, sequence) : 1);
}

/// KV heads whose items are dealt out together: as many as divide all, by halves, and whose keys
/// fit half of an H200's L2 cache. Rows of a window share few keys.
[[nodiscard]] ORIEL_HOST_DEVICE inline std::uint32_t heads_together(
    const attention_call& call, const paged_sequence& sequence) {
  constexpr std::uint64_t cache_bytes = 32u << 20;
  const attention_shape& shape = call.shape;
  const std::uint64_t keys = sequence.first_position + sequence.rows - sequence.first_key;
  const std::uint64_t bytes = keys * (shape.head_dim_qk + shape.head_dim_vo) * size_bytes(shape.kv);
  std::uint32_t heads = shape.kv_heads;
  while (shape.window_tokens == 0 && heads % 2 == 0 && heads * bytes > cache_bytes) {
    heads /= 2;
  }
  return heads;
}

/// Item `index` of a sequence whose first row is row `batch_row` of the batch.
[[nodiscard]] ORIEL_HOST_DEVICE inline attention_work work_of(const attention_call& call,
                                                              const paged_sequence& sequence,
                                                              std::uint32_t batch_row,
                                                              std::uint32_t index) {
  const std::uint32_t blocks = row_blocks_of(call, sequence), window = call.shape.window_tokens;
  const std::uint32_t splits = call.splits_max != 0 ? splits_of(call, sequence) : 1;
  const std::uint32_t heads = heads_together(call, sequence), of_heads = blocks * splits * heads;
  const std::uint32_t of_rows = index % of_heads / heads;
  const std::uint32_t block = blocks - 1 - of_rows / splits;
  const std::uint32_t token = block * call.tokens_per_tile * call.warpgroups;
  const std::uint32_t left = sequence.rows - token, most = call.tokens_per_tile * call.warpgroups;
  attention_work work{.sequence = &sequence,
                      .kv_head = index / of_heads * heads + index % heads,
                      .token = token,
                      .tokens = left < most ? left : most,
                      .batch_row = batch_row + token,
                      .position = sequence.first_position + token,
                      .first_key = sequence.first_key,
                      .key_begin = 0,
                      .key_end = 0};
  work.key_begin = first_seen(window, work.first_key, work.position);
  work.key_end = work.position + work.tokens;
  if (call.splits_max != 0) {
    const std::uint32_t first = first_seen(window, work.first_key, sequence.first_position);
    const std::uint32_t split = first / split_keys + of_rows % splits;
    const std::uint32_t begin = split * split_keys, end = begin + split_keys;
    work.key_begin = work.key_begin < begin ? begin : work.key_begin;
    work.key_end = work.key_end < end ? work.key_end : end;
  }
  return work;
}

/// Calls f(work) for the items of thread block `block` of `blocks`, in order. `item_begin`,
/// `row_begin`: [sequences + 1] items and rows before each sequence.
template <class F>
ORIEL_HOST_DEVICE void for_each_item(const attention_call& call,
                                     const std::uint32_t* item_begin,
                                     const std::uint32_t* row_begin,
                                     std::uint32_t block,
                                     std::uint32_t blocks,
                                     F&& f) {
  const auto n = static_cast<std::uint32_t>(call.args.sequences.size());
  const std::uint32_t items = item_begin[n];
  if (items == 0) {
    return;
  }
  const bool is_one_sequence = item_begin[owner_of_item(item_begin, n, 0) + 1] == items;
  std::uint32_t in_round = block;
  for (std::uint32_t round = 0; round < items; round += blocks) {
    const std::uint32_t item = round + in_round;
    in_round = is_one_sequence ? blocks - 1 - in_round : block;
    if (item >= items) {
      continue;
    }
    const std::uint32_t s = owner_of_item(item_begin, n, item);
    const attention_work work =
        work_of(call, call.args.sequences.data()[s], row_begin[s], item - item_begin[s]);
    if (!work.is_empty()) {
      f(work);
    }
  }
}

// ---- What the producer copies ------------------------------------------------------------------

/// Consecutive keys of one page.
struct tile_piece {
  std::uint32_t key;   ///< first
  std::uint32_t keys;  ///< whole groups that are copied; 0: there is no such piece
  std::uint32_t page;  ///< physical
};

/// A tile meets at most so many pages.
inline constexpr std::uint32_t tile_pieces_max = tile_keys / kv_tile_tokens;

/// Keys [lo, hi) of a tile that are copied: the groups of which some row sees a key, of 8 keys side
/// by side or, with e4m3, of the 16 whose scales lie behind them.
struct key_range {
  std::uint32_t lo, hi;
};
[[nodiscard]] ORIEL_HOST_DEVICE inline key_range copied_keys(const attention_call& call,
                                                             const attention_work& work,
                                                             std::uint32_t tile) {
  const std::uint32_t group = call.shape.kv == dtype::e4m3 ? kv_tile_tokens : kv_group_tokens;
  const std::uint32_t begin = tile * tile_keys, end = begin + tile_keys;
  const std::uint32_t lo = work.key_begin / group * group;
  const std::uint32_t hi = (work.key_end + group - 1) / group * group;
  return {lo < begin ? begin : lo, hi < end ? hi : end};
}

/// Piece `index` of a tile; reads the block table where there is one.
[[nodiscard]] ORIEL_HOST_DEVICE inline tile_piece piece_of(const attention_call& call,
                                                           const attention_work& work,
                                                           std::uint32_t tile,
                                                           std::uint32_t index) {
  const key_range keys = copied_keys(call, work, tile);
  const std::uint32_t page_size = call.shape.page_size, logical = keys.lo / page_size + index;
  const std::uint32_t begin = index == 0 ? keys.lo : logical * page_size;
  const std::uint32_t page_end = (logical + 1) * page_size;
  const std::uint32_t end = page_end < keys.hi ? page_end : keys.hi;
  if (index >= tile_pieces_max || begin >= end) {
    return {0, 0, 0};
  }
  return {begin, end - begin, page_at(*work.sequence, logical)};
}

}  // namespace oriel::detail
