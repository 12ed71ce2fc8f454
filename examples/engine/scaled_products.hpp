// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Which products of a model's step programs are products of e4m3, and who multiplies them.
#pragma once

#include <engine/step_program.hpp>
#include <engine/weights.hpp>

namespace oriel::engine {

/// A matrix with a plain grid is block_scaled where cuBLASLt takes its sizes. Every other one is
/// grouped: fused QKV, whose shards have grids of their own, and odd sizes.
[[nodiscard]] product_kind kind_of(const packed_matrix& matrix) noexcept;

/// Of weights that were loaded with keeps_e4m3. Empty: none is e4m3.
[[nodiscard]] product_kinds scaled_products(const model_weights& weights);

}  // namespace oriel::engine
