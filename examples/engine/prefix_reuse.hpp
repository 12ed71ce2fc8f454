// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `prefix_reuse`: the engine's prefix cache. The tree, the namespaces of its tenants, and the
/// choice of how a request starts: at a window-safe boundary, or behind a heal.
#pragma once

#include <oriel/kernels/gemm.hpp>
#include <oriel/kernels/isa.hpp>
#include <oriel/kv/dual_pool.hpp>
#include <oriel/model/geometry.hpp>
#include <oriel/prefix/cache_namespace.hpp>
#include <oriel/prefix/heal.hpp>
#include <oriel/prefix/order_hit_density.hpp>
#include <oriel/prefix/radix_tree.hpp>
#include <oriel/prefix/retention.hpp>
#include <oriel/prefix/sequence_prefix.hpp>

#include <engine/engine_options.hpp>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace oriel::engine {

/// Whose pages go first: the one place where the engine's eviction order is chosen.
using eviction_order = hit_density_order;
/// The retention policies that a user may combine at run time.
using cache_retention = keep_any<keep_every, keep_branch_points, keep_dense_head>;

/// How a request will start.
struct reuse_decision {
  prefix_match found;
  std::uint32_t length = 0;       ///< tokens read from the cache: to a window-safe boundary, or T
  std::optional<heal_plan> heal;  ///< what makes `length` window-safe, where it is not
};

/// One thread owns it, with the pools, which outlive it.
class prefix_reuse {
 public:
  using pools_type = dual_pool<>;
  using sequence_type = pools_type::sequence_type;
  using tree_type = radix_tree<pools_type::pool_type, eviction_order, cache_retention>;
  using lease = tree_type::lease;

  /// @param arithmetic  names what computed the KV (arithmetic_id)
  /// @throws std::bad_alloc
  prefix_reuse(pools_type& pools,
               const model_geometry& model,
               const engine_options& options,
               std::string arithmetic);

  [[nodiscard]] cache_namespace namespace_of(std::string_view tenant) const;

  /// The longest start that costs least; changes nothing. O(match + layers).
  [[nodiscard]] reuse_decision decide(const cache_namespace& space,
                                      std::span<const token_id> tokens) const;
  /// Locks what was decided, before anything is allocated. @pre nothing happened in between
  [[nodiscard]] lease pin(const cache_namespace& space,
                          std::span<const token_id> tokens,
                          const reuse_decision& decision,
                          std::uint64_t now_us) noexcept;
  /// What an admission takes; valid until the next call. @throws std::bad_alloc
  [[nodiscard]] borrowed_prefix lend(const lease& held, const reuse_decision& decision);
  /// Evicts until so many pages are allocatable in each pool. False: they never can be.
  /// @param missing  [pools]
  [[nodiscard]] bool make_room(std::span<const std::uint32_t> missing,
                               std::uint64_t now_us) noexcept;
  /// Gives the cache the whole pages that a sequence has computed; call it before they slide out.
  /// @throws std::bad_alloc
  void publish(lease& held,
               sequence_type& kv,
               std::span<const token_id> tokens,
               std::uint64_t now_us) {
    publish_sequence(tree_, held, kv, tokens, now_us);
  }
  void release(lease& held, const lease_end& end, std::uint64_t now_us) noexcept {
    tree_.release(held, end, now_us);
  }

  [[nodiscard]] tree_type& tree() noexcept { return tree_; }
  [[nodiscard]] const tree_type& tree() const noexcept { return tree_; }
  [[nodiscard]] const heal_model& healing() const noexcept { return heal_; }

 private:
  const model_geometry& model_;
  pools_type& pools_;
  std::string model_digest_, arithmetic_;
  std::vector<std::uint32_t> layer_windows_;  // [layers], what heal_ borrows
  heal_model heal_;
  bool may_heal_;
  compute_rates rates_;
  tree_type tree_;
  prefix_loan loan_;
};

/// Names everything besides tokens and weights that the bits of KV depend on: instruction path,
/// GEMM backend, version of the kernels' order of additions, dtypes, page layout.
[[nodiscard]] std::string arithmetic_id(
    isa path, host::gemm_backend backend, dtype compute, dtype kv, std::uint32_t page_tokens);

}  // namespace oriel::engine
