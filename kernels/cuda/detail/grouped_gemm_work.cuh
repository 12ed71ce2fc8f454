// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What the blocks of the grouped product work on, and how packed weights lie.
///
///     feature tile  128 packed rows of a group's weights: 64 for each of two warpgroups
///     k tile        128 bytes of a row: 64 columns of bf16, 128 of e4m3 (one scale)
///     row tile      up to tile_rows rows of x of one group
///     item          a feature tile x a row tile, all of k. Thread block b of B takes one
///                   of each B: gemm_items
///
/// Packed weights are [feature tiles][k tiles] pieces of 16 KiB: a piece is what a stage of the
/// kernel holds of the weights, copied as it lies. In a piece, core matrices of 8 rows x 16 bytes
/// follow each other along k, then along the rows (mma_fragment.cuh). Rows are permuted in runs of
/// 16 so that a thread's accumulators belong together:
///
///     packed row    0  1  2  3  4  5  6  7 | 8  9 10 11 12 13 14 15     row of a run of 16
///     plain         0  1  4  5  8  9 12 13 | 2  3  6  7 10 11 14 15     a run of 16 features
///     swiglu        gate 0 .. 7            | up 0 .. 7                  8 features
///
/// A thread holds rows r and r + 8 of a run: with swiglu the gate and the up of one feature. After
/// the transposition of the epilogue it holds rows 2 q, 2 q + 1 of either half: four neighbours.
#pragma once

#include "items.cuh"
#include "mma_fragment.cuh"

#include <oriel/kernels/grouped_gemm.hpp>

#include <cstring>

namespace oriel::detail {

inline constexpr std::uint32_t gemm_feature_tile = 128;  // packed rows
inline constexpr std::uint32_t gemm_k_tile_bytes = 128;  // of a row
inline constexpr std::uint32_t gemm_chunk_bytes = 16;    // of a row of a core matrix
inline constexpr std::uint32_t gemm_row_chunks = gemm_k_tile_bytes / gemm_chunk_bytes;
inline constexpr std::uint32_t gemm_piece_bytes = gemm_feature_tile * gemm_k_tile_bytes;
inline constexpr std::uint32_t gemm_core_rows_bytes = gemm_row_chunks * core_bytes;  // of 8 rows
inline constexpr std::uint32_t gemm_run = 16;
inline constexpr std::uint32_t gemm_band_tiles =
    8;  // Row tiles that go through the weights together.
inline constexpr std::uint32_t no_row = 0xFFFF'FFFFu;

/// All that a kernel is told.
struct grouped_gemm_call {
  grouped_gemm_shape shape;
  grouped_gemm_args<float> args;  ///< its out is null where out_bf16 is not
  bf16* out_bf16;
  bool out_is_whole;  ///< rows of bf16 are whole words of what a thread stores, and lie where words
                      ///< do
  std::uint32_t tile_rows;
  std::uint32_t feature_tiles;
  std::uint32_t k_tiles;

  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t element_bytes() const {
    return shape.weights == dtype::bf16 ? 2 : 1;
  }
};

/// Byte of (row, chunk) in a tile of rows as a stage holds it, weights or x.
[[nodiscard]] ORIEL_HOST_DEVICE constexpr std::uint32_t gemm_chunk_offset(std::uint32_t row,
                                                                          std::uint32_t chunk) {
  return row / core_side * gemm_core_rows_bytes + chunk * core_bytes +
         row % core_side * gemm_chunk_bytes;
}

/// The feature of a packed row; for swiglu of its gate or up. May be at or beyond n: padding.
[[nodiscard]] ORIEL_HOST_DEVICE constexpr std::uint32_t feature_of_packed(bool swiglu,
                                                                          std::uint32_t packed) {
  const std::uint32_t run = packed / gemm_run, in_run = packed % gemm_run;
  const std::uint32_t half = in_run / 8, at = in_run % 8;
  return swiglu ? run * 8 + at : run * gemm_run + at / 2 * 4 + half * 2 + at % 2;
}

/// The row of the plain weights that a packed row is, or no_row.
[[nodiscard]] ORIEL_HOST_DEVICE constexpr std::uint32_t weight_row_of_packed(
    const grouped_gemm_shape& shape, std::uint32_t packed) {
  const std::uint32_t feature = feature_of_packed(shape.swiglu, packed);
  const bool is_up = shape.swiglu && packed % gemm_run >= 8;
  return feature >= shape.n ? no_row : feature + (is_up ? shape.n : 0);
}

/// Packs 16 bytes: chunk `chunk` of packed row `packed`, from rows [first_row, first_row + rows) of
/// the plain weights. Where those end with the last row, padding rows become zero as well; so does
/// what lies beyond k.
ORIEL_HOST_DEVICE inline void pack_chunk(const grouped_gemm_shape& shape,
                                         std::uint32_t k_tiles,
                                         const std::byte* rows_of_w,
                                         std::uint32_t first_row,
                                         std::uint32_t rows,
                                         std::uint32_t packed,
                                         std::uint32_t chunk,
                                         std::byte* to) {
  const std::uint32_t row = weight_row_of_packed(shape, packed);
  const bool ends = first_row + rows == shape.weight_rows();
  if (row == no_row ? !ends : row - first_row >= rows) {
    return;
  }
  const std::size_t row_bytes = std::size_t{shape.k} * (shape.weights == dtype::bf16 ? 2 : 1);
  const std::size_t at = std::size_t{chunk} * gemm_chunk_bytes;
  const std::size_t piece =
      std::size_t{packed / gemm_feature_tile} * k_tiles + chunk / gemm_row_chunks;
  to += piece * gemm_piece_bytes +
        gemm_chunk_offset(packed % gemm_feature_tile, chunk % gemm_row_chunks);
  const std::byte* from = rows_of_w + (row == no_row ? 0 : row - first_row) * row_bytes + at;
  if (row != no_row && at + gemm_chunk_bytes <= row_bytes) {
    std::memcpy(to, from, gemm_chunk_bytes);
    return;
  }
  for (std::uint32_t i = 0; i < gemm_chunk_bytes; ++i) {
    to[i] = row != no_row && at + i < row_bytes ? from[i] : std::byte{0};
  }
}

/// What a thread block multiplies at a time.
struct grouped_gemm_work {
  std::uint32_t group;
  std::uint32_t feature_tile;
  std::uint32_t first_row;  ///< of out
  std::uint32_t rows;       ///< at most tile_rows
};

struct group_rows {
  std::uint32_t begin, count;
};
[[nodiscard]] ORIEL_HOST_DEVICE inline group_rows rows_of_group(const grouped_gemm_call& call,
                                                                std::uint32_t group) {
  if (call.args.offsets == nullptr) {
    return {0, call.args.rows};
  }
  return {call.args.offsets[group], call.args.offsets[group + 1] - call.args.offsets[group]};
}

[[nodiscard]] ORIEL_HOST_DEVICE inline std::uint32_t items_of(const grouped_gemm_call& call,
                                                              std::uint32_t group) {
  return (rows_of_group(call, group).count + call.tile_rows - 1) / call.tile_rows *
         call.feature_tiles;
}

/// Item `index` of a group. Bands of 8 row tiles go through all feature tiles: a piece of weights
/// is read by 8 neighbours at the same time, and the rows of a band stay in the L2 cache.
[[nodiscard]] ORIEL_HOST_DEVICE inline grouped_gemm_work work_of(const grouped_gemm_call& call,
                                                                 std::uint32_t group,
                                                                 std::uint32_t index) {
  const group_rows rows = rows_of_group(call, group);
  const std::uint32_t row_tiles = (rows.count + call.tile_rows - 1) / call.tile_rows;
  const std::uint32_t band_items = gemm_band_tiles * call.feature_tiles;
  const std::uint32_t band = index / band_items, in_band = index % band_items;
  const std::uint32_t first = band * gemm_band_tiles;
  const std::uint32_t width =
      row_tiles - first < gemm_band_tiles ? row_tiles - first : gemm_band_tiles;
  const std::uint32_t begin = (first + in_band % width) * call.tile_rows;
  return {.group = group,
          .feature_tile = in_band / width,
          .first_row = rows.begin + begin,
          .rows = rows.count - begin < call.tile_rows ? rows.count - begin : call.tile_rows};
}

/// The items of a thread block, in order: one of each wave of `blocks` items, the
/// next one's neighbour in the next wave, so that a block does not always meet the last, shorter row
/// tile of a band.
struct gemm_items {
  const std::uint32_t* item_begin;  ///< [groups + 1] items before each group
  std::uint32_t blocks;
  std::uint32_t at;  ///< in the wave; at first the block's own number
  std::uint32_t wave = 0;

  /// The next item; without rows where there is none.
  [[nodiscard]] ORIEL_HOST_DEVICE_INLINE grouped_gemm_work next(const grouped_gemm_call& call) {
    const std::uint32_t n = call.shape.groups, item = wave + at;
    wave += blocks;
    at = at + 1 == blocks ? 0 : at + 1;
    if (item >= item_begin[n]) {  // Only the last wave is not whole.
      return {};
    }
    const std::uint32_t group = owner_of_item(item_begin, n, item);
    return work_of(call, group, item - item_begin[group]);
  }
};

template <class F>
ORIEL_HOST_DEVICE_INLINE void for_each_item(const grouped_gemm_call& call,
                                            gemm_items items,
                                            F&& f) {
  for (grouped_gemm_work work = items.next(call); work.rows != 0; work = items.next(call)) {
    f(work);
  }
}

}  // namespace oriel::detail
