// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// out = silu(gate) * up, with silu(x) = x / (1 + exp(-x)), for rows that hold gate and up side by
/// side (as one gate|up matrix product leaves them).
///
/// With a bf16 activation, gate, up, silu(gate) and the product are each rounded to bf16: where the
/// frameworks' bf16 tensors round. The exponential is a polynomial within 2 units in the last
/// place, the same for every lane and tail; bits are the same on every path.
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

/// One gated activation.
struct swiglu_shape {
  std::uint32_t inter;  ///< elements of gate, of up and of an output row
  dtype activation;     ///< f32 or bf16: where values are rounded
};

/// Arguments of one call. `out` may be the gate part of `gate_up` (same stride).
/// @tparam T  float, or bf16 where the activation is bf16 (kernels for a device)
template <class T>
struct basic_swiglu_args {
  T* out;                      ///< [rows, inter]
  std::size_t out_stride;      ///< elements from one row of out to the next
  const T* gate_up;            ///< [rows, 2 * inter]: gate, then up
  std::size_t gate_up_stride;  ///< elements from one row of gate_up to the next
  std::uint32_t rows;
};
using swiglu_args = basic_swiglu_args<float>;

/// The same from bf16, and straight to e4m3, as quantize_rows.hpp makes it of the rounded outputs:
/// what a product of e4m3 reads.
struct quantized_swiglu_args {
  quantized_rows out;          ///< [rows, inter]
  const bf16* gate_up;         ///< [rows, 2 * inter]: gate, then up
  std::size_t gate_up_stride;  ///< elements from one row of gate_up to the next
  std::uint32_t rows;
};

namespace reference {

/// The formula above, in double precision between the roundings. O(rows * inter).
void swiglu(const swiglu_shape& shape, const swiglu_args& args);

}  // namespace reference

namespace host {

/// A decided launch. Plain data.
struct swiglu_plan {
  swiglu_shape shape;
  isa path;
};

/// @returns errc::unsupported_shape when inter is 0, activation is e4m3, or the CPU lacks `path`.
[[nodiscard]] result<swiglu_plan> plan_swiglu(const swiglu_shape& shape,
                                              isa path = best_isa()) noexcept;

/// Needs no workspace. O(rows * inter).
void run_swiglu(const swiglu_plan& plan, const swiglu_args& args, executor_ref executor) noexcept;

}  // namespace host

namespace cuda {

/// A decided launch. Plain data.
struct swiglu_plan {
  swiglu_shape shape;
};

/// Pure host arithmetic; needs no device.
/// @returns errc::unsupported_shape when inter is 0 or activation is e4m3.
[[nodiscard]] result<swiglu_plan> plan_swiglu(const swiglu_shape& shape) noexcept;

/// Enqueues the rows; every pointer in `args` is device memory. The same bits as the host's.
/// @param row_count  in device memory: rows beyond it stay as they are; null: all rows
/// @returns errc::device_failure
status run_swiglu(const swiglu_plan& plan,
                  const swiglu_args& args,
                  CUstream_st* stream,
                  const std::uint32_t* row_count = nullptr) noexcept;
/// As above, rows stored as bf16. @pre plan.shape.activation == dtype::bf16
status run_swiglu(const swiglu_plan& plan,
                  const basic_swiglu_args<bf16>& args,
                  CUstream_st* stream,
                  const std::uint32_t* row_count = nullptr) noexcept;
/// As above, quantised. @pre plan.shape.activation == dtype::bf16
status run_swiglu(const swiglu_plan& plan,
                  const quantized_swiglu_args& args,
                  CUstream_st* stream,
                  const std::uint32_t* row_count = nullptr) noexcept;

}  // namespace cuda
}  // namespace oriel
