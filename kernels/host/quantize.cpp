// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/quantize.hpp>

#include <algorithm>
#include <bit>
#include <cmath>

namespace oriel::host {
namespace {

// The product of 4 and 24 significant bits is exact in double. It goes to bf16 by way of an f32
// whose last bit says "inexact" (round to odd), so that the rounding to bf16 is the only one.
bf16 scaled(e4m3 code, float scale) noexcept {
  const double exact = static_cast<double>(to_float(code)) * static_cast<double>(scale);
  const auto nearest = static_cast<float>(exact);
  auto bits = std::bit_cast<std::uint32_t>(nearest);
  if (static_cast<double>(nearest) != exact && !std::isnan(exact) && (bits & 1u) == 0) {
    bits += std::abs(exact) > static_cast<double>(std::abs(nearest)) ? 1u : 0xFFFF'FFFFu;
  }
  return to_bf16(std::bit_cast<float>(bits));
}

// Rows and columns under one scale, at (row, column) of `from`.
struct tile {
  std::uint32_t row, rows, column, columns;
};

// A scale has only 256 products.
void dequantize_tile(const block_scaled_rows& from,
                     const tile& t,
                     float scale,
                     bf16* out,
                     std::size_t out_stride) noexcept {
  constexpr std::uint32_t codes = 256;
  const bool by_table = t.rows * t.columns > codes;
  bf16 table[codes];
  for (std::uint32_t code = 0; by_table && code < codes; ++code) {
    table[code] = scaled(static_cast<e4m3>(code), scale);
  }
  for (std::uint32_t r = t.row; r < t.row + t.rows; ++r) {
    const e4m3* values = from.values + r * from.value_stride + t.column;
    bf16* to = out + r * out_stride + t.column;
    for (std::uint32_t c = 0; c < t.columns; ++c) {
      to[c] = by_table ? table[static_cast<std::uint8_t>(values[c])] : scaled(values[c], scale);
    }
  }
}

}  // namespace

void dequantize_block_scaled(const block_scaled_rows& from,
                             bf16* out,
                             std::size_t out_stride) noexcept {
  for (std::uint32_t row = 0; row < from.rows;) {
    const std::uint32_t grid_row = from.grid_row + row;
    const std::uint32_t rows = std::min(scale_block - grid_row % scale_block, from.rows - row);
    const float* scales = from.scales + grid_row / scale_block * from.scale_stride;
    for (std::uint32_t column = 0; column < from.columns; column += scale_block) {
      dequantize_tile(from,
                      {.row = row,
                       .rows = rows,
                       .column = column,
                       .columns = std::min(scale_block, from.columns - column)},
                      scales[column / scale_block],
                      out,
                      out_stride);
    }
    row += rows;
  }
}

}  // namespace oriel::host
