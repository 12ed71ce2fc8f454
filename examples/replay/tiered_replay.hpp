// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `replay_tiers`: the replay of `replay_cache` with tiers below the pools. The library's own
/// stores and `tiered_prefix`, on a clock that is the trace's.
#pragma once

#include <oriel/core/result.hpp>
#include <oriel/kv/pool_plan.hpp>
#include <oriel/model/geometry.hpp>

#include <replay/cache_replay.hpp>
#include <replay/trace.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>

namespace oriel::replay {

/// As `replay_cache`. Each page has 16 bytes that only the tokens up to its end give (`page_mark`);
/// they travel, and are compared where a fetch ends and where a hit uses the page. Transfers take
/// no time. One at a time in a process.
/// @pre options.tiers
/// @returns errc::io_failure if a page was not what it must be: a bug
[[nodiscard]] result<cache_outcome> replay_tiers(const trace& requests,
                                                 const model_geometry& model,
                                                 const cache_sizes& sizes,
                                                 const cache_options& options,
                                                 const std::function<void(std::size_t)>& progress);

/// What the cache and its requests can fill: the tables of a pool take memory for every page.
[[nodiscard]] pool_sizes useful_sizes(const trace& requests,
                                      const cache_sizes& sizes,
                                      std::uint32_t working_pages);

}  // namespace oriel::replay
