// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// out[r] = table[tokens[r]], widened to f32. Exact.
#pragma once

#include <oriel/core/dtype.hpp>
#include <oriel/core/executor.hpp>
#include <oriel/core/ids.hpp>
#include <oriel/core/result.hpp>
#include <oriel/kernels/isa.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

struct CUstream_st;  // cudaStream_t is a pointer to it; no CUDA header is needed to name one.

namespace oriel {

/// One embedding table.
struct embed_shape {
  std::uint32_t vocabulary;  ///< rows of the table
  std::uint32_t width;       ///< elements of a row
  dtype table;               ///< f32 or bf16
};

/// Arguments of one call.
/// @tparam T  float, or bf16 where the table is bf16 (kernels for a device)
template <class T>
struct basic_embed_args {
  T* out;                            ///< [tokens.size(), width]
  std::size_t out_stride;            ///< elements from one row of out to the next
  const void* table;                 ///< [vocabulary, width] of shape.table; any alignment
  std::span<const token_id> tokens;  ///< each below vocabulary (checked)
};
using embed_args = basic_embed_args<float>;

namespace reference {

/// O(tokens * width).
void embed(const embed_shape& shape, const embed_args& args);

}  // namespace reference

namespace host {

/// A decided launch. Plain data.
struct embed_plan {
  embed_shape shape;
  isa path;
};

/// @returns errc::unsupported_shape when a count is 0, table is e4m3, or the CPU lacks `path`.
[[nodiscard]] result<embed_plan> plan_embed(const embed_shape& shape,
                                            isa path = best_isa()) noexcept;

/// Needs no workspace. O(tokens * width).
void run_embed(const embed_plan& plan, const embed_args& args, executor_ref executor) noexcept;

}  // namespace host

namespace cuda {

/// A decided launch. Plain data.
struct embed_plan {
  embed_shape shape;
};

/// Pure host arithmetic; needs no device.
/// @returns errc::unsupported_shape when a count is 0 or table is e4m3.
[[nodiscard]] result<embed_plan> plan_embed(const embed_shape& shape) noexcept;

/// Enqueues the rows; every pointer in `args` is device memory, the table aligned to its elements.
/// A kernel cannot stop a caller: a token outside the vocabulary gives a row of NaN.
/// @param row_count  in device memory: rows beyond it stay as they are; null: all rows
/// @returns errc::device_failure
status run_embed(const embed_plan& plan,
                 const embed_args& args,
                 CUstream_st* stream,
                 const std::uint32_t* row_count = nullptr) noexcept;
/// As above, rows stored as bf16. @pre plan.shape.table == dtype::bf16
status run_embed(const embed_plan& plan,
                 const basic_embed_args<bf16>& args,
                 CUstream_st* stream,
                 const std::uint32_t* row_count = nullptr) noexcept;

}  // namespace cuda
}  // namespace oriel
