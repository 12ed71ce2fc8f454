// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `checkpoint`: a model directory, opened and checked, its weights not yet read.
#pragma once

#include <engine/checkpoint_layout.hpp>
#include <engine/config_json.hpp>
#include <engine/safetensors.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace oriel::engine {

struct checkpoint_options {
  config_limits config = {};
  safetensors_limits tensors = {};
  std::optional<std::uint32_t> qkv_shards;  ///< of a fused QKV, when shapes do not tell
};

struct checkpoint {
  model_config config;  ///< geometry.mtp_layers filled in
  safetensors_store tensors;
  checkpoint_layout layout;  ///< points into `tensors`
  std::vector<std::string> warnings;
};

/// Reads config.json, generation_config.json where it is there (for its end-of-text tokens) and the
/// headers of all tensor files, and checks that they fit each other. Reads no weights.
/// @throws error
[[nodiscard]] checkpoint open_checkpoint(const std::filesystem::path& directory,
                                         const checkpoint_options& options = {});

/// Names a checkpoint in the keys of a prefix cache, at the cost of a few page reads: config.json,
/// the name, type, shape and place of every tensor, and 64 bytes of 1,024 tensors at most. Two
/// trainings of one architecture differ in nearly all of these bytes; a change of a few numbers
/// elsewhere is not seen.
/// @throws error
[[nodiscard]] std::string checkpoint_digest(const checkpoint& opened,
                                            const config_limits& limits = {});

}  // namespace oriel::engine
