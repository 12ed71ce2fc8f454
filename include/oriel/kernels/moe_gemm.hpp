// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The experts of one MoE layer on routed rows:
///
///     out[t] = sum over the experts e of token t, ascending:
///                weight * down_e(swiglu(gate_up_e(x[t])))
///
/// The sum is f32 and starts at 0: one multiplication and one addition per expert. Matrix products
/// are those of gemm.hpp, so a token's bits depend on its row, its experts and the arithmetic id
/// alone.
///
/// An expert's matrices are packed as equal slices of columns, each a packed matrix of its own: a
/// task is one expert's slice, so few tokens still occupy every thread, and a gate slice meets its
/// up slice while both are in cache. The number of slices follows from the shape, not from the
/// thread count.
#pragma once

#include <oriel/core/dtype.hpp>
#include <oriel/core/executor.hpp>
#include <oriel/core/result.hpp>
#include <oriel/kernels/gemm.hpp>
#include <oriel/kernels/isa.hpp>
#include <oriel/kernels/moe_permute.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

namespace oriel {

/// One MoE layer.
struct moe_gemm_shape {
  std::uint32_t hidden;  ///< elements of an input and an output row
  std::uint32_t inter;   ///< elements between gate_up and down
  std::uint32_t experts;
  std::uint32_t top_k;             ///< experts per token
  dtype weights = dtype::bf16;     ///< f32 or bf16, as in gemm_shape
  dtype activation = dtype::bf16;  ///< f32 or bf16: where swiglu rounds
};

/// Arguments of one call.
struct moe_gemm_args {
  float* out;                ///< [tokens, hidden]
  std::size_t out_stride;    ///< elements from one row of out to the next
  const float* x;            ///< [tokens, hidden]
  std::size_t x_stride;      ///< elements from one row of x to the next
  std::uint32_t tokens;      ///< at most tokens_max of the plan
  const std::uint32_t* ids;  ///< [tokens, top_k] expert ids, ascending within a token
  const float* weights;      ///< [tokens, top_k]
  std::span<const std::byte* const> gate_up;  ///< [experts] packed, plan.gate_up_bytes each
  std::span<const std::byte* const> down;     ///< [experts] packed, plan.down_bytes each
};

namespace reference {

/// Token by token, in double precision between the roundings. `gate_up` and `down` are plain
/// [2 * inter, hidden] (gate rows first) and [hidden, inter] matrices of shape.weights.
void moe_gemm(const moe_gemm_shape& shape, const moe_gemm_args& args);

}  // namespace reference

namespace host {

/// A decided layer. Plain data.
struct moe_gemm_plan {
  moe_gemm_shape shape;
  std::uint32_t tokens_max;
  std::uint32_t concurrency;
  std::uint32_t block_rows;  ///< routed rows computed between two barriers
  std::uint32_t
      gate_up_slices;         ///< slices of gate_up: inter / gate_up_slices gate rows + as many up
  std::uint32_t down_slices;  ///< slices of down: hidden / down_slices rows each
  gemm_plan gate_up;          ///< of one slice
  gemm_plan down;             ///< of one slice
  moe_permute_plan permute;
  std::size_t gate_up_bytes;  ///< one expert's packed gate_up
  std::size_t down_bytes;     ///< one expert's packed down
  std::size_t workspace_bytes;
};

/// @returns errc::unsupported_shape for an empty shape, a dtype above, or what plan_gemm refuses.
[[nodiscard]] result<moe_gemm_plan> plan_moe_gemm(
    const moe_gemm_shape& shape,
    std::uint32_t tokens_max,
    std::uint32_t concurrency,
    isa path = best_isa(),
    gemm_backend backend = gemm_backend::automatic) noexcept;

/// Packs rows [first_row, first_row + rows) of one expert's gate_up from plain row-major rows of
/// `hidden` elements. Row r < inter is gate row r, row inter + r is up row r, so gate_proj and
/// up_proj may arrive as two tensors or as one.
void pack_moe_gate_up(const moe_gemm_plan& plan,
                      const void* rows_of_w,
                      std::uint32_t first_row,
                      std::uint32_t rows,
                      std::byte* packed) noexcept;

/// Packs rows [first_row, first_row + rows) of one expert's down from plain rows of `inter`
/// elements.
void pack_moe_down(const moe_gemm_plan& plan,
                   const void* rows_of_w,
                   std::uint32_t first_row,
                   std::uint32_t rows,
                   std::byte* packed) noexcept;

/// Neither allocates nor throws.
/// @pre workspace.size() >= plan.workspace_bytes, 64-byte aligned
/// @pre executor.concurrency() <= plan.concurrency
void run_moe_gemm(const moe_gemm_plan& plan,
                  const moe_gemm_args& args,
                  std::span<std::byte> workspace,
                  executor_ref executor) noexcept;

}  // namespace host
}  // namespace oriel
