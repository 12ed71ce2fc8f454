// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `dual_pool`: the KV memory of one model. One full pool, whose pages grow with the sequences, and
/// one window pool per window kind, whose pages are bounded per sequence. A uniform cache is the
/// same thing with every layer in the full pool.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/core/result.hpp>
#include <oriel/kv/page_pool.hpp>
#include <oriel/kv/pool_plan.hpp>
#include <oriel/kv/sequence_kv.hpp>

#include <cstdint>
#include <new>
#include <span>
#include <utility>
#include <vector>

namespace oriel {

/// What a request asks for.
struct admission {
  std::uint32_t tokens_now = 0;  ///< tokens to have pages for at once, a borrowed prefix included
  std::uint32_t tokens_max = 0;  ///< tokens the sequence may ever grow to; >= tokens_now, > 0
  borrowed_prefix prefix = {};   ///< pages of the first tokens that need not be computed
};

/// One layer, for the code that runs it: which table to read, and where its bytes are.
struct pool_layer {
  pool_id pool;
  kv_layer_view kv;
};

/// All pools of one model.
///
/// Admission and growth are all or nothing over the pools: a shortfall in one takes nothing from
/// any. Sequences point into the pools: they must be gone before the `dual_pool` is; moving it is
/// fine.
///
/// @tparam Memory  where the bytes live (memory.hpp).
/// @tparam Order   which free page goes next (free_order.hpp).
///
/// Thread safety: none. One thread owns the pools.
template <kv_memory Memory = host_memory, free_order Order = lifo_order>
class dual_pool {
 public:
  using pool_type = page_pool<Memory, Order>;
  using sequence_type = sequence_kv<pool_type>;

  /// Reserves every pool. O(pages).
  /// @param   reserve  (bytes) -> result<Memory>, for policies that have several ways
  /// @pre     sizes.pages.size() == plan.pools(), every size in (0, to_index(null_page))
  /// @returns errc::out_of_memory, with errno
  /// @throws  std::bad_alloc for the bookkeeping, 12 bytes per page
  template <class Reserve = result<Memory> (*)(std::size_t) noexcept>
  [[nodiscard]] static result<dual_pool> make(pool_plan plan,
                                              const pool_sizes& sizes,
                                              Reserve&& reserve = &Memory::reserve) {
    ORIEL_EXPECTS(sizes.pages.size() == plan.pools());
    std::vector<pool_type> pools;
    pools.reserve(plan.pools());
    for (std::uint32_t i = 0; i < plan.pools(); ++i) {
      result<pool_type> pool = pool_type::make(plan.layout(pool_id{i}), sizes.pages[i], reserve);
      if (!pool) {
        return pool.error();
      }
      pools.push_back(std::move(*pool));
    }
    return dual_pool(std::move(plan), std::move(pools));
  }

  [[nodiscard]] const pool_plan& plan() const noexcept { return plan_; }
  /// 1 + window kinds.
  [[nodiscard]] std::uint32_t pools() const noexcept { return plan_.pools(); }

  /// One pool: capacity(), available(), used(), high_water(), used_bytes(), and references for a
  /// prefix tree. @pre to_index(id) < pools()
  [[nodiscard]] pool_type& pool(pool_id id) noexcept {
    ORIEL_EXPECTS(to_index(id) < pools_.size());
    return pools_[to_index(id)];
  }
  [[nodiscard]] const pool_type& pool(pool_id id) const noexcept {
    ORIEL_EXPECTS(to_index(id) < pools_.size());
    return pools_[to_index(id)];
  }

  /// All of them, by pool_id: what a prefix cache holds pages of. They stay where they are when the
  /// dual_pool moves.
  [[nodiscard]] std::span<pool_type> all() noexcept { return pools_; }

  /// Bytes of all pages somebody holds. O(pools).
  [[nodiscard]] std::uint64_t used_bytes() const noexcept {
    std::uint64_t bytes = 0;
    for (const pool_type& pool : pools_) {
      bytes += pool.used_bytes();
    }
    return bytes;
  }

  /// Where a layer's KV is. O(1). @pre layer < plan().layers()
  [[nodiscard]] pool_layer layer(std::uint32_t layer) const noexcept
      requires(Memory::stores_bytes) {
    const layer_home home = plan_.home(layer);
    return {home.pool, pool(home.pool).layer(home.slot)};
  }

  /// Could a sequence of `tokens` tokens ever be served, all pools being empty? Who says no to a
  /// request tells the sizes: plan().pages_for(id, tokens) against pool(id).capacity(). O(pools).
  [[nodiscard]] bool can_ever_hold(std::uint32_t tokens) const noexcept {
    for (std::uint32_t i = 0; i < (ORIEL_MUTANT(windows_need_no_room) ? 1 : pools()); ++i) {
      if (plan_.pages_for(pool_id{i}, tokens) > pools_[i].capacity()) {
        return false;
      }
    }
    return true;
  }

  /// Pages that `try_admit` would take from a pool: who makes room for it, makes so much. O(1).
  /// @pre as try_admit
  [[nodiscard]] std::uint32_t missing_pages(pool_id id, const admission& request) const noexcept {
    const borrowed_prefix& prefix = request.prefix;
    const std::uint32_t page = plan_.options().page_size;
    const std::uint32_t pages = request.tokens_now / page + (request.tokens_now % page != 0);
    if (id == full_pool) {
      return pages - static_cast<std::uint32_t>(prefix.full.size());
    }
    const std::uint32_t kind = to_index(id) - 1;
    const std::uint32_t start = (prefix.heal ? prefix.heal->first_row : prefix.length) / page;
    const auto lent =
        static_cast<std::uint32_t>(kind < prefix.windows.size() ? prefix.windows[kind].size() : 0);
    const std::uint32_t ring_pages = plan_.ring(kind).ring_pages();
    return std::min(pages - start, ring_pages - std::min(ring_pages, lent));
  }

  /// Admits a sequence and takes its pages, or takes nothing: full pages for `tokens_now`, and in
  /// every window pool as many of them as a ring holds, so that a prompt of any length slides
  /// through with what it got here, unless others keep its pages (a cache to which they were
  /// published): then make_room (prefix/sequence_prefix.hpp) before each reserve.
  /// O(pools + pages taken + pages lent), and the tables allocate.
  /// @pre     tokens_now <= tokens_max, tokens_max > 0, prefix.length <= tokens_now
  /// @returns errc::request_too_large if no wait will help (see can_ever_hold), errc::out_of_pages,
  ///          errc::out_of_memory
  [[nodiscard]] result<sequence_type> try_admit(const admission& request) noexcept {
    ORIEL_EXPECTS(request.tokens_max > 0 && request.tokens_now <= request.tokens_max);
    ORIEL_EXPECTS(request.prefix.length <= request.tokens_now);
    if (!can_ever_hold(request.tokens_max)) {
      return failure{errc::request_too_large, 0, "tokens_max does not fit an empty pool"};
    }
    try {
      sequence_type sequence(pools_, plan_, request.tokens_max);
      if (request.prefix.length != 0) {
        sequence.adopt(request.prefix);
      }
      if (const status taken = sequence.take_pages(request.tokens_now); !taken) {
        return taken.error();
      }
      return sequence;
    } catch (const std::bad_alloc&) {
      return failure{errc::out_of_memory, 0, "block tables"};
    }
  }

 private:
  dual_pool(pool_plan plan, std::vector<pool_type> pools) noexcept
      : plan_(std::move(plan)), pools_(std::move(pools)) {}

  pool_plan plan_;
  std::vector<pool_type> pools_;  // [pools]; its buffer does not move when the dual_pool does
};

}  // namespace oriel
