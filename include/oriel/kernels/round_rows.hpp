// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Rows of f32 stored as bf16, to nearest with ties to even: what a product of bf16 matrices reads.
#pragma once

#include <oriel/core/dtype.hpp>
#include <oriel/core/result.hpp>

#include <cstddef>
#include <cstdint>

struct CUstream_st;  // cudaStream_t is a pointer to it; no CUDA header is needed to name one.

namespace oriel {

/// Arguments of one call.
struct round_rows_args {
  bf16* out;               ///< [rows, width]
  std::size_t out_stride;  ///< elements from one row of out to the next
  const float* x;          ///< [rows, width]
  std::size_t x_stride;    ///< elements from one row of x to the next
  std::uint32_t width;     ///< elements of a row
  std::uint32_t rows;
};

namespace reference {

/// O(rows * width).
void round_rows(const round_rows_args& args);

}  // namespace reference

namespace cuda {

/// Enqueues the rows; every pointer in `args` is device memory. The same bits as the reference, but
/// for the payload of a NaN.
/// @param row_count  in device memory: rows beyond it stay as they are; null: all rows
/// @returns errc::device_failure
status run_round_rows(const round_rows_args& args,
                      CUstream_st* stream,
                      const std::uint32_t* row_count = nullptr) noexcept;

}  // namespace cuda
}  // namespace oriel
