// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A tiny random checkpoint of the MiMo-V2 family and the other ways to store the same model: fused
/// QKV, fused experts, other names, FP8. Extents are ragged on purpose: not multiples of 128.
#pragma once

#include <fmt/format.h>
#include <support/safetensors_writer.hpp>
#include <support/temporary_directory.hpp>

#include <cstdint>
#include <filesystem>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace tiny {

inline constexpr std::uint32_t hidden = 160, vocabulary = 96, q_heads = 8, dk = 24, dv = 16;
inline constexpr std::uint32_t inter = 144, expert_inter = 40, experts = 6, layers = 3;
inline constexpr std::uint32_t shards = 2, block = 128;

inline bool is_window(std::uint32_t layer) {
  return layer != 0;
}
inline std::uint32_t kv_heads(bool window) {
  return window ? 4 : 2;
}

struct checkpoint {
  std::string config;
  test_tensors tensors;

  void write(const std::filesystem::path& folder) const {
    write_file(folder / "config.json", config);
    write_file(folder / "model.safetensors", safetensors_bytes(tensors));
  }
};

inline std::string config_json(const std::string& more = "") {
  return fmt::format(
      R"({{"model_type": "mimo_v2", "hidden_size": {}, "vocab_size": {}, "num_hidden_layers": {},
          "max_position_embeddings": 256, "hybrid_layer_pattern": [0, 1, 1],
          "moe_layer_freq": [0, 1, 1], "num_attention_heads": {}, "num_key_value_heads": 2,
          "swa_num_key_value_heads": 4, "head_dim": {}, "v_head_dim": {}, "rope_theta": 1e6,
          "swa_rope_theta": 1e4, "partial_rotary_factor": 0.334, "sliding_window": 8,
          "attention_value_scale": 0.7, "intermediate_size": {}, "moe_intermediate_size": {},
          "n_routed_experts": {}, "num_experts_per_tok": 2, "layernorm_epsilon": 1e-5{}}})",
      hidden,
      vocabulary,
      layers,
      q_heads,
      dk,
      dv,
      inter,
      expert_inter,
      experts,
      more);
}

/// Draws tensors; the same seed gives the same tensors.
class drawer {
 public:
  explicit drawer(unsigned seed) : random_(seed) {}

  test_tensor tensor(std::vector<std::uint64_t> shape, oriel::dtype type) {
    test_tensor t{std::move(shape), type, {}, {}};
    std::uint64_t count = 1;
    for (const std::uint64_t extent : t.shape) {
      count *= extent;
    }
    for (std::uint64_t i = 0; i < count; ++i) {
      const float x = std::uniform_real_distribution<float>(-0.2f, 0.2f)(random_);
      t.values.push_back(type == oriel::dtype::bf16 ? oriel::round_to_bf16(x) : x);
    }
    return t;
  }

  /// e4m3 codes without the two NaNs, and a scale for each block.
  std::pair<test_tensor, test_tensor> quantised(std::uint64_t rows,
                                                std::uint64_t columns,
                                                std::uint64_t scale_rows) {
    test_tensor codes{{rows, columns}, oriel::dtype::e4m3, {}, {}};
    for (std::uint64_t i = 0; i < rows * columns; ++i) {
      const auto code = static_cast<std::uint8_t>(random_());
      codes.codes.push_back((code & 0x7Fu) == 0x7Fu ? 0 : code);
    }
    test_tensor scales = tensor({scale_rows, (columns + block - 1) / block}, oriel::dtype::f32);
    return {std::move(codes), std::move(scales)};
  }

 private:
  std::mt19937 random_;
};

inline void add_attention(
    test_tensors& to, drawer& draw, const std::string& at, bool window, oriel::dtype type) {
  const std::uint32_t kv = kv_heads(window);
  to[at + "q_proj.weight"] = draw.tensor({q_heads * dk, hidden}, type);
  to[at + "k_proj.weight"] = draw.tensor({kv * dk, hidden}, type);
  to[at + "v_proj.weight"] = draw.tensor({kv * dv, hidden}, type);
  to[at + "o_proj.weight"] = draw.tensor({hidden, q_heads * dv}, type);
  if (window) {
    to[at + "attention_sink_bias"] = draw.tensor({q_heads}, type);
  }
}

inline void add_ffn(
    test_tensors& to, drawer& draw, const std::string& at, std::uint32_t width, oriel::dtype type) {
  to[at + "gate_proj.weight"] = draw.tensor({width, hidden}, type);
  to[at + "up_proj.weight"] = draw.tensor({width, hidden}, type);
  to[at + "down_proj.weight"] = draw.tensor({hidden, width}, type);
}

/// Released names, split QKV, one tensor for each expert, one MTP block.
inline checkpoint make(oriel::dtype type, unsigned seed = 1) {
  drawer draw(seed);
  checkpoint c{config_json(), {}};
  test_tensors& t = c.tensors;
  t["model.embed_tokens.weight"] = draw.tensor({vocabulary, hidden}, type);
  t["model.norm.weight"] = draw.tensor({hidden}, type);
  t["lm_head.weight"] = draw.tensor({vocabulary, hidden}, type);
  for (std::uint32_t i = 0; i < layers; ++i) {
    const std::string at = fmt::format("model.layers.{}.", i);
    t[at + "input_layernorm.weight"] = draw.tensor({hidden}, type);
    t[at + "post_attention_layernorm.weight"] = draw.tensor({hidden}, type);
    add_attention(t, draw, at + "self_attn.", is_window(i), type);
    if (i == 0) {
      add_ffn(t, draw, at + "mlp.", inter, type);
      continue;
    }
    t[at + "mlp.gate.weight"] = draw.tensor({experts, hidden}, oriel::dtype::f32);
    t[at + "mlp.gate.e_score_correction_bias"] = draw.tensor({experts}, oriel::dtype::f32);
    for (std::uint32_t e = 0; e < experts; ++e) {
      add_ffn(t, draw, fmt::format("{}mlp.experts.{}.", at, e), expert_inter, type);
    }
  }
  const std::string mtp = "model.mtp.layers.0.";
  for (const char* norm :
       {"enorm", "hnorm", "input_layernorm", "pre_mlp_layernorm", "final_layernorm"}) {
    t[mtp + norm + ".weight"] = draw.tensor({hidden}, type);
  }
  t[mtp + "eh_proj.weight"] = draw.tensor({hidden, 2 * hidden}, type);
  add_attention(t, draw, mtp + "self_attn.", true, type);
  add_ffn(t, draw, mtp + "mlp.", inter, type);
  return c;
}

/// The four places of a QKV and whether they are window layers.
inline std::vector<std::pair<std::string, bool>> attention_places() {
  return {{"model.layers.0.self_attn.", false},
          {"model.layers.1.self_attn.", true},
          {"model.layers.2.self_attn.", true},
          {"model.mtp.layers.0.self_attn.", true}};
}

/// Row r of a fused QKV of `count` shards: which of q, k, v it belongs to, and which row of it.
inline std::pair<const char*, std::uint32_t> split_place(std::uint32_t row,
                                                         bool window,
                                                         std::uint32_t count) {
  const std::uint32_t q = q_heads / count * dk, k = kv_heads(window) / count * dk,
                      v = kv_heads(window) / count * dv;
  const std::uint32_t shard = row / (q + k + v), local = row % (q + k + v);
  if (local < q) {
    return {"q_proj", shard * q + local};
  }
  return local < q + k ? std::pair("k_proj", shard * k + local - q)
                       : std::pair("v_proj", shard * v + local - q - k);
}

inline std::uint32_t qkv_rows(bool window) {
  return q_heads * dk + kv_heads(window) * (dk + dv);
}

/// The same model with its q, k and v interleaved in `count` shards.
inline checkpoint with_fused_qkv(checkpoint c, std::uint32_t count) {
  c.config = config_json(R"(, "attention_projection_layout": "fused_qkv")");
  for (const auto& [at, window] : attention_places()) {
    test_tensor fused{{qkv_rows(window), hidden}, c.tensors.at(at + "q_proj.weight").type, {}, {}};
    for (std::uint32_t r = 0; r < qkv_rows(window); ++r) {
      const auto [part, row] = split_place(r, window, count);
      const float* const from = c.tensors.at(at + part + ".weight").values.data() + row * hidden;
      fused.values.insert(fused.values.end(), from, from + hidden);
    }
    for (const char* part : {"q_proj", "k_proj", "v_proj"}) {
      c.tensors.erase(at + part + ".weight");
    }
    c.tensors[at + "qkv_proj.weight"] = std::move(fused);
  }
  return c;
}

/// The same model with experts fused and sinks named as transformers has them in memory.
inline checkpoint with_fused_experts(checkpoint c) {
  for (const auto& [at, window] : attention_places()) {
    if (window) {
      auto node = c.tensors.extract(at + "attention_sink_bias");
      node.key() = at + "sinks";
      c.tensors.insert(std::move(node));
    }
  }
  for (std::uint32_t i = 1; i < layers; ++i) {
    const std::string at = fmt::format("model.layers.{}.mlp.experts.", i);
    const oriel::dtype type = c.tensors.at(at + "0.up_proj.weight").type;
    test_tensor gate_up{{experts, 2 * expert_inter, hidden}, type, {}, {}};
    test_tensor down{{experts, hidden, expert_inter}, type, {}, {}};
    for (std::uint32_t e = 0; e < experts; ++e) {
      for (const char* part : {"gate_proj", "up_proj", "down_proj"}) {
        const auto node = c.tensors.extract(fmt::format("{}{}.{}.weight", at, e, part));
        auto& values = (part[0] == 'd' ? down : gate_up).values;
        values.insert(values.end(), node.mapped().values.begin(), node.mapped().values.end());
      }
    }
    c.tensors[at + "gate_up_proj"] = std::move(gate_up);
    c.tensors[at + "down_proj"] = std::move(down);
  }
  return c;
}

/// A checkpoint in FP8 with fused QKV, and the same numbers in bf16 with split QKV.
struct fp8_twins {
  checkpoint fp8;
  checkpoint plain;
};

inline float dequantised(const test_tensor& codes,
                         const test_tensor& scales,
                         std::uint64_t row,
                         std::uint64_t scale_row,
                         std::uint64_t column) {
  const float scale = scales.values[scale_row * scales.shape[1] + column / block];
  const auto code = static_cast<oriel::e4m3>(codes.codes[row * codes.shape[1] + column]);
  return oriel::round_to_bf16(oriel::to_float(code) * scale);
}

inline fp8_twins make_fp8(unsigned seed = 2) {
  drawer draw(seed);
  fp8_twins twins{make(oriel::dtype::bf16, seed), make(oriel::dtype::bf16, seed)};
  twins.fp8 = with_fused_qkv(std::move(twins.fp8), shards);
  twins.fp8.config = config_json(R"(, "attention_projection_layout": "fused_qkv",
      "quantization_config": {"quant_method": "fp8", "fmt": "e4m3",
                              "weight_block_size": [128, 128]})");
  test_tensors& fp8 = twins.fp8.tensors;
  for (const auto& [at, window] : attention_places()) {
    const std::uint32_t rows = qkv_rows(window), shard_rows = rows / shards;
    const std::uint32_t grid_rows = (shard_rows + block - 1) / block;
    const auto [codes, scales] = draw.quantised(rows, hidden, shards * grid_rows);
    for (std::uint32_t r = 0; r < rows; ++r) {
      const auto [part, row] = split_place(r, window, shards);
      const std::uint32_t scale_row = r / shard_rows * grid_rows + r % shard_rows / block;
      float* const to = twins.plain.tensors.at(at + part + ".weight").values.data() + row * hidden;
      for (std::uint32_t c = 0; c < hidden; ++c) {
        to[c] = dequantised(codes, scales, r, scale_row, c);
      }
    }
    fp8[at + "qkv_proj.weight"] = codes;
    fp8[at + "qkv_proj.weight_scale_inv"] = scales;
  }
  for (auto& [name, plain] : twins.plain.tensors) {
    if (name.find(".mlp.") == std::string::npos || name.find("_proj.") == std::string::npos) {
      continue;
    }
    const std::uint64_t rows = plain.shape[0], columns = plain.shape[1];
    const auto [codes, scales] = draw.quantised(rows, columns, (rows + block - 1) / block);
    for (std::uint64_t i = 0; i < rows * columns; ++i) {
      plain.values[i] = dequantised(codes, scales, i / columns, i / columns / block, i % columns);
    }
    fp8[name] = codes;
    fp8[name + "_scale_inv"] = scales;
  }
  return twins;
}

}  // namespace tiny
