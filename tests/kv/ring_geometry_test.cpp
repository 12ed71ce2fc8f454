// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kv/ring_geometry.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>

namespace ring_geometry_test {

using oriel::ring_geometry;

namespace {

/// Logical pages [begin, boundary / P) that a query at `boundary` reads, position by
/// position (docs/decisions/pools.md).
std::uint32_t first_page_read_at(std::int64_t boundary, std::int64_t window, std::int64_t page) {
  const std::int64_t oldest_key = std::max<std::int64_t>(0, boundary - window + 1);
  return static_cast<std::uint32_t>(oldest_key / page);
}

}  // namespace

// Worked out by hand: length 4 needs positions 1 to 3, so both pages stay.
TEST_CASE("case 13: the release schedule of P=2 W=4 without slack") {
  const ring_geometry g{.page_size = 2, .window_tokens = 4, .step_tokens = 1, .slack_pages = 0};
  const std::uint32_t released_below[] = {0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4};
  for (std::uint32_t length = 0; length < std::size(released_below); ++length) {
    CAPTURE(length);
    CHECK(g.first_kept_page(length) == released_below[length]);
  }
}

// Exhaustively: nothing that the last boundary, or a boundary within the slack, reads has
// been released; and everything older has been.
TEST_CASE("case 13: no length loses its own boundary, and no page is kept too long") {
  std::uint64_t lost = 0, kept_too_long = 0, went_back = 0, beyond_ring = 0;
  for (const std::uint32_t page : {1u, 2u, 16u, 64u, 256u}) {
    for (std::uint32_t window = 1; window <= 300; ++window) {
      for (const std::uint32_t slack : {0u, 1u, 3u}) {
        const std::uint32_t lengths = 2 * window + (slack + 3) * page + 2;
        std::uint32_t before = 0;
        for (std::uint32_t length = 0; length < lengths; ++length) {
          ring_geometry g{page, window, 1, slack};
          const std::uint32_t kept = g.first_kept_page(length);
          const std::int64_t boundary = length / page * page;
          const std::int64_t oldest =
              std::max<std::int64_t>(0, boundary - std::int64_t{slack} * page);
          for (std::int64_t b = oldest; b <= boundary; b += page) {
            lost += first_page_read_at(b, window, page) < kept ? 1u : 0u;
          }
          // A running query at `length` reads nothing older either.
          lost += first_page_read_at(length, window, page) < kept ? 1u : 0u;
          kept_too_long += first_page_read_at(oldest, window, page) != kept ? 1u : 0u;
          went_back += kept < before ? 1u : 0u;
          before = kept;
          for (const std::uint32_t step : {1u, 4u, page, 3 * page + 1}) {
            g.step_tokens = step;
            beyond_ring += g.ceil_pages(length + step) - kept > g.ring_pages() ? 1u : 0u;
          }
        }
      }
    }
  }
  CHECK(lost == 0);
  CHECK(kept_too_long == 0);
  CHECK(went_back == 0);
  CHECK(beyond_ring == 0);
}

TEST_CASE("the ring has the pages of the formula") {
  CHECK(ring_geometry{16, 128, 4, 1}.ring_pages() == 8 + 1 + 1 + 1);
  CHECK(ring_geometry{16, 128, 512, 1}.ring_pages() == 8 + 1 + 1 + 32);
  CHECK(ring_geometry{64, 129, 1, 0}.ring_pages() == 2 + 1 + 0 + 1);
  CHECK(ring_geometry{16, 1, 1, 0}.ring_pages() == 0 + 1 + 0 + 1);
}

TEST_CASE("long sequences do not overflow") {
  const ring_geometry g{16, 128, 4, 1};
  CHECK(g.first_kept_page(0xFFFF'FFFFu) == (0xFFFF'FFF0u - 16 - 127) / 16);
  CHECK(g.ceil_pages(0xFFFF'FFFFu) == 0x1000'0000u);
}

}  // namespace ring_geometry_test
