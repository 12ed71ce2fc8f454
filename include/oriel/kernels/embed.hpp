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

namespace oriel {

/// One embedding table.
struct embed_shape {
  std::uint32_t vocabulary;  ///< rows of the table
  std::uint32_t width;       ///< elements of a row
  dtype table;               ///< f32 or bf16
};

/// Arguments of one call.
struct embed_args {
  float* out;                        ///< [tokens.size(), width]
  std::size_t out_stride;            ///< elements from one row of out to the next
  const void* table;                 ///< [vocabulary, width] of shape.table; any alignment
  std::span<const token_id> tokens;  ///< each below vocabulary (checked)
};

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
}  // namespace oriel
