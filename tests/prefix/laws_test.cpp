// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Every tree is a prefix_cache, whatever its policies. One test case for each: Catch2 enters a
// section of a test case once, whoever calls it.
#include "conformance/prefix_cache_suite.hpp"

#include <oriel/prefix/order_cost_aware.hpp>
#include <oriel/prefix/order_hit_density.hpp>
#include <oriel/prefix/order_lru.hpp>
#include <oriel/prefix/order_s3_fifo.hpp>
#include <oriel/prefix/radix_tree.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <shared_mutex>
#include <span>

namespace laws_test {

namespace {

using pool_type = oriel::paged_allocator<>;

template <class Tree>
Tree make_tree(std::span<pool_type> pools, std::uint32_t slack_pages, bool keeps_hash_chain) {
  return Tree(pools,
              {.page_size = oriel_conformance::cache_page_tokens,
               .windows = {oriel_conformance::cache_window_tokens},
               .slack_pages = slack_pages,
               .keeps_hash_chain = keeps_hash_chain});
}

struct ignore_events {
  static constexpr bool enabled = true;
  void operator()(const oriel::cache_event&) noexcept {}
};

}  // namespace

TEST_CASE("radix_tree<lru_order> is a prefix_cache", "[prefix]") {
  check_prefix_cache([](auto pools) {
    return make_tree<oriel::radix_tree<pool_type, oriel::lru_order>>(pools, 1, false);
  });
}
TEST_CASE("radix_tree<lru_order> without slack, with a hash chain, is a prefix_cache", "[prefix]") {
  check_prefix_cache([](auto pools) {
    return make_tree<oriel::radix_tree<pool_type, oriel::lru_order>>(pools, 0, true);
  });
}
TEST_CASE("radix_tree<s3_fifo_order> is a prefix_cache", "[prefix]") {
  check_prefix_cache([](auto pools) {
    return make_tree<oriel::radix_tree<pool_type, oriel::s3_fifo_order>>(pools, 1, false);
  });
}
TEST_CASE("radix_tree<cost_aware_order> is a prefix_cache", "[prefix]") {
  check_prefix_cache([](auto pools) {
    return make_tree<oriel::radix_tree<pool_type, oriel::cost_aware_order<>>>(pools, 1, false);
  });
}
TEST_CASE("radix_tree<hit_density_order> is a prefix_cache", "[prefix]") {
  check_prefix_cache([](auto pools) {
    return make_tree<oriel::radix_tree<pool_type, oriel::hit_density_order>>(pools, 2, false);
  });
}
TEST_CASE("radix_tree that keeps all windows and tells events is a prefix_cache", "[prefix]") {
  check_prefix_cache([](auto pools) {
    using dense = oriel::keep_any<oriel::keep_every, oriel::keep_branch_points>;
    using tree = oriel::radix_tree<pool_type, oriel::lru_order, dense, ignore_events>;
    return tree(pools,
                {.page_size = 4, .windows = {6}, .keeps_hash_chain = true},
                dense({.tokens = 4}, {}));
  });
}
TEST_CASE("radix_tree with a shared mutex is a prefix_cache", "[prefix]") {
  check_prefix_cache([](auto pools) {
    return make_tree<oriel::radix_tree<pool_type,
                                       oriel::lru_order,
                                       oriel::tail_only,
                                       oriel::no_events,
                                       std::shared_mutex>>(pools, 1, false);
  });
}

}  // namespace laws_test
