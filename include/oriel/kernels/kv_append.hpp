// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Writes new K and V rows into their pages, rounded to the cache dtype, in e4m3 with a scale for
/// each head of a row, and laid out as in paged_kv.hpp. Everything that attends, also within the
/// same chunk, reads the rounded values.
#pragma once

#include <oriel/core/executor.hpp>
#include <oriel/core/result.hpp>
#include <oriel/kernels/attention.hpp>
#include <oriel/kernels/paged_kv.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

struct CUstream_st;  // cudaStream_t is a pointer to it; no CUDA header is needed to name one.

namespace oriel {

/// Arguments of one append. rows = sum of sequences[i].rows. Rows in front of their sequence's
/// first_key are not written.
struct kv_append_args {
  kv_layer_view kv;
  const float* k;        ///< [rows] rows of kv_heads * head_dim_qk, rope applied
  const float* v;        ///< [rows] rows of kv_heads * head_dim_vo
  std::size_t k_stride;  ///< elements from one row of k to the next
  std::size_t v_stride;  ///< elements from one row of v to the next
  float v_scale;         ///< attention_value_scale; multiplied in f32 before rounding
  std::span<const paged_sequence> sequences;
};

namespace reference {

/// Element by element, by the layout's definition. Written to be read.
void kv_append(const attention_shape& shape, const kv_append_args& args);

}  // namespace reference

namespace host {

/// Writes all rows, f32 or bf16, and the zero that pads an odd head_dim_qk in bf16. Every path
/// writes the same bytes: a product and a rounding have one correct result. O(rows * kv_heads *
/// (head_dim_qk + head_dim_vo)). Rows of one page may be written in any order and by any chunking;
/// the bytes are the same. There is nothing to decide, so it has no plan.
/// @pre shape.kv != dtype::e4m3, shape.page_size is a multiple of kv_tile_tokens
void run_kv_append(const attention_shape& shape,
                   const kv_append_args& args,
                   executor_ref executor) noexcept;

}  // namespace host

namespace cuda {

/// A decided launch. Plain data.
struct kv_append_plan {
  attention_shape shape;
  std::uint32_t row_blocks;  ///< groups of 16 rows; fixes the grid
};

/// Pure host arithmetic; needs no device. O(1).
/// @returns errc::unsupported_shape for another page size or number of heads
[[nodiscard]] result<kv_append_plan> plan_kv_append(const attention_shape& shape,
                                                    std::uint32_t rows_max) noexcept;

/// Enqueues the append of at most rows_max rows: the values that host::run_kv_append writes, of
/// e4m3 those of reference::kv_append, in the order of device/paged_kv_view.cuh. Every pointer in
/// `args` is device memory, also what `sequences` and its `pages` point to; they are read when the
/// kernel runs, so that one captured graph serves changing lengths and tables.
/// @returns errc::device_failure
status run_kv_append(const kv_append_plan& plan,
                     const kv_append_args& args,
                     CUstream_st* stream) noexcept;

}  // namespace cuda
}  // namespace oriel
