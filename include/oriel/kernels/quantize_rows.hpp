// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Rows of activations to fp8, with one f32 scale for each row and group of 128 columns:
///
///     scale = max(largest |x| of the group / 448, 2^-126)
///     out   = e4m3(x * (1 / scale))
///
/// in f32, each step rounded once, so x is about out * scale. A row's bits depend on that row
/// alone. A NaN stays a NaN and does not count for the scale; an infinity makes it infinite, and
/// the group's numbers 0.
#pragma once

#include <oriel/core/dtype.hpp>
#include <oriel/core/result.hpp>

#include <cstddef>
#include <cstdint>

struct CUstream_st;  // cudaStream_t is a pointer to it; no CUDA header is needed to name one.

namespace oriel {

/// Columns that share a scale.
inline constexpr std::uint32_t quantize_group = 128;

/// What is quantised.
struct quantize_rows_shape {
  std::uint32_t columns;  ///< elements of a row; the last group may be shorter
};

/// Where quantised rows go. The scale of (row, group) is
/// scales[row * scale_row_stride + group * scale_group_stride].
struct quantized_rows {
  e4m3* values = nullptr;              ///< [rows, columns]
  std::size_t stride = 0;              ///< elements from one row of values to the next
  float* scales = nullptr;             ///< one for each row and group
  std::size_t scale_row_stride = 0;    ///< elements
  std::size_t scale_group_stride = 0;  ///< elements
};

/// Arguments of one call.
/// @tparam T  float or bf16
template <class T>
struct basic_quantize_rows_args {
  quantized_rows out;
  const T* x;            ///< [rows, columns]
  std::size_t x_stride;  ///< elements from one row of x to the next
  std::uint32_t rows;
};
using quantize_rows_args = basic_quantize_rows_args<float>;

namespace reference {

/// The formula above. O(rows * columns).
void quantize_rows(const quantize_rows_shape& shape, const quantize_rows_args& args);

}  // namespace reference

namespace cuda {

/// A decided launch. Plain data.
struct quantize_rows_plan {
  quantize_rows_shape shape;
};

/// Pure host arithmetic; needs no device.
/// @returns errc::unsupported_shape when columns is 0.
[[nodiscard]] result<quantize_rows_plan> plan_quantize_rows(
    const quantize_rows_shape& shape) noexcept;

/// Enqueues the rows; every pointer in `args` is device memory. The same bits as the reference.
/// @param row_count  in device memory: rows beyond it stay as they are; null: all rows
/// @returns errc::device_failure
status run_quantize_rows(const quantize_rows_plan& plan,
                         const quantize_rows_args& args,
                         CUstream_st* stream,
                         const std::uint32_t* row_count = nullptr) noexcept;
/// As above, x stored as bf16.
status run_quantize_rows(const quantize_rows_plan& plan,
                         const basic_quantize_rows_args<bf16>& args,
                         CUstream_st* stream,
                         const std::uint32_t* row_count = nullptr) noexcept;

}  // namespace cuda
}  // namespace oriel
