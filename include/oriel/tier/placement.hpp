// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Which node of a `sharded_store` has a page. Pages fall into sets, sets onto nodes:
///
///     page --placement--> set, in [0, set_count) --consistent hashing--> node
///
/// Everyone who knows the names of the nodes computes the same table; nobody has to be asked.
#pragma once

#include <oriel/tier/kv_store.hpp>

#include <concepts>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel {

/// A number for an item; items of one number are in one set. It may depend only on what every item
/// of that page says alike.
template <class P>
concept page_placement = std::copyable<P> && requires(const P& p, const store_item& item) {
  { p(item) }
  noexcept->std::same_as<std::uint64_t>;
};

/// Each page by its own key. Needs nothing of the caller; but the pages of a long prompt lie on all
/// nodes, so that each node which dies cuts nearly every prompt short.
struct place_by_key {
  [[nodiscard]] std::uint64_t operator()(const store_item& item) const noexcept {
    return item.key.link.prefix64();
  }
};

/// All pages of a session in one set: a node that dies takes the sessions of its sets along and
/// harms no other. `owner.session` must be given with every item, the same as with the put. Pages
/// that sessions share are put and asked for with session 0: those go by their key.
struct place_by_session {
  [[nodiscard]] std::uint64_t operator()(const store_item& item) const noexcept;
};

static_assert(page_placement<place_by_key> && page_placement<place_by_session>);

/// Consistent hashing with bounded loads (V. Mirrokni, M. Thorup, M. Zadimoghaddam, SODA'18): each
/// node has `points` points on a circle, each set goes to the next point whose node has fewer than
/// 1.25 of the mean. A node that comes or goes moves about its share of the sets.
/// O((nodes * points + set_count) log).
/// @param names  of the nodes, all different; their order does not matter
/// @returns per set an index into `names`, or ~0 if there are none. [set_count]
/// @throws std::bad_alloc
[[nodiscard]] std::vector<std::uint32_t> assign_sets(std::span<const std::uint64_t> names,
                                                     std::uint32_t set_count,
                                                     std::uint32_t points);

/// The most sets that one of `nodes` nodes gets: 1.25 of the mean, rounded up.
[[nodiscard]] constexpr std::uint32_t sets_max(std::uint32_t set_count,
                                               std::size_t nodes) noexcept {
  return static_cast<std::uint32_t>((std::uint64_t{set_count} * 5 + 4 * nodes - 1) / (4 * nodes));
}

}  // namespace oriel
