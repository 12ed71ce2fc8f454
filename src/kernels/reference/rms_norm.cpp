// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "rounding.hpp"

#include <oriel/kernels/rms_norm.hpp>

#include <cmath>
#include <vector>

namespace {

using oriel::rms_norm_args;

/// A finished row in the forms that are asked for.
void write(const std::vector<float>& y, std::uint32_t row, const rms_norm_args& args) {
  for (std::size_t i = 0; i < y.size(); ++i) {
    if (args.out != nullptr) {
      args.out[row * args.out_stride + i] = y[i];
    }
    if (args.rounded != nullptr) {
      args.rounded[row * args.rounded_stride + i] = oriel::to_bf16(y[i]);
    }
  }
  if (args.quantized.values != nullptr) {
    oriel::quantized_rows to = args.quantized;
    to.values += row * to.stride;
    to.scales += row * to.scale_row_stride;
    const auto width = static_cast<std::uint32_t>(y.size());
    oriel::reference::quantize_rows({width}, {.out = to, .x = y.data(), .x_stride = 0, .rows = 1});
  }
}

}  // namespace

void oriel::reference::rms_norm(const rms_norm_shape& shape, const rms_norm_args& args) {
  using detail::round_to;
  std::vector<float> y(shape.width);
  for (std::uint32_t row = 0; row < args.rows; ++row) {
    const float* h = args.x + row * args.x_stride;
    if (args.add != nullptr) {
      float* sum = args.sum + row * args.x_stride;
      for (std::uint32_t i = 0; i < shape.width; ++i) {
        sum[i] = round_to(shape.activation, h[i] + args.add[row * args.x_stride + i]);
      }
      h = sum;
    }
    double squares = 0.0;
    for (std::uint32_t i = 0; i < shape.width; ++i) {
      squares += double{h[i]} * double{h[i]};
    }
    const double scale = 1.0 / std::sqrt(squares / shape.width + double{shape.eps});
    for (std::uint32_t i = 0; i < shape.width; ++i) {
      const float unit = round_to(shape.activation, static_cast<float>(h[i] * scale));
      y[i] = round_to(shape.activation, args.weight[i] * unit);
    }
    write(y, row, args);
  }
}
