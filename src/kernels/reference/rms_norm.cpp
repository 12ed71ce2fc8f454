// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "rounding.hpp"

#include <oriel/kernels/rms_norm.hpp>

#include <cmath>

void oriel::reference::rms_norm(const rms_norm_shape& shape, const rms_norm_args& args) {
  using detail::round_to;
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
      args.out[row * args.out_stride + i] = round_to(shape.activation, args.weight[i] * unit);
    }
  }
}
