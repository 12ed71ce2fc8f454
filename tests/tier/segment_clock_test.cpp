// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Expiries of pages that outlive the machine's uptime, and wall clocks that jump (F19).
#include "tier/segment_world.hpp"

#include <catch2/catch.hpp>

namespace segment_clock_test {

using namespace oriel;
using namespace oriel_test;

static_assert(by_other_clock(7, 5, 100) == 102);
static_assert(by_other_clock(5, 7, 100) == 100);
static_assert(by_other_clock(no_deadline, 5, 100) == no_deadline);
static_assert(by_other_clock(no_deadline, 0, 0) == no_deadline);
static_assert(expiry_us(5, 0) == 0 && expiry_us(5, 7) == 12);
static_assert(expiry_us(5, no_deadline - 2) == no_deadline);

namespace {

constexpr std::uint64_t minute_us = 60'000'000, hour_us = 60 * minute_us, day_us = 24 * hour_us;

/// A page of number k, which is to live so long; 0: for ever.
store_outcome put(sim_disk& disk, sim_store& store, std::uint64_t k, std::uint64_t ttl_us) {
  page_buffer b({k});
  b.fill();
  store_item item = b.item(store_op::put);
  item.expires_us = ttl_us == 0 ? 0 : disk.now_us() + ttl_us;
  return carry_out_one(store, item).outcome;
}

bool is_there(sim_store& store, std::uint64_t k) {
  page_buffer b({k});
  b.poison();
  const store_outcome outcome = carry_out_one(store, b.item(store_op::get)).outcome;
  REQUIRE((outcome == store_outcome::done || outcome == store_outcome::miss));
  REQUIRE((outcome == store_outcome::miss || b.is_right()));
  return outcome == store_outcome::done;
}

segment_store_options options_for(bool by_snapshot) {
  segment_store_options options = tiny_options();
  options.saves_snapshot = by_snapshot;
  return options;
}

}  // namespace

TEST_CASE("an expiry holds over a restart of the machine", "[tier][segment]") {
  const bool by_snapshot = GENERATE(false, true);
  // Restarted after a month; and mounted by a machine that has run for a month.
  const std::uint64_t uptime_before_us = GENERATE(hour_us, 30 * day_us);
  const std::uint64_t uptime_after_us = GENERATE(std::uint64_t{0}, 30 * day_us);
  CAPTURE(by_snapshot, uptime_before_us, uptime_after_us);
  sim_disk disk(1);
  disk.reboot(uptime_before_us);
  {
    sim_store store(disk, options_for(by_snapshot));
    REQUIRE(put(disk, store, 1, minute_us) == store_outcome::done);
    REQUIRE(put(disk, store, 2, hour_us) == store_outcome::done);
    REQUIRE(put(disk, store, 3, 0) == store_outcome::done);
  }
  disk.pass(hour_us / 2);
  disk.reboot(uptime_after_us);
  {
    sim_store store(disk, options_for(by_snapshot));
    CHECK(store.state().used_snapshot == by_snapshot);
    CHECK_FALSE(is_there(store, 1));
    CHECK(is_there(store, 2));
    CHECK(is_there(store, 3));
    CHECK(store.stats().pages == 2);
  }
  // Once more: what a snapshot or a record says has not moved.
  disk.pass(hour_us / 2 - minute_us);
  disk.reboot(uptime_after_us);
  sim_store store(disk, options_for(by_snapshot));
  CHECK(is_there(store, 2));
  disk.pass(minute_us);
  CHECK_FALSE(is_there(store, 2));
  CHECK(is_there(store, 3));
}

TEST_CASE("a page that was carried over keeps its expiry", "[tier][segment]") {
  sim_disk disk(2);
  segment_store_options options = tiny_options(4);
  options.carry_share_max = 0.75;
  {
    sim_store store(disk, options);
    REQUIRE(put(disk, store, 1, hour_us) == store_outcome::done);
    for (std::uint64_t k = 10; k < 60; ++k) {
      REQUIRE(put(disk, store, k, 0) == store_outcome::done);
      REQUIRE(is_there(store, 1));
    }
    REQUIRE(store.state().carried_pages > 0);
  }
  disk.reboot();
  disk.pass(hour_us / 2);
  sim_store store(disk, options);
  CHECK(is_there(store, 1));
  disk.pass(hour_us / 2);
  CHECK_FALSE(is_there(store, 1));
}

TEST_CASE("a jump of the wall clock does not concern an open store", "[tier][segment]") {
  sim_disk disk(3);
  sim_store store(disk, tiny_options());
  REQUIRE(put(disk, store, 1, hour_us) == store_outcome::done);
  disk.set_wall(disk.wall_us() + day_us);
  CHECK(is_there(store, 1));
  REQUIRE(put(disk, store, 2, hour_us) == store_outcome::done);
  disk.set_wall(disk.wall_us() - 2 * day_us);
  CHECK(is_there(store, 1));
  CHECK(is_there(store, 2));
  disk.pass(hour_us - minute_us);
  CHECK(is_there(store, 1));
  CHECK(is_there(store, 2));
  disk.pass(minute_us);
  CHECK_FALSE(is_there(store, 1));
  CHECK_FALSE(is_there(store, 2));
}

TEST_CASE("a wall clock that jumped between two starts costs misses", "[tier][segment]") {
  const bool by_snapshot = GENERATE(false, true);
  const std::int64_t jump_us =
      GENERATE(static_cast<std::int64_t>(day_us), -static_cast<std::int64_t>(day_us));
  CAPTURE(by_snapshot, jump_us);
  sim_disk disk(4);
  const std::uint64_t right_us = disk.wall_us();
  {
    sim_store store(disk, options_for(by_snapshot));
    REQUIRE(put(disk, store, 1, hour_us) == store_outcome::done);
    REQUIRE(put(disk, store, 2, 0) == store_outcome::done);
    REQUIRE(put(disk, store, 3, 30 * day_us) == store_outcome::done);
  }
  disk.reboot();
  disk.set_wall(right_us + static_cast<std::uint64_t>(jump_us));
  {
    sim_store store(disk, options_for(by_snapshot));
    CHECK_FALSE(is_there(store, 1));
    CHECK(is_there(store, 2));
    // Written in what is the future now: nobody knows how long it would live.
    CHECK(is_there(store, 3) == (jump_us > 0));
    REQUIRE(put(disk, store, 4, hour_us) == store_outcome::done);
    CHECK(is_there(store, 4));
  }
  disk.reboot();
  disk.set_wall(right_us + hour_us / 2);  // set right again
  sim_store store(disk, options_for(by_snapshot));
  CHECK_FALSE(is_there(store, 4));
  CHECK(is_there(store, 2));
}

TEST_CASE("after a wall clock went back no page lives longer than it was meant to",
          "[tier][segment]") {
  const bool by_snapshot = GENERATE(false, true);
  CAPTURE(by_snapshot);
  sim_disk disk(5);
  {
    sim_store store(disk, options_for(by_snapshot));
    REQUIRE(put(disk, store, 1, day_us) == store_outcome::done);
  }
  disk.pass(20 * hour_us);
  disk.set_wall(disk.wall_us() - 19 * hour_us);
  disk.reboot();
  sim_store store(disk, options_for(by_snapshot));
  CHECK(is_there(store, 1));
  disk.pass(day_us);
  CHECK_FALSE(is_there(store, 1));
}

TEST_CASE("no expiry and no wall clock overflows", "[tier][segment]") {
  const bool by_snapshot = GENERATE(false, true);
  const std::uint64_t wall_us = GENERATE(std::uint64_t{0}, no_deadline - hour_us);
  CAPTURE(by_snapshot, wall_us);
  sim_disk disk(6);
  disk.set_wall(wall_us);
  {
    sim_store store(disk, options_for(by_snapshot));
    std::uint64_t k = 0;
    for (const std::uint64_t ttl_us : {std::uint64_t{16},
                                       2 * hour_us,
                                       std::uint64_t{1} << 52,
                                       std::uint64_t{1} << 63,
                                       no_deadline - disk.now_us() - minute_us}) {
      REQUIRE(put(disk, store, k++, ttl_us) == store_outcome::done);
    }
    disk.pass(100);
    CHECK_FALSE(is_there(store, 0));
    for (k = 1; k < 5; ++k) {
      CHECK(is_there(store, k));
    }
  }
  disk.reboot();
  sim_store store(disk, options_for(by_snapshot));
  for (std::uint64_t k = 1; k < 5; ++k) {
    INFO(k);
    CHECK(is_there(store, k));
  }
  disk.pass(2 * hour_us);
  CHECK_FALSE(is_there(store, 1));
}

}  // namespace segment_clock_test
