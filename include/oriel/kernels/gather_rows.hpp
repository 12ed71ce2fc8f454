// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// out[r] = x[rows[r] / divisor]: copies chosen rows. With divisor 1 the last row of each sequence,
/// for the head; with pairs of moe_permute.hpp and divisor top_k the tokens of each expert.
#pragma once

#include <oriel/core/dtype.hpp>
#include <oriel/core/result.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

struct CUstream_st;  // cudaStream_t is a pointer to it; no CUDA header is needed to name one.

namespace oriel {

/// What is copied.
struct gather_rows_shape {
  std::uint32_t width;        ///< elements of a row
  std::uint32_t divisor = 1;  ///< of an entry of `rows`, rounded down
};

/// Arguments of one call.
/// @tparam T  float or bf16
template <class T>
struct basic_gather_rows_args {
  T* out;                               ///< [rows.size(), width]
  std::size_t out_stride;               ///< elements from one row of out to the next
  const T* x;                           ///< rows that `rows` names, and others
  std::size_t x_stride;                 ///< elements from one row of x to the next
  std::span<const std::uint32_t> rows;  ///< divisor * row of x, plus less than divisor
};
using gather_rows_args = basic_gather_rows_args<float>;

namespace reference {

/// The formula above. O(rows * width).
void gather_rows(const gather_rows_shape& shape, const gather_rows_args& args);

}  // namespace reference

namespace cuda {

/// A decided launch. Plain data.
struct gather_rows_plan {
  gather_rows_shape shape;
};

/// Pure host arithmetic; needs no device.
/// @returns errc::unsupported_shape when width or divisor is 0.
[[nodiscard]] result<gather_rows_plan> plan_gather_rows(const gather_rows_shape& shape) noexcept;

/// Enqueues the rows; every pointer in `args`, `rows` included, is device memory. Exact.
/// @param row_count  in device memory: rows beyond it stay as they are; null: all rows
/// @returns errc::device_failure
status run_gather_rows(const gather_rows_plan& plan,
                       const gather_rows_args& args,
                       CUstream_st* stream,
                       const std::uint32_t* row_count = nullptr) noexcept;
/// As above, rows of bf16.
status run_gather_rows(const gather_rows_plan& plan,
                       const basic_gather_rows_args<bf16>& args,
                       CUstream_st* stream,
                       const std::uint32_t* row_count = nullptr) noexcept;

}  // namespace cuda
}  // namespace oriel
