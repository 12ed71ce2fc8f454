// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `prefix_cache`: what schedulers, engines and routers ask of a cache of KV prefixes.
#pragma once

#include <oriel/core/hash.hpp>
#include <oriel/core/ids.hpp>
#include <oriel/prefix/cache_namespace.hpp>
#include <oriel/prefix/match.hpp>

#include <concepts>
#include <cstdint>
#include <span>

namespace oriel {

/// Finds the longest prefix whose KV is cached, lends its pages, takes in new ones, frees old ones.
///
/// Semantics, checked by `tests/conformance/prefix_cache_suite.hpp`:
///
///  - `match` is a probe: it changes nothing that another call can see. What it reports is valid
///    (the bytes are those a cold run computes) and maximal (no larger boundary is window-safe).
///  - `pin` locks what it reports, never more than was asked; nothing locked is evicted.
///  - Pages are visible from `commit` on, never before; an aborted publication leaves no trace.
///  - `commit` never publishes a page twice: of two with equal tokens the first stays.
///  - `evict_*` frees at most what was asked, rounded to what hangs together, and nothing leased.
///  - No call with one namespace ever shows pages of another.
///
/// Models: `radix_tree`.
// clang-format off
template <class C>
concept prefix_cache =
    std::movable<typename C::lease> && std::default_initializable<typename C::lease> &&
    std::movable<typename C::publication> &&
    requires(C c, const C& cc, const cache_namespace& space, std::span<const token_id> tokens,
             const prefix_match& found, pin_extent extent, std::uint64_t now_us,
             typename C::lease& lease, typename C::publication& fresh, borrowed_pages& pages,
             const publish_source& source, const lease_end& end, std::uint32_t count,
             const typename C::lease& held, const typename C::publication& published) {
      { static_cast<bool>(held) } noexcept;
      { held.full_tokens() } noexcept -> std::same_as<std::uint32_t>;
      { held.window_tokens() } noexcept -> std::same_as<std::uint32_t>;
      { published.full_pages() } noexcept -> std::same_as<std::span<const page_handle>>;
      { cc.match(space, tokens) } noexcept -> std::same_as<prefix_match>;
      { c.pin(space, tokens, found, extent, now_us) } noexcept -> std::same_as<typename C::lease>;
      { cc.borrow(lease, pages) };
      { c.reserve(source) } -> std::same_as<typename C::publication>;
      { c.commit(lease, fresh, tokens, now_us) } noexcept -> std::same_as<publish_outcome>;
      { c.abort(fresh) } noexcept;
      { c.drop_windows(lease) } noexcept;
      { c.release(lease, end, now_us) } noexcept;
      { c.evict_full(count, now_us) } noexcept -> std::same_as<evicted_pages>;
      { c.evict_window(count, count) } noexcept -> std::same_as<evicted_pages>;
      { c.drop(space) } noexcept;
      { c.clear() } noexcept;
      { cc.evictable_full_pages() } noexcept -> std::same_as<std::uint32_t>;
      { cc.evictable_window_pages(count) } noexcept -> std::same_as<std::uint32_t>;
      { cc.counters() } noexcept -> std::same_as<const prefix_counters&>;
    };
// clang-format on

}  // namespace oriel
