// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Writes new K and V rows into their pages, rounded to the cache dtype and laid out as in
/// paged_kv.hpp. Everything that attends, also within the same chunk, reads the rounded values.
#pragma once

#include <oriel/core/executor.hpp>
#include <oriel/kernels/attention.hpp>
#include <oriel/kernels/paged_kv.hpp>

#include <cstddef>
#include <span>

namespace oriel {

/// Arguments of one append. rows = sum of sequences[i].rows.
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

/// Writes all rows, and the zero that pads an odd head_dim_qk in bf16. Every path writes the same
/// bytes: a product and a rounding have one correct result.
/// O(rows * kv_heads * (head_dim_qk + head_dim_vo)). Rows of one page may be written in any order
/// and by any chunking; the bytes are the same.
void run_kv_append(const attention_shape& shape,
                   const kv_append_args& args,
                   executor_ref executor) noexcept;

}  // namespace host
}  // namespace oriel
