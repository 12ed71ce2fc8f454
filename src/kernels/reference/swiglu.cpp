// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "rounding.hpp"

#include <oriel/kernels/swiglu.hpp>

#include <cmath>

void oriel::reference::swiglu(const swiglu_shape& shape, const swiglu_args& args) {
  using detail::round_to;
  for (std::uint32_t row = 0; row < args.rows; ++row) {
    const float* gate_up = args.gate_up + row * args.gate_up_stride;
    for (std::uint32_t i = 0; i < shape.inter; ++i) {
      const float gate = round_to(shape.activation, gate_up[i]);
      const float up = round_to(shape.activation, gate_up[shape.inter + i]);
      const auto silu = static_cast<float>(gate / (1.0 + std::exp(-double{gate})));
      args.out[row * args.out_stride + i] =
          round_to(shape.activation, round_to(shape.activation, silu) * up);
    }
  }
}
