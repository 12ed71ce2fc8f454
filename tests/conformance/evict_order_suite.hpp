// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The law of `evict_order`, as Catch2 checks:
///
///     TEST_CASE("lru_order is an evict_order") {
///       check_evict_order([](std::uint32_t max_runs) { return oriel::lru_order(max_runs); });
///     }
#pragma once

#include <oriel/prefix/evict_order.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <map>
#include <random>
#include <vector>

namespace evict_order_law {

/// A cache of runs that are nothing but page counts, with the calls that a prefix tree makes.
template <oriel::evict_order Order>
class fake_cache {
 public:
  fake_cache(Order order, std::uint32_t max_runs, std::uint64_t seed)
      : order_(std::move(order)), max_runs_(max_runs), random_(seed) {}

  void step() {
    now_us_ += below(5) == 0 ? below(1u << 30) : below(1u << 20);
    switch (below(8)) {
      case 0:
      case 1:
      case 2:
        add();
        break;
      case 3:
        continue_one();
        break;
      case 4:
        withdraw();
        break;
      case 5:
        check_strangers();
        break;
      default:
        evict();
        break;
    }
    check();
  }

  /// Evicts until nothing is left.
  void drain() {
    for (std::uint32_t rounds = 0; !inside_.empty(); ++rounds) {
      REQUIRE(rounds < 1'000'000);
      evict();
    }
    check();
  }

  [[nodiscard]] const std::vector<oriel::run_id>& victims() const { return victims_; }

 private:
  std::uint32_t below(std::uint32_t bound) { return static_cast<std::uint32_t>(random_() % bound); }

  std::uint32_t any_inside() {
    auto it = inside_.begin();
    std::advance(it, below(static_cast<std::uint32_t>(inside_.size())));
    return it->first;
  }

  oriel::run_facts any_facts(std::uint32_t pages) {
    return {.ended_us = now_us_ + (below(8) == 0 ? below(10'000'000) : 0),
            .gap_us = below(3) == 0 ? oriel::no_gap : below(100'000'000),
            .expected_us = below(3) == 0 ? now_us_ + below(50'000'000) : oriel::no_forecast,
            .duration_us = below(2) == 0 ? 0 : below(100'000'000),
            .ended = static_cast<oriel::request_end>(below(4)),
            .turn = below(10),
            .pages = pages,
            .end_page = pages + below(100)};
  }

  // The run of a new request; `from` is what it continued, or null_run.
  void insert_new(oriel::run_id from, std::uint32_t pages) {
    const std::uint32_t run = below(max_runs_);
    if (inside_.count(run) == 0 && oriel::run_id{run} != from) {
      if (from != oriel::null_run) {
        order_.inherit(oriel::run_id{run}, from);
      }
      order_.insert(oriel::run_id{run}, any_facts(pages));
      inside_[run] = pages;
    }
  }

  void add() { insert_new(oriel::null_run, 1 + below(200)); }

  void continue_one() {
    if (inside_.empty()) {
      return;
    }
    const std::uint32_t from = any_inside();
    const std::uint32_t pages = 1 + below(inside_[from]);
    order_.on_hit(oriel::run_id{from}, pages, now_us_);
    insert_new(oriel::run_id{from}, pages);
    take(from, pages);
  }

  void withdraw() {
    if (!inside_.empty()) {
      const std::uint32_t run = any_inside();
      order_.erase(oriel::run_id{run});
      order_.erase(oriel::run_id{run});  // No effect.
      inside_.erase(run);
    }
  }

  void check_strangers() {
    const oriel::run_id run{below(max_runs_)};
    if (inside_.count(to_index(run)) == 0) {
      order_.erase(run);
      order_.on_hit(run, 1, now_us_);
    }
  }

  void evict() {
    const oriel::run_id run = order_.victim(now_us_);
    REQUIRE((run == oriel::null_run) == inside_.empty());
    victims_.push_back(run);
    if (run != oriel::null_run) {
      REQUIRE(inside_.count(to_index(run)) == 1);
      const std::uint32_t pages = 1 + below(inside_[to_index(run)]);
      order_.on_evict(run, pages, now_us_);
      take(to_index(run), pages);
    }
  }

  void take(std::uint32_t run, std::uint32_t pages) {
    if ((inside_[run] -= pages) == 0) {
      order_.erase(oriel::run_id{run});
      inside_.erase(run);
    }
  }

  void check() const {
    std::uint32_t wrong = 0;  // One check for all runs: this is called after each step.
    while (wrong < max_runs_ &&
           order_.contains(oriel::run_id{wrong}) == (inside_.count(wrong) == 1)) {
      ++wrong;
    }
    REQUIRE(wrong == max_runs_);
  }

  Order order_;
  std::uint32_t max_runs_;
  std::mt19937_64 random_;
  std::map<std::uint32_t, std::uint32_t> inside_;  // run -> pages
  std::uint64_t now_us_ = 0;
  std::vector<oriel::run_id> victims_;
};

}  // namespace evict_order_law

/// @param make  max_runs -> an order; equal orders every time
template <class Make>
void check_evict_order(const Make& make) {
  using order = decltype(make(1u));
  SECTION("a new one is empty") {
    order o = make(4);
    CHECK(o.victim(0) == oriel::null_run);
    for (std::uint32_t run = 0; run < 4; ++run) {
      CHECK_FALSE(o.contains(oriel::run_id{run}));
    }
  }
  SECTION("it holds what was inserted and not erased, and only that is a victim") {
    for (const std::uint64_t seed : {1u, 2u, 3u, 4u}) {
      const auto max_runs = static_cast<std::uint32_t>(seed == 1 ? 3 : 100 * seed);
      CAPTURE(seed, max_runs);
      evict_order_law::fake_cache<order> cache(make(max_runs), max_runs, seed);
      for (int i = 0; i < 3000; ++i) {
        cache.step();
      }
      cache.drain();
    }
  }
  SECTION("equal calls have equal victims") {
    evict_order_law::fake_cache<order> one(make(300), 300, 9), other(make(300), 300, 9);
    for (int i = 0; i < 3000; ++i) {
      one.step();
      other.step();
    }
    CHECK(one.victims().size() > 100);
    CHECK(one.victims() == other.victims());
  }
}
