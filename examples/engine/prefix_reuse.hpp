// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `prefix_reuse`: the engine's prefix cache. The tree, the namespaces of its tenants, and the
/// choices that the library leaves to an engine: eviction order, retention, what a heal costs.
#pragma once

#include <oriel/kernels/gemm.hpp>
#include <oriel/kernels/isa.hpp>
#include <oriel/model/geometry.hpp>
#include <oriel/prefix/cache_namespace.hpp>
#include <oriel/prefix/heal.hpp>
#include <oriel/prefix/order_hit_density.hpp>
#include <oriel/prefix/radix_tree.hpp>
#include <oriel/prefix/retention.hpp>
#include <oriel/prefix/sequence_prefix.hpp>
#include <oriel/tier/tiered_prefix.hpp>

#include <engine/engine_options.hpp>
#include <engine/host_pools.hpp>

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace oriel::engine {

/// Whose pages go first: the one place where the engine's eviction order is chosen.
using eviction_order = hit_density_order;
/// The retention policies that a user may combine at run time.
using cache_retention = keep_any<keep_every, keep_branch_points, keep_dense_head>;

/// What lower tiers call the pages of a request; grows with it. Empty without tiers.
struct tier_names {
  page_digest start;
  std::vector<page_digest> links;  ///< [whole pages that were named]
  page_owner owner;
};

/// One thread owns it, with the pools, which outlive it.
class prefix_reuse {
 public:
  using pools_type = host_pools;
  using sequence_type = pools_type::sequence_type;
  using tree_type =
      radix_tree<pools_type::pool_type, eviction_order, cache_retention, unhashed_forwarder>;
  using tiers_type = tiered_prefix<tree_type, pools_type>;
  using lease = tree_type::lease;

  /// @param arithmetic  names what computed the KV (arithmetic_id)
  /// @param tiers       below the pools, faster first; may be none
  /// @throws std::bad_alloc
  prefix_reuse(pools_type& pools,
               const model_geometry& model,
               const engine_options& options,
               std::string arithmetic,
               std::vector<tier> tiers);
  prefix_reuse(const prefix_reuse&) = delete;
  prefix_reuse& operator=(const prefix_reuse&) = delete;

  [[nodiscard]] cache_namespace namespace_of(std::string_view tenant) const;

  /// The longest start that costs least; changes nothing. O(match + layers).
  [[nodiscard]] reuse_decision decide(const cache_namespace& space,
                                      std::span<const token_id> tokens) const {
    return decide_reuse(tree_, space, tokens, decisions_);
  }
  /// Locks what was decided, before anything is allocated. @pre nothing happened in between
  [[nodiscard]] lease pin(const cache_namespace& space,
                          std::span<const token_id> tokens,
                          const reuse_decision& decision,
                          std::uint64_t now_us) noexcept {
    return tree_.pin(space, tokens, decision.found, decision.extent(), now_us);
  }
  /// What an admission takes; valid until the next call. @throws std::bad_alloc
  [[nodiscard]] borrowed_prefix lend(const lease& held, const reuse_decision& decision) {
    return loan_.lend(tree_,
                      held,
                      tree_.options().windows,
                      decision.heal ? &*decision.heal : nullptr,
                      tree_.options().soft_kind);
  }
  /// Evicts until an admission, or a sequence that grows to `tokens`, has its pages in every pool.
  /// False: it never can have them.
  [[nodiscard]] bool make_room(const admission& wanted, std::uint64_t now_us) {
    return wait_for_copies(
        [&] { return oriel::make_room(tree_, pools_, wanted, missing_, now_us, coming()); });
  }
  [[nodiscard]] bool make_room(const sequence_type& kv,
                               std::uint32_t tokens,
                               std::uint64_t now_us) {
    return wait_for_copies(
        [&] { return oriel::make_room(tree_, pools_, kv, tokens, missing_, now_us, coming()); });
  }
  /// Gives the cache the whole pages that a sequence has computed; call it before they slide out.
  /// @param names          of the request; they grow
  /// @param prompt_tokens  of which prompt this is a part; 0: the sequence ends
  /// @throws std::bad_alloc
  void publish(lease& held,
               sequence_type& kv,
               std::span<const token_id> tokens,
               tier_names& names,
               std::uint64_t now_us,
               std::uint32_t prompt_tokens = 0);

  /// Null: there are no tiers.
  [[nodiscard]] tiers_type* tiers() noexcept { return tiers_ ? &*tiers_ : nullptr; }
  [[nodiscard]] const tiers_type* tiers() const noexcept { return tiers_ ? &*tiers_ : nullptr; }
  /// Names for a new request. @throws std::bad_alloc
  [[nodiscard]] tier_names names_of(const cache_namespace& space, page_owner owner) const;
  /// Starts to look below for what the tree lacks of a prompt. @pre tiers()->can_fetch()
  [[nodiscard]] std::uint32_t begin_fetch(const cache_namespace& space,
                                          std::span<const token_id> tokens,
                                          tier_names& names,
                                          const compute_rates& rates,
                                          std::uint64_t whole_until_us);
  /// A sequence computed behind the pages of a fetch while they came, and all came: ends the fetch
  /// and leases what it started on, as a hit does. An empty lease: the tree is out of namespaces.
  /// @param fetched  tokens that came into use, by role of their tier
  [[nodiscard]] lease end_joined_fetch(std::uint32_t fetch,
                                       const cache_namespace& space,
                                       sequence_type& kv,
                                       std::span<const token_id> tokens,
                                       tier_names& names,
                                       std::uint64_t now_us,
                                       std::array<std::uint32_t, tier_roles>& fetched);
  /// A request resumes on what was lent to it.
  void on_hit(std::span<const token_id> tokens, tier_names& names, const borrowed_prefix& lent);

  void release(lease& held, const lease_end& end, std::uint64_t now_us) noexcept {
    tree_.release(held, end, now_us);
  }

  /// Time that admissions and growth waited for copies of pages to end, since the last call.
  [[nodiscard]] std::uint64_t take_stall_us() noexcept { return std::exchange(stall_us_, 0); }

  [[nodiscard]] tree_type& tree() noexcept { return tree_; }
  [[nodiscard]] const tree_type& tree() const noexcept { return tree_; }
  [[nodiscard]] const heal_model& healing() const noexcept { return decisions_.healing; }

 private:
  void name_pages(std::span<const token_id> tokens, tier_names& names) const;
  /// Evicted pages that only tiers hold, until they have copied them.
  [[nodiscard]] leaving_pages coming() const noexcept {
    return tiers_ ? tiers_->leaving() : leaving_pages{};
  }
  /// Pages that tiers still copy, or write to for a fetch that is over, come free when they answer.
  template <class MakeRoom>
  bool wait_for_copies(MakeRoom&& make_room) {
    while (!make_room()) {
      if (!tiers_ || tiers_->idle()) {
        return false;
      }
      const std::uint64_t begin_us = now_us_();
      tiers_->wait(no_deadline);
      tiers_->turn();
      stall_us_ += now_us_() - begin_us;
    }
    return true;
  }

  pools_type& pools_;
  std::string model_digest_, arithmetic_;
  reuse_options decisions_;
  page_shape shape_;
  tree_type tree_;
  std::optional<tiers_type> tiers_;  // goes before the tree and the pools
  std::uint64_t (*now_us_)();
  std::uint64_t stall_us_ = 0;
  prefix_loan loan_;
  std::vector<std::uint32_t> missing_;  // [pools], scratch
};

/// Names everything besides tokens and weights that the bits of KV depend on: instruction path,
/// GEMM backend, version of the kernels' order of additions, dtypes, page layout.
[[nodiscard]] std::string arithmetic_id(
    isa path, host::gemm_backend backend, dtype compute, dtype kv, std::uint32_t page_tokens);

}  // namespace oriel::engine
