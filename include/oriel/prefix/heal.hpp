// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Heal: exact reuse of a cached prefix whose window KV is gone.
///
/// Full KV is valid up to F, the window layers' KV only up to a window-safe boundary S, or not at
/// all. A row of a full layer is exact as soon as its input is, because the K and V of every
/// earlier position come from the cache. A window layer turns inputs that are exact from position e
/// on into outputs that are exact from e + (W - 1) on. So a triangle of rows repairs the windows at
/// T = floor_P(min(F, N - 1)):
///
///                 S or 0                 a(0)                     T           N
///     layer 0       |                      |######################|...........|
///     layer 1       |                      :     |################|...........|
///     layer 2       |  neither read        :     |################|...........|   a full layer
///     layer 3       |  nor computed        :           |##########|...........|
///     last layer    |                      :               |######|...........|   pages of need(T)
///
/// Layer l makes K and V for the rows [a(l), T) if it is a window layer (a full layer's are cached,
/// and never written), and everything else for the rows [a(l + 1), T); rows from T on are computed
/// as usual. Downwards from a(layers) = T, with P the page size and `slack` pages more than
/// need(T):
///
///     full layer      a(l) = a(l + 1)
///     window layer    a(l) = min(a(l + 1), max(S, min(a(l + 1) - (W - 1),
///                                                     floor_P(T - (W - 1)) - slack * P)))
///
/// The last term, cut off at 0, makes every *page* that is published whole, where W - 1 positions
/// would do for T itself. Rows below the first published page of a kind are scratch: some layers
/// wrote them and some did not, so nobody else may ever see them.
#pragma once

#include <oriel/model/cost.hpp>
#include <oriel/model/geometry.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace oriel {

class pool_plan;  // kv/pool_plan.hpp

/// What does not change from heal to heal of one model.
struct heal_model {
  std::vector<std::uint32_t> windows = {};  ///< [layers] window_tokens; 0 = a full layer
  std::uint32_t page_size = 16;             ///< tokens; > 0
  std::uint32_t slack_pages = 0;            ///< pages made whole in front of need(T)
};

/// window_tokens of every layer, as `heal_model::windows`.
[[nodiscard]] std::vector<std::uint32_t> layer_windows(const model_geometry& model);

/// Heals of a model in the pools of a plan: pages, slack, and of each layer the window that its
/// pool keeps. @pre the plan's first layers are the model's @throws std::bad_alloc
[[nodiscard]] heal_model heal_model_of(const model_geometry& model, const pool_plan& plan);

/// What a match found.
struct heal_bounds {
  std::uint32_t full_length = 0;    ///< F: full KV is valid for [0, F)
  std::uint32_t prompt_tokens = 1;  ///< N > 0: at least one token is always computed
  std::uint32_t safe_length = 0;  ///< S <= F: the window-safe length, a multiple of page_size, or 0
};

/// The size of a heal, without its frontiers.
struct heal_size {
  std::uint32_t length = 0;      ///< T: the prefix that is read or healed, a multiple of page_size
  std::uint32_t first_row = 0;   ///< a(0), the first position to run; T if there is nothing to heal
  std::uint64_t layer_rows = 0;  ///< sum over layers of T - a(l + 1)

  friend bool operator==(const heal_size&, const heal_size&) = default;
};

/// No allocation. O(layers).
/// @pre bounds as documented; S <= T
[[nodiscard]] heal_size measure_heal(const heal_model& model, const heal_bounds& bounds) noexcept;

/// The first page of a window kind that a heal to `length` leaves whole: it publishes the pages
/// [first_healed_page, length / page_size). O(1). @pre window_tokens > 0
[[nodiscard]] std::uint32_t first_healed_page(const heal_model& model,
                                              std::uint32_t window_tokens,
                                              std::uint32_t length) noexcept;

/// A heal to be run. Whoever runs it keeps it until the sequence has passed `length`.
struct heal_plan {
  std::uint32_t page_size = 16;
  std::uint32_t slack_pages = 0;
  std::uint32_t safe_length = 0;             ///< S
  std::uint32_t length = 0;                  ///< T
  std::uint64_t layer_rows = 0;              ///< sum over layers of T - a(l + 1)
  std::vector<std::uint32_t> frontier = {};  ///< [layers + 1]: a(l), ascending

  /// The position where the healing sequence starts.
  [[nodiscard]] std::uint32_t first_row() const noexcept { return frontier.front(); }
  [[nodiscard]] std::size_t layers() const noexcept { return frontier.size() - 1; }
  /// The first page of a window kind that may be published. @pre window_tokens > 0
  [[nodiscard]] std::uint32_t first_healed_page(std::uint32_t window_tokens) const noexcept {
    return oriel::first_healed_page({{}, page_size, slack_pages}, window_tokens, length);
  }
  /// The window pages that end at S are read: the sequence must borrow them. Otherwise its windows
  /// start empty at first_row(), wherever in a page that is.
  [[nodiscard]] bool reads_window_at_safe_length() const noexcept {
    return safe_length != 0 && first_row() == safe_length;
  }
};

/// The frontiers; one allocation. O(layers). @pre as measure_heal
[[nodiscard]] heal_plan plan_heal(const heal_model& model, const heal_bounds& bounds);

/// Layer-rows as whole rows of the model: the tokens whose prefill is as much work, attention over
/// a long context aside. About half the sum of W - 1, whatever the prefix length.
[[nodiscard]] double token_equivalents(std::uint64_t layer_rows, std::size_t layers) noexcept;

/// Ways to reach T. The rows from T on are the same in all of them and are not counted.
enum class reuse_way : std::uint8_t {
  recompute,  ///< run all rows from S on
  heal,       ///< run the triangle
  fetch,      ///< take the window pages at T from a lower tier
};

/// The name of a way, for messages: "heal".
[[nodiscard]] const char* name_of(reuse_way way) noexcept;

/// Seconds that each way takes; infinite where there is no such way.
struct reuse_seconds {
  double recompute = 0.0;
  double heal = 0.0;
  double fetch = std::numeric_limits<double>::infinity();
};

struct reuse_choice {
  reuse_way way = reuse_way::recompute;
  reuse_seconds seconds;  ///< the estimates it was chosen by
  const char* why = "";   ///< static string
};

/// Estimated operations of `recompute` and of `heal`. O(layers), no allocation.
/// @pre model.windows are those of `geometry`
[[nodiscard]] flop_count recompute_flops(const model_geometry& geometry,
                                         std::uint32_t safe_length,
                                         std::uint32_t length) noexcept;
[[nodiscard]] flop_count heal_flops(const model_geometry& geometry,
                                    const heal_model& model,
                                    const heal_bounds& bounds) noexcept;

/// The cheapest way. On equal terms what leaves more behind goes first: recompute, whose windows
/// are whole everywhere, then heal.
/// @param fetch_s  what the caller expects a fetch to take, or infinity if no tier has the pages
[[nodiscard]] reuse_choice choose_reuse(
    const model_geometry& geometry,
    const heal_model& model,
    const heal_bounds& bounds,
    const compute_rates& rates,
    double fetch_s = std::numeric_limits<double>::infinity()) noexcept;

}  // namespace oriel
