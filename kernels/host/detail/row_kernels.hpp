// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Bodies of the row kernels for one instruction set, and the table that chooses among them.
#pragma once

#include <oriel/kernels/isa.hpp>
#include <oriel/kernels/moe_route.hpp>

#include <cstdint>

namespace oriel::detail {

/// One row of rms_norm.hpp. `add` and `sum` may be null.
struct rms_norm_row {
  const float* x;
  const float* add;
  float* sum;
  std::uint32_t width;
  float eps;
  bool bf16;  ///< round to bf16
};

/// The functions of one instruction set. All give the same bits.
struct row_kernels {
  /// sum = x + add where there is an addend; 1 / sqrt(mean of squares + eps)
  float (*rms_norm_scale)(const rms_norm_row& row);
  /// out[i] = weight[i] * (h[i] * scale)
  void (*rms_norm_columns)(
      float* out, const float* h, const float* weight, float scale, std::uint32_t n, bool bf16);
  /// out[i] = silu(gate[i]) * up[i]
  void (*swiglu)(float* out, const float* gate, const float* up, std::uint32_t n, bool bf16);
  /// out[i] = in[i], bf16 at any alignment
  void (*widen_bf16)(float* out, const void* in, std::uint32_t n);
  /// out[i] += weight * y[i]
  void (*add_scaled)(float* out, const float* y, float weight, std::uint32_t n);
  /// One token of moe_route.hpp.
  void (*route)(const moe_route_shape& shape,
                const float* logits,
                const float* bias,
                std::uint32_t* ids,
                float* weights);
};

extern const row_kernels row_kernels_scalar, row_kernels_avx2, row_kernels_avx512;

/// The table for `path`. @pre is_supported(path)
[[nodiscard]] const row_kernels& row_kernels_for(isa path) noexcept;

}  // namespace oriel::detail
