// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/device_gemm.hpp>

namespace oriel::cuda {
namespace {

// What NVIDIA recommends for an sm_90. Most algorithms that do not cut k use none of it.
constexpr std::size_t library_workspace_bytes = 32 * 1024 * 1024;

// cuBLASLt counts in signed 32 bits.
bool is_countable(std::uint32_t n) noexcept {
  return n - 1 < 0x7FFF'FFFFu;
}

const char* problem_with(const gemm_shape& shape, std::uint32_t rows_max) noexcept {
  if (!is_countable(shape.n) || !is_countable(shape.k) || !is_countable(rows_max)) {
    return "gemm: n, k or rows_max is 0 or above 2^31 - 1";
  }
  return nullptr;
}

}  // namespace

result<gemm_plan> plan_gemm(const gemm_shape& shape,
                            dtype out,
                            std::uint32_t rows_max,
                            gemm_order order) noexcept {
  if (const char* problem = problem_with(shape, rows_max)) {
    return failure{errc::unsupported_shape, 0, problem};
  }
  const bool in_f32 = shape.weights == dtype::f32 && out == dtype::f32;
  const bool in_bf16 = shape.weights == dtype::bf16 && out != dtype::e4m3;
  if (!in_f32 && !in_bf16) {
    return failure{errc::unsupported_shape, 0, "gemm: f32 to f32, or bf16 to f32 or bf16"};
  }
  return gemm_plan{.shape = shape,
                   .out = out,
                   .rows_max = rows_max,
                   .order = order,
                   .workspace_bytes = library_workspace_bytes};
}

result<block_scaled_gemm_plan> plan_block_scaled_gemm(const gemm_shape& shape,
                                                      dtype out,
                                                      std::uint32_t rows_max,
                                                      gemm_order order) noexcept {
  if (const char* problem = problem_with(shape, rows_max)) {
    return failure{errc::unsupported_shape, 0, problem};
  }
  if (shape.weights != dtype::e4m3 || out == dtype::e4m3) {
    return failure{errc::unsupported_shape, 0, "block_scaled_gemm: e4m3 to f32 or bf16"};
  }
  if (shape.n % 16 != 0 || shape.k % 16 != 0) {
    return failure{errc::unsupported_shape, 0, "block_scaled_gemm: n or k is no multiple of 16"};
  }
  const std::size_t groups = (shape.k - 1) / scale_block + 1;
  return block_scaled_gemm_plan{.n = shape.n,
                                .k = shape.k,
                                .out = out,
                                .rows_max = rows_max,
                                .order = order,
                                .weight_scale_stride = (groups + 3) / 4 * 4,
                                .workspace_bytes = library_workspace_bytes};
}

}  // namespace oriel::cuda
