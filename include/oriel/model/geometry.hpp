// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `model_geometry`: everything about a model that memory, cost and kernels depend on, layer by
/// layer, without its weights. Read from a checkpoint's config.json by examples/engine, or taken
/// from presets.hpp.
#pragma once

#include <oriel/core/dtype.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace oriel {

/// What a layer's attention sees.
enum class attention_kind : std::uint8_t {
  full,    ///< every earlier position ("GA", global attention)
  window,  ///< the last window_tokens positions, the query included ("SWA")
};

/// One layer's attention.
struct attention_geometry {
  attention_kind kind = attention_kind::full;
  std::uint32_t window_tokens = 0;  ///< keys a query sees, itself included; 0 when kind is full
  std::uint32_t q_heads = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim_qk = 0;
  std::uint32_t head_dim_vo = 0;
  std::uint32_t rotary_dims = 0;  ///< leading dims of a head that rope rotates; even
  /// What the exponent of the frequencies is divided by: theta^(-2j / rope_base_dims). Equal to
  /// rotary_dims except when int(head_dim * partial_rotary_factor) is odd (docs/model.md#rope).
  std::uint32_t rope_base_dims = 0;
  double rope_theta = 0.0;
  bool has_sink = false;  ///< one learned logit per query head joins the softmax denominator

  friend bool operator==(const attention_geometry&, const attention_geometry&) = default;
};

/// One layer's feed-forward part: dense when experts == 0.
struct ffn_geometry {
  std::uint32_t intermediate = 0;  ///< of the dense FFN, or of one expert
  std::uint32_t experts = 0;
  std::uint32_t top_k = 0;  ///< experts per token

  [[nodiscard]] bool is_moe() const noexcept { return experts != 0; }
  friend bool operator==(const ffn_geometry&, const ffn_geometry&) = default;
};

struct layer_geometry {
  attention_geometry attention;
  ffn_geometry ffn;

  friend bool operator==(const layer_geometry&, const layer_geometry&) = default;
};

/// A decoder-only model of the hybrid sliding-window family.
struct model_geometry {
  std::string name;  ///< preset name or model_type, for messages
  std::uint32_t hidden = 0;
  std::uint32_t vocabulary = 0;
  std::uint32_t context_tokens = 0;  ///< max_position_embeddings
  std::vector<layer_geometry> layers;
  std::vector<layer_geometry> mtp_layers;  ///< multi-token prediction blocks; may be empty
  double rms_eps = 1e-5;
  double attention_value_scale = 1.0;  ///< V is multiplied by it before it is cached
  double routed_scaling_factor = 1.0;
  bool norm_topk_prob = true;
  std::uint32_t expert_groups = 1;       ///< n_group
  std::uint32_t expert_groups_kept = 1;  ///< topk_group
  bool tied_embeddings = false;

  [[nodiscard]] std::uint32_t full_layers() const noexcept;
  [[nodiscard]] std::uint32_t window_layers() const noexcept;
};

/// Bytes of K and V that one layer stores for one token position; of e4m3 with a scale each for
/// every head (kernels/paged_kv.hpp).
[[nodiscard]] std::uint64_t kv_bytes_per_token(const attention_geometry& layer, dtype kv) noexcept;

/// Says what is wrong with a geometry, or nothing. Every layer's kv_heads divides q_heads, windows
/// are positive exactly in window layers, and so on.
[[nodiscard]] std::optional<std::string> problem_in(const model_geometry& model);

}  // namespace oriel
