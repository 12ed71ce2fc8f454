// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `checkpoint_layout`: which rows of which tensors make up each matrix of the model. Planned, and
/// every tensor accounted for, before any weight is read.
///
/// A matrix is a list of row ranges. That one form covers split and fused QKV, experts one by one
/// or fused, and quantised matrices:
///
///     fused QKV, T = 2 shards:   tensor rows  | Q_0 | K_0 | V_0 | Q_1 | K_1 | V_1 |
///                                scale rows   | grid of shard 0 | grid of shard 1 |
///     ranges of the matrix:      Q_0 Q_1 K_0 K_1 V_0 V_1
#pragma once

#include <oriel/kernels/quantize.hpp>

#include <engine/config_json.hpp>
#include <engine/safetensors.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace oriel::engine {

/// Rows [first_row, first_row + rows) of a tensor seen as [*, columns].
struct row_range {
  const tensor_entry* weight = nullptr;
  const tensor_entry* scale = nullptr;  ///< f32 [*, ceil(columns / 128)], or null: not quantised
  std::uint64_t first_row = 0;
  std::uint32_t rows = 0;
  std::uint32_t columns = 0;
  std::uint64_t grid_first_row = 0;  ///< tensor row at which this range's scale grid starts
  std::uint64_t grid_scale_row = 0;  ///< row of `scale` at which it starts
};

/// The ranges of one matrix, in the order of its rows.
using matrix_rows = std::vector<row_range>;

struct attention_layout {
  matrix_rows qkv;  ///< every q head, every k head, every v head
  matrix_rows o;
  const tensor_entry* sinks = nullptr;
};

struct ffn_layout {
  matrix_rows gate_up;  ///< gate rows, then up rows
  matrix_rows down;
};

struct moe_layout {
  matrix_rows router;
  const tensor_entry* correction_bias = nullptr;
  std::vector<ffn_layout> experts;
};

struct layer_layout {
  const tensor_entry* input_norm = nullptr;
  const tensor_entry* post_attention_norm = nullptr;
  attention_layout attention;
  std::variant<ffn_layout, moe_layout> ffn;
};

struct mtp_layout {
  const tensor_entry* enorm = nullptr;
  const tensor_entry* hnorm = nullptr;
  const tensor_entry* final_norm = nullptr;
  matrix_rows eh_proj;
  layer_layout layer;
};

struct checkpoint_layout {
  matrix_rows embedding;
  std::vector<layer_layout> layers;
  const tensor_entry* final_norm = nullptr;
  matrix_rows lm_head;  ///< the embedding's rows when they are tied
  std::vector<mtp_layout> mtp;
  std::vector<std::string> warnings;  ///< for a person: what was ignored or could not be decided
};

/// How many MTP blocks the tensors `model.mtp.layers.I.*` make.
[[nodiscard]] std::uint32_t count_mtp_blocks(const safetensors_store& store);

/// Finds every tensor of the model under its released name or the one transformers writes. The
/// layout points into `store`. `config.geometry.mtp_layers` must be filled in.
/// @param qkv_shards  of a fused QKV, instead of `config.qkv_shards`
/// @throws error naming missing, extra and misshapen tensors, or a contradicted shard count
[[nodiscard]] checkpoint_layout plan_layout(const model_config& config,
                                            const safetensors_store& store,
                                            std::optional<std::uint32_t> qkv_shards);

}  // namespace oriel::engine
