// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a `window_ring` promises over any `page_allocator`, as Catch2 checks. Run it on yours:
///
///     TEST_CASE("window_ring over my_allocator") {
///       check_window_ring([] { return my_allocator{64}; });
///     }
#pragma once

#include <oriel/kv/window_ring.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace oriel_conformance {

/// need = ceil(9 / 4) = 3, R = 3 + 1 + 1 + 2 = 7.
inline constexpr oriel::ring_geometry geometry{
    .page_size = 4, .window_tokens = 10, .step_tokens = 6, .slack_pages = 1};

/// `rows` rows, all of them accepted.
template <class Ring>
void step(Ring& ring, std::uint32_t rows) {
  REQUIRE(ring.try_reserve(rows));
  ring.commit(rows);
}

/// Sections on how many pages a ring takes, and when. `pages` has all of its pages.
template <oriel::page_allocator Pages>
void check_pages_taken(Pages& pages) {
  const std::uint32_t capacity = pages.capacity();
  SECTION("takes pages lazily and plateaus") {
    oriel::window_ring<Pages> ring(pages, geometry);
    CHECK(ring.ring_pages() == 7);
    CHECK(pages.available() == capacity);
    step(ring, 1);
    CHECK(pages.available() == capacity - 1);
    step(ring, 3);
    CHECK(pages.available() == capacity - 1);
    std::uint32_t most = 0;
    for (int i = 0; i < 200; ++i) {
      step(ring, 1 + static_cast<std::uint32_t>(i) % 6);
      most = std::max(most, capacity - pages.available());
      CHECK(ring.held_pages() == capacity - pages.available());
    }
    CHECK(most <= 7);
  }
  SECTION("once the ring is full it lives on its own pages") {
    oriel::window_ring<Pages> ring(pages, geometry);
    REQUIRE(ring.try_fill(1'000));
    CHECK(ring.held_pages() == 7);
    std::vector<oriel::page_handle> rest(pages.available());
    REQUIRE(pages.try_allocate(rest));  // Nobody else has a page left.
    for (int i = 0; i < 200; ++i) {
      const std::uint32_t first = ring.first_page();
      std::vector<std::uint32_t> before(ring.view().pages.begin(), ring.view().pages.end());
      step(ring, 6);
      CHECK(ring.held_pages() == 7);
      // In place: every entry keeps its page, whatever logical page it stands for.
      CHECK(std::vector<std::uint32_t>(ring.view().pages.begin(), ring.view().pages.end()) ==
            before);
      CHECK(ring.first_page() >= first);
    }
    pages.release(rest);
  }
}

/// Sections on what others may keep of a ring. `pages` has all of its pages.
template <oriel::page_allocator Pages>
void check_pages_shared(Pages& pages) {
  const std::uint32_t capacity = pages.capacity();
  SECTION("a shared page leaves the ring by reference") {
    oriel::page_handle kept;
    {
      oriel::window_ring<Pages> ring(pages, geometry);
      step(ring, 6);
      kept = ring.share(0);
      CHECK(pages.ref_count(kept) == 2);
      for (int i = 0; i < 20; ++i) {
        step(ring, 6);
        for (std::uint32_t j = ring.first_page(); j < ring.end_page(); ++j) {
          CHECK((j == 0 || ring[j].id != kept.id));
        }
      }
      CHECK(pages.ref_count(kept) == 1);
    }
    CHECK(pages.is_live(kept));
    CHECK(pages.available() == capacity - 1);
    pages.release(std::span(&kept, 1));
    CHECK(pages.available() == capacity);
  }
  SECTION("a page reused in place has a new handle") {
    oriel::window_ring<Pages> ring(pages, geometry);
    step(ring, 6);
    const oriel::page_handle old = ring[0];
    while (ring.first_page() == 0) {
      step(ring, 6);
    }
    CHECK_FALSE(pages.is_live(old));
  }
}

/// Sections on failure and end. `pages` has all of its pages.
template <oriel::page_allocator Pages>
void check_pages_returned(Pages& pages) {
  const std::uint32_t capacity = pages.capacity();
  SECTION("a shortfall changes nothing") {
    std::vector<oriel::page_handle> rest(capacity - 2);
    REQUIRE(pages.try_allocate(rest));
    oriel::window_ring<Pages> ring(pages, geometry);
    step(ring, 4);
    CHECK_FALSE(ring.try_reserve(6));
    CHECK(pages.available() == 1);
    CHECK(ring.end_page() == 1);
    CHECK(ring.try_reserve(4));
    pages.release(rest);
  }
  SECTION("releasing gives everything back") {
    oriel::window_ring<Pages> ring(pages, geometry);
    REQUIRE(ring.try_fill(100));
    step(ring, 6);
    ring.release();
    CHECK(pages.available() == capacity);
    CHECK(ring.length() == 0);
    step(ring, 6);
    CHECK(ring.held_pages() == 2);
  }
}

}  // namespace oriel_conformance

/// @param make  returns a new allocator with at least 24 pages, none of them owned.
template <class Make>
void check_window_ring(Make make) {
  oriel::page_allocator auto pages = make();
  REQUIRE(pages.capacity() >= 24);
  oriel_conformance::check_pages_taken(pages);
  oriel_conformance::check_pages_shared(pages);
  oriel_conformance::check_pages_returned(pages);
}
