// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The merge: the shares of rows whose splits were several items, folded as attention_rows.cuh
/// folds what an item keeps itself: the same bits.
///
///     chunk   64 dims of a (row of a sequence, query head): work of one warp or of eight
///     round   the splits whose shares a warp has under way at once, 16 a lane
///     one     a lane has two dims; a round is 16 splits
///     eight   where there are too few chunks for the device and more splits than a round: each
///             warp has 8 dims; lane l has dims 2 (l % 4) and the next, of 128 splits the
///             (l / 4)-th 16. Lanes of a dim fold one after the other, and hand the sums on
///
/// What a split is multiplied with depends on the largest scores before it alone, so lanes compute
/// it for all splits of a round at once; only sums are in order. A `Warp` says how lanes exchange:
/// shuffles on a device, arrays in tests/device.
#pragma once

#include "attention_rows.cuh"

namespace oriel::detail {

inline constexpr std::uint32_t merge_dims = 64;       ///< of a chunk
inline constexpr std::uint32_t merge_depth = 16;      ///< splits of a lane in a round
inline constexpr std::uint32_t merge_groups_max = 8;  ///< lanes of a dim
inline constexpr std::uint32_t merge_splits_max = merge_groups_max * merge_depth;  ///< of a round
inline constexpr std::uint32_t merge_block_warps = 4;  ///< of a thread block
inline constexpr std::uint32_t merge_blocks_per_multiprocessor = 6;

/// How much work there is, and how it is dealt out.
struct merge_shape {
  std::uint32_t units;   ///< for a warp each
  std::uint32_t blocks;  ///< of threads
  bool is_deep;          ///< merge_groups_max units are a chunk, not one
};
/// @pre head_dim_vo is a multiple of merge_dims
[[nodiscard]] inline merge_shape merge_shape_of(const attention_call& call,
                                                std::uint32_t multiprocessors) {
  const std::uint32_t blocks_max = multiprocessors * merge_blocks_per_multiprocessor;
  const auto slots =
      static_cast<std::uint32_t>(call.args.sequences.size()) * call.sequence_rows_max;
  const std::uint32_t chunks = slots * call.shape.q_heads * (call.shape.head_dim_vo / merge_dims);
  const bool is_deep =
      call.splits_max > merge_depth && chunks <= blocks_max * merge_block_warps / merge_groups_max;
  const std::uint32_t units = is_deep ? chunks * merge_groups_max : chunks;
  const std::uint32_t blocks = (units - 1) / merge_block_warps + 1;
  return {units, blocks < blocks_max ? blocks : blocks_max, is_deep};
}

/// What a split is multiplied with, and what it adds to the sum of weights.
struct alignas(16) merge_factor {
  fold_factors by;
  float sum;
  std::uint32_t is_seen;  ///< 0: the split changes nothing
};
/// Of a warp's round, in shared memory.
using merge_factors = merge_factor[merge_splits_max];

/// Two neighbouring dims.
struct alignas(8) two_dims {
  float low, high;
};

/// The registers of one lane.
struct merge_lane {
  two_dims added[merge_depth];                           ///< shares of its dims
  split_weight weight[merge_splits_max / warp_threads];  ///< of splits lane, lane + 32, ...
  float up_to[merge_splits_max / warp_threads];          ///< largest score up to each of them
  float before;                                          ///< and without it
  float low, high;                                       ///< so far, of its dims
  float kept_sum;                                        ///< so far; all lanes have the same
};

/// A warp's part of one row and head.
struct merge_row {
  const split_weight* weights;  ///< [splits]
  const float* part;            ///< [splits, Dims], from the warp's first dim on
  std::uint32_t splits;         ///< > 1
  bool is_deep;                 ///< lanes of a dim: merge_groups_max, else one
  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t groups() const {
    return is_deep ? merge_groups_max : 1;
  }
  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t lanes() const {  ///< that have other dims
    return is_deep ? warp_threads / merge_groups_max : warp_threads;
  }
  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t round() const { return groups() * merge_depth; }
};

/// Starts all loads of a round before any is needed.
template <std::uint32_t Dims, class Warp>
ORIEL_HOST_DEVICE_INLINE void load_round(const merge_row& row, std::uint32_t begin, Warp& warp) {
  constexpr std::uint32_t at_once = 8;
  warp.each([&](std::uint32_t index, merge_lane& lane) {
    ORIEL_UNROLL
    for (std::uint32_t j = 0; j < merge_splits_max / warp_threads; ++j) {
      if (j != 0 && !row.is_deep) {
        break;
      }
      const std::uint32_t i = j * warp_threads + index;
      lane.weight[j] = {-INFINITY, 0.0f};
      if (i < row.round() && begin + i < row.splits) {
        lane.weight[j] = row.weights[begin + i];
      }
    }
    const std::uint32_t first = begin + index / row.lanes() * merge_depth;
    const auto* const part = reinterpret_cast<const two_dims*>(
        row.part + std::size_t{first} * Dims + index % row.lanes() * 2);
    ORIEL_UNROLL
    for (std::uint32_t i = 0; i < merge_depth; ++i) {
      if (i % at_once == 0 && begin + i >= row.splits) {  // No lane has one.
        break;
      }
      lane.added[i] = {0.0f, 0.0f};
      if (first + i < row.splits) {
        lane.added[i] = part[i * (Dims / 2)];
      }
    }
  });
}

/// The round's factors. `kept_max`: largest score of the sink and the splits before; becomes that
/// up to the end of the round.
template <class Warp>
ORIEL_HOST_DEVICE_INLINE void find_factors(const merge_row& row, float& kept_max, Warp& warp) {
  constexpr std::uint32_t each_lane = merge_splits_max / warp_threads;
  const std::uint32_t count = row.is_deep ? each_lane : 1;
  ORIEL_UNROLL
  for (std::uint32_t j = 0; j < each_lane && j < count; ++j) {  // Independent: they overlap.
    warp.each([&](std::uint32_t, merge_lane& lane) { lane.up_to[j] = lane.weight[j].largest; });
    warp.max_up_to_lane([j](merge_lane& lane) -> float& { return lane.up_to[j]; });
  }
  ORIEL_UNROLL
  for (std::uint32_t j = 0; j < each_lane && j < count; ++j) {
    const auto up_to = [j](merge_lane& lane) -> float& { return lane.up_to[j]; };
    warp.each([&](std::uint32_t, merge_lane& lane) {
      lane.up_to[j] = fmaxf(kept_max, lane.up_to[j]);
      lane.before = kept_max;
    });
    warp.from_lane_below([](merge_lane& lane) -> float& { return lane.before; }, up_to);
    kept_max = warp.of_lane(up_to, warp_threads - 1);
    warp.each([&](std::uint32_t index, merge_lane& lane) {
      const split_weight w = lane.weight[j];
      const fold_factors by = fold_factors_of(lane.before, w.largest, lane.up_to[j]);
      const bool is_seen = w.largest != -INFINITY;
      warp.factors()[j * warp_threads + index] = {by, w.sum * by.added, is_seen ? 1u : 0u};
    });
  }
}

/// Adds the round's splits, ascending.
template <class Warp>
ORIEL_HOST_DEVICE_INLINE void fold_round(const merge_row& row, std::uint32_t begin, Warp& warp) {
  constexpr std::uint32_t at_once = 4;
  for (std::uint32_t group = 0; group < row.groups(); ++group) {
    const merge_factor* const factors = warp.factors() + group * merge_depth;
    const std::uint32_t first = begin + group * merge_depth;
    // All lanes compute; what those of the group have is handed on, and after the last group it is
    // at the first lanes.
    warp.each([&](std::uint32_t, merge_lane& lane) {
      ORIEL_UNROLL
      for (std::uint32_t i = 0; i < merge_depth; i += at_once) {
        if (first + i >= row.splits) {
          break;
        }
        merge_factor f[at_once];
        ORIEL_UNROLL
        for (std::uint32_t k = 0; k < at_once; ++k) {
          f[k] = factors[i + k];
        }
        ORIEL_UNROLL
        for (std::uint32_t k = 0; k < at_once; ++k) {
          if (f[k].is_seen != 0) {
            lane.kept_sum = fmaf(lane.kept_sum, f[k].by.kept, f[k].sum);
            lane.low = fold_value(f[k].by, lane.low, lane.added[i + k].low);
            lane.high = fold_value(f[k].by, lane.high, lane.added[i + k].high);
          }
        }
      }
    });
    if (row.is_deep) {
      warp.rotate([](merge_lane& lane) -> float& { return lane.low; }, row.lanes());
      warp.rotate([](merge_lane& lane) -> float& { return lane.high; }, row.lanes());
    }
  }
}

/// Unit `unit` of merge_shape, of a call with head_dim_vo `Dims`. Does nothing for a row that does
/// not exist or whose splits one item folded.
template <std::uint32_t Dims, class Warp>
ORIEL_HOST_DEVICE_INLINE void merge_unit(const attention_call& call,
                                         bool is_deep,
                                         std::uint32_t unit,
                                         Warp& warp) {
  static_assert(Dims % merge_dims == 0);
  constexpr std::uint32_t chunks_per_head = Dims / merge_dims;
  const std::uint32_t chunk = is_deep ? unit / merge_groups_max : unit;
  const std::uint32_t heads = call.shape.q_heads, slot = chunk / chunks_per_head / heads;
  const std::uint32_t head = chunk / chunks_per_head - slot * heads;
  const std::uint32_t index_of_sequence = slot / call.sequence_rows_max;
  const std::uint32_t index_of_row = slot - index_of_sequence * call.sequence_rows_max;
  const paged_sequence sequence = call.args.sequences.data()[index_of_sequence];
  const std::uint32_t position = sequence.first_position + index_of_row;
  const std::uint32_t first = sequence.first_key / split_keys;  // A plan with splits has no window.
  const std::uint32_t last = position / split_keys, splits = last - first + 1;
  const bool has_sink = call.args.sinks != nullptr;
  float kept_max = has_sink ? call.args.sinks[head] * log2_e : -INFINITY;
  if (!is_served(call, sequence) || index_of_row >= sequence.rows || first >= last) {
    return;
  }
  const std::uint32_t part_of_chunk = is_deep ? unit % merge_groups_max : 0;
  const bool is_deep_row = is_deep && splits > merge_depth;
  if (!is_deep_row && part_of_chunk != 0) {
    return;  // The first has the whole chunk.
  }
  const std::uint32_t batch_row = call.partials.batch_rows[slot];
  const std::size_t index = std::size_t{slot} * heads + head;
  const std::uint32_t first_dim =
      chunk % chunks_per_head * merge_dims + part_of_chunk * (merge_dims / merge_groups_max);
  const merge_row row{.weights = call.partials.weights + index * call.splits_max,
                      .part = call.partials.out + index * call.splits_max * Dims + first_dim,
                      .splits = splits,
                      .is_deep = is_deep_row};
  warp.each([&](std::uint32_t, merge_lane& lane) {
    lane.low = lane.high = 0.0f;
    lane.kept_sum = has_sink ? 1.0f : 0.0f;
  });
  for (std::uint32_t begin = 0; begin < splits; begin += row.round()) {
    load_round<Dims>(row, begin, warp);
    find_factors(row, kept_max, warp);
    warp.meet();  // Factors are there.
    fold_round(row, begin, warp);
    warp.meet();  // They have been read.
  }
  const std::size_t out = (std::size_t{batch_row} * heads + head) * Dims + first_dim;
  warp.each([&](std::uint32_t i, merge_lane& lane) {
    if (i < row.lanes()) {
      const float inverse = 1.0f / lane.kept_sum;
      store_out_pair(call, out + i * 2, lane.low * inverse, lane.high * inverse);
    }
  });
}

}  // namespace oriel::detail
