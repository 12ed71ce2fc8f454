// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Brings the rows of one expert together: a stable counting sort of (token, slot) pairs by expert.
///
///     tokens x top_k pairs  ->  rows [0, tokens * top_k), expert by expert,
///                               within an expert tokens ascending
#pragma once

#include <oriel/core/result.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

struct CUstream_st;  // cudaStream_t is a pointer to it; no CUDA header is needed to name one.

namespace oriel {

/// What is sorted.
struct moe_permute_shape {
  std::uint32_t experts;
  std::uint32_t top_k;       ///< pairs per token
  std::uint32_t tokens_max;  ///< tokens_max * top_k < 2^32
};

/// Where the rows went. A view: the owner of the arrays is the caller.
struct moe_permutation {
  std::span<const std::uint32_t> expert_offsets;  ///< [experts + 1]: first row of each expert
  std::span<const std::uint32_t> pair_of_row;     ///< [rows]: token * top_k + slot
  std::span<const std::uint32_t> row_of_pair;     ///< [rows]: the inverse
};

namespace reference {

/// By std::stable_sort, into the same arrays as host::run_moe_permute.
void moe_permute(const moe_permute_shape& shape,
                 std::span<const std::uint32_t> ids,
                 std::span<std::uint32_t> expert_offsets,
                 std::span<std::uint32_t> pair_of_row,
                 std::span<std::uint32_t> row_of_pair);

}  // namespace reference

namespace host {

/// A decided sort. Plain data.
struct moe_permute_plan {
  moe_permute_shape shape;
  std::size_t workspace_bytes;  ///< holds the three arrays of the view
};

/// @returns errc::unsupported_shape when a count is 0 or tokens_max * top_k does not fit.
[[nodiscard]] result<moe_permute_plan> plan_moe_permute(const moe_permute_shape& shape) noexcept;

/// Sorts; the view lives in `workspace`. O(pairs + experts), a few ns per pair, on the calling
/// thread.
/// @param ids  [tokens, top_k], each below experts (checked)
/// @pre workspace.size() >= plan.workspace_bytes, 64-byte aligned
[[nodiscard]] moe_permutation run_moe_permute(const moe_permute_plan& plan,
                                              std::span<const std::uint32_t> ids,
                                              std::span<std::byte> workspace) noexcept;

}  // namespace host

namespace cuda {

/// A decided sort. Plain data.
struct moe_permute_plan {
  moe_permute_shape shape;
  std::uint32_t chunks;  ///< a block each; with one, a single launch does it all
  std::size_t workspace_bytes;
};

/// Pure host arithmetic; needs no device.
/// @returns errc::unsupported_shape when a count is 0, tokens_max * top_k does not fit, or there
///          are more than 1,024 experts.
[[nodiscard]] result<moe_permute_plan> plan_moe_permute(const moe_permute_shape& shape) noexcept;

/// Where the three arrays lie in device memory, for tokens_max tokens; of fewer tokens, rows and
/// pairs behind theirs are not written. expert_offsets[experts] is the number of rows: what kernels
/// behind this one take as their `row_count`.
/// @pre workspace.size() >= plan.workspace_bytes, 64-byte aligned
[[nodiscard]] moe_permutation permutation_in(const moe_permute_plan& plan,
                                             std::span<std::byte> workspace) noexcept;

/// Enqueues the sort; ids and workspace are device memory. Counts stay on the device. A pair whose
/// id is not below experts gets no row: its row_of_pair is 2^32 - 1.
/// @param ids  [tokens, top_k]
/// @param token_count  in device memory: so many of the tokens; null: all
/// @returns errc::device_failure
status run_moe_permute(const moe_permute_plan& plan,
                       std::span<const std::uint32_t> ids,
                       std::span<std::byte> workspace,
                       CUstream_st* stream,
                       const std::uint32_t* token_count = nullptr) noexcept;

}  // namespace cuda
}  // namespace oriel
