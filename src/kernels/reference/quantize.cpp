// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/quantize.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace oriel::reference {
namespace {

/// The value of bf16 bits without a sign. Infinity counts as the power of two that it stands for.
double value_of(std::uint32_t bits) {
  constexpr std::uint32_t infinity = 0x7F80u;
  return bits == infinity ? 0x1p128 : static_cast<double>(std::bit_cast<float>(bits << 16));
}

/// `exact` to bf16 by its two neighbours there: the nearer one, and of two equally near the even.
bf16 nearest_bf16(double exact) {
  if (!std::isfinite(exact)) {
    return to_bf16(static_cast<float>(exact));
  }
  const double magnitude = std::abs(exact);
  constexpr auto largest = static_cast<double>(std::numeric_limits<float>::max());
  auto below = std::bit_cast<std::uint32_t>(static_cast<float>(std::min(magnitude, largest))) >> 16;
  if (value_of(below) > magnitude) {  // The cut number was rounded up to f32 first.
    --below;
  }
  const double half_way = (value_of(below) + value_of(below + 1)) / 2;
  const bool up = magnitude > half_way || (magnitude == half_way && below % 2 == 1);
  const std::uint32_t sign = std::signbit(exact) ? 0x8000u : 0u;
  return static_cast<bf16>(sign | (up ? below + 1 : below));
}

}  // namespace

void dequantize_block_scaled(const block_scaled_rows& from, bf16* out, std::size_t out_stride) {
  for (std::uint32_t r = 0; r < from.rows; ++r) {
    for (std::uint32_t c = 0; c < from.columns; ++c) {
      const float value = to_float(from.values[r * from.value_stride + c]);
      const std::size_t grid_row = (from.grid_row + r) / scale_block;
      const float scale = from.scales[grid_row * from.scale_stride + c / scale_block];
      const double product = static_cast<double>(value) * static_cast<double>(scale);  // exact
      out[r * out_stride + c] = nearest_bf16(product);
    }
  }
}

}  // namespace oriel::reference
