// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a model costs by its geometry alone: KV bytes, parameters, operations, bytes read. Exact
/// counts, no measurements. All are O(layers) and leave MTP blocks out unless they say otherwise.
#pragma once

#include <oriel/core/dtype.hpp>
#include <oriel/model/geometry.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace oriel {

/// The layers that share a pool: one kind, one window.
struct pool_cost {
  attention_kind kind = attention_kind::full;
  std::uint32_t window_tokens = 0;  ///< 0 for the full pool
  std::uint32_t layers = 0;
  std::uint64_t bytes_per_token = 0;   ///< K and V of one position in all of these layers
  std::uint64_t bytes_per_window = 0;  ///< window_tokens positions; 0 for the full pool
};

/// One entry for each pool, the full one first, windows ascending.
[[nodiscard]] std::vector<pool_cost> kv_pools(const model_geometry& model, dtype kv);

/// Bytes that each further token adds to the full pool.
[[nodiscard]] std::uint64_t kv_bytes_per_token_full(const model_geometry& model, dtype kv) noexcept;

/// Bytes that one sequence's windows hold once they are filled.
[[nodiscard]] std::uint64_t window_bytes_per_sequence(const model_geometry& model,
                                                      dtype kv) noexcept;

/// Exact rows of a sequence of `tokens`: full layers keep all, window layers the last
/// window_tokens.
[[nodiscard]] std::uint64_t kv_bytes(const model_geometry& model,
                                     std::uint64_t tokens,
                                     dtype kv) noexcept;

/// The same if every layer kept every token, as a cache does that does not know windows.
[[nodiscard]] std::uint64_t kv_bytes_uniform(const model_geometry& model,
                                             std::uint64_t tokens,
                                             dtype kv) noexcept;

/// Elements of weights: matrices, norms, sinks, routers and their correction biases. Quantisation
/// scales are not parameters here.
struct parameter_counts {
  std::uint64_t total = 0;   ///< of the main model, embedding and head included
  std::uint64_t active = 0;  ///< the same with top_k experts of each MoE layer
  std::uint64_t mtp = 0;     ///< of all MTP blocks
};

[[nodiscard]] parameter_counts count_parameters(const model_geometry& model) noexcept;

/// Floating-point operations of the matrix products for the token at `position` (from 0): two per
/// weight of the projections, the chosen experts and the head, and two per key, query head and head
/// dimension of scores and weighted values. Grows with the position, in window layers up to the
/// window.
[[nodiscard]] std::uint64_t flops_per_token(const model_geometry& model,
                                            std::uint64_t position) noexcept;

/// Operations by what they run on, since the two reach unlike rates: products with weights, and
/// attention's products with K and V.
struct flop_count {
  std::uint64_t linear = 0;
  std::uint64_t attention = 0;

  flop_count& operator+=(const flop_count& other) noexcept {
    linear += other.linear;
    attention += other.attention;
    return *this;
  }
  friend bool operator==(const flop_count&, const flop_count&) = default;
};

/// Operations of one layer for the rows (tokens) at positions [first, last). The sum over layers,
/// with 2 * vocabulary * hidden of the head, is that of flops_per_token over these positions. O(1).
/// @pre layer < model.layers.size(), first <= last
[[nodiscard]] flop_count layer_flops(const model_geometry& model,
                                     std::size_t layer,
                                     std::uint64_t first,
                                     std::uint64_t last) noexcept;

/// Operations of `rows` rows that only make K and V in one layer. O(1).
/// @pre layer < model.layers.size()
[[nodiscard]] std::uint64_t kv_projection_flops(const model_geometry& model,
                                                std::size_t layer,
                                                std::uint64_t rows) noexcept;

/// What a machine reaches, in operations per second; both > 0.
struct compute_rates {
  double linear_flops_per_s = 0.0;
  double attention_flops_per_s = 0.0;
};

/// Estimated seconds of these operations: linear / linear rate + attention / attention rate. Linear
/// in the count, so a share of a model's layers and rows costs its share of the seconds.
[[nodiscard]] double seconds_of(const flop_count& flops, const compute_rates& rates) noexcept;

/// Bytes of weights that one token's forward pass reads: every matrix once, top_k experts, routers
/// in f32. The embedding's row, norms and sinks are left out: they are too small to matter.
[[nodiscard]] std::uint64_t weight_bytes_per_token(const model_geometry& model,
                                                   dtype weights) noexcept;

/// Bytes of K and V that attention reads for the token at `position`, its own included.
[[nodiscard]] std::uint64_t kv_bytes_read_per_token(const model_geometry& model,
                                                    std::uint64_t position,
                                                    dtype kv) noexcept;

}  // namespace oriel
