// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What `oriel replay` found out, and its two forms: a table and a JSON object.
#pragma once

#include "commands.hpp"

#include <replay/cache_replay.hpp>
#include <replay/cache_sizes.hpp>
#include <replay/reference_cache.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>

namespace oriel::cli {

struct replay_report {
  replay_options options;
  std::uint32_t page_tokens = 0;
  std::size_t requests = 0;
  std::size_t sessions = 0;  ///< 0: the trace does not tell them apart
  replay::cache_sizes sizes;
  std::uint64_t working_bytes = 0;  ///< full pages that requests compute in beside the pools
  std::optional<replay::tier_plan> tiers = {};
  replay::cache_outcome cache = {};
  replay::hit_count lru = {}, clairvoyant = {},
                    infinite = {};  ///< of sizes.capacity_tokens, but the last
  std::optional<replay::hit_count> uniform_lru =
      {};                            ///< of dual pools: a uniform cache of their bytes
  std::uint64_t uniform_tokens = 0;  ///< that it holds

  /// Part of the way from LRU to the optimum, if there is a way.
  [[nodiscard]] std::optional<double> gap_closed() const noexcept;
};

/// One line.
void print_json(const replay_report& r);
void print_table(const replay_report& r);

}  // namespace oriel::cli
