// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The oneDNN backend of `run_gemm`. Built only where ORIEL_ONEDNN is on.
///
/// oneDNN's `brg:` matmul keeps one accumulator per element over ascending k, whatever the number
/// of rows; its other implementations do not, so a plan is refused unless every primitive it needs
/// is one. Rows are cut into a few sizes, each a primitive made once; columns into chunks of 256,
/// one task each, so that no thread count changes what a primitive is asked for. Weights lie as [n
/// / 64, step, 64] lanes with the steps padded to 16 (oneDNN's BA16a64b and BA16a64b2a).
#pragma once

#include <oriel/kernels/gemm.hpp>

namespace oriel::host::detail {

inline constexpr std::uint32_t onednn_panel_width = 64;
inline constexpr std::uint32_t onednn_step_padding = 16;

/// @pre shape and path were checked by plan_gemm
[[nodiscard]] result<gemm_plan> plan_onednn_gemm(const gemm_shape& shape,
                                                 std::uint32_t rows_max,
                                                 std::uint32_t concurrency,
                                                 isa path) noexcept;

void run_onednn_gemm(const gemm_plan& plan,
                     const gemm_args& args,
                     std::span<std::byte> workspace,
                     executor_ref executor) noexcept;

}  // namespace oriel::host::detail
