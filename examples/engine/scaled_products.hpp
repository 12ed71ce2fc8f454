// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Which products of a model's step programs are products of e4m3, and who multiplies them.
#pragma once

#include <oriel/core/dtype.hpp>

#include <engine/checkpoint.hpp>
#include <engine/step_program.hpp>
#include <engine/weights.hpp>

#include <cstdint>
#include <map>

namespace oriel::engine {

/// A matrix with a plain grid is block_scaled where cuBLASLt takes its sizes. Every other one is
/// grouped: fused QKV, whose shards have grids of their own, and odd sizes.
[[nodiscard]] product_kind kind_of(const packed_matrix& matrix) noexcept;

/// Of weights that were loaded with keeps_e4m3. Empty: none is e4m3.
[[nodiscard]] product_kinds scaled_products(const model_weights& weights);

/// What is known of a matrix that will stay in e4m3, or of a layer's experts, before it is read.
struct kept_matrix {
  product_kind kind = product_kind::grouped;
  std::uint64_t scales = 0;  ///< as scale_grid::scales; of experts 0, theirs follow from the shape
  bool has_row_map = false;  ///< scale_grid::rows is not empty
};
using kept_matrices = std::map<weight_name, kept_matrix>;

/// What load_weights would keep in e4m3 (load_options::keeps_e4m3), MTP blocks included. Reads no
/// weights. O(rows of all matrices).
/// @param compute  what the rest is computed in
[[nodiscard]] kept_matrices kept_in_e4m3(const checkpoint& opened, dtype compute);
[[nodiscard]] product_kinds kinds_of(const kept_matrices& kept);

}  // namespace oriel::engine
