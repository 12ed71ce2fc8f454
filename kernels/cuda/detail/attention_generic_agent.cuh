// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Attention for any shape: one warp per row and query head, no tensor cores. Written to be right.
///
///     tile    32 keys at an absolute multiple of 32
///     lane    of a tile's scores one key; of the output dims lane, lane + 32, ..., at most 8
///
/// A `Warp` says how lanes exchange: shuffles on a device, arrays in tests/device.
#pragma once

#include "attention_rows.cuh"
#include "find_row.cuh"

#include <oriel/device/paged_kv_view.cuh>

namespace oriel::detail {

inline constexpr std::uint32_t generic_dims_per_lane = 8;  // head_dim_vo <= 256

/// The registers of one lane.
struct generic_lane {
  float score;                       ///< of the lane's key; then the largest of the tile
  float weight;                      ///< of the lane's key
  float tile_sum;                    ///< of all lanes' weights
  float largest;                     ///< so far, times scale x log2(e); all lanes have the same
  float sum;                         ///< of weights so far
  float out[generic_dims_per_lane];  ///< so far
};

/// One row and query head.
struct generic_row {
  std::size_t q;    ///< index of its first element
  std::size_t out;  ///< likewise
  const paged_sequence* sequence;
  std::uint32_t kv_head;
  std::uint32_t first;  ///< key
  std::uint32_t end;    ///< one past the row's own position
};

/// One chain over the dims, ascending. A scale multiplies the finished sum.
template <dtype Kv>
[[nodiscard]] ORIEL_HOST_DEVICE float generic_score(const attention_call& call,
                                                    const paged_kv_view<Kv>& view,
                                                    const generic_row& row,
                                                    std::uint32_t key) {
  float score = 0.0f;
  for (std::uint32_t d = 0; d < call.shape.head_dim_qk; ++d) {
    if constexpr (Kv == dtype::f32) {
      score = fmaf(call.args.q[row.q + d], view.k(*row.sequence, key, row.kv_head, d), score);
    } else {
      const float k = to_float(view.k(*row.sequence, key, row.kv_head, d));
      score = fmaf(to_float(call.q_bf16[row.q + d]), k, score);
    }
  }
  if constexpr (Kv == dtype::e4m3) {
    score *= view.k_scale(*row.sequence, key, row.kv_head);
  }
  return score;
}

template <dtype Kv, class Warp>
ORIEL_HOST_DEVICE void attend_generic_row(const attention_call& call,
                                          const generic_row& row,
                                          float sink_log2,
                                          bool has_sink,
                                          Warp& warp) {
  const attention_shape& shape = call.shape;
  const paged_kv_view<Kv> view(shape, call.args.kv);
  const float c = call.args.scale * log2_e;
  warp.each([&](std::uint32_t, generic_lane& lane) {
    lane.largest = has_sink ? sink_log2 : -INFINITY;
    lane.sum = has_sink ? 1.0f : 0.0f;
    ORIEL_UNROLL
    for (float& x : lane.out) {
      x = 0.0f;
    }
  });
  for (std::uint32_t tile = row.first / warp_threads; tile * warp_threads < row.end; ++tile) {
    const std::uint32_t begin = tile * warp_threads;
    const std::uint32_t first = row.first < begin ? begin : row.first;
    const std::uint32_t end = row.end < begin + warp_threads ? row.end : begin + warp_threads;
    warp.each([&](std::uint32_t index, generic_lane& lane) {
      const std::uint32_t key = begin + index;
      lane.weight = key >= first && key < end ? generic_score(call, view, row, key) * c : -INFINITY;
      lane.score = lane.weight;
    });
    warp.all_max(&generic_lane::score);
    warp.each([&](std::uint32_t, generic_lane& lane) {
      const float largest = fmaxf(lane.largest, lane.score);
      const float base = largest == -INFINITY ? 0.0f : largest;
      const float shrink = attention_exp2(lane.largest - base);
      lane.largest = largest;
      lane.weight = attention_exp2(lane.weight - base);
      lane.tile_sum = lane.weight;
      lane.sum *= shrink;
      ORIEL_UNROLL
      for (float& x : lane.out) {
        x *= shrink;
      }
    });
    warp.all_sum(&generic_lane::tile_sum);
    warp.each([&](std::uint32_t, generic_lane& lane) { lane.sum += lane.tile_sum; });
    for (std::uint32_t key = first; key < end; ++key) {
      warp.each([&](std::uint32_t index, generic_lane& lane) {
        const float weight = warp.of_lane(&generic_lane::weight, key - begin);
        ORIEL_UNROLL
        for (std::uint32_t i = 0; i < generic_dims_per_lane; ++i) {
          const std::uint32_t d = index + i * warp_threads;
          if (d < shape.head_dim_vo) {
            float v;
            if constexpr (Kv == dtype::f32) {
              v = view.v(*row.sequence, key, row.kv_head, d);
            } else {
              v = to_float(view.v(*row.sequence, key, row.kv_head, d));
            }
            if constexpr (Kv == dtype::e4m3) {
              v *= view.v_scale(*row.sequence, key, row.kv_head);
            }
            lane.out[i] = fmaf(weight, v, lane.out[i]);
          }
        }
      });
    }
  }
  warp.each([&](std::uint32_t index, generic_lane& lane) {
    const float inverse = 1.0f / lane.sum;
    ORIEL_UNROLL
    for (std::uint32_t i = 0; i < generic_dims_per_lane; ++i) {
      const std::uint32_t d = index + i * warp_threads;
      if (d < shape.head_dim_vo) {
        store_out(call, row.out + d, lane.out[i] * inverse);
      }
    }
  });
}

/// Row `index / q_heads`, query head `index % q_heads` of the batch, if it is of this call. False:
/// there is no such row.
template <dtype Kv, class Warp>
ORIEL_HOST_DEVICE bool attend_generic(const attention_call& call, std::uint64_t index, Warp& warp) {
  const attention_shape& shape = call.shape;
  const auto row = static_cast<std::uint32_t>(index / shape.q_heads);
  const auto head = static_cast<std::uint32_t>(index % shape.q_heads);
  const row_home home = find_row(call.args.sequences, row);
  if (home.sequence == nullptr) {
    return false;
  }
  if (!is_served(call, *home.sequence)) {
    return true;
  }
  const generic_row at{
      .q = row * call.args.q_stride + std::size_t{head} * shape.head_dim_qk,
      .out = index * shape.head_dim_vo,
      .sequence = home.sequence,
      .kv_head = head / call.group,
      .first = first_seen(shape.window_tokens, home.sequence->first_key, home.position),
      .end = home.position + 1};
  const bool has_sink = call.args.sinks != nullptr;
  attend_generic_row<Kv>(
      call, at, has_sink ? call.args.sinks[head] * log2_e : 0.0f, has_sink, warp);
  return true;
}

}  // namespace oriel::detail
