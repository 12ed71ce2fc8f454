// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What memory_store does beyond the law: who has to go, what goes along, what a poll may cost.
#include "support/scale.hpp"
#include "tier/hand_clock.hpp"
#include "tier/page_maker.hpp"

#include <oriel/tier/memory_store.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

namespace memory_cases_test {

using namespace oriel;

namespace {

constexpr std::uint64_t page_bytes = 1'024 + 80 + 4 * page_maker::page_size;

/// A store for `pages` pages of 1 KiB in each of two pools, and a clock.
struct memory_world {
  explicit memory_world(std::uint64_t pages, memory_store_options options = {})
      : store(with_room(pages, std::move(options)), hand_clock(now)) {}

  static memory_store_options with_room(std::uint64_t pages, memory_store_options options) {
    options.page_size = page_maker::page_size;
    options.slice_bytes = {{512, 512}, {1'024}};
    options.capacity_bytes = 2 * pages * page_bytes;
    return options;
  }

  store_outcome run(store_op op, page_maker::page page, page_owner owner = {}) {
    *now += 10;
    const std::vector<std::uint64_t> sizes = page.key.pool == 0
                                                 ? std::vector<std::uint64_t>{512, 512}
                                                 : std::vector<std::uint64_t>{1'024};
    return run_one(store, op, page, sizes, owner);
  }
  bool has(const page_maker::page& page) {
    return run(store_op::exists, page) == store_outcome::done;
  }

  std::shared_ptr<std::uint64_t> now = std::make_shared<std::uint64_t>(1'000);
  memory_store<host_memory, hand_clock> store;
};

}  // namespace

TEST_CASE("a chain goes from its end", "[tier]") {
  const memory_order order = GENERATE(memory_order::lru, memory_order::s3_fifo);
  memory_world world(8, {.order = order});
  const auto chain = page_maker::chain(1, 8), other = page_maker::chain(2, 3);
  for (const auto& page : chain) {
    REQUIRE(world.run(store_op::put, page) == store_outcome::done);
  }
  for (const auto& page : other) {
    REQUIRE(world.run(store_op::put, page) == store_outcome::done);
  }
  for (std::size_t i = 0; i < chain.size(); ++i) {
    CHECK(world.has(chain[i]) == (i < 5));
  }
  for (const auto& page : other) {
    CHECK(world.has(page));
  }
  CHECK(world.store.is_consistent());
}

TEST_CASE("with a full page go its window pages, and windows go alone", "[tier]") {
  memory_world world(4, {.order = memory_order::lru});
  const auto chain = page_maker::chain(1, 1), others = page_maker::chain(2, 4);
  auto window = chain[0];
  window.key.pool = 1;
  REQUIRE(world.run(store_op::put, chain[0]) == store_outcome::done);
  REQUIRE(world.run(store_op::put, window) == store_outcome::done);
  for (const auto& page : others) {
    REQUIRE(world.run(store_op::put, page) == store_outcome::done);
  }
  CHECK(!world.has(chain[0]));
  CHECK(!world.has(window));
  CHECK(world.store.stats().evicted_pages == 2);
  for (auto page : page_maker::chain(3, 5)) {
    page.key.pool = 1;
    REQUIRE(world.run(store_op::put, page) == store_outcome::done);
  }
  for (const auto& page : others) {
    CHECK(world.has(page));
  }
  CHECK(world.store.is_consistent());
}

TEST_CASE("what is used stays", "[tier]") {
  SECTION("in order of use") {
    memory_world world(3, {.order = memory_order::lru});
    const auto a = page_maker::chain(1, 1)[0], b = page_maker::chain(2, 1)[0];
    world.run(store_op::put, a);
    world.run(store_op::put, b);
    world.run(store_op::put, page_maker::chain(3, 1)[0]);
    world.run(GENERATE(store_op::get, store_op::touch, store_op::put), a);
    world.run(store_op::put, page_maker::chain(4, 1)[0]);
    CHECK(world.has(a));
    CHECK(!world.has(b));
  }
  SECTION("a scan of pages that are used once takes none that is used again") {
    memory_world world(40, {.order = memory_order::s3_fifo});
    const auto hot = page_maker::chain(1, 20);
    for (const auto& page : hot) {
      world.run(store_op::put, page);
      world.run(store_op::get, page);
    }
    for (std::uint32_t scan = 2; scan < 400; ++scan) {
      world.run(store_op::put, page_maker::chain(scan, 1)[0]);
    }
    for (const auto& page : hot) {
      CHECK(world.has(page));
    }
  }
  SECTION("what left on probation and comes again is kept") {
    memory_world world(10, {.order = memory_order::s3_fifo});
    const auto twice = page_maker::chain(1, 1)[0];
    world.run(store_op::put, twice);
    for (std::uint32_t i = 2; i < 20; ++i) {
      world.run(store_op::put, page_maker::chain(i, 1)[0]);
    }
    REQUIRE(!world.has(twice));
    world.run(store_op::put, twice);
    for (std::uint32_t i = 20; i < 60; ++i) {
      world.run(store_op::put, page_maker::chain(i, 1)[0]);
    }
    CHECK(world.has(twice));
  }
}

TEST_CASE("a flood of one tenant takes nobody below what he is sure of", "[tier]") {
  const memory_order order = GENERATE(memory_order::lru, memory_order::s3_fifo);
  memory_world world(20, {.order = order, .tenants = {{.tenant = 7, .min_bytes = 5 * page_bytes}}});
  const auto kept = page_maker::chain(1, 8);
  for (const auto& page : kept) {
    world.run(store_op::put, page, {.tenant = 7});
  }
  for (std::uint32_t i = 2; i < 500; ++i) {
    REQUIRE(world.run(store_op::put, page_maker::chain(i, 1)[0], {.tenant = 8}) ==
            store_outcome::done);
    REQUIRE(world.store.used_bytes(7) >= 5 * page_bytes);
  }
  CHECK(world.store.used_bytes(7) == 5 * page_bytes);
  for (std::size_t i = 0; i < 5; ++i) {
    CHECK(world.has(kept[i]));
  }
  // What he is owed is taken from the others.
  for (const auto& page : kept) {
    REQUIRE(world.run(store_op::put, page, {.tenant = 7}) == store_outcome::done);
  }
  CHECK(world.store.used_bytes(7) >= 6 * page_bytes);
  CHECK(world.store.is_consistent());
}

TEST_CASE("nobody has more than he may", "[tier]") {
  memory_world world(20,
                     {.tenants = {{.tenant = 7, .max_bytes = 3 * page_bytes},
                                  {.tenant = 6, .max_bytes = page_bytes / 2}},
                      .other_tenant_bytes_max = 4 * page_bytes});
  for (std::uint32_t i = 1; i < 12; ++i) {
    const auto page = page_maker::chain(i, 1)[0], other = page_maker::chain(100 + i, 1)[0];
    CHECK(world.run(store_op::put, page, {.tenant = 7}) == store_outcome::done);
    CHECK(world.run(store_op::put, other, {.tenant = 8, .session = i}) == store_outcome::done);
    CHECK(world.has(page));
    CHECK(world.has(other));
    CHECK(world.store.used_bytes(7) <= 3 * page_bytes);
    CHECK(world.store.used_bytes(8) <= 4 * page_bytes);
  }
  CHECK(world.store.used_bytes(7) == 3 * page_bytes);
  CHECK(world.store.used_bytes(8) == 4 * page_bytes);
  CHECK(world.run(store_op::put, page_maker::chain(50, 1)[0], {.tenant = 6}) ==
        store_outcome::refused);
  CHECK(world.store.is_consistent());
}

TEST_CASE("a put that comes too late gives its slot back", "[tier]") {
  memory_world world(2, {.copy_bytes_per_poll = 100});
  const auto page = page_maker::chain(1, 1)[0];
  for (int i = 0; i < 5; ++i) {
    std::vector<std::byte> bytes(1'024);
    const std::vector<std::span<std::byte>> slices = {std::span(bytes).first(512),
                                                      std::span(bytes).last(512)};
    const page_identity identity = page.identity();
    const store_item put{
        .op = store_op::put, .key = page.key, .identity = &identity, .slices = slices};
    REQUIRE(world.store.submit({&put, 1}, *world.now + 5) == 1);
    store_completion done;
    REQUIRE(world.store.poll({&done, 1}) == 0);  // 100 bytes of 1024.
    *world.now += 5;
    REQUIRE(world.store.poll({&done, 1}) == 1);
    REQUIRE(done.outcome == store_outcome::late);
    REQUIRE(!world.has(page));
    REQUIRE(world.store.is_consistent());
  }
}

TEST_CASE("a page in two bites is not there before the second", "[tier]") {
  memory_world world(2, {.copy_bytes_per_poll = 1'000});
  const auto page = page_maker::chain(1, 1)[0];
  std::vector<std::byte> bytes(1'024);
  const std::vector<std::span<std::byte>> slices = {std::span(bytes).first(512),
                                                    std::span(bytes).last(512)};
  const page_identity identity = page.identity();
  const store_item put{
      .op = store_op::put, .key = page.key, .identity = &identity, .slices = slices};
  REQUIRE(world.store.submit({&put, 1}, no_deadline) == 1);
  store_completion done;
  CHECK(world.store.poll({&done, 1}) == 0);
  CHECK(world.store.stats().pages == 0);
  CHECK(world.store.poll({&done, 1}) == 1);
  CHECK(world.store.stats().pages == 1);
}

TEST_CASE("what expired makes room without being asked for", "[tier]") {
  memory_world world(8, {.ttl_us = 1'000});
  for (const auto& page : page_maker::chain(1, 8)) {
    world.run(store_op::put, page);
  }
  CHECK(world.store.stats().pages == 8);
  *world.now += 1'000;
  store_completion done;
  for (int i = 0; i < 4; ++i) {
    world.store.poll({&done, 1});
  }
  CHECK(world.store.stats().pages == 0);
  CHECK(world.store.stats().evicted_pages == 0);
  CHECK(world.store.is_consistent());
}

TEST_CASE("how long pages stayed is told", "[tier]") {
  memory_world world(1, {.order = memory_order::lru});
  world.run(store_op::put, page_maker::chain(1, 1)[0]);
  *world.now += 5'000;
  world.run(store_op::put, page_maker::chain(2, 1)[0]);
  CHECK(world.store.stats().evicted_pages == 1);
  CHECK(world.store.stats().evicted_age_us_sum == 5'010);
}

TEST_CASE("many pages are dropped in bites", "[tier]") {
  memory_world world(3'000);
  for (const auto& page : page_maker::chain(1, 2'500)) {
    world.run(store_op::put, page, {.tenant = 1, .session = page.first_token % 7 + 1});
  }
  const store_item drop{.op = store_op::drop_tenant, .key = {}, .owner = {.tenant = 1}};
  REQUIRE(world.store.submit({&drop, 1}, no_deadline) == 1);
  store_completion done;
  CHECK(world.store.poll({&done, 1}) == 0);
  CHECK(world.store.stats().pages > 0);
  while (world.store.poll({&done, 1}) == 0) {
  }
  CHECK(world.store.stats().pages == 0);
  CHECK(world.store.used_bytes(1) == 0);
  CHECK(world.store.is_consistent());
}

TEST_CASE("an index entry is small, and the books agree in a long life", "[tier]") {
  const memory_order order = GENERATE(memory_order::lru, memory_order::s3_fifo);
  memory_world world(60,
                     {.order = order,
                      .tenants = {{.tenant = 1, .min_bytes = 20 * page_bytes},
                                  {.tenant = 2, .max_bytes = 15 * page_bytes}},
                      .other_tenant_bytes_max = 50 * page_bytes});
  std::mt19937_64 random(7);
  for (std::uint64_t i = scaled(20'000); i > 0; --i) {
    const auto chain = static_cast<std::uint32_t>(random() % 40);
    auto page = page_maker::chain(chain, 6)[random() % 6];
    page.key.pool = random() % 2;
    const page_owner owner{.tenant = chain % 5, .session = chain % 3};
    switch (random() % 40) {
      case 0:
        world.run(random() % 2 != 0 ? store_op::drop_session : store_op::drop_tenant, page, owner);
        break;
      case 1:
      case 2:
        world.run(store_op::erase, page);
        break;
      default:
        world.run(random() % 2 != 0 ? store_op::put : store_op::get, page, owner);
    }
    if (i % 64 == 0) {
      REQUIRE(world.store.is_consistent());
    }
  }
  memory_world large(50'000);
  CHECK(large.store.stats().index_bytes <= 64 * 100'000);
}

}  // namespace memory_cases_test
