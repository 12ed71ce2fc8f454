// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/checkpoint_claims.hpp>
#include <engine/checkpoint_layout.hpp>
#include <engine/checkpoint_qkv_shards.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string_view>
#include <utility>

namespace oriel::engine {
namespace {

constexpr std::string_view mtp_prefix = "model.mtp.layers.";

/// Turns names into ranges. Names are those of docs/model.md#tensor-names.
class layout_planner {
 public:
  layout_planner(const model_config& config, const safetensors_store& store, std::uint32_t shards)
      : config_(config), claims_(store, config.quantization), shards_(shards) {}

  checkpoint_layout plan();

 private:
  attention_layout attention(const std::string& at, const attention_geometry& a);
  matrix_rows split_qkv(const std::string& at, const attention_geometry& a);
  matrix_rows fused_qkv(const std::string& at, const attention_geometry& a);
  ffn_layout ffn(const std::string& at, std::uint32_t intermediate);
  moe_layout moe(const std::string& at, const ffn_geometry& f);
  std::vector<ffn_layout> fused_experts(const std::string& at, const ffn_geometry& f);
  layer_layout layer(const std::string& at, const layer_geometry& g, const char* second_norm);
  mtp_layout mtp(const std::string& at, const layer_geometry& g);
  void ignore_encoders(checkpoint_layout& layout);

  const model_config& config_;
  tensor_claims claims_;
  std::uint32_t shards_;
};

row_range part_of(row_range whole, std::uint64_t first_row, std::uint32_t rows) {
  whole.first_row = first_row;
  whole.rows = rows;
  return whole;
}

matrix_rows layout_planner::split_qkv(const std::string& at, const attention_geometry& a) {
  const std::uint32_t hidden = config_.geometry.hidden;
  return {claims_.matrix(at + "q_proj", a.q_heads * a.head_dim_qk, hidden),
          claims_.matrix(at + "k_proj", a.kv_heads * a.head_dim_qk, hidden),
          claims_.matrix(at + "v_proj", a.kv_heads * a.head_dim_vo, hidden)};
}

matrix_rows layout_planner::fused_qkv(const std::string& at, const attention_geometry& a) {
  const std::uint32_t q = a.q_heads / shards_ * a.head_dim_qk;
  const std::uint32_t k = a.kv_heads / shards_ * a.head_dim_qk;
  const std::uint32_t v = a.kv_heads / shards_ * a.head_dim_vo;
  const std::uint32_t shard_rows = q + k + v;
  const row_range whole =
      claims_.matrix(at + "qkv_proj", shard_rows * shards_, config_.geometry.hidden, shards_);
  matrix_rows ranges;
  for (const auto& [offset, rows] : {std::pair(0u, q), std::pair(q, k), std::pair(q + k, v)}) {
    for (std::uint32_t c = 0; c < shards_; ++c) {
      const std::uint64_t origin = std::uint64_t{c} * shard_rows;
      row_range range = part_of(whole, origin + offset, rows);
      range.grid_first_row = origin;
      range.grid_scale_row = std::uint64_t{c} * ((shard_rows + scale_block - 1) / scale_block);
      ranges.push_back(range);
    }
  }
  return ranges;
}

attention_layout layout_planner::attention(const std::string& at, const attention_geometry& a) {
  attention_layout layout;
  layout.qkv = config_.fused_qkv ? fused_qkv(at, a) : split_qkv(at, a);
  layout.o = {claims_.matrix(at + "o_proj", config_.geometry.hidden, a.q_heads * a.head_dim_vo)};
  if (a.has_sink) {
    const std::string short_name = at + "sinks";
    layout.sinks = claims_.vector(claims_.has(short_name) ? short_name : at + "attention_sink_bias",
                                  a.q_heads);
  }
  return layout;
}

ffn_layout layout_planner::ffn(const std::string& at, std::uint32_t intermediate) {
  const std::uint32_t hidden = config_.geometry.hidden;
  return {.gate_up = {claims_.matrix(at + "gate_proj", intermediate, hidden),
                      claims_.matrix(at + "up_proj", intermediate, hidden)},
          .down = {claims_.matrix(at + "down_proj", hidden, intermediate)}};
}

std::vector<ffn_layout> layout_planner::fused_experts(const std::string& at,
                                                      const ffn_geometry& f) {
  const std::uint32_t hidden = config_.geometry.hidden;
  const row_range gate_up =
      claims_.stack(at + "gate_up_proj", f.experts, 2 * f.intermediate, hidden);
  const row_range down = claims_.stack(at + "down_proj", f.experts, hidden, f.intermediate);
  std::vector<ffn_layout> experts;
  for (std::uint64_t e = 0; e < f.experts; ++e) {
    experts.push_back({.gate_up = {part_of(gate_up, e * gate_up.rows, gate_up.rows)},
                       .down = {part_of(down, e * down.rows, down.rows)}});
  }
  return experts;
}

moe_layout layout_planner::moe(const std::string& at, const ffn_geometry& f) {
  moe_layout layout;
  layout.router = {claims_.matrix(at + "gate", f.experts, config_.geometry.hidden)};
  layout.correction_bias = claims_.vector(at + "gate.e_score_correction_bias", f.experts);
  if (claims_.has(at + "experts.gate_up_proj")) {
    layout.experts = fused_experts(at + "experts.", f);
    return layout;
  }
  for (std::uint32_t e = 0; e < f.experts; ++e) {
    layout.experts.push_back(ffn(fmt::format("{}experts.{}.", at, e), f.intermediate));
  }
  return layout;
}

layer_layout layout_planner::layer(const std::string& at,
                                   const layer_geometry& g,
                                   const char* second_norm) {
  layer_layout layout;
  layout.input_norm = claims_.vector(at + "input_layernorm.weight", config_.geometry.hidden);
  layout.post_attention_norm =
      claims_.vector(fmt::format("{}{}.weight", at, second_norm), config_.geometry.hidden);
  layout.attention = attention(at + "self_attn.", g.attention);
  if (g.ffn.is_moe()) {
    layout.ffn = moe(at + "mlp.", g.ffn);
  } else {
    layout.ffn = ffn(at + "mlp.", g.ffn.intermediate);
  }
  return layout;
}

mtp_layout layout_planner::mtp(const std::string& at, const layer_geometry& g) {
  const std::uint32_t hidden = config_.geometry.hidden;
  return {.enorm = claims_.vector(at + "enorm.weight", hidden),
          .hnorm = claims_.vector(at + "hnorm.weight", hidden),
          .final_norm = claims_.vector(at + "final_layernorm.weight", hidden),
          .eh_proj = {claims_.matrix(at + "eh_proj", hidden, 2 * hidden)},
          .layer = layer(at, g, "pre_mlp_layernorm")};
}

/// V2.5 is published with image and audio encoders, which this engine does not run.
void layout_planner::ignore_encoders(checkpoint_layout& layout) {
  for (const char* prefix : {"visual.", "model.visual.", "audio_", "model.audio_", "speech_"}) {
    if (const std::size_t count = claims_.claim_prefix(prefix)) {
      layout.warnings.push_back(
          fmt::format("{} tensors named {}* are ignored: text only", count, prefix));
    }
  }
}

checkpoint_layout layout_planner::plan() {
  const model_geometry& g = config_.geometry;
  checkpoint_layout layout;
  layout.embedding = {claims_.matrix("model.embed_tokens", g.vocabulary, g.hidden)};
  layout.final_norm = claims_.vector("model.norm.weight", g.hidden);
  if (!g.tied_embeddings || claims_.has("lm_head.weight")) {
    layout.lm_head = {claims_.matrix("lm_head", g.vocabulary, g.hidden)};
  }
  if (g.tied_embeddings) {
    layout.lm_head = layout.embedding;
  }
  for (std::size_t i = 0; i < g.layers.size(); ++i) {
    layout.layers.push_back(
        layer(fmt::format("model.layers.{}.", i), g.layers[i], "post_attention_layernorm"));
  }
  for (std::size_t i = 0; i < g.mtp_layers.size(); ++i) {
    layout.mtp.push_back(mtp(fmt::format("{}{}.", mtp_prefix, i), g.mtp_layers[i]));
  }
  if (g.name == "mimo_v2") {
    ignore_encoders(layout);
  }
  claims_.finish();
  return layout;
}

}  // namespace

std::uint32_t count_mtp_blocks(const safetensors_store& store) {
  std::uint32_t count = 0;
  for (const tensor_entry& e : store.entries()) {
    if (!e.name.starts_with(mtp_prefix)) {
      continue;
    }
    std::uint32_t index = 0;
    const char* const begin = e.name.data() + mtp_prefix.size();
    const char* const end = e.name.data() + e.name.size();
    const auto [stop, failed] = std::from_chars(begin, end, index);
    // A strange or absurd index counts nothing here; its tensors will be named as extra.
    if (failed == std::errc{} && stop != end && *stop == '.' && index < 64) {
      count = std::max(count, index + 1);
    }
  }
  return count;
}

checkpoint_layout plan_layout(const model_config& config,
                              const safetensors_store& store,
                              std::optional<std::uint32_t> qkv_shards) {
  std::vector<std::string> warnings;
  std::uint32_t shards = 1;
  if (config.fused_qkv) {
    shards = decide_qkv_shards(config, store, qkv_shards, warnings);
  }
  checkpoint_layout layout = layout_planner(config, store, shards).plan();
  layout.warnings.insert(layout.warnings.begin(), warnings.begin(), warnings.end());
  return layout;
}

}  // namespace oriel::engine
