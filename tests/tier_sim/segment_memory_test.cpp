// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// A segment store whose n-th allocation fails, for each n: every item that it took ends, and the
// next store in the same place finds what was acknowledged.
#include "support/scale.hpp"
#include "tier/segment_world.hpp"
#include "tier_sim/alloc_faults.hpp"

#include <catch2/catch.hpp>

#include <map>
#include <memory>
#include <vector>

namespace segment_memory_test {

using namespace oriel;
using namespace oriel_test;

namespace {

/// Puts, an erase and a sync through reclaims of a small store.
struct workload {
  workload() {
    for (std::uint64_t k = 0; k < 48; ++k) {
      pages.push_back(std::make_unique<page_buffer>(toy_page{k}));
      pages.back()->fill();
      items.push_back(pages.back()->item(store_op::put, k));
    }
    items.push_back(pages[40]->item(store_op::erase, 48));
    items.push_back(pages[41]->item(store_op::get, 49));
    items.push_back({.op = store_op::sync, .key = {}, .user = 50});
  }
  std::vector<std::unique_ptr<page_buffer>> pages;
  std::vector<store_item> items;
};

}  // namespace

TEST_CASE("an allocation that fails in a segment store loses no item", "[tier][segment]") {
  bool has_failed = true;
  std::uint64_t lost = 0;
  for (std::int64_t n = 0; has_failed; n += scaled(100) >= 100 ? 1 : 7) {
    INFO("allocation " << n);
    const workload work;
    sim_disk disk(51);
    segment_store_options options = tiny_options(6);
    options.saves_snapshot = n % 2 == 0;
    std::map<std::uint64_t, store_outcome> ended;
    {
      auto store = std::make_unique<sim_store>(disk, options);
      std::int64_t left = n;
      std::size_t taken = 0;
      store_completion done[8];
      for (int turn = 0; turn < 20'000 && ended.size() < work.items.size(); ++turn) {
        std::size_t count = 0;
        {
          const sim::alloc_faults faults(left);
          const std::size_t some = std::min<std::size_t>(7, work.items.size() - taken);
          taken += store->submit(std::span(work.items).subspan(taken, some), no_deadline);
          count = store->poll(done);
          if (count == 0) {
            store->wait(no_deadline);
          }
        }
        for (std::size_t i = 0; i < count; ++i) {
          REQUIRE(ended.emplace(done[i].user, done[i].outcome).second);
        }
      }
      REQUIRE(ended.size() == work.items.size());
      REQUIRE(store->pending() == 0);
      has_failed = left < 0;
      lost += store->stats().health == store_health::degraded ? 1u : 0u;
      if (has_failed) {
        left = 0;
        const sim::alloc_faults faults(left);
        store.reset();  // no snapshot then, and no end of the program
      }
    }
    sim_store again(disk, options);
    REQUIRE(again.is_consistent());
    const std::uint64_t evicted_at_most = 16;  // five to a segment, and a reclaim or two
    std::uint64_t missing = 0;
    for (std::uint64_t k = 0; k < work.pages.size(); ++k) {
      page_buffer b(toy_page{k});
      b.poison();
      const bool is_there =
          carry_out_one(again, b.item(store_op::get)).outcome == store_outcome::done;
      REQUIRE((!is_there || b.is_right()));
      REQUIRE((!is_there || k != 40 || ended[48] != store_outcome::done));
      missing += ended[k] == store_outcome::done && !is_there && k >= 24 && k != 40 ? 1u : 0u;
    }
    CHECK(missing <= evicted_at_most);
  }
  CHECK(lost > 10);
}

}  // namespace segment_memory_test
