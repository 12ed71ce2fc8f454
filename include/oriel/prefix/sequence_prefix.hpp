// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A sequence and a prefix cache: choosing how a request starts, lending a cached prefix to a new
/// sequence, giving the cache what a sequence has computed, and making room in the pools.
///
///     const reuse_decision d = decide_reuse(cache, space, tokens, options);
///     auto lease = cache.pin(space, tokens, d.found, d.extent(), now_us);
///     prefix_loan loan;                                      // one per engine: reuses its memory
///     const admission wanted{.tokens_now = n, .tokens_max = m,
///                            .prefix = loan.lend(cache, lease, windows, heal)};
///     make_room(cache, pools, wanted, missing, now_us);                     // missing: scratch
///     auto kv = pools.try_admit(wanted);
///
///     make_room(cache, pools, *kv, kv->length() + rows, missing, now_us);   // for each step
///     kv->reserve(rows); ... compute ...; kv->accept(rows);
///     publish_sequence(cache, lease, *kv, tokens, now_us);   // before the windows slide: a page
///     kv->slide_out();                                       // that slid out may be the cache's
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/ids.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/kv/dual_pool.hpp>
#include <oriel/kv/sequence_kv.hpp>
#include <oriel/model/cost.hpp>
#include <oriel/model/geometry.hpp>
#include <oriel/prefix/cache_namespace.hpp>
#include <oriel/prefix/heal.hpp>
#include <oriel/prefix/match.hpp>
#include <oriel/prefix/prefix_cache.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace oriel {

/// What a decision depends on besides the match.
struct reuse_options {
  const model_geometry* model = nullptr;  ///< it outlives the options
  heal_model healing = {};                ///< of the same model
  compute_rates rates = {};
  bool may_heal = true;
};

/// How a request will start.
struct reuse_decision {
  prefix_match found;
  std::uint32_t length = 0;       ///< tokens read from the cache: to a window-safe boundary, or T
  std::optional<heal_plan> heal;  ///< what makes `length` window-safe, where it is not

  /// What to pin. A heal that starts beyond the windows at S leaves them: others may need the room.
  [[nodiscard]] pin_extent extent() const noexcept {
    return heal ? pin_extent{heal->length,
                             heal->reads_window_at_safe_length() ? heal->safe_length : 0}
                : pin_extent::hit(found);
  }
};

/// The longest start that costs least; changes nothing. O(match + layers).
/// @pre   options.model != nullptr, rates > 0, if it may heal
/// @throws std::bad_alloc for a heal's frontiers
template <prefix_cache Cache>
[[nodiscard]] reuse_decision decide_reuse(const Cache& cache,
                                          const cache_namespace& space,
                                          std::span<const token_id> tokens,
                                          const reuse_options& options) {
  const prefix_match m = cache.match(space, tokens);
  reuse_decision decision{.found = m, .length = m.window_safe_tokens, .heal = {}};
  if (options.may_heal && m.heal_tokens > m.window_safe_tokens) {
    const heal_bounds bounds{.full_length = m.full_tokens,
                             .prompt_tokens = static_cast<std::uint32_t>(tokens.size()),
                             .safe_length = m.window_safe_tokens};
    ORIEL_EXPECTS(options.model != nullptr);
    if (choose_reuse(*options.model, options.healing, bounds, options.rates).way ==
        reuse_way::heal) {
      decision.heal = plan_heal(options.healing, bounds);
      decision.length = decision.heal->length;
    }
  }
  return decision;
}

/// Turns a lease into what an admission takes.
class prefix_loan {
 public:
  /// Valid until the next call, while the lease lives. With `heal`, the sequence starts at its
  /// first row and reads full KV to its end. O(pages lent).
  /// @param windows  [window kinds] window_tokens, as the cache has them
  /// @param soft_kind  as the cache has it: a heal is lent none of it, and leaves it whole from its
  ///                   end on
  /// @pre    without heal: the lease's two boundaries are equal; with it: its full boundary is
  ///         heal->length, its window boundary heal->safe_length
  /// @throws std::bad_alloc
  template <prefix_cache Cache>
  [[nodiscard]] borrowed_prefix lend(const Cache& cache,
                                     const typename Cache::lease& lease,
                                     std::span<const std::uint32_t> windows,
                                     const heal_plan* heal = nullptr,
                                     std::optional<std::uint32_t> soft_kind = {}) {
    ORIEL_EXPECTS(heal == nullptr ? lease.full_tokens() == lease.window_tokens()
                                  : lease.full_tokens() == heal->length);
    cache.borrow(lease, pages_);
    windows_.assign(pages_.windows.begin(), pages_.windows.end());
    borrowed_prefix lent{.length = lease.full_tokens(), .full = pages_.full, .windows = windows_};
    if (heal != nullptr) {
      first_shared_.clear();
      for (std::uint32_t kind = 0; kind < windows.size(); ++kind) {
        first_shared_.push_back(heal->first_healed_page(kind == soft_kind ? 1 : windows[kind]));
      }
      lent.heal = heal_start{.first_row = heal->first_row(), .first_shared_pages = first_shared_};
      if (!heal->reads_window_at_safe_length()) {
        lent.windows = {};
      } else {
        ORIEL_EXPECTS(lease.window_tokens() == heal->safe_length);
        if (soft_kind) {
          windows_[*soft_kind] = {};
        }
      }
    }
    return lent;
  }

 private:
  borrowed_pages pages_;
  std::vector<std::span<const page_handle>> windows_;
  std::vector<std::uint32_t> first_shared_;
};

namespace detail {

/// Do a cache that tells its options and a sequence agree? Boundaries that a cache finds by other
/// windows than the rings have cannot be resumed.
template <prefix_cache Cache, class Pool>
void expect_same_pages([[maybe_unused]] const Cache& cache,
                       [[maybe_unused]] const sequence_kv<Pool>& kv) noexcept {
  if constexpr (requires { cache.options().page_size, cache.options().windows.size(); }) {
    ORIEL_EXPECTS(cache.options().page_size == kv.page_size());
    ORIEL_EXPECTS(cache.options().windows.size() == kv.window_kinds());
    for (std::uint32_t kind = 0; kind < kv.window_kinds(); ++kind) {
      ORIEL_EXPECTS(cache.options().windows[kind] == kv.ring(kind).geometry().window_tokens ||
                    ORIEL_MUTANT(windows_of_two_sizes));
    }
  }
}

}  // namespace detail

/// Publishes the whole pages that a sequence has beyond its lease, and the window pages it still
/// has; the lease moves to the end. Where the cache had a page already, the sequence switches to
/// that one. Nothing happens while a heal has not reached its end. O(new pages + ring pages).
/// @param tokens         at least the tokens that the sequence has computed, from position 0
/// @param prompt_tokens  of which prompt this is a part: before its end, and unless a heal just
///                       ended, only windows that the retention policy keeps are published. 0: all
///                       of the sequence, for one that ends
/// @pre the cache has the page size and windows of the sequence's pools (tree_options_of)
/// @throws std::bad_alloc
template <prefix_cache Cache, class Pool>
publish_outcome publish_sequence(Cache& cache,
                                 typename Cache::lease& lease,
                                 sequence_kv<Pool>& kv,
                                 std::span<const token_id> tokens,
                                 std::uint64_t now_us,
                                 std::uint32_t prompt_tokens = 0) {
  const std::uint32_t page = kv.page_size();
  const std::uint32_t first = lease.full_tokens() / page, end = kv.length() / page;
  if (!lease || kv.healing() || end < first || end == 0) {
    return {};
  }
  detail::expect_same_pages(cache, kv);
  std::vector<std::vector<page_handle>> handles(kv.window_kinds());
  std::vector<window_page_span> windows(kv.window_kinds());
  for (std::uint32_t kind = 0; kind < kv.window_kinds(); ++kind) {
    const auto& ring = kv.ring(kind);
    const auto shared = kv.shareable_pages(kind);
    for (std::uint32_t logical = shared.first; logical < shared.end; ++logical) {
      handles[kind].push_back(ring[logical]);
    }
    windows[kind] = {.first_page = shared.first, .pages = handles[kind]};
  }
  auto fresh = cache.reserve(
      {.first_page = first,
       .full = kv.full_pages().handles().subspan(first, end - first),
       .windows = windows,
       .keeps_tail = kv.length() >= prompt_tokens || kv.length() == kv.lent_tokens()});
  const publish_outcome outcome = cache.commit(lease, fresh, tokens, now_us);
  for (std::uint32_t i = 0; outcome.switched_pages != 0 && i < end - first; ++i) {
    if (!(kv.full_pages()[first + i] == fresh.full_pages()[i])) {
      kv.switch_full_page(first + i, fresh.full_pages()[i]);
    }
  }
  return outcome;
}

/// What an eviction hands over to listeners that copy it (events.hpp). Default: nobody does.
struct leaving_pages {
  /// That come free when they are copied; the eviction itself adds to them. [pools], or none
  std::span<const std::uint32_t> pages = {};
  std::uint32_t at_once = ~std::uint32_t{0};  ///< of each pool, that may be handed over now
};

/// Evicts until `missing[pool]` pages are allocatable in every pool. Returns false without evicting
/// if the cache has too few that nobody leases; and false after evicting them if others still hold
/// references to some: again when those have let go. O(pages freed).
/// @param missing  [pools]
/// @param coming   pages that come free by themselves, of those evicted before, and how many may be
///                 handed over at once
template <prefix_cache Cache, class Pools>
[[nodiscard]] bool make_room(Cache& cache,
                             const Pools& pools,
                             std::span<const std::uint32_t> missing,
                             std::uint64_t now_us,
                             const leaving_pages& coming = {}) noexcept {
  const auto available = [&](std::uint32_t pool) { return pools.pool(pool_id{pool}).available(); };
  const auto short_by = [&](std::uint32_t pool) {
    const std::uint32_t there = available(pool) + (coming.pages.empty() ? 0 : coming.pages[pool]);
    return missing[pool] - std::min(missing[pool], there);
  };
  if (short_by(0) > cache.evictable_full_pages()) {
    return false;
  }
  for (std::uint32_t pool = 1; pool < missing.size(); ++pool) {
    if (short_by(pool) > cache.evictable_window_pages(pool - 1)) {
      return false;
    }
  }
  const auto handed = [&](std::uint32_t pool) {
    return coming.pages.empty() ? 0 : coming.pages[pool];
  };
  for (std::uint32_t pool = 0; pool < missing.size(); ++pool) {
    const std::uint32_t before = handed(pool);
    for (std::uint32_t left = coming.at_once; left != 0 && short_by(pool) != 0;) {
      const std::uint32_t most = std::min(short_by(pool), left);
      const evicted_pages gone =
          pool == 0 ? cache.evict_full(most, now_us) : cache.evict_window(pool - 1, most);
      if (gone == evicted_pages{}) {
        break;
      }
      left = coming.at_once - std::min(coming.at_once, handed(pool) - before);
    }
  }
  for (std::uint32_t pool = 0; pool < missing.size(); ++pool) {
    if (missing[pool] > available(pool)) {
      return false;
    }
  }
  return true;
}

/// The same for an admission. @param missing  [pools], for scratch
template <prefix_cache Cache, class Pools>
[[nodiscard]] bool make_room(Cache& cache,
                             const Pools& pools,
                             const admission& wanted,
                             std::span<std::uint32_t> missing,
                             std::uint64_t now_us,
                             const leaving_pages& coming = {}) noexcept {
  for (std::uint32_t pool = 0; pool < missing.size(); ++pool) {
    missing[pool] = pools.missing_pages(pool_id{pool}, wanted);
  }
  return make_room(cache, pools, std::span<const std::uint32_t>(missing), now_us, coming);
}

/// The same for a sequence that grows to `tokens` tokens. @param missing  [pools], for scratch
template <prefix_cache Cache, class Pools, class Pool>
[[nodiscard]] bool make_room(Cache& cache,
                             const Pools& pools,
                             const sequence_kv<Pool>& kv,
                             std::uint32_t tokens,
                             std::span<std::uint32_t> missing,
                             std::uint64_t now_us,
                             const leaving_pages& coming = {}) noexcept {
  for (std::uint32_t pool = 0; pool < missing.size(); ++pool) {
    missing[pool] = kv.missing_pages(pool_id{pool}, tokens);
  }
  return make_room(cache, pools, std::span<const std::uint32_t>(missing), now_us, coming);
}

}  // namespace oriel
