// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/checkpoint_layout.hpp>
#include <engine/checkpoint_qkv_shards.hpp>
#include <engine/error.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace oriel::engine {
namespace {

/// One layer's fused projection, as far as it speaks about shards.
struct fused_layer {
  std::string name;
  const attention_geometry* attention;
  std::optional<std::uint64_t> scale_rows;  ///< none: not quantised, so shapes say nothing

  [[nodiscard]] std::uint64_t rows() const {
    const attention_geometry& a = *attention;
    return std::uint64_t{a.q_heads} * a.head_dim_qk +
           std::uint64_t{a.kv_heads} * (a.head_dim_qk + a.head_dim_vo);
  }
  [[nodiscard]] bool heads_allow(std::uint32_t shards) const {
    return attention->q_heads % shards == 0 && attention->kv_heads % shards == 0;
  }
  [[nodiscard]] std::uint64_t expected_scale_rows(std::uint32_t shards) const {
    return shards * ((rows() / shards + scale_block - 1) / scale_block);
  }
  [[nodiscard]] bool allows(std::uint32_t shards) const {
    return heads_allow(shards) && (!scale_rows || *scale_rows == expected_scale_rows(shards));
  }
};

std::vector<fused_layer> fused_layers(const model_config& config, const safetensors_store& store) {
  std::vector<fused_layer> layers;
  const auto add = [&](const char* format, const std::vector<layer_geometry>& geometries) {
    for (std::size_t i = 0; i < geometries.size(); ++i) {
      const std::string name = fmt::format(fmt::runtime(format), i);
      const tensor_entry* const scale = store.find(name + ".weight_scale_inv");
      layers.push_back({name, &geometries[i].attention, {}});
      if (scale != nullptr && scale->shape.size() == 2) {
        layers.back().scale_rows = scale->shape[0];
      }
    }
  };
  add("model.layers.{}.self_attn.qkv_proj", config.geometry.layers);
  add("model.mtp.layers.{}.self_attn.qkv_proj", config.geometry.mtp_layers);
  return layers;
}

std::string advice(const std::vector<std::uint32_t>& possible) {
  return possible.empty() ? "no other count fits every layer"
                          : fmt::format("these fit every layer: {}", fmt::join(possible, ", "));
}

}  // namespace

std::uint32_t decide_qkv_shards(const model_config& config,
                                const safetensors_store& store,
                                std::optional<std::uint32_t> asked,
                                std::vector<std::string>& warnings) {
  const std::uint32_t shards = asked.value_or(config.qkv_shards);
  const std::vector<fused_layer> layers = fused_layers(config, store);
  std::uint32_t heads_max = 0;
  for (const fused_layer& layer : layers) {
    heads_max = std::max(heads_max, layer.attention->kv_heads);
  }
  std::vector<std::uint32_t> possible;
  for (std::uint32_t t = 1; t <= heads_max; ++t) {
    if (std::all_of(layers.begin(), layers.end(), [&](const auto& l) { return l.allows(t); })) {
      possible.push_back(t);
    }
  }
  for (const fused_layer& layer : layers) {
    if (shards == 0 || !layer.heads_allow(shards)) {
      throw error(
          fmt::format("{}: {} shards of fused QKV do not divide {} query and {} KV heads; {}",
                      layer.name,
                      shards,
                      layer.attention->q_heads,
                      layer.attention->kv_heads,
                      advice(possible)));
    }
    if (!layer.allows(shards)) {
      throw error(fmt::format("{}: {} rows of scales, but {} shards of fused QKV would make {}; {}",
                              layer.name,
                              *layer.scale_rows,
                              shards,
                              layer.expected_scale_rows(shards),
                              advice(possible)));
    }
  }
  if (!asked && possible.size() > 1) {
    warnings.push_back(
        fmt::format("{}: no shape tells how many shards its rows interleave; {} is assumed, and {} "
                    "(--qkv-shards chooses)",
                    layers.front().name,
                    shards,
                    advice(possible)));
  }
  return shards;
}

}  // namespace oriel::engine
