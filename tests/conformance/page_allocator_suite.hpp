// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The law of `page_allocator`, as Catch2 checks. Run it on any model, ours or yours:
///
///     TEST_CASE("paged_allocator is a page_allocator") {
///       check_page_allocator([] { return oriel::paged_allocator<>{8}; });
///     }
#pragma once

#include <oriel/kv/page_allocator.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <set>
#include <span>
#include <vector>

namespace oriel_conformance {

/// The distinct page indices among `pages`.
inline std::set<std::uint32_t> indices_of(const std::vector<oriel::page_handle>& pages) {
  std::set<std::uint32_t> indices;
  for (const oriel::page_handle page : pages) {
    indices.insert(to_index(page.id));
  }
  return indices;
}

/// Sections on references to pages and their handles. `pool` has all of its pages.
template <oriel::page_allocator Pool>
void check_references(Pool& pool) {
  std::vector<oriel::page_handle> all(pool.capacity());
  SECTION("a page lives until its last reference goes") {
    REQUIRE(pool.try_allocate(all));
    const oriel::page_handle shared = all[1];
    pool.add_ref(shared);
    pool.add_ref(shared);
    CHECK(pool.ref_count(shared) == 3);
    pool.release(std::span(&shared, 1));
    CHECK(pool.ref_count(shared) == 2);
    CHECK(pool.available() == 0);
    const oriel::page_handle twice[] = {shared, shared};  // Named as often as it has references.
    pool.release(twice);
    CHECK_FALSE(pool.is_live(shared));
    CHECK(pool.available() == 1);
  }
  SECTION("renewing keeps the page and retires the handle") {
    REQUIRE(pool.try_allocate(all));
    const oriel::page_handle old = all[2], renewed = pool.renew(old);
    CHECK(renewed.id == old.id);
    CHECK(renewed != old);
    CHECK(pool.is_live(renewed));
    CHECK(pool.ref_count(renewed) == 1);
    CHECK_FALSE(pool.is_live(old));
    CHECK(pool.available() == 0);
  }
}

}  // namespace oriel_conformance

/// @param make  returns a new allocator with at least 4 pages, none of them owned.
template <class Make>
void check_page_allocator(Make make) {
  oriel::page_allocator auto pool = make();
  using oriel::page_handle;
  const std::uint32_t capacity = pool.capacity();
  REQUIRE(capacity >= 4);
  REQUIRE(pool.available() == capacity);
  std::vector<page_handle> all(capacity);

  SECTION("hands out each page once") {
    REQUIRE(pool.try_allocate(all));
    CHECK(oriel_conformance::indices_of(all).size() == capacity);
    CHECK(pool.available() == 0);
    CHECK(pool.capacity() == capacity);
    for (const page_handle page : all) {
      CHECK(to_index(page.id) < capacity);
      CHECK(pool.is_live(page));
      CHECK(pool.ref_count(page) == 1);
    }
  }
  SECTION("a request too large changes nothing") {
    std::vector<page_handle> some(2), too_many(capacity - 1);
    REQUIRE(pool.try_allocate(some));
    CHECK_FALSE(pool.try_allocate(too_many));
    CHECK(pool.available() == capacity - 2);
    for (const page_handle page : too_many) {
      CHECK(page == page_handle{});
    }
  }
  SECTION("an empty request succeeds, also when no page is left") {
    REQUIRE(pool.try_allocate(all));
    CHECK(pool.try_allocate({}));
  }
  SECTION("what is released can be handed out again, under a new handle") {
    REQUIRE(pool.try_allocate(all));
    const std::vector<page_handle> old = all;
    pool.release(all);
    CHECK(pool.available() == capacity);
    REQUIRE(pool.try_allocate(all));
    CHECK(oriel_conformance::indices_of(all).size() == capacity);
    for (const page_handle page : old) {
      CHECK_FALSE(pool.is_live(page));
    }
  }
  oriel_conformance::check_references(pool);
  SECTION("any handle may be asked about") {
    CHECK_FALSE(pool.is_live(page_handle{}));
    CHECK_FALSE(pool.is_live(page_handle{oriel::page_id{capacity}, 1}));
    for (std::uint32_t i = 0; i < capacity; ++i) {
      for (std::uint32_t generation = 0; generation < 4; ++generation) {
        CHECK_FALSE(pool.is_live(page_handle{oriel::page_id{i}, generation}));  // All are free.
      }
    }
  }
  SECTION("moving keeps pages and handles") {
    REQUIRE(pool.try_allocate(std::span(all).first(3)));
    auto moved = std::move(pool);
    CHECK(moved.available() == capacity - 3);
    CHECK(moved.is_live(all[0]));
    moved.release(std::span(all).first(3));
    CHECK(moved.available() == capacity);
  }
}
