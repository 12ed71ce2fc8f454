// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "rounding.hpp"

#include <oriel/kernels/moe_gemm.hpp>
#include <oriel/kernels/swiglu.hpp>

#include <algorithm>
#include <vector>

void oriel::reference::moe_gemm(const moe_gemm_shape& shape, const moe_gemm_args& args) {
  std::vector<float> gate_up(2 * std::size_t{shape.inter}), act(shape.inter), y(shape.hidden);
  for (std::uint32_t token = 0; token < args.tokens; ++token) {
    float* out = args.out + token * args.out_stride;
    std::fill_n(out, shape.hidden, 0.0f);
    for (std::uint32_t slot = 0; slot < shape.top_k; ++slot) {
      const std::size_t pair = std::size_t{token} * shape.top_k + slot;
      const std::uint32_t expert = args.ids[pair];
      gemm({.n = 2 * shape.inter, .k = shape.hidden, .weights = shape.weights},
           {.out = gate_up.data(),
            .out_stride = gate_up.size(),
            .x = args.x + token * args.x_stride,
            .x_stride = args.x_stride,
            .weights = args.gate_up[expert],
            .rows = 1});
      swiglu({.inter = shape.inter, .activation = shape.activation},
             {.out = act.data(),
              .out_stride = act.size(),
              .gate_up = gate_up.data(),
              .gate_up_stride = gate_up.size(),
              .rows = 1});
      gemm({.n = shape.hidden, .k = shape.inter, .weights = shape.weights},
           {.out = y.data(),
            .out_stride = y.size(),
            .x = act.data(),
            .x_stride = act.size(),
            .weights = args.down[expert],
            .rows = 1});
      for (std::uint32_t i = 0; i < shape.hidden; ++i) {
        out[i] += args.weights[pair] * y[i];
      }
    }
  }
}
