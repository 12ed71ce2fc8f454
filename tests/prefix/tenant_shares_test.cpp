// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/random.hpp>
#include <oriel/kv/dual_pool.hpp>
#include <oriel/prefix/order_lru.hpp>
#include <oriel/prefix/radix_tree.hpp>
#include <oriel/prefix/sequence_prefix.hpp>

#include <catch2/catch.hpp>

#include <string>
#include <vector>

namespace tenant_shares_test {

using namespace oriel;

namespace {

using pools_type = dual_pool<address_only_memory>;
using tree_type = radix_tree<pools_type::pool_type, lru_order>;

constexpr std::uint32_t page = 4, window = 6;

/// A cache that tenants' sessions go through one by one; a turn adds 16 tokens.
struct fleet {
  pools_type pools;
  tree_type tree;
  prefix_loan loan;
  std::uint64_t now = 0;

  explicit fleet(std::uint32_t shares)
      : pools(make_pools()),
        tree(pools.all(), {.page_size = page, .windows = {window}, .tenant_shares = shares}) {}

  static pools_type make_pools() {
    const std::vector<kv_layer_shape> shapes = {
        {.kv_heads = 1, .head_dim_qk = 16, .head_dim_vo = 16},
        {.kv_heads = 1, .head_dim_qk = 16, .head_dim_vo = 16, .window_tokens = window}};
    auto plan = pool_plan::make(shapes, {.page_size = page, .step_tokens = 512});
    REQUIRE(plan);
    auto pools = pools_type::make(*plan, {.pages = {400, 400}});
    REQUIRE(pools);
    return std::move(*pools);
  }

  /// Serves one prompt; returns the tokens that came from the cache.
  std::uint32_t serve(std::uint32_t tenant, std::uint32_t session, std::uint32_t tokens_count) {
    const cache_namespace space({.tenant_salt = std::to_string(tenant), .model = "m"});
    std::vector<token_id> tokens(tokens_count);
    for (std::uint32_t i = 0; i < tokens_count; ++i) {
      tokens[i] = token_id{session * 1000 + i};
    }
    const prefix_match m = tree.match(space, tokens);
    auto lease = tree.pin(space, tokens, m, pin_extent::hit(m), ++now);
    const std::uint32_t hit = lease.full_tokens();
    const std::vector<std::uint32_t> missing = {
        pools.plan().pages_for(full_pool, tokens_count) - hit / page,
        pools.plan().pages_for(window_pool(0), tokens_count)};
    REQUIRE(make_room(tree, pools, missing, now));
    auto kv = pools.try_admit({.tokens_now = tokens_count,
                               .tokens_max = tokens_count,
                               .prefix = loan.lend(tree, lease, tree.options().windows)});
    REQUIRE(kv);
    REQUIRE(kv->reserve(tokens_count - kv->length()));
    kv->accept(tokens_count - kv->length());
    publish_sequence(tree, lease, *kv, tokens, ++now);
    tree.release(lease, {.ended = request_end::end_of_turn}, ++now);
    return hit;
  }

  /// The share of tenant 1's tokens that hit, over 40 rounds of 6 sessions of 100 tokens. Beside it
  /// tenant 2 starts `load` sessions for each of tenant 1's requests, and never comes back to one.
  double hit_rate(std::uint32_t load) {
    std::uint32_t hits = 0, asked = 0, fresh = 100;
    for (std::uint32_t round = 0; round < 40; ++round) {
      for (std::uint32_t session = 0; session < 6; ++session) {
        hits += serve(1, session, 100);
        asked += 100;
        for (std::uint32_t i = 0; i < load; ++i) {
          serve(2, ++fresh, 100);
        }
      }
      REQUIRE(tree.audit() == nullptr);
    }
    return double(hits) / asked;
  }
};

}  // namespace

TEST_CASE("a tenant below its share keeps its pages, whatever another asks", "[prefix]") {
  const double alone = fleet(2).hit_rate(0);
  const double beside_abuse = fleet(2).hit_rate(10);
  const double without_shares = fleet(1).hit_rate(10);
  CHECK(alone > 0.9);
  CHECK(beside_abuse >= alone - 0.05);
  CHECK(without_shares < 0.05);  // The abuse is real.
}

TEST_CASE("a share is no limit: a tenant alone has all the room", "[prefix]") {
  CHECK(fleet(8).hit_rate(0) == fleet(1).hit_rate(0));
}

TEST_CASE("a tenant without pages gives its share to the next", "[prefix]") {
  // Salts made up by an abuser, one request each, take no share from who comes later.
  fleet f(2);
  for (std::uint32_t salt = 10; salt < 60; ++salt) {
    f.serve(salt, 1, 100);
    f.tree.evict_full(400, ++f.now);  // Nothing is left of it.
  }
  for (std::uint32_t session = 0; session < 6; ++session) {
    f.serve(1, session, 100);
  }
  std::uint32_t fresh = 100;
  for (std::uint32_t i = 0; i < 60; ++i) {
    f.serve(2, ++fresh, 100);
  }
  for (std::uint32_t session = 0; session < 6; ++session) {
    CHECK(f.serve(1, session, 100) == 96);
  }
  CHECK(f.tree.audit() == nullptr);
}

}  // namespace tenant_shares_test
