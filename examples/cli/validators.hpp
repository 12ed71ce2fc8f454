// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What an option may say, checked while the command line is read, so that what is wrong there is
/// wrong usage. Numbers are decimal; CLI11's own checks let nan, octal and wrapped numbers through.
#pragma once

#include <oriel/kernels/adjust_logits.hpp>

#include <CLI/CLI.hpp>
#include <replay/cache_replay.hpp>
#include <replay/tier_sizes.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace oriel::cli {

/// A whole number in [least, most], a multiple of `step`. For `transform`: it takes leading zeros
/// away, which CLI11 would read as octal.
[[nodiscard]] CLI::Validator whole_number(
    std::uint64_t least,
    std::uint64_t most = std::numeric_limits<std::uint64_t>::max(),
    std::uint64_t step = 1);

/// A finite number in [least, most], that is not 0 unless `zero` says so.
[[nodiscard]] CLI::Validator number(double least, double most, bool zero = true);

/// Some text, of at most `bytes_max` bytes.
[[nodiscard]] CLI::Validator some_text(
    std::size_t bytes_max = std::numeric_limits<std::size_t>::max());

/// Where a Redis server is, as `parse_redis_url` reads it.
[[nodiscard]] CLI::Validator redis_server();

/// Some lower-case hex digits.
[[nodiscard]] CLI::Validator hex_digits(std::size_t least, std::size_t most);

/// A known preset.
[[nodiscard]] CLI::Validator preset_name();

/// Token ids with commas between, as `parse_ids` reads them.
[[nodiscard]] CLI::Validator token_ids();

/// "1,2,3" as ids; spaces may surround each.
/// @returns nothing when the text is something else
[[nodiscard]] std::optional<std::vector<std::uint32_t>> parse_ids(std::string_view text);

/// Biases of tokens, as `parse_biases` reads them.
[[nodiscard]] CLI::Validator token_biases();

/// "17:-2.5,4:never" as biases in [-100, 100], or -infinity for never; at most logit_biases_max.
/// @returns nothing when the text is something else
[[nodiscard]] std::optional<std::vector<token_bias>> parse_biases(std::string_view text);

/// Where windows are kept, as `parse_retain` reads it.
[[nodiscard]] CLI::Validator retention();

/// "tail", "every:N", "branch", "dense:N", or some of them with commas between.
/// @returns nothing when the text is something else
[[nodiscard]] std::optional<replay::retain_choice> parse_retain(std::string_view text);

/// Levels of a cache and their sizes, as `parse_levels` reads them.
[[nodiscard]] CLI::Validator levels();

struct cache_levels {
  replay::level_size device, host, disk;
};

/// "device=1M,host=64GiB,disk=32M": a device, and one or both below it; each at most once, in any
/// order. A size is a number of tokens, which may end with k, M or G (10^3, 10^6, 10^9), or of GiB.
/// @returns nothing when the text is something else
[[nodiscard]] std::optional<cache_levels> parse_levels(std::string_view text);

/// Windows are kept at whole pages only.
/// @returns what is wrong with the choice for pages of `page_tokens` tokens; empty: nothing
[[nodiscard]] std::string wrong_retention(const replay::retain_choice& retain,
                                          std::uint64_t page_tokens);

}  // namespace oriel::cli
