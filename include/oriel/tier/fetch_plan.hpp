// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What of a prompt to bring up from lower tiers: nothing, the pages up to a window-safe boundary,
/// or the full pages alone, with a heal behind them. The cheapest by estimated seconds.
///
///     page            0 . . . . F . . . . . . . . T            N
///     device full     #########
///     lower full               ######################
///     lower window        ..#.           ###       .           a boundary here is window-safe
///                                           ^
///                                   fetch to here, or to T and heal
#pragma once

#include <oriel/kv/pool_plan.hpp>
#include <oriel/model/cost.hpp>
#include <oriel/model/geometry.hpp>
#include <oriel/prefix/heal.hpp>
#include <oriel/prefix/match.hpp>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace oriel {

/// No tier has it.
inline constexpr std::uint8_t no_tier = 0xFF;

/// What a tier is expected to take for so many bytes: latency + bytes / rate.
struct transfer_rates {
  double latency_s = 0.0;
  double bytes_per_s = 1e9;
};

/// Where the pages of a prompt are, below the device pools.
struct tier_coverage {
  /// Tier that has logical page i, or no_tier. [pages of the prompt]; entries that the device has
  /// anyway do not matter.
  std::vector<std::uint8_t> full = {};
  std::vector<std::vector<std::uint8_t>> windows = {};  ///< [window kinds], the same
};

/// What does not change from request to request.
struct fetch_model {
  const model_geometry* model = nullptr;       ///< it outlives this, and tiers that were given this
  heal_model healing = {};                     ///< of the same model
  std::vector<std::uint32_t> windows = {};     ///< [window kinds] window_tokens
  std::vector<std::uint64_t> page_bytes = {};  ///< [pools]
  bool may_heal = true;
  /// Home of each layer, in the order of compute: then pages up to a window-safe boundary come
  /// layer by layer. None: pages come whole.
  std::vector<layer_home> layers = {};
  /// A kind that no boundary needs: what tiers have of it before a boundary, without a gap, comes
  /// too.
  std::optional<std::uint32_t> soft_kind = {};
};

/// Fetches of a model's pages into the pools of a plan, layer by layer.
/// @pre as heal_model_of; `model` outlives what is made of this @throws std::bad_alloc
[[nodiscard]] fetch_model fetch_model_of(const model_geometry& model, const pool_plan& plan);

enum class fetch_way : std::uint8_t {
  nothing,        ///< what the device has is the best start
  window_safe,    ///< full pages up to `length` and the windows that it needs
  full_and_heal,  ///< full pages up to `length`; its windows are repaired
};

/// The name of a way, for messages.
[[nodiscard]] const char* name_of(fetch_way way) noexcept;

struct page_range {
  std::uint32_t first = 0, end = 0;  ///< logical pages
  friend bool operator==(const page_range&, const page_range&) = default;
};

struct fetch_plan {
  fetch_way way = fetch_way::nothing;
  std::uint32_t length = 0;              ///< tokens that will be resumable
  page_range full = {};                  ///< to fetch
  std::vector<page_range> windows = {};  ///< [window kinds], to fetch
  double seconds = 0.0;          ///< until the last row of the prompt is computed, estimated
  double seconds_without = 0.0;  ///< the same with what the device has
};

/// Pages that a boundary of `pages` pages needs of a window, and the slack before it. O(1).
[[nodiscard]] page_range needed_windows(std::uint32_t window_tokens,
                                        std::uint32_t page_size,
                                        std::uint32_t slack_pages,
                                        std::uint32_t pages) noexcept;

/// Chooses. On equal terms nothing is fetched. O(pages * window kinds + layers).
/// @param device         what the device pools have of the prompt
/// @param prompt_tokens  N > 0
/// @param tiers          expected cost of each
/// @pre   model.model != nullptr, rates > 0
/// @throws std::bad_alloc
[[nodiscard]] fetch_plan plan_fetch(const fetch_model& model,
                                    const compute_rates& rates,
                                    const prefix_match& device,
                                    std::uint32_t prompt_tokens,
                                    const tier_coverage& coverage,
                                    std::span<const transfer_rates> tiers);

}  // namespace oriel
