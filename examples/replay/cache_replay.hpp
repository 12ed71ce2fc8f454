// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `replay_cache`: a trace through the library's own prefix tree and pools. Ids only: no KV bytes,
/// no model. What an engine would do for each request is done here: match, heal or recompute, pin,
/// make room, admit, compute in chunks, publish, release.
#pragma once

#include <oriel/core/result.hpp>
#include <oriel/model/cost.hpp>
#include <oriel/model/geometry.hpp>

#include <replay/cache_sizes.hpp>
#include <replay/tier_sizes.hpp>
#include <replay/trace.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>

namespace oriel::replay {

enum class evict_choice : std::uint8_t { lru, s3_fifo, cost_aware, hit_density };

/// Boundaries at which windows are kept besides the tail (prefix/retention.hpp).
struct retain_choice {
  std::uint32_t every_tokens = 0;
  std::uint32_t dense_head_tokens = 0;
  bool branch_points = true;
};

struct cache_options {
  evict_choice evict = evict_choice::hit_density;
  retain_choice retain = {};
  bool heal = true;
  /// Of one node of 8 GPUs: fitted on published prefill rates of MiMo-V2.5-Pro. Only their ratio
  /// matters here: it says when a heal is cheaper than to recompute.
  compute_rates rates{.linear_flops_per_s = 2.69e15, .attention_flops_per_s = 4.13e15};
  /// Full pages that requests compute in beside the pool, so that the pool is the cache's alone
  /// (the procedure of the reference caches: `working_pages_of`). 0: running requests take their
  /// pages from the pools.
  std::uint32_t working_pages = 0;
  std::uint32_t step_tokens = 512;  ///< rows of a prefill step
  std::uint64_t seed = 1;           ///< of orders that sample
  /// Below the pools; there may be none in it. Not given: nobody asks what only tiers tell.
  std::optional<tier_plan> tiers = {};
};

/// What one level of the cache gave and forgot: the device, or a tier below it.
struct level_outcome {
  std::uint64_t hit_tokens = 0;  ///< of requests, that came from here
  std::uint64_t fetches = 0;     ///< requests to which pages came up from here
  std::uint64_t fetched_pages = 0, fetched_bytes = 0;  ///< up, of all pools; the model's own bytes
  std::uint64_t copied_pages = 0, copied_bytes = 0;    ///< down to here
  std::uint64_t refused_copies = 0;
  std::uint64_t evicted_pages = 0;       ///< of all pools
  std::uint64_t evicted_age_us_sum = 0;  ///< from put or last use to eviction
  std::uint64_t pages = 0;               ///< at the end, of all pools

  [[nodiscard]] std::optional<double> mean_age_at_eviction_s() const noexcept {
    return evicted_pages == 0 ? std::nullopt
                              : std::optional{1e-6 * static_cast<double>(evicted_age_us_sum) /
                                              static_cast<double>(evicted_pages)};
  }
};

/// What the cache gave.
struct cache_outcome {
  std::uint64_t input_tokens = 0;
  std::uint64_t hit_tokens = 0;      ///< not recomputed; healed prefixes count
  std::uint64_t healed_tokens = 0;   ///< of them, beyond a window-safe boundary
  std::uint64_t clipped_tokens = 0;  ///< full-valid, neither borrowed nor healed
  std::uint64_t heals = 0;
  double heal_token_equivalents = 0;  ///< work of all heals, in tokens of prefill
  std::uint64_t evicted_full_pages = 0;
  std::uint64_t evicted_window_pages = 0;  ///< alone, for room in their pool
  std::uint64_t peak_bytes = 0;            ///< in all pools at once
  std::uint64_t index_bytes = 0;           ///< of the tree at the end, token ids excluded
  std::uint64_t cached_pages = 0;          ///< at the end, of all pools
  std::uint64_t top_input_tokens = 0, top_hit_tokens = 0;  ///< the busiest tenth of the sessions
  /// Of a replay with tiers: device, host, disk.
  std::array<level_outcome, 3> levels = {};
  std::uint64_t fetches = 0;                ///< requests that got pages from below the device
  std::uint64_t dropped_copies = 0;         ///< never tried: too many at once
  std::uint64_t fetched_bytes_uniform = 0;  ///< if every layer kept every row of what was fetched
  std::uint64_t checked_pages = 0;  ///< whose bytes a hit used and that were what they must be

  /// Rates of no input at all are 0.
  [[nodiscard]] double hit_rate() const noexcept {
    return rate(static_cast<double>(hit_tokens), input_tokens);
  }
  /// The work of heals taken off.
  [[nodiscard]] double net_hit_rate() const noexcept {
    return rate(static_cast<double>(hit_tokens) - heal_token_equivalents, input_tokens);
  }
  [[nodiscard]] double top_decile_hit_rate() const noexcept {
    return rate(static_cast<double>(top_hit_tokens), top_input_tokens);
  }

  /// Of so many tokens among all inputs.
  [[nodiscard]] double rate_of(std::uint64_t tokens) const noexcept {
    return rate(static_cast<double>(tokens), input_tokens);
  }
  /// Brought up for a request that got pages from below the device.
  [[nodiscard]] std::uint64_t bytes_per_fetch() const noexcept {
    std::uint64_t bytes = 0;
    for (const level_outcome& level : levels) {
      bytes += level.fetched_bytes;
    }
    return fetches == 0 ? 0 : bytes / fetches;
  }

 private:
  static double rate(double part, std::uint64_t whole) noexcept {
    return whole == 0 ? 0.0 : part / static_cast<double>(whole);
  }
};

/// Pages of `page_tokens` tokens that the largest request needs.
[[nodiscard]] std::uint32_t working_pages_of(const trace& requests, std::uint32_t page_tokens);

/// Replays the whole trace, one request after another, in order of arrival. A request that is
/// larger than the full pool streams through it: what does not fit is computed and not kept.
/// @param model     whose layers the pools were planned for
/// @param progress  progress(requests done) after every request; may be empty
/// @returns errc::out_of_memory; errc::out_of_pages if a window pool cannot serve one request
[[nodiscard]] result<cache_outcome> replay_cache(const trace& requests,
                                                 const model_geometry& model,
                                                 const cache_sizes& sizes,
                                                 const cache_options& options,
                                                 const std::function<void(std::size_t)>& progress);

}  // namespace oriel::replay
