// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The last step of a MoE layer whose experts ran on permuted rows (moe_permute.hpp):
///
///     out[t] = sum over the slots of token t, ascending:  weight * y[row_of_pair[t, slot]]
///
/// Slots are in ascending expert id (moe_route.hpp). The sum is f32 and starts at 0: one
/// multiplication and one addition per slot, as in moe_gemm.hpp.
#pragma once

#include <oriel/core/dtype.hpp>
#include <oriel/core/result.hpp>

#include <cstddef>
#include <cstdint>

struct CUstream_st;  // cudaStream_t is a pointer to it; no CUDA header is needed to name one.

namespace oriel {

/// What is combined.
struct moe_combine_shape {
  std::uint32_t hidden;  ///< elements of a row
  std::uint32_t top_k;   ///< experts per token
};

/// Arguments of one call.
/// @tparam T  float, or bf16: the finished sum is rounded once
template <class T>
struct basic_moe_combine_args {
  T* out;                            ///< [tokens, hidden]
  std::size_t out_stride;            ///< elements from one row of out to the next
  const T* y;                        ///< [rows, hidden] of the experts
  std::size_t y_stride;              ///< elements from one row of y to the next
  const float* weights;              ///< [tokens, top_k]
  const std::uint32_t* row_of_pair;  ///< [tokens, top_k]; 2^32 - 1: the slot adds nothing
  std::uint32_t tokens;
  bool accumulate = false;  ///< out += instead of out =, one rounded addition per element
};
using moe_combine_args = basic_moe_combine_args<float>;

namespace reference {

/// The formula above. O(tokens * top_k * hidden).
void moe_combine(const moe_combine_shape& shape, const moe_combine_args& args);

}  // namespace reference

namespace cuda {

/// A decided launch. Plain data.
struct moe_combine_plan {
  moe_combine_shape shape;
};

/// Pure host arithmetic; needs no device.
/// @returns errc::unsupported_shape when hidden or top_k is 0.
[[nodiscard]] result<moe_combine_plan> plan_moe_combine(const moe_combine_shape& shape) noexcept;

/// Enqueues the tokens; every pointer in `args` is device memory. The same bits as the reference.
/// @param token_count  in device memory: tokens beyond it stay as they are; null: all
/// @returns errc::device_failure
status run_moe_combine(const moe_combine_plan& plan,
                       const moe_combine_args& args,
                       CUstream_st* stream,
                       const std::uint32_t* token_count = nullptr) noexcept;
/// As above, rows stored as bf16.
status run_moe_combine(const moe_combine_plan& plan,
                       const basic_moe_combine_args<bf16>& args,
                       CUstream_st* stream,
                       const std::uint32_t* token_count = nullptr) noexcept;

}  // namespace cuda
}  // namespace oriel
