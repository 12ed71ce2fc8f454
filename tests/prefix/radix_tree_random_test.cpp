// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Case 12: 10^6 random operations against an independent slow model. A reported hit is valid *and*
// maximal; accounts, events, leases and bytes are right after every one.
#include "prefix/tree_life.hpp"
#include "support/scale.hpp"
#include "support/weak_hash.hpp"

#include <oriel/prefix/order_cost_aware.hpp>
#include <oriel/prefix/order_hit_density.hpp>
#include <oriel/prefix/order_lru.hpp>
#include <oriel/prefix/order_s3_fifo.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <iterator>
#include <random>

namespace radix_tree_random_test {

using namespace oriel;

namespace {

life_options draw_life(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto one_of = [&](auto... choices) {
    const std::uint32_t all[] = {static_cast<std::uint32_t>(choices)...};
    return all[random() % std::size(all)];
  };
  life_options o{.seed = seed};
  o.hashes_differ = hashes_differ;
  o.habits.page_size = one_of(1, 1, 2, 2, 3, 4, 5, 8, 16);
  const std::uint32_t p = o.habits.page_size;
  const auto kinds = static_cast<std::uint32_t>(seed % 5);
  for (std::uint32_t kind = 0; kind < kinds; ++kind) {
    o.habits.windows.push_back(one_of(1, 2, p, p + 1, 2 * p, 2 * p + 3, 3 * p + 1, 7));
  }
  o.habits.slack_pages = one_of(0, 0, 1, 2);
  o.habits.keep_every = one_of(0, 0, 2 * p, 5 * p);
  o.habits.keep_forks = random() % 2 == 0;
  o.habits.dense_head = one_of(0, 0, 0, 3 * p, 100 * p);
  const std::uint32_t pages = one_of(8, 16, 24, 40, 40, 120);
  o.pool_pages = {pages};
  for (std::uint32_t kind = 0; kind < kinds; ++kind) {
    o.pool_pages.push_back(one_of(4, 12, pages / 2, pages));
  }
  o.vocabulary = one_of(2, 2, 3, 8);
  o.namespaces = one_of(1, 2, 4);
  o.length_max = std::min<std::uint32_t>(p * one_of(6, 12, 20, 50), 160);
  o.requests_max = one_of(1, 3, 6);
  o.tenant_shares = one_of(1, 1, 2, 4);
  return o;
}

template <evict_order Order>
life_counts run_lives(std::uint64_t episodes, std::uint64_t operations) {
  life_counts counts;
  for (std::uint64_t seed = 1; seed <= episodes; ++seed) {
    counts += tree_life<Order>(draw_life(seed)).run(operations);
  }
  return counts;
}

}  // namespace

TEST_CASE("case 12: the tree answers as the obvious model after every operation", "[prefix]") {
  constexpr std::uint64_t episodes = 200;
  const std::uint64_t operations =
      std::max<std::uint64_t>(10'000, scaled(hashes_differ ? 1'000'000 : 100'000)) / episodes + 1;
  const life_counts counts = run_lives<lru_order>(episodes, operations);
  // A life in which nothing happens would pass too.
  CAPTURE(counts.probes, counts.hits, counts.pins, counts.commits, counts.splits, counts.twins);
  CAPTURE(counts.revived, counts.evicted_full, counts.evicted_window, counts.drops);
  CAPTURE(counts.beyond_3_windows);
  const std::uint64_t all = operations * episodes;
  CHECK(counts.hits > counts.probes / 8);
  CHECK(counts.pins > all / 20);
  CHECK(counts.commits > all / 20);
  CHECK(counts.splits > all / 500);
  CHECK(counts.twins > all / 500);
  CHECK(counts.revived > all / 500);
  CHECK(counts.evicted_full > all / 100);
  CHECK(counts.evicted_window > all / 100);
  CHECK(counts.beyond_3_windows > all / 100);
}

TEST_CASE("case 12: the same under every order of eviction", "[prefix]") {
  const std::uint64_t operations = scaled(1'000);
  CHECK(run_lives<s3_fifo_order>(100, operations).evicted_full > operations);
  CHECK(run_lives<cost_aware_order<>>(100, operations).evicted_full > operations);
  CHECK(run_lives<hit_density_order>(100, operations).evicted_full > operations);
}

}  // namespace radix_tree_random_test
