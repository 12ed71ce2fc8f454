// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `model_weights`: a model's weights in memory, ready for the kernels: matrices packed for
/// `run_gemm`, everything else plain f32. Filled by weight_loader.hpp or random_weights.hpp.
///
/// Shapes are [rows, columns] = [output features, input features], as in checkpoints.
#pragma once

#include <oriel/core/dtype.hpp>
#include <oriel/kernels/gemm.hpp>
#include <oriel/kernels/isa.hpp>

#include <engine/aligned_bytes.hpp>

#include <cstddef>
#include <cstdint>
#include <variant>
#include <vector>

namespace oriel::engine {

/// Scales of an e4m3 matrix [n, k]: one for each 128 columns of a row's block. A row of the grid is
/// a row of some tensor's grid: matrices of several tensors, or of shards, have several.
struct scale_grid {
  std::vector<float> scales;        ///< [grid rows, ceil(k / 128)]; empty: no scales
  std::vector<std::uint32_t> rows;  ///< [n] row of the grid; empty: row r has r / 128
};

/// A matrix packed for `run_gemm`. Whoever multiplies makes its own plan, for its own rows_max and
/// concurrency, but with `model_weights::path` and `model_weights::backend`: those two and the
/// shape alone decide the packed layout.
struct packed_matrix {
  gemm_shape shape{};
  aligned_bytes bytes;
  scale_grid grid = {};  ///< of e4m3: only where form is plain (load_options::keeps_e4m3)
};

struct attention_weights {
  packed_matrix qkv;         ///< rows: every q head, then every k head, then every v head
  packed_matrix o;           ///< [hidden, q_heads * head_dim_vo]
  std::vector<float> sinks;  ///< [q_heads], or empty: no sink
};

struct dense_ffn_weights {
  packed_matrix gate_up;  ///< [2 * intermediate, hidden]: gate rows, then up rows
  packed_matrix down;     ///< [hidden, intermediate]
};

/// Expert e's matrices, as pack_moe_gate_up and pack_moe_down pack them, start at `e * stride` of
/// `gate_up` and `down`.
struct moe_weights {
  packed_matrix router;                ///< f32, [experts, hidden]
  std::vector<float> correction_bias;  ///< [experts]
  gemm_shape gate_up_shape{};          ///< of one expert: [2 * intermediate, hidden]
  gemm_shape down_shape{};             ///< of one expert: [hidden, intermediate]
  aligned_bytes gate_up;
  aligned_bytes down;
  std::size_t gate_up_stride_bytes = 0;  ///< a multiple of 64
  std::size_t down_stride_bytes = 0;     ///< a multiple of 64
  /// Of e4m3: [experts, grid rows, ceil(hidden / 128)], the gate's grid rows, then the up's.
  std::vector<float> gate_up_scales;
  std::vector<float> down_scales;  ///< of e4m3: [experts, grid rows, ceil(intermediate / 128)]
};

struct layer_weights {
  std::vector<float> input_norm;           ///< [hidden]
  std::vector<float> post_attention_norm;  ///< [hidden]
  attention_weights attention;
  std::variant<dense_ffn_weights, moe_weights> ffn;
};

/// One multi-token prediction block (docs/model.md#multi-token-prediction).
struct mtp_weights {
  std::vector<float> enorm;       ///< [hidden], of the token's embedding
  std::vector<float> hnorm;       ///< [hidden], of the main model's hidden state
  std::vector<float> final_norm;  ///< [hidden]
  packed_matrix eh_proj;          ///< [hidden, 2 * hidden]: embedding columns, then hidden columns
  layer_weights layer;            ///< its pre_mlp_layernorm is `post_attention_norm`
};

/// How matrices lie in memory.
enum class weight_form : std::uint8_t {
  packed,  ///< for the host's kernels
  plain    ///< row by row, as in a checkpoint: to be sent to a device. The host cannot multiply it
};

struct model_weights {
  weight_form form = weight_form::packed;
  dtype compute = dtype::bf16;  ///< of embedding and matrices, routers excepted: f32 or bf16
  isa path = isa::scalar;       ///< what the matrices were packed for
  host::gemm_backend backend = host::gemm_backend::automatic;  ///< as it was asked for
  aligned_bytes embedding;  ///< [vocabulary, hidden] of `compute`, plain
  std::vector<layer_weights> layers;
  std::vector<float> final_norm;  ///< [hidden]
  packed_matrix lm_head;          ///< [vocabulary, hidden]
  std::vector<mtp_weights> mtp;

  /// Bytes held by all of the above.
  [[nodiscard]] std::uint64_t bytes() const noexcept;
};

/// Lets go of everything that a device has a copy of; what remains says how it was loaded.
void drop_matrices(model_weights& weights) noexcept;

}  // namespace oriel::engine
