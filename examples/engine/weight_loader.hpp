// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// From an opened checkpoint, or from a seed, to packed weights in memory.
#pragma once

#include <oriel/kernels/gemm.hpp>
#include <oriel/kernels/isa.hpp>
#include <oriel/model/geometry.hpp>

#include <engine/checkpoint.hpp>
#include <engine/weight_rows.hpp>
#include <engine/weights.hpp>

#include <cstdint>
#include <functional>
#include <optional>

namespace oriel::engine {

struct load_options {
  isa path = best_isa();
  host::gemm_backend backend = host::gemm_backend::automatic;
  bool with_mtp = true;               ///< false: leave the MTP blocks out, where nothing drafts
  std::optional<dtype> compute = {};  ///< f32 or bf16; none: f32 for f32 checkpoints, else bf16
  weight_form form = weight_form::packed;
  /// Matrices that are stored in e4m3 stay in it, with their scales, routers and the embedding
  /// excepted. Only where form is plain and the rest is computed in bf16.
  bool keeps_e4m3 = false;
  std::function<void(const load_progress&)> progress =
      {};  ///< called after each few MiB; may be empty
};

/// Reads, converts and packs every matrix, tensor by tensor. Peak resident memory is the packed
/// weights and a few MiB.
/// @throws error, std::bad_alloc
[[nodiscard]] model_weights load_weights(const checkpoint& opened,
                                         const load_options& options = {});

/// What load_weights computes in when `options.compute` is empty: the type of the embedding, e4m3
/// counted as bf16.
[[nodiscard]] dtype compute_type_of(const checkpoint& opened) noexcept;

/// Weights for timing a model of this geometry without its checkpoint: uniform, scaled so that
/// activations stay of order one. The same (geometry, compute, seed) gives the same values.
/// O(parameters), about a second per 10^9.
/// @throws error, std::bad_alloc
[[nodiscard]] model_weights random_weights(
    const model_geometry& geometry,
    dtype compute,
    std::uint64_t seed,
    isa path = best_isa(),
    host::gemm_backend backend = host::gemm_backend::automatic,
    weight_form form = weight_form::packed);

}  // namespace oriel::engine
