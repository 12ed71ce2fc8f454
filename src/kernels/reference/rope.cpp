// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/rope.hpp>

#include <cmath>

namespace oriel::reference {

void rope(const rope_shape& shape, const rope_args& args) {
  const std::uint32_t pairs = shape.rotary_dims / 2;
  for (std::size_t row = 0; row < args.positions.size(); ++row) {
    for (std::uint32_t head = 0; head < args.heads; ++head) {
      float* x = args.x + row * args.x_stride + std::size_t{head} * shape.head_dim;
      for (std::uint32_t j = 0; j < pairs; ++j) {
        const double frequency = std::pow(shape.theta, -2.0 * j / shape.rope_base_dims);
        const double angle = args.positions[row] * frequency;
        const double a = x[j], b = x[j + pairs];
        x[j] = static_cast<float>(a * std::cos(angle) - b * std::sin(angle));
        x[j + pairs] = static_cast<float>(b * std::cos(angle) + a * std::sin(angle));
      }
    }
  }
}

}  // namespace oriel::reference
