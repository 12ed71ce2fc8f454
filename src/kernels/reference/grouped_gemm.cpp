// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/kernels/grouped_gemm.hpp>

#include <cmath>
#include <cstring>

namespace oriel::reference {
namespace {

double element(dtype type, const void* base, std::size_t index) {
  if (type == dtype::bf16) {
    bf16 value;
    std::memcpy(&value, static_cast<const std::byte*>(base) + 2 * index, sizeof value);
    return static_cast<double>(to_float(value));
  }
  e4m3 value;
  std::memcpy(&value, static_cast<const std::byte*>(base) + index, sizeof value);
  return static_cast<double>(to_float(value));
}

// Row of the grid that weight row `n` of any group has.
std::size_t scale_row(const grouped_gemm_shape& shape,
                      const grouped_gemm_args<float>& args,
                      std::uint32_t n) {
  if (args.weight_scale_rows != nullptr) {
    return args.weight_scale_rows[n];
  }
  return n < shape.n ? n / scale_block : shape.plain_grid_rows() / 2 + (n - shape.n) / scale_block;
}

// x[source] . weight row n of the group
double product(const grouped_gemm_shape& shape,
               const grouped_gemm_args<float>& args,
               std::size_t source,
               std::size_t group,
               std::uint32_t n) {
  double sum = 0.0, part = 0.0;
  const std::size_t row = (group * shape.weight_rows() + n) * shape.k;
  for (std::uint32_t k = 0; k < shape.k; ++k) {
    part += element(shape.weights, args.x, source * args.x_stride + k) *
            element(shape.weights, args.weights, row + k);
    if (shape.weights == dtype::bf16) {
      sum = part;
    } else if (k % scale_block == scale_block - 1 || k + 1 == shape.k) {
      const std::size_t column = k / scale_block;
      const float x_scale =
          args.x_scales[source * args.x_scale_row_stride + column * args.x_scale_column_stride];
      const float w_scale =
          args.weight_scales[group * args.weight_scale_group_stride +
                             scale_row(shape, args, n) * args.weight_scale_stride + column];
      sum += part * (static_cast<double>(x_scale) * static_cast<double>(w_scale));
      part = 0.0;
    }
  }
  return sum;
}

}  // namespace

void grouped_gemm(const grouped_gemm_shape& shape, const grouped_gemm_args<float>& args) {
  ORIEL_EXPECTS(shape.weights != dtype::f32);
  for (std::uint32_t group = 0; group < shape.groups; ++group) {
    const std::uint32_t begin = args.offsets != nullptr ? args.offsets[group] : 0;
    const std::uint32_t end = args.offsets != nullptr ? args.offsets[group + 1] : args.rows;
    for (std::uint32_t row = begin; row < end; ++row) {
      const std::size_t source =
          args.row_index != nullptr ? args.row_index[row] / args.row_divisor : row;
      for (std::uint32_t n = 0; n < shape.n; ++n) {
        double y = product(shape, args, source, group, n);
        if (shape.swiglu) {
          y = y / (1.0 + std::exp(-y)) * product(shape, args, source, group, shape.n + n);
        }
        float& to = args.out[row * args.out_stride + n];
        to = args.accumulate ? to + static_cast<float>(y) : static_cast<float>(y);
      }
    }
  }
}

}  // namespace oriel::reference
