// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Block-scaled fp8 weights to bf16: one f32 scale for each 128 x 128 block of e4m3 values.
#pragma once

#include <oriel/core/dtype.hpp>

#include <cstddef>
#include <cstdint>

namespace oriel {

/// Rows and columns that share a scale.
inline constexpr std::uint32_t scale_block = 128;

/// Some rows of a block-scaled matrix. The scale grid is tiled from the matrix' first row and
/// column; its last blocks may be ragged.
///
///     scale of element (r, c)  =  scales[(grid_row + r) / 128 * scale_stride + c / 128]
///
/// A fused tensor whose shards carry grids of their own is read shard by shard: each shard's rows
/// start at grid_row 0 of its own grid.
struct block_scaled_rows {
  const e4m3* values;        ///< [rows, columns]
  std::size_t value_stride;  ///< elements from one row to the next
  const float* scales;       ///< the whole grid, [ceil(matrix rows / 128), ceil(columns / 128)]
  std::size_t scale_stride;  ///< elements from one row of the grid to the next
  std::uint32_t grid_row;    ///< row of the grid's matrix that values[0] is
  std::uint32_t rows;
  std::uint32_t columns;
};

namespace reference {

/// out[r, c] = value * scale: the exact product, rounded once by comparing it with its neighbours.
/// O(rows * columns). Written to be read.
void dequantize_block_scaled(const block_scaled_rows& from, bf16* out, std::size_t out_stride);

}  // namespace reference

namespace host {

/// out[r, c] = value * scale, rounded once (to nearest, ties to even). A NaN gives a quiet NaN.
/// About one element per cycle.
/// @param out [rows, columns], `out_stride` elements from one row to the next
void dequantize_block_scaled(const block_scaled_rows& from,
                             bf16* out,
                             std::size_t out_stride) noexcept;

}  // namespace host
}  // namespace oriel
