// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `evict_order`: whose pages go first when a prefix cache is short of room.
#pragma once

#include <concepts>
#include <cstdint>

namespace oriel {

/// A run: the pages last touched by one request, a chain that hangs below pages of other runs or
/// of the root. Dense, in [0, max_runs); reused after `erase`.
enum class run_id : std::uint32_t {};

/// "No run": nothing to evict, or nothing continued.
inline constexpr run_id null_run{0xFFFF'FFFFu};

[[nodiscard]] constexpr std::uint32_t to_index(run_id id) noexcept {
  return static_cast<std::uint32_t>(id);
}

/// How a request ended, which says when its prefix is wanted again: a tool answers in seconds, a
/// person in minutes, nobody continues what was given up.
enum class request_end : std::uint8_t { unknown, tool_call, end_of_turn, aborted };

/// `run_facts::gap_us` of a run that continued none.
inline constexpr std::uint64_t no_gap = ~std::uint64_t{0};

/// `run_facts::expected_us` of a caller that did not say.
inline constexpr std::uint64_t no_forecast = ~std::uint64_t{0};

/// What is known of a run at the moment it becomes evictable. Times are microseconds of the
/// caller's clock; nothing here reads one.
struct run_facts {
  std::uint64_t ended_us = 0;               ///< when its request ended; may lie ahead in a replay
  std::uint64_t gap_us = no_gap;            ///< from the end of the run it continued to its start
  std::uint64_t expected_us = no_forecast;  ///< when the caller expects the next request
  std::uint64_t duration_us = 0;            ///< how long its request ran; 0: unknown
  request_end ended = request_end::unknown;
  std::uint32_t turn = 0;      ///< requests before it in its chain of continued runs
  std::uint32_t pages = 0;     ///< in the run
  std::uint32_t end_page = 0;  ///< pages from the root to its end: the run is its last `pages`
};

/// Ranks runs for eviction. The cache asks for a victim, frees the deepest pages of that run, as
/// many as it needs, says so, and asks again: page LRU is "the run inserted first".
///
///  - Constructed from the number of run ids; allocates and throws only then. That number is as
///    large as the pool: memory that grows with the ids used, which are the lowest, costs a small
///    use of a large pool little.
///  - `insert(run, facts)`        the run became evictable.  @pre it is not inside.
///  - `erase(run)`                it is no longer: pinned, or without pages. No effect if not
///                                inside.
///  - `on_hit(run, pages, now)`   a request took over `pages` of its pages; called before the
///                                `erase` of a run that lost all. The run need not be inside.
///  - `on_evict(run, pages, now)` its `pages` deepest pages were freed. @pre it is inside.
///  - `inherit(to, from)`         `to` will be the run of a request that continues `from`; called
///                                before `insert(to)`, while the state of `from` is still there.
///  - `victim(now)`               a run inside, or null_run if and only if none is. May draw
///                                random numbers, which a seed fixes.
///
/// Every call is O(1); `victim` may look at a fixed number of runs. `now` never goes back.
///
/// Models: `lru_order`, `s3_fifo_order`, `cost_aware_order`, `hit_density_order` (the default).
// clang-format off
template <class O>
concept evict_order =
    std::movable<O> &&
    requires(O o, const O& co, run_id run, const run_facts& facts, std::uint32_t pages,
             std::uint64_t now_us) {
      { co.contains(run) } noexcept -> std::same_as<bool>;
      { o.insert(run, facts) } noexcept -> std::same_as<void>;
      { o.erase(run) } noexcept -> std::same_as<void>;
      { o.on_hit(run, pages, now_us) } noexcept -> std::same_as<void>;
      { o.on_evict(run, pages, now_us) } noexcept -> std::same_as<void>;
      { o.inherit(run, run) } noexcept -> std::same_as<void>;
      { o.victim(now_us) } noexcept -> std::same_as<run_id>;
    };
// clang-format on

}  // namespace oriel
