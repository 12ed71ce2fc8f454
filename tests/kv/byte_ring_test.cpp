// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// That a byte ring holds every key a row sees is tested beside the window ring,
// window_ring_test.cpp.
#include <oriel/kv/byte_ring.hpp>

#include <catch2/catch.hpp>
#include <support/death.hpp>

namespace byte_ring_test {

using oriel::byte_ring;
using oriel::ring_geometry;

namespace {
constexpr ring_geometry geometry{
    .page_size = 4, .window_tokens = 10, .step_tokens = 3, .slack_pages = 5};
}

TEST_CASE("a byte ring has room for the window and a step, and ignores slack") {
  CHECK(byte_ring::pages_needed(geometry) == 3);  // 9 + 3 = 12 tokens
  const byte_ring ring(geometry, 20);
  CHECK(ring.capacity_tokens() == 12);
  CHECK(ring.view().ring_pages == 3);
  CHECK(ring.view().page_of(0) == oriel::page_id{20});
  CHECK(ring.view().page_of(2) == oriel::page_id{22});
  CHECK(ring.view().page_of(3) == oriel::page_id{20});
  CHECK(ring.slot_of(11) == 11);
  CHECK(ring.slot_of(12) == 0);
}

TEST_CASE("committed rows count, rejected ones do not, and release starts over") {
  byte_ring ring(geometry, 0);
  ring.reserve(3);
  CHECK(ring.length() == 0);
  ring.commit(2);
  CHECK(ring.length() == 2);
  ring.reserve(1);
  ring.release();
  CHECK(ring.length() == 0);
  ring.commit(0);
}

TEST_CASE("contracts of a byte ring") {
  CHECK(aborts([] { byte_ring(geometry, 0).reserve(4); }));
  CHECK(aborts([] { byte_ring(geometry, 0).commit(1); }));
  CHECK(aborts([] {
    byte_ring ring(geometry, 0);
    ring.reserve(2);
    ring.commit(1);
    ring.commit(1);  // The second row was rolled back.
  }));
}

}  // namespace byte_ring_test
