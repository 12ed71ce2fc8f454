// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `model_config`: what a Hugging Face config.json says about a model of type `mimo_v2_flash` or
/// `mimo_v2`, whether its keys are the released ones or those that transformers writes.
///
/// Two readings disagree on the window. Released files state `sliding_window` = 128 and mean 128
/// keys with the query itself; transformers, seeing `sliding_window_size`, takes one key more. Here
/// W = `sliding_window` where the key is present (which is also what transformers wrote, if it
/// wrote the file), else `sliding_window_size`. W always counts the query.
#pragma once

#include <oriel/core/dtype.hpp>
#include <oriel/core/ids.hpp>
#include <oriel/model/geometry.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

namespace oriel::engine {

/// Upper bounds on what a configuration may ask for, checked before any memory is taken.
struct config_limits {
  std::uint64_t file_bytes = 16u << 20;
  std::uint32_t layers = 1024;
  std::uint32_t hidden = 1u << 17;
  std::uint32_t intermediate = 1u << 20;
  std::uint32_t vocabulary = 1u << 22;
  std::uint32_t heads = 1024;
  std::uint32_t head_dim = 1024;
  std::uint32_t experts = 4096;
  std::uint32_t context_tokens = 1u << 30;
  std::uint32_t eos_tokens = 64;
};

/// How the matrices of the checkpoint are stored.
enum class weight_quantization : std::uint8_t {
  none,       ///< as plain bf16 or f32
  fp8_block,  ///< e4m3 with one f32 scale per 128x128 block; some matrices may be plain
};

struct model_config {
  model_geometry geometry;  ///< mtp_layers is empty: they are counted from the tensors
  /// What every MTP block looks like: a window layer with a dense FFN. None without window layers.
  std::optional<layer_geometry> mtp_block;
  std::vector<token_id> eos_tokens;
  bool fused_qkv = false;
  /// Of a fused QKV: KV heads of the full layers (docs/model.md#fused-qkv).
  std::uint32_t qkv_shards = 1;
  weight_quantization quantization = weight_quantization::none;
};

/// Reads and checks one file. Keys that would change the arithmetic to something Oriel does not
/// compute (another rope type, biases, shared experts, ...) are refused by name.
/// @throws error
[[nodiscard]] model_config read_config(const std::filesystem::path& file,
                                       const config_limits& limits = {});

/// The same for a text; `where` names it in messages.
/// @throws error
[[nodiscard]] model_config parse_config(std::string_view json,
                                        std::string_view where,
                                        const config_limits& limits = {});

/// Adds the end-of-text tokens of a generation_config.json; chat models list more there.
/// @throws error
void add_generation_config(model_config& config,
                           const std::filesystem::path& file,
                           const config_limits& limits = {});

}  // namespace oriel::engine
