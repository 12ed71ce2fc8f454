// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Root-mean-square normalisation of rows, optionally with the residual addition before it:
///
///     h   = add ? round(x + add) : x                     (kept in `sum`)
///     out = round(weight * round(h / sqrt(mean(h^2) + eps)))
///
/// `round` is to the activation dtype; f32 rounds nothing. The mean is in f32, over 64 fixed lanes
/// and one fixed tree, without fused multiply-add: a row's bits are the same on every path, for
/// every number of rows and threads.
///
/// `out` is written in the forms that are asked for, one or more: as it is, rounded to bf16, and in
/// e4m3 with scales, as quantize_rows.hpp makes them of it. So a product on a device has its
/// operand without a kernel between; products of the host read f32, there the other forms are what
/// a device is compared with.
#pragma once

#include <oriel/core/dtype.hpp>
#include <oriel/core/executor.hpp>
#include <oriel/core/result.hpp>
#include <oriel/kernels/isa.hpp>
#include <oriel/kernels/quantize_rows.hpp>

#include <cstddef>
#include <cstdint>

struct CUstream_st;  // cudaStream_t is a pointer to it; no CUDA header is needed to name one.

namespace oriel {

/// One norm layer.
struct rms_norm_shape {
  std::uint32_t width;  ///< elements of a row
  float eps;            ///< >= 0
  dtype activation;     ///< f32 or bf16: where values are rounded
};

/// Arguments of one call. Rows may overlap only when out == x with equal strides. Two calls with
/// a stride of 2 * width, the second's rows one width further, leave rows side by side: the
/// [embedding ; hidden] that an MTP block's eh_proj multiplies.
/// @tparam T  float, or bf16 where the activation is bf16 (kernels for a device)
template <class T>
struct basic_rms_norm_args {
  T* out;                  ///< [rows, width]; null: in other forms alone
  std::size_t out_stride;  ///< elements from one row of out to the next
  const T* x;              ///< [rows, width]
  std::size_t x_stride;    ///< elements from one row of x to the next
  const float* weight;     ///< [width]
  std::uint32_t rows;
  const T* add = nullptr;   ///< [rows, width], stride x_stride: added to x first; or null
  T* sum = nullptr;         ///< [rows, width], stride x_stride: x + add; may be x; needed with add
  bf16* rounded = nullptr;  ///< [rows, width]: out, to nearest with ties to even; or null
  std::size_t rounded_stride = 0;  ///< elements from one row of rounded to the next
  quantized_rows quantized = {};   ///< [rows, width]: out in e4m3; values null: not wanted
};
using rms_norm_args = basic_rms_norm_args<float>;

namespace reference {

/// The formula above with the mean in double precision. O(rows * width).
void rms_norm(const rms_norm_shape& shape, const rms_norm_args& args);

}  // namespace reference

namespace host {

/// A decided launch. Plain data.
struct rms_norm_plan {
  rms_norm_shape shape;
  isa path;
};

/// @returns errc::unsupported_shape when width is 0, activation is e4m3, or the CPU lacks `path`.
[[nodiscard]] result<rms_norm_plan> plan_rms_norm(const rms_norm_shape& shape,
                                                  isa path = best_isa()) noexcept;

/// Needs no workspace. O(rows * width).
void run_rms_norm(const rms_norm_plan& plan,
                  const rms_norm_args& args,
                  executor_ref executor) noexcept;

}  // namespace host

namespace cuda {

/// A decided launch. Plain data.
struct rms_norm_plan {
  rms_norm_shape shape;
  std::uint32_t shared_bytes;  ///< of a block: one row in f32, and 64 partial sums
};

/// Pure host arithmetic; needs no device. O(1).
/// @returns errc::unsupported_shape when width is 0 or above 56,000, or activation is e4m3.
[[nodiscard]] result<rms_norm_plan> plan_rms_norm(const rms_norm_shape& shape) noexcept;

/// Enqueues the rows; every pointer in `args` is device memory. The same bits as the host's, but
/// for the payload of a NaN in bf16. Reads and writes each element once.
/// @param row_count  in device memory: rows beyond it stay as they are; null: all rows
/// @returns errc::device_failure
status run_rms_norm(const rms_norm_plan& plan,
                    const rms_norm_args& args,
                    CUstream_st* stream,
                    const std::uint32_t* row_count = nullptr) noexcept;
/// As above, rows stored as bf16. @pre plan.shape.activation == dtype::bf16
status run_rms_norm(const rms_norm_plan& plan,
                    const basic_rms_norm_args<bf16>& args,
                    CUstream_st* stream,
                    const std::uint32_t* row_count = nullptr) noexcept;

}  // namespace cuda
}  // namespace oriel
