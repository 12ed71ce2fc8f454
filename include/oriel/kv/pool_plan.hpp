// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `pool_plan`: which pool stores which layer, how large a page of each is, and how many pages a
/// byte budget buys. Pure arithmetic; `dual_pool` turns a plan into memory.
#pragma once

#include <oriel/core/result.hpp>
#include <oriel/kv/page_layout.hpp>
#include <oriel/kv/ring_geometry.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace oriel {

struct layer_geometry;  // model/geometry.hpp

/// Names a pool of a `dual_pool`: the full pool, or the pool of one window kind.
enum class pool_id : std::uint32_t {};

/// The pool of the full-attention layers; it always exists and is the authority on length.
inline constexpr pool_id full_pool{0};

/// The pool of window kind 0, 1, ... : kinds are numbered as their first layers appear.
[[nodiscard]] constexpr pool_id window_pool(std::uint32_t kind) noexcept {
  return pool_id{kind + 1};
}

[[nodiscard]] constexpr std::uint32_t to_index(pool_id id) noexcept {
  return static_cast<std::uint32_t>(id);
}

/// Where a layer's KV is stored.
struct layer_home {
  pool_id pool = full_pool;
  std::uint32_t slot = 0;  ///< its place in the pages of that pool

  friend constexpr bool operator==(layer_home, layer_home) noexcept = default;
};

/// Choices that hold for all pools.
struct pool_options {
  std::uint32_t page_size = 16;     ///< tokens; the host kernels want a multiple of 16
  std::uint32_t step_tokens = 512;  ///< rows one step appends to a sequence at most; > 0
  std::uint32_t slack_pages = 1;    ///< see ring_geometry
};

/// Pages per pool, indexed by pool_id.
struct pool_sizes {
  std::vector<std::uint32_t> pages;  ///< [pools]
};

/// The pools of one model. Layers that see everything share the full pool; window layers with the
/// same window_tokens share a pool, whatever their heads and widths. Soft layers share a pool that
/// has no other.
class pool_plan {
 public:
  /// @returns errc::invalid_argument if there is no layer, a count is 0 where that makes no sense
  ///          or beyond any real model (2^20; 2^24 tokens of a window or a step), a page would not
  ///          fit the address space, or soft layers have no window or several
  /// @throws  std::bad_alloc
  [[nodiscard]] static result<pool_plan> make(std::span<const kv_layer_shape> layers,
                                              const pool_options& options);

  [[nodiscard]] const pool_options& options() const noexcept { return options_; }
  /// 1 + window kinds.
  [[nodiscard]] std::uint32_t pools() const noexcept {
    return static_cast<std::uint32_t>(layouts_.size());
  }
  [[nodiscard]] std::uint32_t window_kinds() const noexcept { return pools() - 1; }
  /// The kind of the soft layers; none: there are none. No boundary needs its pages, whoever has
  /// them drafts better.
  [[nodiscard]] std::optional<std::uint32_t> soft_kind() const noexcept { return soft_kind_; }
  [[nodiscard]] std::uint32_t layers() const noexcept {
    return static_cast<std::uint32_t>(homes_.size());
  }
  /// @pre layer < layers()
  [[nodiscard]] layer_home home(std::uint32_t layer) const noexcept {
    ORIEL_EXPECTS(layer < layers());
    return homes_[layer];
  }
  /// @pre to_index(pool) < pools()
  [[nodiscard]] const page_layout& layout(pool_id pool) const noexcept {
    ORIEL_EXPECTS(to_index(pool) < pools());
    return layouts_[to_index(pool)];
  }
  /// @pre kind < window_kinds()
  [[nodiscard]] const ring_geometry& ring(std::uint32_t kind) const noexcept {
    ORIEL_EXPECTS(kind < window_kinds());
    return rings_[kind];
  }

  /// Pages that a sequence of `tokens` tokens holds in a pool: all of them in the full pool, at
  /// most the ring in a window pool. O(1).
  [[nodiscard]] std::uint32_t pages_for(pool_id pool, std::uint32_t tokens) const noexcept;

  /// Bytes of these pages over all pools. O(pools).
  [[nodiscard]] std::uint64_t bytes_for(std::uint32_t tokens) const noexcept;

  /// What `budget_bytes` buys if the pools keep the proportions of `mix` (pages per pool, indexed
  /// by pool_id, mix[0] > 0): with the ratios r_k = mix[k] / mix[0] and bytes per page of each
  /// kind, rounded down,
  ///
  ///     full pages     = budget / (bytes_full + sum over k of r_k * bytes_k)
  ///     window pages_k = r_k * full pages
  ///
  /// Exact for whole numbers: n sequences' worth of bytes buys the pages of n sequences.
  /// @returns errc::invalid_argument if the budget does not buy one page of every kind
  [[nodiscard]] result<pool_sizes> size_for_mix(std::uint64_t budget_bytes,
                                                std::span<const std::uint32_t> mix) const;

  /// The same with the mix of sequences of `typical_tokens` tokens. @pre typical_tokens > 0
  [[nodiscard]] result<pool_sizes> size_for_tokens(std::uint64_t budget_bytes,
                                                   std::uint32_t typical_tokens) const;

 private:
  pool_plan() = default;

  pool_options options_;
  std::vector<layer_home> homes_;     // [layers]
  std::vector<page_layout> layouts_;  // [pools]
  std::vector<ring_geometry> rings_;  // [window kinds]
  std::optional<std::uint32_t> soft_kind_;
};

/// The KV shapes of a model's layers, in order, all stored as `kv`.
[[nodiscard]] std::vector<kv_layer_shape> kv_shapes_of(std::span<const layer_geometry> layers,
                                                       dtype kv);

}  // namespace oriel
