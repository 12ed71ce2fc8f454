// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What the commands share: finding models, reading prompts, progress on a terminal, byte counts.
#pragma once

#include "commands.hpp"

#include <engine/checkpoint.hpp>
#include <engine/engine_options.hpp>
#include <engine/tokenizer/tokenizer.hpp>
#include <engine/weights.hpp>
#include <fmt/format.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace oriel::cli {

inline constexpr double gib = 1024.0 * 1024.0 * 1024.0;

/// `-m`, or the nano model: beside the installed program, or in the source tree it was built from.
/// @throws engine::error when there is none
[[nodiscard]] std::filesystem::path model_folder(const std::string& asked);

/// Opens a checkpoint and prints its warnings to stderr.
/// @throws engine::error, also when shards are given and no QKV is fused
[[nodiscard]] engine::checkpoint open_model(const std::filesystem::path& folder,
                                            std::optional<std::uint32_t> qkv_shards = {});

/// Opens those of the three standard streams that came closed, such that their use fails: the next
/// file that is opened must not be taken for one of them. A reader of stderr that goes away is no
/// reason to end; one of stdout is (write_out). Call it first.
void hold_standard_streams() noexcept;

/// A message on stderr. What cannot be written there is lost, silently: there is nobody to tell.
template <class... Args>
void note(fmt::format_string<Args...> format, Args&&... args) {
  fmt::memory_buffer text;  // On the stack while it is short: out of memory is told, too.
  fmt::format_to(std::back_inserter(text), format, std::forward<Args>(args)...);
  std::fwrite(text.data(), 1, text.size(), stderr);
}

/// Writes to stdout.
/// @throws engine::error when it cannot be written
void write_out(std::string_view text);

/// `write_out` of formatted text.
template <class... Args>
void print_out(fmt::format_string<Args...> format, Args&&... args) {
  write_out(fmt::format(format, std::forward<Args>(args)...));
}

/// Sends out what stdout still buffers. Nothing has succeeded before this has.
/// @throws engine::error when it cannot be written
void finish_output();

/// Says no before the system has to: weights of so many bytes do not fit this machine's memory.
/// @throws engine::error
void expect_memory_for_weights(std::uint64_t bytes, const std::string& model);

/// What an engine is told of them.
/// @throws engine::error when the model has not so many MTP blocks
[[nodiscard]] engine::speculation_options speculation_of(const draft_options& asked,
                                                         const model_geometry& model);

/// Stands in where a folder has no tokenizer, because the engine wants one. Its only token is there
/// because a vocabulary must not be empty; nobody looks at the text it gives.
[[nodiscard]] engine::tokenizer no_tokenizer();

/// Loads the weights, with a progress line on stderr when that is a terminal. In the plain form
/// e4m3 stays e4m3, with its scales.
[[nodiscard]] engine::model_weights load_with_progress(
    const engine::checkpoint& checkpoint,
    bool with_mtp = false,
    engine::weight_form form = engine::weight_form::packed);

/// Whether stderr is a terminal: progress is shown there only.
[[nodiscard]] bool shows_progress() noexcept;

/// `-t`, or the cores this process may use.
[[nodiscard]] std::uint32_t thread_count(std::uint32_t asked);

/// A whole text file of at most `bytes_max` bytes; "-" is standard input. A longer one is refused:
/// a regular file unread, a stream as soon as it is longer.
/// @throws engine::error
[[nodiscard]] std::string read_text(const std::string& path, std::uint64_t bytes_max);

/// "6.29 GiB", "820 KiB".
[[nodiscard]] std::string bytes_text(std::uint64_t bytes);

}  // namespace oriel::cli
