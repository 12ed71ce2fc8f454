// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/model/geometry.hpp>

#include <algorithm>
#include <cmath>

namespace oriel {
namespace {

using problem = std::optional<std::string>;

std::uint32_t count_kind(const std::vector<layer_geometry>& layers, attention_kind kind) {
  return static_cast<std::uint32_t>(std::count_if(
      layers.begin(), layers.end(), [&](const auto& l) { return l.attention.kind == kind; }));
}

problem problem_in_rope(const attention_geometry& a) {
  if (a.rotary_dims % 2 != 0 || a.rotary_dims > a.head_dim_qk) {
    return "rotary_dims must be even and at most head_dim_qk";
  }
  if (a.rope_base_dims > a.rotary_dims || a.rotary_dims - a.rope_base_dims > 1) {
    return "rope_base_dims must be rotary_dims, or one less";
  }
  if (a.rotary_dims != 0 && !(std::isfinite(a.rope_theta) && a.rope_theta > 0.0)) {
    return "rope_theta must be positive and finite";
  }
  return {};
}

problem problem_in_attention(const attention_geometry& a) {
  if (a.q_heads == 0 || a.kv_heads == 0 || a.q_heads % a.kv_heads != 0) {
    return "kv_heads must divide q_heads, and neither may be 0";
  }
  if (a.head_dim_qk == 0 || a.head_dim_vo == 0) {
    return "head dims must be positive";
  }
  if ((a.kind == attention_kind::window) != (a.window_tokens != 0)) {
    return "window_tokens must be positive in window layers and 0 in full layers";
  }
  return problem_in_rope(a);
}

problem problem_in_ffn(const model_geometry& model, const ffn_geometry& f) {
  if (f.intermediate == 0) {
    return "the intermediate size of the FFN must be positive";
  }
  if (!f.is_moe()) {
    return f.top_k == 0 ? problem{} : "a dense FFN has no top_k";
  }
  const std::uint32_t groups = model.expert_groups, kept = model.expert_groups_kept;
  if (groups == 0 || f.experts % groups != 0 || kept == 0 || kept > groups) {
    return "expert_groups must divide experts, and 1 <= expert_groups_kept <= expert_groups";
  }
  const std::uint32_t group_experts = f.experts / groups;
  if (groups > 1 && group_experts < 2) {
    return "an expert group is ranked by its best two experts, so it needs two";
  }
  if (f.top_k == 0 || f.top_k > group_experts * kept) {
    return "top_k must be between 1 and the experts that the kept groups hold";
  }
  return {};
}

problem problem_in_layers(const model_geometry& model,
                          const std::vector<layer_geometry>& layers,
                          const char* what) {
  for (std::size_t i = 0; i < layers.size(); ++i) {
    problem p = problem_in_attention(layers[i].attention);
    if (!p) {
      p = problem_in_ffn(model, layers[i].ffn);
    }
    if (p) {
      return what + std::to_string(i) + ": " + *p;
    }
  }
  return {};
}

}  // namespace

std::uint32_t model_geometry::full_layers() const noexcept {
  return count_kind(layers, attention_kind::full);
}

std::uint32_t model_geometry::window_layers() const noexcept {
  return count_kind(layers, attention_kind::window);
}

std::uint64_t kv_bytes_per_token(const attention_geometry& layer, dtype kv) noexcept {
  const std::uint64_t dims = std::uint64_t{layer.head_dim_qk} + layer.head_dim_vo;
  const std::uint64_t scales = kv == dtype::e4m3 ? 2 * sizeof(float) : 0;
  return layer.kv_heads * (dims * size_bytes(kv) + scales);
}

std::optional<std::string> problem_in(const model_geometry& model) {
  if (model.hidden == 0 || model.vocabulary == 0 || model.context_tokens == 0) {
    return "hidden, vocabulary and context_tokens must be positive";
  }
  if (model.layers.empty()) {
    return "a model needs at least one layer";
  }
  if (!(std::isfinite(model.rms_eps) && model.rms_eps > 0.0)) {
    return "rms_eps must be positive and finite";
  }
  if (!std::isfinite(model.attention_value_scale) || !std::isfinite(model.routed_scaling_factor)) {
    return "attention_value_scale and routed_scaling_factor must be finite";
  }
  problem p = problem_in_layers(model, model.layers, "layer ");
  return p ? p : problem_in_layers(model, model.mtp_layers, "MTP layer ");
}

}  // namespace oriel
