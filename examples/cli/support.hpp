// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What the commands share: finding models, reading prompts, progress on a terminal, byte counts.
#pragma once

#include <engine/checkpoint.hpp>
#include <engine/weights.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace oriel::cli {

/// `-m`, or the nano model: beside the installed program, or in the source tree it was built from.
/// @throws engine::error when there is none
[[nodiscard]] std::filesystem::path model_folder(const std::string& asked);

/// Opens a checkpoint and prints its warnings to stderr.
[[nodiscard]] engine::checkpoint open_model(const std::filesystem::path& folder,
                                            std::optional<std::uint32_t> qkv_shards = {});

/// Says no before the system has to: weights of so many bytes do not fit this machine's memory.
/// @throws engine::error
void expect_memory_for_weights(std::uint64_t bytes, const std::string& model);

/// Loads the weights, with a progress line on stderr when that is a terminal.
[[nodiscard]] engine::model_weights load_with_progress(const engine::checkpoint& checkpoint);

/// `-t`, or the cores this process may use.
[[nodiscard]] std::uint32_t thread_count(std::uint32_t asked);

/// A whole text file; "-" is standard input.
/// @throws engine::error
[[nodiscard]] std::string read_text(const std::string& path);

/// "6.29 GiB", "820 KiB".
[[nodiscard]] std::string bytes_text(std::uint64_t bytes);

}  // namespace oriel::cli
