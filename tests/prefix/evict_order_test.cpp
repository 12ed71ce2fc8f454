// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "conformance/evict_order_suite.hpp"

#include <oriel/prefix/detail/sampled_set.hpp>
#include <oriel/prefix/order_cost_aware.hpp>
#include <oriel/prefix/order_hit_density.hpp>
#include <oriel/prefix/order_lru.hpp>
#include <oriel/prefix/order_s3_fifo.hpp>

#include <catch2/catch.hpp>
#include <support/resident.hpp>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <numeric>
#include <queue>
#include <random>
#include <vector>

namespace evict_order_test {

using namespace oriel;

namespace {

constexpr std::uint64_t second_us = 1'000'000;

run_facts facts_of(std::uint32_t pages, std::uint64_t ended_us = 0) {
  return {.ended_us = ended_us, .pages = pages, .end_page = pages};
}

/// Clients of two kinds, each a chain of requests of one run of `pages_each` pages. One kind comes
/// back after 1 to 3 s, the other after 200 to 600 s; how a request ended tells which it is.
/// Returns the share of requests whose run was still there.
template <evict_order Order>
double two_kinds_hit_rate(Order order) {
  constexpr std::uint32_t clients = 60, pages_each = 10, capacity_pages = 200;
  std::mt19937_64 random(5);
  struct arrival {
    std::uint64_t at_us;
    std::uint32_t client;
    bool operator<(const arrival& other) const { return at_us > other.at_us; }
  };
  std::priority_queue<arrival> arrivals;
  for (std::uint32_t client = 0; client < clients; ++client) {
    arrivals.push({random() % (100 * second_us), client});
  }
  std::vector<std::uint32_t> pages_of(2 * clients, 0);  // [run]; a client uses its two in turns.
  std::vector<std::uint32_t> run_of(clients);
  std::uint32_t used_pages = 0, requests = 0, hits = 0;
  for (std::uint32_t client = 0; client < clients; ++client) {
    run_of[client] = client;
  }
  while (requests < 20'000) {
    const auto [now_us, client] = arrivals.top();
    arrivals.pop();
    const bool is_fast = client < clients / 2;
    const run_id before{run_of[client]};
    const run_id run{to_index(before) < clients ? to_index(before) + clients
                                                : to_index(before) - clients};
    ++requests;
    if (const std::uint32_t held = pages_of[to_index(before)]; held != 0) {
      hits += held == pages_each;
      order.on_hit(before, held, now_us);
      order.inherit(run, before);
      order.erase(before);
      pages_of[to_index(before)] = 0;
      used_pages -= held;
    }
    run_facts facts = facts_of(pages_each, now_us);
    facts.ended = is_fast ? request_end::tool_call : request_end::end_of_turn;
    order.insert(run, facts);  // And then back to the capacity: it may be the first to go.
    pages_of[to_index(run)] = pages_each;
    used_pages += pages_each;
    while (used_pages > capacity_pages) {
      const run_id victim = order.victim(now_us);
      REQUIRE(victim != null_run);
      order.on_evict(victim, pages_of[to_index(victim)], now_us);
      order.erase(victim);
      used_pages -= pages_of[to_index(victim)];
      pages_of[to_index(victim)] = 0;
    }
    run_of[client] = to_index(run);
    const std::uint64_t gap_us =
        is_fast ? second_us + random() % (2 * second_us) : (200 + random() % 400) * second_us;
    arrivals.push({now_us + gap_us, client});
  }
  return static_cast<double>(hits) / requests;
}

}  // namespace

TEST_CASE("lru_order is an evict_order") {
  check_evict_order([](std::uint32_t max_runs) { return lru_order(max_runs); });
}
TEST_CASE("s3_fifo_order is an evict_order") {
  check_evict_order([](std::uint32_t max_runs) { return s3_fifo_order(max_runs); });
}
TEST_CASE("cost_aware_order is an evict_order") {
  check_evict_order([](std::uint32_t max_runs) { return cost_aware_order<>(max_runs); });
}
TEST_CASE("hit_density_order is an evict_order") {
  check_evict_order([](std::uint32_t max_runs) { return hit_density_order(max_runs); });
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // They fill what they give.
TEMPLATE_TEST_CASE("the memory of an order grows with the runs that are used",
                   "",
                   lru_order,
                   s3_fifo_order,
                   cost_aware_order<>,
                   hit_density_order) {
  constexpr std::uint32_t max_runs = 1u << 24;  // 128 MiB at least
  const std::size_t before = resident_bytes();
  TestType order(max_runs);
  for (std::uint32_t run = 0; run < 1000; ++run) {
    order.insert(run_id{run}, facts_of(1));
  }
  CHECK(to_index(order.victim(0)) < 1000);
  CHECK(resident_bytes() < before + (std::size_t{4} << 20));
}
#endif

TEST_CASE("a sample is fair to every run, and mixes runs of all times") {
  struct entry {
    std::uint64_t came;
    run_id run;
  };
  constexpr std::uint32_t runs = 999, inside = runs - runs / 3, samples = 20'000;  // A line of 2.
  detail::sampled_set<entry> set(runs, 1);
  for (std::uint32_t run = 0; run < runs; ++run) {
    set.insert({run, run_id{run}});
    if (run % 3 == 0) {
      set.erase(run_id{run / 3});
    }
  }
  std::vector<std::uint32_t> seen(runs);
  double oldest = 0;
  for (std::uint32_t i = 0; i < samples; ++i) {
    const run_id run = set.lowest([&](const entry& e) {
      ++seen[to_index(e.run)];
      return e.came;
    });
    oldest += static_cast<double>(to_index(run)) / samples;
  }
  CHECK(std::accumulate(seen.begin(), seen.begin() + runs / 3, 0u) == 0);
  // A run is one of 64 out of 666: 1,922 times in 20,000, give or take 42.
  const auto [least, most] = std::minmax_element(seen.begin() + runs / 3, seen.end());
  CHECK(*least > 1700);
  CHECK(*most < 2150);
  // The oldest of 64 single draws would be 10 places from the oldest of all.
  CHECK(oldest - runs / 3 < 1.2 * inside / 65.0);
}

TEST_CASE("lru_order gives the run that was inserted first") {
  constexpr std::uint32_t max_runs = 50;
  lru_order order(max_runs);
  std::deque<std::uint32_t> slow;  // oldest first
  std::mt19937_64 random(1);
  for (int i = 0; i < 20'000; ++i) {
    const auto run = static_cast<std::uint32_t>(random() % max_runs);
    const auto at = std::find(slow.begin(), slow.end(), run);
    if (at == slow.end()) {
      order.insert(run_id{run}, facts_of(1));
      slow.push_back(run);
    } else if (random() % 2 == 0) {
      order.erase(run_id{run});
      slow.erase(at);
    }
    REQUIRE(order.victim(0) == (slow.empty() ? null_run : run_id{slow.front()}));
  }
}

TEST_CASE("s3_fifo_order lets new runs pass beside those that were continued") {
  s3_fifo_order order(200);
  for (std::uint32_t run = 0; run < 50; ++run) {
    order.inherit(run_id{run}, run_id{199});
    order.insert(run_id{run}, {.gap_us = 1, .turn = 1, .pages = 10, .end_page = 10});
  }
  for (std::uint32_t run = 50; run < 150; ++run) {
    order.insert(run_id{run}, facts_of(10));
  }
  for (std::uint32_t freed = 0; freed < 84; ++freed) {  // 16 of 66 is the first below a quarter.
    const run_id victim = order.victim(0);
    CHECK(to_index(victim) == 50 + freed);
    order.on_evict(victim, 10, 0);
    order.erase(victim);
  }
  // Oldest first from the main queue, though it has to be spared for its use first.
  std::uint32_t left = 0;
  for (; order.victim(0) != null_run; ++left) {
    order.erase(order.victim(0));
  }
  CHECK(left == 66);
}

TEST_CASE("cost_aware_order keeps dear pages for more evictions") {
  // The cost of a page is its depth: a run that ends at page 30 is worth three that end at 10.
  struct depth_cost {
    double operator()(std::uint32_t pages_before) const noexcept { return pages_before + 1; }
  };
  cost_aware_order<depth_cost> order(100);
  order.insert(run_id{0}, {.pages = 1, .end_page = 30});
  std::uint32_t cheap = 0;
  for (std::uint32_t run = 1; run < 50; ++run) {
    order.insert(run_id{run}, {.pages = 1, .end_page = 10});
    const run_id victim = order.victim(0);
    if (victim == run_id{0}) {
      break;
    }
    ++cheap;
    order.on_evict(victim, 1, 0);
    order.erase(victim);
  }
  // The floor rises by 10 with each cheap run: 10, 20, and at 30 they are even.
  CHECK(cheap >= 2);
  CHECK(cheap <= 3);
}

TEST_CASE("hit_density_order is LRU before it has learned") {
  hit_density_order order(50);
  for (std::uint32_t run = 0; run < 50; ++run) {
    order.insert(run_id{run}, facts_of(5, 20 * second_us * run));
  }
  for (std::uint32_t run = 0; run < 10; ++run) {
    const run_id victim = order.victim(2000 * second_us);
    // Ages are told apart by quarters of an octave.
    CHECK(to_index(victim) < run + 12);
    order.on_evict(victim, 5, 2000 * second_us);
    order.erase(victim);
  }
  CHECK(order.density(run_id{49}, 981 * second_us) > order.density(run_id{49}, 2000 * second_us));
}

TEST_CASE("hit_density_order learns which runs come back, and when") {
  hit_density_order order(10);
  std::uint64_t now_us = 0;
  // Tool calls come back after 8 s, three times of four; nobody continues an end of turn.
  for (int i = 0; i < 2000; ++i, now_us += 100 * second_us) {
    run_facts facts = facts_of(100, now_us);
    facts.ended = i % 2 == 0 ? request_end::tool_call : request_end::end_of_turn;
    order.insert(run_id{0}, facts);
    if (i % 2 == 0 && i % 8 != 0) {
      order.on_hit(run_id{0}, 100, now_us + 8 * second_us);
    } else {
      order.on_evict(run_id{0}, 100, now_us + 60 * second_us);
    }
    order.erase(run_id{0});
  }
  run_facts tool = facts_of(100, now_us), turn = tool;
  tool.ended = request_end::tool_call;
  turn.ended = request_end::end_of_turn;
  order.insert(run_id{1}, tool);
  order.insert(run_id{2}, turn);
  const auto density = [&](std::uint32_t run, std::uint64_t age_s) {
    return order.density(run_id{run}, now_us + age_s * second_us);
  };
  CHECK(density(1, 0) > 20 * density(2, 0));
  CHECK(density(1, 7) > 2 * density(1, 0));   // It comes closer: worth more than a fresh one,
  CHECK(density(1, 0) > 5 * density(1, 20));  // until it stayed away.
  CHECK(order.victim(now_us) == run_id{2});
  // 0.75 hits in about 8 s if it comes, and 2 s of the bin that it may stay in vain.
  CHECK(density(1, 0) == Approx(0.75 / 8.5).epsilon(0.15));
}

TEST_CASE("hit_density_order believes forecasts as far as they came true") {
  hit_density_order order(10);
  std::uint64_t now_us = 0;
  for (int i = 0; i < 2000; ++i, now_us += 1000 * second_us) {
    run_facts facts = facts_of(10, now_us);
    const std::uint64_t ahead_us = (i % 2 == 0 ? 5 : 500) * second_us;
    facts.expected_us = now_us + ahead_us;
    order.insert(run_id{0}, facts);
    order.on_hit(run_id{0}, 10, now_us + ahead_us);
    order.erase(run_id{0});
  }
  run_facts soon = facts_of(10, now_us), late = soon;
  soon.expected_us = now_us + 5 * second_us;
  late.expected_us = now_us + 500 * second_us;
  order.insert(run_id{1}, soon);
  order.insert(run_id{2}, late);
  CHECK(order.density(run_id{1}, now_us) > 10 * order.density(run_id{2}, now_us));
  const std::uint64_t then_us = now_us + 400 * second_us;  // The first did not come.
  CHECK(order.density(run_id{1}, then_us) < order.density(run_id{2}, then_us));
}

TEST_CASE("hit_density_order gives what is left of a run a class of its own") {
  hit_density_order order(10);
  std::uint64_t now_us = 0;
  for (int i = 0; i < 1000; ++i, now_us += 1000 * second_us) {
    order.insert(run_id{0}, facts_of(100, now_us));
    order.on_hit(run_id{0}, 30, now_us + 10 * second_us);     // The shallow part; the rest
    order.on_evict(run_id{0}, 70, now_us + 900 * second_us);  // is not seen again.
    order.erase(run_id{0});
  }
  order.insert(run_id{1}, facts_of(100, now_us));
  order.insert(run_id{2}, facts_of(100, now_us - 5 * second_us));
  order.on_hit(run_id{2}, 30, now_us);
  CHECK(order.victim(now_us) == run_id{2});
  CHECK(order.density(run_id{1}, now_us) > 10 * order.density(run_id{2}, now_us));
}

TEST_CASE("hit_density_order beats LRU where the end of a request tells when the next comes") {
  const double lru = two_kinds_hit_rate(lru_order(120));
  const double density = two_kinds_hit_rate(hit_density_order(120));
  CAPTURE(lru, density);
  CHECK(density > 0.5);  // There is room for 20 of the 30 fast ones: 0.66 at best.
  CHECK(density > lru + 0.1);
}

}  // namespace evict_order_test
