// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/hash.hpp>

#include <engine/checkpoint.hpp>
#include <engine/error.hpp>
#include <engine/file_bytes.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>

namespace oriel::engine {
namespace {

/// config.json has no key for the width of a block's FFN; its gate says it.
void set_mtp_width(layer_geometry& block,
                   std::uint32_t index,
                   const safetensors_store& tensors,
                   const config_limits& limits) {
  const tensor_entry* gate =
      tensors.find(fmt::format("model.mtp.layers.{}.mlp.gate_proj.weight", index));
  if (gate != nullptr && gate->shape.size() == 2 && gate->shape[0] != 0 &&
      gate->shape[0] <= limits.intermediate) {
    block.ffn.intermediate = static_cast<std::uint32_t>(gate->shape[0]);
  }
}

void add_mtp_blocks(model_config& config,
                    const safetensors_store& tensors,
                    const config_limits& limits) {
  const std::uint32_t blocks = count_mtp_blocks(tensors);
  if (blocks != 0 && !config.mtp_block) {
    throw error("model.mtp.layers.*: MTP blocks are window layers, but config.json has none");
  }
  if (blocks != 0) {
    config.geometry.mtp_layers.assign(blocks, *config.mtp_block);
    for (std::uint32_t i = 0; i < blocks; ++i) {
      set_mtp_width(config.geometry.mtp_layers[i], i, tensors, limits);
    }
  }
}

}  // namespace

checkpoint open_checkpoint(const std::filesystem::path& directory,
                           const checkpoint_options& options) {
  checkpoint opened{read_config(directory / "config.json", options.config), {}, {}, {}};
  const std::filesystem::path generation = directory / "generation_config.json";
  std::error_code ignored;
  if (std::filesystem::exists(generation, ignored)) {
    add_generation_config(opened.config, generation, options.config);
  }
  opened.tensors = safetensors_store::open(directory, options.tensors);
  add_mtp_blocks(opened.config, opened.tensors, options.config);
  opened.layout = plan_layout(opened.config, opened.tensors, options.qkv_shards);
  opened.warnings = opened.layout.warnings;
  return opened;
}

std::string checkpoint_digest(const checkpoint& opened, const config_limits& limits) {
  constexpr std::size_t tensors_read = 1024, bytes_read = 64;
  const auto entries = opened.tensors.entries();
  const std::size_t stride = (entries.size() + tensors_read - 1) / tensors_read;
  std::string text = read_file(opened.tensors.directory() / "config.json", limits.file_bytes);
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const tensor_entry& t = entries[i];
    text += fmt::format(
        "\n{} {} {} {} {} ", t.name, t.stored_as, shape_words(t.shape), t.file, t.offset_bytes);
    if (i % stride == 0) {
      const auto bytes = opened.tensors.bytes(t);
      const auto first = bytes.first(std::min(bytes.size(), bytes_read));
      text.append(reinterpret_cast<const char*>(first.data()), first.size());
    }
  }
  const chain_hash hash = hash128(std::as_bytes(std::span(text)));
  return fmt::format("{:016x}{:016x}", hash.high, hash.low);
}

}  // namespace oriel::engine
