// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/moe_combine.hpp>

void oriel::reference::moe_combine(const moe_combine_shape& shape, const moe_combine_args& args) {
  for (std::size_t token = 0; token < args.tokens; ++token) {
    for (std::uint32_t i = 0; i < shape.hidden; ++i) {
      float sum = 0.0f;
      for (std::uint32_t slot = 0; slot < shape.top_k; ++slot) {
        const std::size_t pair = token * shape.top_k + slot;
        const std::uint32_t row = args.row_of_pair[pair];
        if (row != UINT32_MAX) {
          sum = sum + args.weights[pair] * args.y[row * args.y_stride + i];
        }
      }
      float& out = args.out[token * args.out_stride + i];
      out = args.accumulate ? out + sum : sum;
    }
  }
}
