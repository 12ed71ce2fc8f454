// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Pools, a tree and tiers of a small model, whose pages hold bytes that their tokens tell.
#pragma once

#include "support/plain_store.hpp"
#include "support/toy_model.hpp"

#include <oriel/kv/dual_pool.hpp>
#include <oriel/prefix/order_lru.hpp>
#include <oriel/prefix/radix_tree.hpp>
#include <oriel/tier/tiered_prefix.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace tiered {

using namespace oriel;

constexpr std::uint32_t page = 16;

inline std::uint64_t ticking_us() {
  static std::uint64_t now = 0;
  return now += 100;
}

using pools_type = dual_pool<>;
using tree_type =
    radix_tree<pools_type::pool_type, lru_order, keep_branch_points, unhashed_forwarder>;
using tiers_type = tiered_prefix<tree_type, pools_type>;
using media = std::vector<std::shared_ptr<plain_medium>>;

struct world_options {
  std::vector<placement> writes = {placement::write_through};
  plain_faults faults = {};
  std::uint32_t silent_tier = 0xFFFF;  ///< answers only after a long time
  tier_limits limits = {};
  std::uint32_t pages = 64;
  bool by_layers = false;              ///< pages come layer by layer
  bool has_soft = false;               ///< a third pool, of a soft kind
  transfer_rates rates = {0.0, 1e15};  ///< on paper, at first
};

/// Pools, tree and tiers of a small model, and requests that "compute" recognisable bytes.
struct world {
  explicit world(const media& kept, world_options o = {})
      : pools(std::move(*pools_type::make(
            plan(o.has_soft), {std::vector<std::uint32_t>(o.has_soft ? 3 : 2, o.pages)}))),
        tree(pools.all(), tree_options_of(pools.plan())) {
    o.limits.now_us = ticking_us;
    o.limits.fetch_us_min = std::min<std::uint64_t>(10'000'000, o.limits.fetch_us_max);
    o.limits.fetch_us_max = std::max(o.limits.fetch_us_max, o.limits.fetch_us_min);
    std::vector<tier> list;
    for (std::size_t i = 0; i < kept.size(); ++i) {
      list.push_back(
          {.store = any_store(std::make_unique<plain_store>(
               kept[i],
               i == o.silent_tier ? plain_faults{.stuck = 1000, .stuck_polls = 5000} : o.faults,
               i)),
           .role = static_cast<tier_role>(i),
           .writes = o.writes[std::min(i, o.writes.size() - 1)],
           .rates = o.rates});
    }
    fetch_model model = fetch_model_of(geometry, pools.plan());
    if (!o.by_layers) {
      model.layers.clear();
    }
    tiers.emplace(tree, pools, std::move(list), std::move(model), o.limits);
    tree.events().forward_to(*tiers);
  }

  static pool_plan plan(bool has_soft = false) {
    const model_geometry model = toy_model({0, 20, 20}, false);
    std::vector<kv_layer_shape> shapes = kv_shapes_of(model.layers, dtype::bf16);
    if (has_soft) {
      shapes.push_back(shapes.back());
      shapes.back().is_soft = true;
    }
    return *pool_plan::make(shapes, {.page_size = page, .step_tokens = 64});
  }

  static std::vector<layer_home> homes(bool has_soft = false) {
    const pool_plan plan = world::plan(has_soft);
    std::vector<layer_home> homes;
    for (std::uint32_t layer = 0; layer < plan.layers(); ++layer) {
      homes.push_back(plan.home(layer));
    }
    return homes;
  }

  [[nodiscard]] std::vector<page_digest> links_of(std::span<const token_id> tokens) const {
    std::vector<page_digest> links;
    extend_chain(start, tokens, page, links);
    return links;
  }

  /// What a cold run writes into page `logical` of a pool: byte_at(bytes_of, at) at each place.
  static std::uint32_t bytes_of(std::span<const token_id> tokens,
                                std::uint32_t pool,
                                std::uint32_t logical) {
    std::uint32_t h = pool * 7 + logical * 13;
    for (const token_id token : tokens.first(std::size_t{logical + 1} * page)) {
      h = h * 31 + to_index(token);
    }
    return h;
  }
  static std::byte byte_at(std::uint32_t bytes, std::size_t at) {
    return static_cast<std::byte>(bytes >> at % 24);
  }
  void fill(std::span<const token_id> tokens,
            std::uint32_t pool,
            std::uint32_t logical,
            page_handle handle) {
    const auto bytes = pools.pool(pool_id{pool}).bytes(handle);
    const std::uint32_t expected = bytes_of(tokens, pool, logical);
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = byte_at(expected, i);
    }
  }
  void check(std::span<const token_id> tokens,
             std::uint32_t pool,
             std::uint32_t logical,
             page_handle handle) {
    const auto bytes = pools.pool(pool_id{pool}).bytes(handle);
    const std::uint32_t expected = bytes_of(tokens, pool, logical);
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      if (bytes[i] != byte_at(expected, i)) {
        FAIL("pool " << pool << " page " << logical << " byte " << i);
      }
    }
  }

  /// A cold request: computes all, publishes all.
  void compute(const std::vector<token_id>& tokens, page_owner owner = {}) {
    const auto length = static_cast<std::uint32_t>(tokens.size());
    const prefix_match m = tree.match(space, tokens);
    auto lease = tree.pin(space, tokens, m, {0, 0}, ticking_us());
    const std::vector<page_digest> links = links_of(tokens);
    std::vector<std::uint32_t> missing(pools.pools());
    const admission wanted{.tokens_now = 0, .tokens_max = length};
    auto kv = pools.try_admit(wanted);
    REQUIRE(kv);
    while (kv->length() < length) {
      const std::uint32_t rows = std::min(64u, length - kv->length());
      while (!make_room(
          tree, pools, *kv, kv->length() + rows, missing, ticking_us(), tiers->leaving())) {
        REQUIRE(tiers->copies_under_way() != 0);
        tiers->turn();
      }
      REQUIRE(kv->reserve(rows));
      for (std::uint32_t p = kv->length() / page; p < (kv->length() + rows) / page; ++p) {
        fill(tokens, 0, p, kv->full_pages()[p]);
        for (std::uint32_t kind = 0; kind < kv->window_kinds(); ++kind) {
          fill(tokens, 1 + kind, p, kv->ring(kind)[p]);
        }
      }
      kv->accept(rows);
      if (pools.plan().soft_kind()) {
        kv->set_soft_rows({0, kv->length()});
      }
      const tiered_sequence sequence{start, tokens, links, owner};
      {
        const auto scope = tiers->publishing(sequence);
        publish_sequence(tree, lease, *kv, tokens, ticking_us(), length);
      }
      tree.drop_windows(lease);
      kv->slide_out();
    }
    tree.release(lease, {}, ticking_us());
  }

  std::array<std::uint32_t, tier_roles> fetch(const std::vector<token_id>& tokens) {
    const std::uint32_t id = begin(tokens);
    for (int turns = 0; tiers->is_fetching(id); ++turns) {
      REQUIRE(turns < 100'000);
      tiers->turn();
    }
    const auto got = tiers->end_fetch(id);
    CHECK(tree.audit() == nullptr);
    return got;
  }
  std::uint32_t begin(const std::vector<token_id>& tokens, std::uint64_t whole_until_us = 0) {
    return tiers->begin_fetch({.space = space,
                               .start = start,
                               .tokens = tokens,
                               .links = links_of(tokens),
                               .rates = {1e6, 1e6},
                               .whole_until_us = whole_until_us});
  }

  /// What a layer of a page holds is what a cold run wrote there.
  [[nodiscard]] bool has_layer(std::span<const token_id> tokens,
                               layer_home home,
                               std::uint32_t logical,
                               page_handle handle) {
    const auto& pool = pools.pool(home.pool);
    const page_layout& layout = pool.layout();
    const std::size_t end = layout.k_offset_bytes(home.slot) + layout.slice_bytes(home.slot);
    const std::uint32_t expected = bytes_of(tokens, to_index(home.pool), logical);
    for (std::size_t i = layout.k_offset_bytes(home.slot); i < end; ++i) {
      if (pool.bytes(handle)[i] != byte_at(expected, i)) {
        return false;
      }
    }
    return true;
  }
  /// Whoever gets a page finds no bytes of before.
  void poison_free_pages() {
    for (std::uint32_t id = 0; id < pools.pools(); ++id) {
      auto& pool = pools.pool(pool_id{id});
      std::vector<page_handle> free(pool.available());
      REQUIRE(pool.try_allocate(free));
      for (const page_handle page_of : free) {
        std::ranges::fill(pool.bytes(page_of), std::byte{0xCB});
        pool.release(page_of);
      }
    }
  }

  /// All that a hit would borrow has the cold run's bytes; returns its length.
  std::uint32_t check_hit(const std::vector<token_id>& tokens) {
    const prefix_match m = tree.match(space, tokens);
    auto lease = tree.pin(space, tokens, m, pin_extent::hit(m), ticking_us());
    borrowed_pages pages;
    tree.borrow(lease, pages);
    for (std::uint32_t p = 0; p < pages.full.size(); ++p) {
      check(tokens, 0, p, pages.full[p]);
    }
    for (std::uint32_t kind = 0; kind < pages.windows.size(); ++kind) {
      const auto count = static_cast<std::uint32_t>(pages.windows[kind].size());
      for (std::uint32_t i = 0; i < count; ++i) {
        check(tokens,
              1 + kind,
              static_cast<std::uint32_t>(pages.full.size()) - count + i,
              pages.windows[kind][i]);
      }
    }
    const std::uint32_t length = lease.full_tokens();
    tree.release(lease, {}, ticking_us());
    return length;
  }
  /// A request resumes on what is there.
  void hit(const std::vector<token_id>& tokens) {
    const prefix_match m = tree.match(space, tokens);
    auto lease = tree.pin(space, tokens, m, pin_extent::hit(m), ticking_us());
    prefix_loan loan;
    tiers->on_hit({start, tokens, links_of(tokens), {}},
                  loan.lend(tree, lease, tree.options().windows));
    tiers->finish(no_deadline);
    tree.release(lease, {}, ticking_us());
  }
  void forget() {
    tree.evict_full(tree.evictable_full_pages(), ticking_us());
    REQUIRE(tree.full_pages() == 0);
  }

  model_geometry geometry = toy_model({0, 20, 20}, false);
  pools_type pools;
  tree_type tree;
  std::optional<tiers_type> tiers;
  cache_namespace space{{.tenant_salt = "t", .model = "m"}};
  page_digest start = chain_start(space, {.page_size = page});
};

inline std::vector<token_id> tokens_of(std::uint32_t count, std::uint32_t first = 0) {
  std::vector<token_id> tokens;
  for (std::uint32_t i = 0; i < count; ++i) {
    tokens.push_back(token_id{first + i});
  }
  return tokens;
}

inline media new_media(std::size_t count) {
  media kept;
  for (std::size_t i = 0; i < count; ++i) {
    kept.push_back(std::make_shared<plain_medium>());
  }
  return kept;
}

inline std::size_t pages_of(const plain_medium& medium, std::uint32_t pool) {
  return static_cast<std::size_t>(
      std::ranges::count_if(medium.pages, [&](const auto& p) { return p.first.pool == pool; }));
}

}  // namespace tiered
