// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Which products grouped_gemm.hpp computes because device_gemm.hpp would refuse them: an
/// order-fixed product wants an algorithm that takes every number of rows, and cuBLASLt may have
/// none. A grouped product of one group has one order for any number of rows.
#pragma once

#include <oriel/core/dtype.hpp>
#include <oriel/core/result.hpp>
#include <oriel/kernels/device_gemm.hpp>
#include <oriel/model/geometry.hpp>

#include <engine/step_program.hpp>

#include <cstdint>
#include <functional>
#include <string>
#include <variant>

namespace oriel::engine {

/// A product as a program would ask device_gemm.hpp for it.
struct library_product {
  std::variant<cuda::gemm_plan, cuda::block_scaled_gemm_plan> plan;
  cuda::gemm_layout layout;
};

/// `kinds` with the matrices of bf16 or e4m3 of which some order-fixed program's product is refused
/// as packed or grouped ones; for whatever number of rows an engine would plan, up to 32,768, so
/// that weights are packed before it is known. Who then multiplies is one for all engines.
///
/// Left as they are, and refused when they run: products of f32 (a model in f32), and of
/// bf16 rows that are no multiple of 16 bytes.
/// @param mtp_blocks  in use at most
/// @param takes  is there an algorithm? gemm_order::fixed in all plans
[[nodiscard]] product_kinds with_packed(const model_geometry& model,
                                        dtype compute,
                                        std::uint32_t mtp_blocks,
                                        product_kinds kinds,
                                        const std::function<bool(const library_product&)>& takes);

/// What is said of a product that device_gemm.hpp refused: its sizes and types, why, and what would
/// help. @throws std::bad_alloc
[[nodiscard]] std::string refusal_text(const cuda::gemm_plan& plan,
                                       std::uint32_t rows,
                                       const failure& why);
[[nodiscard]] std::string refusal_text(const cuda::block_scaled_gemm_plan& plan,
                                       std::uint32_t rows,
                                       const failure& why);

/// Names who multiplies with which matrix; 0: device_gemm.hpp with all, in what the model is
/// computed in. O(kinds). @throws std::bad_alloc
[[nodiscard]] std::uint64_t digest_of(const product_kinds& kinds);

}  // namespace oriel::engine
