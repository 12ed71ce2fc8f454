// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/model/presets.hpp>

#include <algorithm>
#include <array>
#include <initializer_list>

namespace oriel {
namespace {

/// The MiMo-V2 family differs in these numbers alone (docs/model.md#the-family-in-numbers).
struct mimo_numbers {
  std::uint32_t hidden, vocabulary, context_tokens;
  std::uint32_t q_heads, kv_heads_full, kv_heads_window;
  double theta_full, value_scale;
  ffn_geometry dense, moe;  ///< the first layer is dense; all are where moe has no experts
  std::uint32_t mtp_layers;
};

attention_geometry mimo_attention(const mimo_numbers& n, attention_kind kind) {
  const bool window = kind == attention_kind::window;
  return {.kind = kind,
          .window_tokens = window ? 128u : 0u,
          .q_heads = n.q_heads,
          .kv_heads = window ? n.kv_heads_window : n.kv_heads_full,
          .head_dim_qk = 192,
          .head_dim_vo = 128,
          .rotary_dims = 64,
          .rope_base_dims = 64,
          .rope_theta = window ? 1e4 : n.theta_full,
          .has_sink = window};
}

model_geometry mimo(const mimo_numbers& n,
                    std::uint32_t layers,
                    std::initializer_list<std::uint32_t> full_ids) {
  model_geometry m;
  m.hidden = n.hidden;
  m.vocabulary = n.vocabulary;
  m.context_tokens = n.context_tokens;
  m.attention_value_scale = n.value_scale;
  const attention_geometry window = mimo_attention(n, attention_kind::window);
  for (std::uint32_t i = 0; i < layers; ++i) {
    m.layers.push_back({window, i == 0 || !n.moe.is_moe() ? n.dense : n.moe});
  }
  for (const std::uint32_t id : full_ids) {
    m.layers[id].attention = mimo_attention(n, attention_kind::full);
  }
  m.mtp_layers.assign(n.mtp_layers, {window, n.dense});
  return m;
}

model_geometry mimo_48(std::uint32_t context_tokens, double theta_full) {
  return mimo({.hidden = 4096,
               .vocabulary = 152576,
               .context_tokens = context_tokens,
               .q_heads = 64,
               .kv_heads_full = 4,
               .kv_heads_window = 8,
               .theta_full = theta_full,
               .value_scale = 0.707,
               .dense = {.intermediate = 16384},
               .moe = {.intermediate = 2048, .experts = 256, .top_k = 8},
               .mtp_layers = 3},
              48,
              {0, 5, 11, 17, 23, 29, 35, 41, 47});
}

model_geometry mimo_flash() {
  return mimo_48(262144, 5e6);
}
model_geometry mimo_25() {
  return mimo_48(1048576, 1e7);
}

model_geometry mimo_25_pro() {
  return mimo({.hidden = 6144,
               .vocabulary = 152576,
               .context_tokens = 1048576,
               .q_heads = 128,
               .kv_heads_full = 8,
               .kv_heads_window = 8,
               .theta_full = 1e7,
               .value_scale = 0.612,
               .dense = {.intermediate = 16384},
               .moe = {.intermediate = 2048, .experts = 384, .top_k = 8},
               .mtp_layers = 3},
              70,
              {0, 7, 15, 23, 31, 39, 47, 55, 62, 69});
}

mimo_numbers bench_numbers() {
  return {.hidden = 1024,
          .vocabulary = 32768,
          .context_tokens = 32768,
          .q_heads = 16,
          .kv_heads_full = 1,
          .kv_heads_window = 2,
          .theta_full = 5e6,
          .value_scale = 0.707,
          .dense = {.intermediate = 4096},
          .moe = {},
          .mtp_layers = 0};
}

model_geometry bench_dense() {
  return mimo(bench_numbers(), 18, {0, 5, 11, 17});
}

model_geometry bench_moe() {
  mimo_numbers n = bench_numbers();
  n.vocabulary = 16384;
  n.moe = {.intermediate = 512, .experts = 32, .top_k = 4};
  return mimo(n, 10, {0, 5});
}

/// Large enough that a decode step reads far more than a cache holds, and MTP blocks to draft with.
model_geometry bench_mtp() {
  mimo_numbers n = bench_numbers();
  n.hidden = 2048;
  n.vocabulary = 8192;
  n.q_heads = 8;
  n.dense = {.intermediate = 8192};
  n.mtp_layers = 3;
  return mimo(n, 24, {0, 5, 11, 17, 23});
}

model_geometry gpt_oss(std::uint32_t layers, std::uint32_t experts) {
  model_geometry m;
  m.hidden = 2880;
  m.vocabulary = 201088;
  m.context_tokens = 131072;
  attention_geometry window{.kind = attention_kind::window,
                            .window_tokens = 128,
                            .q_heads = 64,
                            .kv_heads = 8,
                            .head_dim_qk = 64,
                            .head_dim_vo = 64,
                            .rotary_dims = 64,
                            .rope_base_dims = 64,
                            .rope_theta = 150000.0,
                            .has_sink = true};
  attention_geometry full = window;
  full.kind = attention_kind::full;
  full.window_tokens = 0;
  const ffn_geometry moe{.intermediate = 2880, .experts = experts, .top_k = 4};
  for (std::uint32_t i = 0; i < layers; ++i) {
    m.layers.push_back({i % 2 == 0 ? window : full, moe});
  }
  return m;
}

model_geometry gpt_oss_20b() {
  return gpt_oss(24, 32);
}
model_geometry gpt_oss_120b() {
  return gpt_oss(36, 128);
}

model_geometry gemma_3_27b() {
  model_geometry m;
  m.hidden = 5376;
  m.vocabulary = 262208;
  m.context_tokens = 131072;
  m.rms_eps = 1e-6;
  m.tied_embeddings = true;
  const attention_geometry window{.kind = attention_kind::window,
                                  .window_tokens = 1024,
                                  .q_heads = 32,
                                  .kv_heads = 16,
                                  .head_dim_qk = 128,
                                  .head_dim_vo = 128,
                                  .rotary_dims = 128,
                                  .rope_base_dims = 128,
                                  .rope_theta = 1e4};
  attention_geometry full = window;
  full.kind = attention_kind::full;
  full.window_tokens = 0;
  full.rope_theta = 1e6;
  for (std::uint32_t i = 0; i < 62; ++i) {
    m.layers.push_back({(i + 1) % 6 == 0 ? full : window, {.intermediate = 21504}});
  }
  return m;
}

constexpr std::array<std::string_view, 9> names{"mimo-v2-flash",
                                                "mimo-v2.5",
                                                "mimo-v2.5-pro",
                                                "gpt-oss-20b",
                                                "gpt-oss-120b",
                                                "gemma-3-27b",
                                                "bench-0.4b",
                                                "bench-0.4b-moe",
                                                "bench-1.4b"};
constexpr std::array<model_geometry (*)(), names.size()> makers{mimo_flash,
                                                                mimo_25,
                                                                mimo_25_pro,
                                                                gpt_oss_20b,
                                                                gpt_oss_120b,
                                                                gemma_3_27b,
                                                                bench_dense,
                                                                bench_moe,
                                                                bench_mtp};

}  // namespace

std::span<const std::string_view> preset_names() noexcept {
  return names;
}

std::optional<model_geometry> preset(std::string_view name) {
  const auto at = std::find(names.begin(), names.end(), name);
  if (at == names.end()) {
    return {};
  }
  model_geometry m = makers[static_cast<std::size_t>(at - names.begin())]();
  m.name = name;
  return m;
}

}  // namespace oriel
