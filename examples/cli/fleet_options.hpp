// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The options of `oriel replay --workers N`: a fleet instead of one cache.
#pragma once

#include "commands.hpp"

#include <CLI/CLI.hpp>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace oriel::cli {

/// Adds --workers: options that are added later know whether it is there.
/// @param options  outlives the command
CLI::Option* add_workers(CLI::App& command, fleet_options& options);
/// Adds the others, in a group of their own in the help. They need --workers, and those of one
/// cache's replay in `cache_only` exclude it. @param options  outlives the command
void add_fleet(CLI::App& command,
               fleet_options& options,
               CLI::Option& workers,
               const std::vector<CLI::Option*>& cache_only);

/// "session_hash", "session_hash+fcfs"; without an order: `otherwise`.
[[nodiscard]] std::optional<fleet_policy> parse_policy(std::string_view text, order_kind otherwise);
/// "60,2": seconds and factor. @returns nothing if it is neither that nor "off"
struct guard_choice {
  std::optional<guard_options> guard;
};
[[nodiscard]] std::optional<guard_choice> parse_guard(std::string_view text);
/// "64k,256k", "65536": ascending bounds; k is 1024, M 1024 * 1024.
[[nodiscard]] std::optional<length_buckets> parse_buckets(std::string_view text);
/// Whether the rest fits together.
/// @throws CLI::ValidationError
void check_fleet(const replay_options& options);

/// As `parse_fleet_tiers` reads them.
[[nodiscard]] CLI::Validator fleet_tiers();

/// "device=2M,host=30M,l3=1G", in tokens; what is not named is not there.
[[nodiscard]] std::optional<sim::tier_sizes> parse_fleet_tiers(std::string_view text);
/// "store@0.5+30", "router0@0.25", "worker3@0.5+60".
[[nodiscard]] std::optional<fleet_outage> parse_outage(std::string_view text);

}  // namespace oriel::cli
