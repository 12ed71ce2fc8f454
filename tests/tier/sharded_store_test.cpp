// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "conformance/kv_store_suite.hpp"
#include "support/scale.hpp"
#include "tier/hand_clock.hpp"
#include "tier/obvious_store.hpp"
#include "tier/page_maker.hpp"

#include <oriel/tier/memory_store.hpp>
#include <oriel/tier/sharded_store.hpp>
#include <oriel/tier/store_thread.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

namespace sharded_store_test {

using namespace oriel;

namespace {

using memory_node = memory_store<host_memory, hand_clock>;
using memory_shards = sharded_store<memory_node, place_by_key, hand_clock>;

const std::vector<std::uint64_t> sizes = {512, 512};

/// Nodes in memory, by the numbers 1, 2, ...
template <class Placement = place_by_key>
struct shard_world {
  explicit shard_world(std::uint64_t count, sharded_store_options options = {})
      : store(options, Placement{}, hand_clock(now)) {
    for (std::uint64_t name = 1; name <= count; ++name) {
      join(name);
    }
  }
  void join(std::uint64_t name) {
    store.join(
        name,
        std::make_unique<memory_node>(memory_store_options{.page_size = page_maker::page_size,
                                                           .slice_bytes = {{512, 512}},
                                                           .capacity_bytes = 4 << 20},
                                      hand_clock(now)));
  }
  store_outcome run(store_op op, const page_maker::page& page, page_owner owner = {}) {
    *now += 10;
    store_completion earlier[8];
    while (store.poll(earlier) != 0) {
    }
    return run_one(store, op, page, sizes, owner);
  }
  /// Lets the background work go on.
  void idle(int rounds) {
    store_completion none[1];
    for (int i = 0; i < rounds; ++i) {
      *now += 1'000;
      store.poll({none, 0});
    }
  }

  std::shared_ptr<std::uint64_t> now = std::make_shared<std::uint64_t>(1'000);
  sharded_store<memory_node, Placement, hand_clock> store;
};

/// Single pages, each of a chain of its own.
std::vector<page_maker::page> pages_of(std::uint32_t count) {
  std::vector<page_maker::page> pages;
  for (std::uint32_t i = 0; i < count; ++i) {
    pages.push_back(page_maker::chain(i + 1, 1)[0]);
  }
  return pages;
}

memory_store_options roomy(const kv_store_law& law) {
  return {.page_size = law.page_size,
          .slice_bytes = law.slice_bytes,
          .capacity_bytes = 4 << 20,
          .queue_items = 7,
          .copy_bytes_per_poll = 30'000};
}

/// Nodes come and go while the law is checked: some items after the last change there is another.
struct restless_shards {
  explicit restless_shards(const kv_store_law& by, std::shared_ptr<std::uint64_t> clock)
      : law(by), now(clock), inner({.set_count = 64, .look_back_us = 1'000}, {}, hand_clock(now)) {
    inner.join(next++, node());
    inner.join(next++, node());
  }
  std::unique_ptr<memory_node> node() const {
    return std::make_unique<memory_node>(roomy(law), hand_clock(now));
  }
  void change() {
    if (++calls % 40 != 0) {
      return;
    }
    *now += 700;
    if (draining != 0 && inner.is_drained(draining)) {
      inner.leave(draining);
      draining = 0;
    } else if (draining == 0 && inner.nodes() > 3) {
      draining = next - inner.nodes();  // The oldest.
      inner.drain(draining);
    } else if (inner.nodes() < 6) {
      inner.join(next++, node());
    }
  }
  std::size_t submit(std::span<const store_item> items, std::uint64_t deadline_us) {
    change();
    *now += 20;
    return inner.submit(items, deadline_us);
  }
  std::size_t poll(std::span<store_completion> done) { return inner.poll(done); }
  bool wait(std::uint64_t until_us) { return inner.wait(until_us); }
  std::size_t pending() const { return inner.pending(); }
  store_stats stats() const { return inner.stats(); }
  store_fault last_fault() const { return inner.last_fault(); }

  const kv_store_law& law;
  std::shared_ptr<std::uint64_t> now;
  memory_shards inner;
  std::uint64_t calls = 0, next = 1, draining = 0;
};

struct fixed_shards_subject {
  fixed_shards_subject(const kv_store_law& law, std::uint64_t nodes)
      : tested({.queue_items = 50}, {}, hand_clock(now)) {
    for (std::uint64_t name = 1; name <= nodes; ++name) {
      tested.join(name, std::make_unique<memory_node>(roomy(law), hand_clock(now)));
    }
  }
  memory_shards& store() { return tested; }
  std::uint64_t now_us() const { return *now; }
  void advance(std::uint64_t us) { *now += us; }
  std::shared_ptr<std::uint64_t> now = std::make_shared<std::uint64_t>(1'000);
  memory_shards tested;
};

struct restless_subject {
  explicit restless_subject(const kv_store_law& law) : tested(law, now) {}
  restless_shards& store() { return tested; }
  std::uint64_t now_us() const { return *now; }
  void advance(std::uint64_t us) { *now += us; }
  std::shared_ptr<std::uint64_t> now = std::make_shared<std::uint64_t>(1'000);
  restless_shards tested;
};

}  // namespace

TEST_CASE("sharded_store is a kv_store", "[tier]") {
  const kv_store_law law{.random_items = scaled(6'000)};
  const std::uint64_t nodes = GENERATE(1u, 5u);
  check_kv_store([&] { return fixed_shards_subject(law, nodes); }, law);
}

TEST_CASE("sharded_store is a kv_store while nodes join, drain and leave", "[tier]") {
  const kv_store_law law{.random_items = scaled(20'000)};
  check_kv_store([&] { return restless_subject(law); }, law);
}

TEST_CASE("no node has more than 1.25 of the mean, and a change moves its share", "[tier]") {
  std::vector<std::uint64_t> names;
  const std::uint32_t sets = 4'096;
  std::vector<std::uint32_t> before;
  double moved_sum = 0;
  for (std::uint64_t count = 1; count <= 24; ++count) {
    names.push_back(count * 7'919);
    const auto now = assign_sets(names, sets, 64);
    std::vector<std::uint32_t> loads(names.size(), 0);
    std::uint32_t moved = 0;
    for (std::uint32_t set = 0; set < sets; ++set) {
      REQUIRE(now[set] < names.size());
      ++loads[now[set]];
      moved += !before.empty() && before[set] != now[set];
    }
    CHECK(std::ranges::max(loads) <= 1.25 * sets / static_cast<double>(count) + 1);
    CHECK(std::ranges::max(loads) <= sets_max(sets, names.size()));
    if (count > 1) {
      const double share = static_cast<double>(sets) / static_cast<double>(count);
      CHECK(moved < 2.5 * share);
      moved_sum += moved / share;
    }
    before = now;
    // The order of the names does not matter.
    std::vector<std::uint64_t> reversed(names.rbegin(), names.rend());
    const auto same = assign_sets(reversed, sets, 64);
    for (std::uint32_t set = 0; set < sets; ++set) {
      REQUIRE(reversed[same[set]] == names[now[set]]);
    }
  }
  CHECK(moved_sum / 23 < 1.7);
  CHECK(assign_sets({}, 4, 64) == std::vector<std::uint32_t>(4, ~0u));
}

TEST_CASE("a node that joins or drains costs no page", "[tier]") {
  shard_world world(3);
  const auto pages = pages_of(600);
  for (const auto& page : pages) {
    REQUIRE(world.run(store_op::put, page) == store_outcome::done);
  }
  world.join(4);
  SECTION("at once, where they were") {
    for (const auto& page : pages) {
      REQUIRE(world.run(store_op::get, page) == store_outcome::done);
    }
  }
  SECTION("later, where they belong") {
    world.idle(400);
    CHECK(world.store.moved_pages() > 50);
    CHECK(world.store.node_stats(4).pages == world.store.moved_pages());
    CHECK(world.store.stats().pages == 600);
    world.store.drain(1);
    CHECK(!world.store.is_drained(1));
    world.idle(600);
    CHECK(world.store.is_drained(1));
    world.store.leave(1);
    CHECK(world.store.nodes() == 3);
    CHECK(world.store.stats().pages == 600);
    for (const auto& page : pages) {
      REQUIRE(world.run(store_op::get, page) == store_outcome::done);
    }
  }
}

TEST_CASE("pages move no faster than they may", "[tier]") {
  shard_world world(1, {.move_bytes_per_s = 1'024 * 100});  // 100 pages a second.
  for (const auto& page : pages_of(600)) {
    world.run(store_op::put, page);
  }
  world.join(2);
  world.idle(1'000);  // A second.
  CHECK(world.store.moved_pages() >= 95);
  CHECK(world.store.moved_pages() <= 101);
}

TEST_CASE("what is erased or dropped while pages move stays away", "[tier]") {
  shard_world world(2);
  const auto pages = pages_of(300);
  for (const auto& page : pages) {
    world.run(store_op::put, page, {.tenant = page.tokens[0] < token_id{150} ? 1u : 2u});
  }
  world.join(3);
  world.idle(20);
  for (std::size_t i = 200; i < 250; ++i) {
    REQUIRE(world.run(store_op::erase, pages[i]) == store_outcome::done);
  }
  REQUIRE(world.run(store_op::drop_tenant, pages[0], {.tenant = 1}) == store_outcome::done);
  world.idle(400);
  for (std::size_t i = 0; i < pages.size(); ++i) {
    const bool is_left = i >= 149 && (i < 200 || i >= 250);
    REQUIRE((world.run(store_op::get, pages[i]) == store_outcome::done) == is_left);
  }
  // The owner went along with the page.
  REQUIRE(world.run(store_op::drop_tenant, pages[0], {.tenant = 2}) == store_outcome::done);
  CHECK(world.store.stats().pages == 0);
}

TEST_CASE("a page that is erased on its way does not arrive", "[tier]") {
  const store_op how = GENERATE(store_op::erase, store_op::drop_space, store_op::drop_tenant);
  int on_their_way = 0;
  for (const auto& page : pages_of(20)) {
    shard_world world(1);
    REQUIRE(world.run(store_op::put, page) == store_outcome::done);
    world.join(2);
    world.idle(1);  // A move has begun, if the page belongs to the new node.
    on_their_way += world.store.home_of({.key = page.key}) == 2;
    store_item item{.op = how, .key = page.key};
    item.key.link = how == store_op::drop_space ? page.name_space : page.key.link;
    REQUIRE(world.store.submit({&item, 1}, no_deadline) == 1);
    world.idle(10);
    CHECK(world.run(store_op::get, page) == store_outcome::miss);
    CHECK(world.store.stats().pages == 0);
  }
  CHECK(on_their_way > 3);
}

TEST_CASE("a node that leaves takes along what it had, and no more", "[tier]") {
  shard_world world(4);
  const auto pages = pages_of(400);
  for (const auto& page : pages) {
    world.run(store_op::put, page);
  }
  const std::uint64_t had = world.store.node_stats(2).pages;
  world.store.leave(2);
  std::uint64_t lost = 0;
  for (const auto& page : pages) {
    lost += world.run(store_op::get, page) == store_outcome::miss;
  }
  CHECK(lost == had);
  for (const auto& page : pages) {
    REQUIRE(world.run(store_op::put, page) == store_outcome::done);
    REQUIRE(world.run(store_op::get, page) == store_outcome::done);
  }
}

TEST_CASE("a node that dies harms few sessions, where sessions stay together", "[tier]") {
  const auto harmed_by_one = [](auto placement) {
    shard_world<decltype(placement)> world(8);
    for (std::uint32_t session = 1; session <= 100; ++session) {
      for (const auto& page : page_maker::chain(session, 12)) {
        world.run(store_op::put, page, {.tenant = 1, .session = session});
      }
    }
    world.store.leave(3);
    int harmed = 0;
    for (std::uint32_t session = 1; session <= 100; ++session) {
      bool is_whole = true;
      for (const auto& page : page_maker::chain(session, 12)) {
        is_whole = is_whole && world.run(store_op::get, page, {.tenant = 1, .session = session}) ==
                                   store_outcome::done;
      }
      harmed += !is_whole;
    }
    return harmed;
  };
  CHECK(harmed_by_one(place_by_session{}) <= 25);
  CHECK(harmed_by_one(place_by_key{}) >= 60);
}

namespace {

struct failing_world {
  failing_world() {
    for (std::uint64_t name = 0; name < 3; ++name) {
      switches.push_back(std::make_shared<obvious_switches>());
      store.join(name + 1, std::make_unique<obvious_store>(switches.back()));
    }
    for (std::uint32_t i = 0;; ++i) {
      of_node_1 = page_maker::chain(i, 1)[0];
      if (store.home_of({.key = of_node_1.key}) == 1) {
        break;
      }
    }
  }
  store_outcome run(store_op op, std::uint64_t deadline = no_deadline) {
    for (const auto& s : switches) {
      s->now_us = *now;
    }
    return run_one(store, op, of_node_1, sizes, {}, deadline);
  }

  std::shared_ptr<std::uint64_t> now = std::make_shared<std::uint64_t>(1'000);
  std::vector<std::shared_ptr<obvious_switches>> switches;
  sharded_store<obvious_store, place_by_key, hand_clock> store{
      {.breaker = {.failures_max = 3, .probe_after_us = 1'000, .probe_after_us_max = 3'000}},
      {},
      hand_clock(now)};
  page_maker::page of_node_1;
};

}  // namespace

TEST_CASE("a node that fails is out, is probed, and comes back", "[tier]") {
  failing_world world;
  REQUIRE(world.run(store_op::put) == store_outcome::done);
  world.switches[0]->is_dead = true;
  for (int i = 0; i < 3; ++i) {
    CHECK(!world.store.is_out(1));
    CHECK(world.run(store_op::get) == store_outcome::failed);
  }
  CHECK(world.store.is_out(1));
  CHECK(!world.store.is_out(2));
  CHECK(world.store.stats().health == store_health::healthy);
  CHECK(world.run(store_op::get) == store_outcome::miss);
  CHECK(world.run(store_op::put) == store_outcome::refused);
  CHECK(world.run(store_op::erase) == store_outcome::failed);
  *world.now += 1'000;
  CHECK(world.run(store_op::get) == store_outcome::failed);  // The probe;
  CHECK(world.run(store_op::get) == store_outcome::miss);    // no second one
  *world.now += 1'999;                                       // for twice as long.
  CHECK(world.run(store_op::get) == store_outcome::miss);
  *world.now += 1;
  world.switches[0]->is_dead = false;
  CHECK(world.run(store_op::get) == store_outcome::done);
  CHECK(!world.store.is_out(1));
  CHECK(world.run(store_op::get) == store_outcome::done);
  CHECK(world.run(store_op::erase) == store_outcome::done);
}

TEST_CASE("a node that answers nothing costs its deadline, then nothing", "[tier]") {
  failing_world world;
  world.switches[0]->is_stuck = true;
  for (int i = 0; i < 3; ++i) {
    *world.now += 2'000;
    CHECK(world.run(store_op::get, *world.now + 2'000) == store_outcome::late);
  }
  CHECK(world.store.is_out(1));
  CHECK(world.run(store_op::get, *world.now + 2'000) == store_outcome::miss);
  // Where nobody had a chance nobody is blamed.
  failing_world other;
  other.switches[0]->is_stuck = true;
  for (int i = 0; i < 10; ++i) {
    CHECK(other.run(store_op::get, *other.now) == store_outcome::late);
  }
  CHECK(!other.store.is_out(1));
}

TEST_CASE("what waits for a node that leaves is answered", "[tier]") {
  failing_world world;
  world.switches[0]->is_stuck = true;
  const store_item get{.op = store_op::exists, .key = world.of_node_1.key, .user = 9};
  for (int i = 0; i < 40; ++i) {  // More than the node takes at once.
    REQUIRE(world.store.submit({&get, 1}, no_deadline) == 1);
  }
  store_completion done[64];
  CHECK(world.store.poll(done) == 0);
  world.store.leave(1);
  CHECK(world.store.poll(done) == 40);
  CHECK(done[0].outcome == store_outcome::failed);
  CHECK(done[0].user == 9);
  CHECK(world.store.pending() == 0);
}

TEST_CASE("shards without nodes have nothing and take nothing", "[tier]") {
  shard_world world(0);
  const auto page = pages_of(1)[0];
  CHECK(world.run(store_op::get, page) == store_outcome::miss);
  CHECK(world.run(store_op::put, page) == store_outcome::refused);
  CHECK(world.store.stats().health == store_health::degraded);
}

TEST_CASE("a node may be a thread", "[tier]") {
  sharded_store<store_thread<memory_store<>>> store({});
  const memory_store_options memory{
      .page_size = page_maker::page_size, .slice_bytes = {{512, 512}}, .capacity_bytes = 1 << 20};
  for (std::uint64_t name = 1; name <= 3; ++name) {
    store.join(name,
               std::make_unique<store_thread<memory_store<>>>(store_thread_options{}, memory));
  }
  for (const auto& page : pages_of(100)) {
    REQUIRE(run_one(store, store_op::put, page, sizes) == store_outcome::done);
    REQUIRE(run_one(store, store_op::get, page, sizes) == store_outcome::done);
  }
  CHECK(store.stats().pages == 100);
}

}  // namespace sharded_store_test
