// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Retention: at which boundaries, besides the tail of a branch, a prefix tree keeps window pages.
/// A kept boundary can be resumed without a heal; each costs one window of every kind.
#pragma once

#include <concepts>
#include <cstdint>
#include <tuple>

namespace oriel {

/// A boundary that a publish could keep.
struct boundary_facts {
  std::uint32_t tokens = 0;  ///< its length; a multiple of page_size
  bool is_fork = false;      ///< here the path and another one part
};

/// Says which boundaries are worth a window. Pure: the same answer for the same boundary, and a
/// fork is worth no less than the same boundary without one. The tail of a publish is kept whatever
/// the policy says, unless the publish asks for none (`publish_source::keeps_tail`).
// clang-format off
template <class R>
concept retention_policy = requires(const R& r, const boundary_facts& boundary) {
  { r.keeps(boundary) } noexcept -> std::same_as<bool>;
};
// clang-format on

/// Nothing but the tail: the least memory; a fork at an earlier boundary heals.
struct tail_only {
  [[nodiscard]] constexpr bool keeps(const boundary_facts&) const noexcept { return false; }
};

/// A checkpoint at each multiple of `tokens`; 0: none.
struct keep_every {
  std::uint32_t tokens = 0;
  [[nodiscard]] constexpr bool keeps(const boundary_facts& b) const noexcept {
    return tokens != 0 && b.tokens % tokens == 0;
  }
};

/// Where a path left another one, the next request may do so too.
struct keep_branch_points {
  bool on = true;
  [[nodiscard]] constexpr bool keeps(const boundary_facts& b) const noexcept {
    return on && b.is_fork;
  }
};

/// Every boundary of the first `tokens` tokens: system prompts that many share.
struct keep_dense_head {
  std::uint32_t tokens = 0;
  [[nodiscard]] constexpr bool keeps(const boundary_facts& b) const noexcept {
    return b.tokens <= tokens;
  }
};

/// Keeps what any of them keeps.
template <retention_policy... Policies>
struct keep_any {
  std::tuple<Policies...> policies;
  constexpr keep_any() = default;
  constexpr explicit keep_any(Policies... each) : policies(each...) {}
  [[nodiscard]] constexpr bool keeps(const boundary_facts& b) const noexcept {
    return std::apply([&](const Policies&... each) { return (each.keeps(b) || ...); }, policies);
  }
};

static_assert(retention_policy<keep_any<keep_every, keep_branch_points, keep_dense_head>>);

}  // namespace oriel
