// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A sequence and a prefix cache: lending a cached prefix to a new sequence, giving the cache what
/// a sequence has computed, and making room in the pools.
///
///     prefix_loan loan;                                      // one per engine: reuses its memory
///     auto kv = pools.try_admit({.tokens_now = n, .tokens_max = m,
///                                .prefix = loan.lend(cache, lease, heal)});
///     make_room(cache, pools, missing, now_us);              // a page that slid out of a window
///     may kv->reserve(rows); ... compute ...; kv->accept(rows);  // be the cache's now: the next
///     is new publish_sequence(cache, lease, *kv, tokens, now_us);   // before the windows slide
///     kv->slide_out();
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/ids.hpp>
#include <oriel/kv/sequence_kv.hpp>
#include <oriel/prefix/heal.hpp>
#include <oriel/prefix/match.hpp>
#include <oriel/prefix/prefix_cache.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel {

/// Turns a lease into what an admission takes.
class prefix_loan {
 public:
  /// Valid until the next call, while the lease lives. With `heal`, the sequence starts at its
  /// first row and reads full KV to its end. O(pages lent).
  /// @param windows  [window kinds] window_tokens, as the cache has them
  /// @pre    without heal: the lease's two boundaries are equal; with it: its full boundary is
  ///         heal->length, its window boundary heal->safe_length
  /// @throws std::bad_alloc
  template <prefix_cache Cache>
  [[nodiscard]] borrowed_prefix lend(const Cache& cache,
                                     const typename Cache::lease& lease,
                                     std::span<const std::uint32_t> windows,
                                     const heal_plan* heal = nullptr) {
    ORIEL_EXPECTS(heal == nullptr ? lease.full_tokens() == lease.window_tokens()
                                  : lease.full_tokens() == heal->length);
    cache.borrow(lease, pages_);
    windows_.assign(pages_.windows.begin(), pages_.windows.end());
    borrowed_prefix lent{.length = lease.full_tokens(), .full = pages_.full, .windows = windows_};
    if (heal != nullptr) {
      first_shared_.clear();
      for (const std::uint32_t window : windows) {
        first_shared_.push_back(heal->first_healed_page(window));
      }
      lent.heal = heal_start{.first_row = heal->first_row(), .first_shared_pages = first_shared_};
      if (!heal->reads_window_at_safe_length()) {
        lent.windows = {};
      } else {
        ORIEL_EXPECTS(lease.window_tokens() == heal->safe_length);
      }
    }
    return lent;
  }

 private:
  borrowed_pages pages_;
  std::vector<std::span<const page_handle>> windows_;
  std::vector<std::uint32_t> first_shared_;
};

/// Publishes the whole pages that a sequence has beyond its lease, and the window pages it still
/// has; the lease moves to the end. Where the cache had a page already, the sequence switches to
/// that one. Nothing happens while a heal has not reached its end. O(new pages + ring pages).
/// @param tokens  at least the tokens that the sequence has computed, from position 0
/// @throws std::bad_alloc
template <prefix_cache Cache, class Pool>
publish_outcome publish_sequence(Cache& cache,
                                 typename Cache::lease& lease,
                                 sequence_kv<Pool>& kv,
                                 std::span<const token_id> tokens,
                                 std::uint64_t now_us) {
  const std::uint32_t page = kv.page_size();
  const std::uint32_t first = lease.full_tokens() / page, end = kv.length() / page;
  if (!lease || kv.healing() || end < first || end == 0) {
    return {};
  }
  std::vector<std::vector<page_handle>> handles(kv.window_kinds());
  std::vector<window_page_span> windows(kv.window_kinds());
  for (std::uint32_t kind = 0; kind < kv.window_kinds(); ++kind) {
    const auto& ring = kv.ring(kind);
    const std::uint32_t from = ring.first_shareable_page();
    for (std::uint32_t logical = from; logical < std::min(end, ring.end_page()); ++logical) {
      handles[kind].push_back(ring[logical]);
    }
    windows[kind] = {.first_page = from, .pages = handles[kind]};
  }
  auto fresh = cache.reserve({.first_page = first,
                              .full = kv.full_pages().handles().subspan(first, end - first),
                              .windows = windows});
  const publish_outcome outcome = cache.commit(lease, fresh, tokens, now_us);
  for (std::uint32_t i = 0; outcome.switched_pages != 0 && i < end - first; ++i) {
    if (!(kv.full_pages()[first + i] == fresh.full_pages()[i])) {
      kv.switch_full_page(first + i, fresh.full_pages()[i]);
    }
  }
  return outcome;
}

/// Evicts until `missing[pool]` pages are allocatable in every pool. Returns false without evicting
/// if the cache has too few that nobody leases; and false after evicting them if others still hold
/// references to some. O(pages freed).
/// @param missing  [pools]
template <prefix_cache Cache, class Pools>
[[nodiscard]] bool make_room(Cache& cache,
                             const Pools& pools,
                             std::span<const std::uint32_t> missing,
                             std::uint64_t now_us) noexcept {
  const auto available = [&](std::uint32_t pool) { return pools.pool(pool_id{pool}).available(); };
  const auto short_by = [&](std::uint32_t pool) {
    return missing[pool] - std::min(missing[pool], available(pool));
  };
  if (short_by(0) > cache.evictable_full_pages()) {
    return false;
  }
  for (std::uint32_t pool = 1; pool < missing.size(); ++pool) {
    if (short_by(pool) > cache.evictable_window_pages(pool - 1)) {
      return false;
    }
  }
  cache.evict_full(short_by(0), now_us);
  for (std::uint32_t pool = 1; pool < missing.size(); ++pool) {
    cache.evict_window(pool - 1, short_by(pool));
  }
  for (std::uint32_t pool = 0; pool < missing.size(); ++pool) {
    if (short_by(pool) != 0) {
      return false;
    }
  }
  return true;
}

}  // namespace oriel
