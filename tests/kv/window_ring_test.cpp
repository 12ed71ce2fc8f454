// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "support/death.hpp"

#include <oriel/kv/byte_ring.hpp>
#include <oriel/kv/paged_allocator.hpp>
#include <oriel/kv/window_ring.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace window_ring_test {

namespace {

using allocator = oriel::paged_allocator<>;
using ring = oriel::window_ring<allocator>;

// Only a store of page handles can be published; a byte ring cannot, by type.
static_assert(oriel::publishable<ring>);
static_assert(!oriel::publishable<oriel::byte_ring>);

/// What a pool's bytes hold: for each page and offset, who wrote which position there last.
class written_tokens {
 public:
  written_tokens(std::uint32_t pages, std::uint32_t page_size)
      : page_size_(page_size), tags_(pages * page_size) {}

  /// Writes as a kernel does, through a table.
  void write(oriel::block_table_view table, std::uint32_t position, std::uint64_t tag) {
    tags_[place(table, position)] = tag;
  }
  [[nodiscard]] std::uint64_t read(oriel::block_table_view table, std::uint32_t position) const {
    return tags_[place(table, position)];
  }
  [[nodiscard]] std::uint64_t at(oriel::page_id page, std::uint32_t offset) const {
    return tags_[to_index(page) * page_size_ + offset];
  }

 private:
  [[nodiscard]] std::size_t place(oriel::block_table_view table, std::uint32_t position) const {
    const oriel::page_id page = table.page_of(position / page_size_);
    REQUIRE(page != oriel::null_page);
    return to_index(page) * page_size_ + position % page_size_;
  }

  std::uint32_t page_size_;
  std::vector<std::uint64_t> tags_;
};

constexpr std::uint64_t tag_of(std::uint64_t author, std::uint32_t position) {
  return author << 32 | position;
}

/// One step of a sequence: reserve, write, commit.
void run(ring& r, written_tokens& bytes, std::uint64_t author, std::uint32_t rows) {
  REQUIRE(r.try_reserve(rows));
  for (std::uint32_t i = 0; i < rows; ++i) {
    bytes.write(r.view(), r.length() + i, tag_of(author, r.length() + i));
  }
  r.commit(rows);
}

}  // namespace

// The schedule on a real ring, with lengths skipped.
TEST_CASE("case 13: pages slide out when their last boundary has passed") {
  allocator pages{16};
  ring r(pages, {.page_size = 2, .window_tokens = 4, .step_tokens = 4, .slack_pages = 0});
  const auto first_at = [&](std::uint32_t length) {
    REQUIRE(r.try_reserve(length - r.length()));
    r.commit(length - r.length());
    return r.first_page();
  };
  CHECK(first_at(4) == 0);
  CHECK(first_at(5) == 0);
  CHECK(first_at(6) == 1);
  CHECK(first_at(7) == 1);
  CHECK(first_at(8) == 2);
  CHECK(first_at(9) == 2);
  CHECK(first_at(11) == 3);  // 10 was skipped.
}

// Only committed rows count: a step that wrote 8 rows and accepted 1 keeps its boundary.
TEST_CASE("rejected rows move nothing and are written again") {
  allocator pages{32};
  const oriel::ring_geometry g{
      .page_size = 4, .window_tokens = 9, .step_tokens = 8, .slack_pages = 0};
  ring r(pages, g);
  written_tokens bytes(32, 4);
  for (std::uint32_t round = 0; round < 300; ++round) {
    const std::uint32_t drafts = 1 + round * 7 % 8, accepted = round * 5 % (drafts + 1);
    REQUIRE(r.try_reserve(drafts));
    for (std::uint32_t i = 0; i < drafts; ++i) {
      const bool right = i < accepted;
      bytes.write(r.view(), r.length() + i, right ? tag_of(1, r.length() + i) : 0);
    }
    r.commit(accepted);
    CHECK(r.first_page() == g.first_kept_page(r.length()));
    const std::uint32_t oldest = r.length() < 8 ? 0 : r.length() - 8;
    for (std::uint32_t p = oldest; p < r.length(); ++p) {
      REQUIRE(bytes.read(r.view(), p) == tag_of(1, p));
    }
  }
}

// A publishes, C runs through the same ring entries, B borrows A's pages.
TEST_CASE("case 32: a borrowed window holds the bytes of the lender") {
  allocator pages{40};
  const oriel::ring_geometry g{
      .page_size = 4, .window_tokens = 10, .step_tokens = 5, .slack_pages = 1};
  written_tokens bytes(40, 4);
  std::vector<oriel::page_handle> tree;
  {
    ring a(pages, g);
    for (int i = 0; i < 8; ++i) {
      run(a, bytes, 'A', 5);
    }
    REQUIRE(a.length() == 40);
    for (std::uint32_t j = 7; j < 10; ++j) {  // need(40) = pages 7, 8, 9
      tree.push_back(a.share(j));
    }
  }
  CHECK(pages.available() == 40 - 3);

  ring c(pages, g);  // Takes every entry, several times over.
  for (int i = 0; i < 40; ++i) {
    run(c, bytes, 'C', 5);
  }

  ring b(pages, g);
  b.adopt(40, tree);
  CHECK(b.first_page() == 7);
  const auto expect_window = [&](std::uint32_t length) {
    for (std::uint32_t p = length - 9; p < length; ++p) {
      REQUIRE(bytes.read(b.view(), p) == tag_of(p < 40 ? 'A' : 'B', p));
    }
  };
  expect_window(40);
  while (b.length() < 200) {
    run(b, bytes, 'B', 5);
    run(c, bytes, 'C', 3);
    expect_window(b.length());
  }
  for (std::uint32_t j = 7; j < 10; ++j) {  // B never wrote into what the tree holds.
    for (std::uint32_t offset = 0; offset < 4; ++offset) {
      CHECK(bytes.at(tree[j - 7].id, offset) == tag_of('A', j * 4 + offset));
    }
    CHECK(pages.ref_count(tree[j - 7]) == 1);
  }
  pages.release(tree);
}

TEST_CASE("a ring may be lent more than it keeps, not less than it needs") {
  allocator pages{40};
  const oriel::ring_geometry g{
      .page_size = 4, .window_tokens = 10, .step_tokens = 5, .slack_pages = 0};
  std::vector<oriel::page_handle> lent(5);
  REQUIRE(pages.try_allocate(lent));

  ring more(pages, g);
  more.adopt(40, lent);  // Pages 5 .. 9; need(40) = 7, 8, 9.
  CHECK(more.first_page() == 7);
  CHECK(pages.ref_count(lent[1]) == 1);
  CHECK(pages.ref_count(lent[2]) == 2);

  CHECK(aborts([&] { ring(pages, g).adopt(40, std::span(lent).first(2)); }));
  CHECK(aborts([&] { ring(pages, g).adopt(41, lent); }));
  CHECK(aborts([&] { more.adopt(40, lent); }));
  const std::vector<oriel::page_handle> stale = lent;
  more.release();
  pages.release(lent);
  CHECK(aborts([&] { ring(pages, g).adopt(40, stale); }));
}

TEST_CASE("contracts of a ring") {
  allocator pages{40};
  ring r(pages, {.page_size = 4, .window_tokens = 10, .step_tokens = 6, .slack_pages = 0});
  REQUIRE(r.try_reserve(6));
  r.commit(6);
  CHECK(aborts([&] { static_cast<void>(r.try_reserve(7)); }));
  CHECK(aborts([&] { r.commit(4); }));                    // Nothing is reserved so far ahead.
  CHECK(aborts([&] { static_cast<void>(r.share(1)); }));  // Not whole yet.
  CHECK(aborts([&] { static_cast<void>(r[2]); }));
  for (int i = 0; i < 6; ++i) {
    REQUIRE(r.try_reserve(6));
    r.commit(6);
  }
  CHECK(aborts([&] { static_cast<void>(r.share(0)); }));  // Slid out.
}

TEST_CASE("a ring that heals starts anywhere, slides, and shares only whole pages") {
  for (const std::uint32_t page : {1u, 4u, 16u}) {
    for (const std::uint32_t window : {1u, 2u, 10u, 33u}) {
      for (const std::uint32_t start : {0u, 5u, 37u, 96u}) {
        CAPTURE(page, window, start);
        const oriel::ring_geometry g{
            .page_size = page, .window_tokens = window, .step_tokens = 7, .slack_pages = 1};
        allocator pages{g.ring_pages()};
        written_tokens bytes(g.ring_pages(), page);
        ring r(pages, g);
        r.start_at(start);
        const std::uint32_t healed = (start + 40) / page * page, scratch = healed / page - 1;
        r.keep_private_below(scratch);
        CHECK(r.length() == start);
        CHECK(r.first_page() == start / page);
        CHECK(r.held_pages() == 0);
        REQUIRE(r.try_fill(start + 200));  // What an admission takes.
        while (r.length() < start + 200) {
          run(r, bytes, 'H', 1 + r.length() % 7);
          REQUIRE(r.held_pages() <= r.ring_pages());
          const std::uint32_t first = std::max(start / page, g.first_kept_page(r.length()));
          REQUIRE(r.first_page() == first);
          REQUIRE(r.first_shareable_page() == std::max(first, scratch));
          const std::uint32_t from =
              std::max(start, r.length() < window ? 0 : r.length() + 1 - window);
          for (std::uint32_t p = from; p < r.length(); ++p) {
            REQUIRE(bytes.read(r.view(), p) == tag_of('H', p));
          }
        }
        CHECK(pages.available() == g.ring_pages() - r.held_pages());
        r.release();
        CHECK(r.first_shareable_page() == 0);
        CHECK(pages.available() == g.ring_pages());
      }
    }
  }
}

// Case 43, the ring's part: what a heal wrote below need(T) is nobody else's.
TEST_CASE("scratch pages of a heal are never shared") {
  allocator pages{16};
  ring r(pages, {.page_size = 4, .window_tokens = 8, .step_tokens = 8, .slack_pages = 2});
  r.start_at(25);
  r.keep_private_below(8);  // need(40) = pages 8, 9.
  REQUIRE(r.try_reserve(8));
  r.commit(8);
  REQUIRE(r.try_reserve(7));
  r.commit(7);
  REQUIRE(r.length() == 40);
  REQUIRE(r.first_page() == 6);  // The ring itself would keep two boundaries more.
  CHECK(aborts([&] { static_cast<void>(r.share(6)); }));
  CHECK(aborts([&] { static_cast<void>(r.share(7)); }));
  const oriel::page_handle shared[]{r.share(8), r.share(9)};
  CHECK(aborts([&] { static_cast<void>(r.share(10)); }));
  CHECK(pages.ref_count(shared[0]) == 2);
  ring moved(std::move(r));
  CHECK(aborts([&] { static_cast<void>(moved.share(7)); }));
  CHECK(aborts([&] { moved.start_at(0); }));
  pages.release(shared);
}

TEST_CASE("after a prefill a ring can be cut to what decode needs") {
  allocator pages{64};
  const oriel::ring_geometry g{
      .page_size = 4, .window_tokens = 10, .step_tokens = 64, .slack_pages = 1};
  ring r(pages, g);
  REQUIRE(r.try_reserve(64));
  r.commit(64);
  REQUIRE(r.try_reserve(64));
  r.commit(64);
  CHECK(r.held_pages() == 16 + 4);  // The pages of two steps, less what was reused.
  oriel::ring_geometry decode = g;
  decode.step_tokens = 4;
  r.give_back_spares(r.first_page() + decode.ring_pages());
  CHECK(r.held_pages() == decode.ring_pages());
  const std::uint32_t free = pages.available();
  for (int i = 0; i < 200; ++i) {
    REQUIRE(r.try_reserve(4));
    r.commit(1 + static_cast<std::uint32_t>(i) % 4);
    REQUIRE(pages.available() == free);  // It lives on its own pages.
  }
}

TEST_CASE("a byte ring keeps the window, and nothing more") {
  for (const std::uint32_t page : {1u, 4u, 16u}) {
    for (const std::uint32_t window : {1u, 4u, 5u, 17u, 64u}) {
      for (const std::uint32_t step : {1u, 3u, 16u}) {
        const oriel::ring_geometry g{page, window, step, 0};
        oriel::byte_ring r(g, 2);
        CHECK(r.capacity_tokens() >= window - 1 + step);
        CHECK(r.capacity_tokens() < window - 1 + step + page);
        written_tokens bytes(2 + oriel::byte_ring::pages_needed(g), page);
        std::uint64_t wrong = 0;
        for (std::uint32_t round = 0; round < 200; ++round) {
          const std::uint32_t rows = 1 + round % step;
          r.reserve(rows);
          for (std::uint32_t i = 0; i < rows; ++i) {
            bytes.write(r.view(), r.length() + i, tag_of(1, r.length() + i));
          }
          for (std::uint32_t row = r.length(); row < r.length() + rows; ++row) {
            for (std::uint32_t p = row + 1 < window ? 0 : row + 1 - window; p <= row; ++p) {
              wrong += bytes.read(r.view(), p) != tag_of(1, p) ? 1u : 0u;
            }
          }
          CHECK(r.slot_of(r.length()) / page + 2 == to_index(r.view().page_of(r.length() / page)));
          r.commit(1 + round % rows);
        }
        CHECK(wrong == 0);
      }
    }
  }
}

}  // namespace window_ring_test
