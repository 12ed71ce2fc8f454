// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The closed list of grouped products, and what a plan and a launch agree on. Host arithmetic.
#pragma once

#include "grouped_gemm_program.cuh"

namespace oriel::detail {

inline constexpr std::uint32_t gemm_consumers = gemm_feature_tile / mma_rows;  // warpgroups
inline constexpr std::uint32_t gemm_threads = (gemm_consumers + 1) * warpgroup_threads;

/// Shared memory of a block: stages, two barriers each, and the table of items.
template <dtype Type>
[[nodiscard]] constexpr std::uint32_t gemm_shared_bytes(std::uint32_t groups) noexcept {
  constexpr std::uint32_t barrier_bytes = 8;
  return gemm_tile<Type>::stages * (gemm_stage<Type>::bytes + 2 * barrier_bytes) +
         (groups + 1) * std::uint32_t{sizeof(std::uint32_t)};
}

status launch_grouped_gemm_bf16(const cuda::grouped_gemm_plan&,
                                const grouped_gemm_call&,
                                CUstream_st*);
status launch_grouped_gemm_e4m3(const cuda::grouped_gemm_plan&,
                                const grouped_gemm_call&,
                                CUstream_st*);

/// What the kernels are told.
[[nodiscard]] grouped_gemm_call make_grouped_gemm_call(
    const cuda::grouped_gemm_plan& plan, const grouped_gemm_args<float>& args) noexcept;
[[nodiscard]] grouped_gemm_call make_grouped_gemm_call(
    const cuda::grouped_gemm_plan& plan, const grouped_gemm_args<bf16>& args) noexcept;

}  // namespace oriel::detail
