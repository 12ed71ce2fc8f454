// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/quantize_rows.hpp>

#include <algorithm>
#include <cmath>

void oriel::reference::quantize_rows(const quantize_rows_shape& shape,
                                     const quantize_rows_args& args) {
  for (std::size_t row = 0; row < args.rows; ++row) {
    for (std::uint32_t first = 0; first < shape.columns; first += quantize_group) {
      const std::uint32_t last = std::min(first + quantize_group, shape.columns);
      const float* x = args.x + row * args.x_stride;
      float largest = 0.0f;
      for (std::uint32_t i = first; i < last; ++i) {
        largest = std::fmax(largest, std::fabs(x[i]));  // A NaN loses against a number.
      }
      const float scale = std::max(largest / 448.0f, 0x1p-126f);
      const float inverse = 1.0f / scale;
      for (std::uint32_t i = first; i < last; ++i) {
        args.out.values[row * args.out.stride + i] = to_e4m3(x[i] * inverse);
      }
      args.out.scales[row * args.out.scale_row_stride +
                      first / quantize_group * args.out.scale_group_stride] = scale;
    }
  }
}
