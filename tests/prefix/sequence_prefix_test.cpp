// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "support/death.hpp"

#include <oriel/kv/dual_pool.hpp>
#include <oriel/prefix/radix_tree.hpp>
#include <oriel/prefix/sequence_prefix.hpp>

#include <catch2/catch.hpp>

#include <optional>
#include <vector>

namespace sequence_prefix_test {

using namespace oriel;

namespace {

using pools_type = dual_pool<address_only_memory>;
using tree_type = radix_tree<pools_type::pool_type>;

constexpr std::uint32_t page = 4, window = 10;
const cache_namespace space({.tenant_salt = "a", .model = "m"});
// Two full layers and two of a window.
const std::vector<std::uint32_t> layers = {0, window, window, 0};

pools_type make_pools(std::uint32_t full_pages, std::uint32_t window_pages) {
  std::vector<kv_layer_shape> shapes;
  for (const std::uint32_t w : layers) {
    shapes.push_back({.kv_heads = 1, .head_dim_qk = 16, .head_dim_vo = 16, .window_tokens = w});
  }
  auto plan = pool_plan::make(shapes, {.page_size = page, .step_tokens = 8, .slack_pages = 1});
  REQUIRE(plan);
  auto pools = pools_type::make(*plan, {.pages = {full_pages, window_pages}});
  REQUIRE(pools);
  return std::move(*pools);
}

std::vector<token_id> prompt_of(std::uint32_t seed, std::uint32_t count) {
  std::vector<token_id> tokens(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    tokens[i] = token_id{seed * 1000 + i};
  }
  return tokens;
}

struct served {
  std::uint32_t started_at = 0;  // first row that was run
  std::uint32_t switched = 0;
};

struct server {
  pools_type pools = make_pools(64, 32);
  tree_type tree{pools.all(), tree_options_of(pools.plan())};
  prefix_loan loan;
  std::uint64_t now = 0;

  served serve(const std::vector<token_id>& tokens, bool may_heal) {
    const auto length = static_cast<std::uint32_t>(tokens.size());
    const heal_model model{.windows = layers, .page_size = page, .slack_pages = 1};
    const prefix_match m = tree.match(space, tokens);
    std::optional<heal_plan> plan;
    if (may_heal && m.heal_tokens > m.window_safe_tokens) {
      plan = plan_heal(model,
                       {.full_length = m.full_tokens,
                        .prompt_tokens = length,
                        .safe_length = m.window_safe_tokens});
    }
    auto lease = tree.pin(space, tokens, m, plan ? pin_extent::heal(m) : pin_extent::hit(m), ++now);
    const std::vector<std::uint32_t> missing = {
        pools.plan().pages_for(full_pool, length) - lease.full_tokens() / page,
        pools.plan().pages_for(window_pool(0), length)};
    REQUIRE(make_room(tree, pools, missing, ++now));
    auto kv = pools.try_admit(
        {.tokens_now = length,
         .tokens_max = length,
         .prefix = loan.lend(tree, lease, tree.options().windows, plan ? &*plan : nullptr)});
    REQUIRE(kv);
    served result{.started_at = kv->length()};
    while (kv->length() < length) {
      const std::uint32_t rows = std::min(8u, length - kv->length());
      const std::uint32_t end = kv->length() + rows;
      REQUIRE(make_room(
          tree,
          pools,
          std::vector{kv->missing_pages(full_pool, end), kv->missing_pages(window_pool(0), end)},
          now));
      REQUIRE(kv->reserve(rows));
      kv->accept(rows);
      result.switched += publish_sequence(tree, lease, *kv, tokens, ++now).switched_pages;
      kv->slide_out();
      REQUIRE(tree.audit() == nullptr);
    }
    tree.release(lease, {.ended = request_end::end_of_turn}, ++now);
    return result;
  }
};

}  // namespace

TEST_CASE("a second request resumes where the first one's windows allow", "[prefix]") {
  server s;
  const auto tokens = prompt_of(1, 43);
  CHECK(s.serve(tokens, true).started_at == 0);
  CHECK(s.tree.full_pages() == 10);
  CHECK(s.tree.match(space, tokens).window_safe_tokens == 40);
  CHECK(s.serve(tokens, true).started_at == 40);
  // Only the tree holds pages now.
  CHECK(s.pools.pool(full_pool).used() == s.tree.full_pages());
  CHECK(s.pools.pool(window_pool(0)).used() == s.tree.window_pages(0));
}

TEST_CASE("without its windows a prefix heals, and the window is there again", "[prefix]") {
  server s;
  const auto tokens = prompt_of(1, 43);
  s.serve(tokens, true);
  s.tree.evict_window(0, 1000);
  CHECK(s.tree.match(space, tokens).window_safe_tokens == 0);
  CHECK(s.tree.match(space, tokens).heal_tokens == 40);
  const std::uint32_t first = s.serve(tokens, true).started_at;
  CHECK(first > 0);
  CHECK(first < 40);
  CHECK(s.tree.match(space, tokens).window_safe_tokens == 40);
  CHECK(s.tree.counters().heals == 1);
}

TEST_CASE("case 22: a request that ran beside its twin switches to the tree's pages", "[prefix]") {
  server s;
  const auto tokens = prompt_of(1, 24);
  s.serve(tokens, false);
  s.tree.evict_window(0, 1000);
  // Without heal the prompt is computed again; its pages are given back, its windows revive.
  CHECK(s.serve(tokens, false).switched == 6);
  CHECK(s.tree.full_pages() == 6);
  CHECK(s.pools.pool(full_pool).used() == 6);
  CHECK(s.tree.match(space, prompt_of(1, 25)).window_safe_tokens == 24);
}

TEST_CASE("make_room evicts what is missing, or nothing", "[prefix]") {
  server s;
  for (std::uint32_t seed = 0; seed < 5; ++seed) {
    s.serve(prompt_of(seed, 40), true);
  }
  const std::uint32_t cached = s.tree.full_pages();
  CHECK(cached == 50);
  CHECK_FALSE(make_room(s.tree, s.pools, std::vector<std::uint32_t>{65, 0}, ++s.now));
  CHECK(s.tree.full_pages() == cached);
  CHECK(make_room(s.tree, s.pools, std::vector<std::uint32_t>{20, 30}, ++s.now));
  CHECK(s.pools.pool(full_pool).available() == 20);
  CHECK(s.pools.pool(window_pool(0)).available() >= 30);
  CHECK(s.tree.audit() == nullptr);
}

TEST_CASE("a tree's options come of its pools' plan; pages or windows of another size are refused",
          "[prefix]") {
  pools_type pools = make_pools(64, 32);
  const radix_tree_options options = tree_options_of(pools.plan());
  CHECK(options.page_size == page);
  CHECK(options.windows == std::vector{window});
  CHECK(options.slack_pages == 1);
  CHECK(!options.soft_kind);
  for (const std::uint32_t other : {2 * page, page / 2}) {
    CHECK(aborts([&] { tree_type(pools.all(), {.page_size = other, .windows = {window}}); }));
  }
  for (const std::uint32_t other : {window - 4, window + 4}) {
    tree_type tree(pools.all(), {.page_size = page, .windows = {other}});
    const auto tokens = prompt_of(1, 8);
    auto lease = tree.pin(space, tokens, tree.match(space, tokens), {}, 1);
    auto kv = pools.try_admit({.tokens_now = 8, .tokens_max = 8});
    REQUIRE(kv);
    REQUIRE(kv->reserve(8));
    kv->accept(8);
    CHECK(aborts([&] { publish_sequence(tree, lease, *kv, tokens, 2); }));
  }
}

}  // namespace sequence_prefix_test
