// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// A segment store whose n-th allocation fails, for each n: every item that it took ends, and the
// next store in the same place finds what was acknowledged. And a directory whose request has none.
#include "support/scale.hpp"
#include "support/temporary_directory.hpp"
#include "tier/segment_world.hpp"
#include "tier_sim/alloc_faults.hpp"

#include <oriel/tier/thread_disk.hpp>

#include <catch2/catch.hpp>

#include <cerrno>
#include <map>
#include <memory>
#include <string>
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

TEST_CASE("a disk request without memory ends alone", "[tier][segment]") {
  const temporary_directory place;
  for (std::uint32_t failing = 0; failing < 3; ++failing) {
    INFO("request " << failing);
    const std::string folder = place.path().string() + "/" + std::to_string(failing);
    aligned_bytes memory(3 * disk_alignment_bytes);
    std::vector<std::span<std::byte>> parts;
    for (std::size_t i = 0; i < 3; ++i) {
      parts.push_back(memory.bytes().subspan(i * disk_alignment_bytes, disk_alignment_bytes));
    }
    {
      auto made = thread_disk::open({.directory = folder});
      REQUIRE(made);
      for (std::uint32_t file = 1; file <= 2; ++file) {
        REQUIRE(made->create(file, 4 * disk_alignment_bytes));
      }
    }
    auto disk = thread_disk::open({.directory = folder, .threads = 2});
    REQUIRE(disk);
    std::vector<disk_request> requests;
    for (std::uint32_t i = 0; i < 3; ++i) {
      requests.push_back({.op = disk_op::read,
                          .file = i == failing ? 2u : 1u,  // 1 is open, 2 is not
                          .offset = 0,
                          .parts = {&parts[i], 1},
                          .user = i});
    }
    std::map<std::uint64_t, int> errors;
    const auto wait_for = [&](std::size_t count) {
      disk_completion done;
      while (errors.size() < count) {
        if (disk->poll({&done, 1}) == 1) {
          errors[done.user] = done.error;
        } else {
          disk->wait(no_deadline);
        }
      }
    };
    REQUIRE(disk->submit({&requests[(failing + 1) % 3], 1}) == 1);
    wait_for(1);
    errors.clear();
    {
      std::int64_t left = 0;
      const sim::alloc_faults faults(left);
      REQUIRE(disk->submit(requests) == 3);
    }
    wait_for(3);
    for (std::uint32_t i = 0; i < 3; ++i) {
      CHECK(errors[i] == (i == failing ? ENOMEM : 0));
    }
    errors.clear();
    REQUIRE(disk->submit({&requests[failing], 1}) == 1);  // with memory it opens
    wait_for(1);
    CHECK(errors[failing] == 0);
  }
}

}  // namespace segment_memory_test
