// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/kernels/gemm.hpp>

#include <cstring>

namespace oriel::reference {
namespace {

// Element (row, k) of the plain matrix.
float weight_at(const gemm_shape& shape, const std::byte* weights, std::size_t row, std::size_t k) {
  const std::byte* at = weights + (row * shape.k + k) * size_bytes(shape.weights);
  if (shape.weights == dtype::f32) {
    float value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  bf16 value;
  std::memcpy(&value, at, sizeof value);
  return to_float(value);
}

}  // namespace

void gemm(const gemm_shape& shape, const gemm_args& args) {
  ORIEL_EXPECTS(shape.weights == dtype::f32 || shape.weights == dtype::bf16);
  for (std::size_t m = 0; m < args.rows; ++m) {
    for (std::size_t n = 0; n < shape.n; ++n) {
      double sum = 0;
      for (std::size_t k = 0; k < shape.k; ++k) {
        const float x = args.x[m * args.x_stride + k];
        sum += static_cast<double>(shape.weights == dtype::bf16 ? round_to_bf16(x) : x) *
               static_cast<double>(weight_at(shape, args.weights, n, k));
      }
      float& out = args.out[m * args.out_stride + n];
      out = args.accumulate ? out + static_cast<float>(sum) : static_cast<float>(sum);
    }
  }
}

}  // namespace oriel::reference
