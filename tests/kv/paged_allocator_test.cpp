// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "support/death.hpp"

#include <oriel/kv/paged_allocator.hpp>

#include <catch2/catch.hpp>

#include <array>
#include <span>

using oriel::page_handle;

// Given a page just released, when one page is asked for, then LIFO hands out that same page: this
// is the whole reason the policy exists (the page is likely still in a cache).
TEST_CASE("lifo_order reuses the hottest page") {
  oriel::paged_allocator<oriel::lifo_order> pool{4};
  std::array<page_handle, 3> first{};
  REQUIRE(pool.try_allocate(first));

  pool.release(std::span(first).subspan(1, 1));
  std::array<page_handle, 1> again{};
  REQUIRE(pool.try_allocate(again));

  CHECK(again[0].id == first[1].id);
  CHECK(again[0] != first[1]);
}

TEST_CASE("fifo_order lets a released page rest longest") {
  oriel::paged_allocator<oriel::fifo_order> pool{3};
  std::array<page_handle, 2> first{};
  REQUIRE(pool.try_allocate(first));
  pool.release(first[1]);
  pool.release(first[0]);

  std::array<page_handle, 3> all{};
  REQUIRE(pool.try_allocate(all));
  CHECK(to_index(all[0].id) == 2);
  CHECK(all[1].id == first[1].id);
  CHECK(all[2].id == first[0].id);
}

TEST_CASE("misuse of a handle aborts where it happens") {
  oriel::paged_allocator<> pool{2};
  std::array<page_handle, 1> page{};
  REQUIRE(pool.try_allocate(page));

  SECTION("double release") {
    pool.release(page);
    CHECK(aborts([&] { pool.release(page); }));
  }
  SECTION("double release after the page found a new owner") {
    pool.release(page);
    std::array<page_handle, 1> other{};
    REQUIRE(pool.try_allocate(other));
    REQUIRE(other[0].id == page[0].id);
    CHECK(aborts([&] { pool.release(page); }));
    CHECK(aborts([&] { pool.add_ref(page[0]); }));
    CHECK(aborts([&] { static_cast<void>(pool.ref_count(page[0])); }));
  }
  SECTION("a handle from nowhere") {
    CHECK(aborts([&] { pool.add_ref(page_handle{}); }));
    CHECK(aborts([&] { pool.add_ref(page_handle{oriel::page_id{2}, 1}); }));
    CHECK(aborts([&] { pool.add_ref(page_handle{oriel::page_id{1}, 0}); }));
    CHECK(aborts([&] { pool.add_ref(page_handle{oriel::page_id{1}, 1}); }));  // A free page.
  }
  SECTION("renewing what others hold") {
    pool.add_ref(page[0]);
    CHECK(aborts([&] { static_cast<void>(pool.renew(page[0])); }));
  }
  SECTION("a pool without pages") {
    CHECK(aborts([] { oriel::paged_allocator<> none{0}; }));
    CHECK(aborts([] { oriel::paged_allocator<> too_many{0xFFFF'FFFFu}; }));
  }
}
