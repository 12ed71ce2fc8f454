// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The segment store, one law at a time. Random lives are in segment_store_random_test.cpp.
#include "support/scale.hpp"
#include "tier/segment_world.hpp"

#include <catch2/catch.hpp>

#include <cerrno>
#include <system_error>

namespace segment_store_test {

using namespace oriel;
using namespace oriel_test;

static_assert(kv_store<sim_store>);

namespace {

store_outcome put(sim_store& store, const toy_page& page) {
  page_buffer b(page);
  b.fill();
  return carry_out_one(store, b.item(store_op::put)).outcome;
}

/// `done` only if the bytes are right.
store_outcome get(sim_store& store, const toy_page& page) {
  page_buffer b(page);
  b.poison();
  const store_outcome outcome = carry_out_one(store, b.item(store_op::get)).outcome;
  REQUIRE((outcome != store_outcome::done || b.is_right()));
  return outcome;
}

store_outcome simple(sim_store& store, store_op what, const toy_page& page = {}) {
  page_buffer b(page);
  store_item item = b.item(what);
  item.key.link = what == store_op::drop_space ? page.name_space() : item.key.link;
  return carry_out_one(store, item).outcome;
}

}  // namespace

TEST_CASE("a page comes back as it was put, also after a restart", "[tier][segment]") {
  sim_disk disk(1);
  const segment_store_options options = tiny_options();
  {
    sim_store store(disk, options);
    CHECK(get(store, {1}) == store_outcome::miss);
    for (std::uint64_t k = 0; k < 20; ++k) {
      CHECK(put(store, {k}) == store_outcome::done);
      CHECK(put(store, {k, 1}) == store_outcome::done);
    }
    for (std::uint64_t k = 0; k < 20; ++k) {
      CHECK(get(store, {k}) == store_outcome::done);
      CHECK(get(store, {k, 1}) == store_outcome::done);
      CHECK(get(store, {k, 2}) == store_outcome::miss);
    }
    CHECK(store.stats().pages == 40);
    CHECK(store.is_consistent());
  }
  sim_store again(disk, options);
  CHECK(again.stats().pages == 40);
  CHECK(again.state().recovered_pages == 40);
  for (std::uint64_t k = 0; k < 20; ++k) {
    CHECK(get(again, {k}) == store_outcome::done);
    CHECK(get(again, {k, 1}) == store_outcome::done);
  }
  CHECK(disk.broken_contract.empty());
}

TEST_CASE("what was deleted stays so, after a crash and after a loss of power", "[tier][segment]") {
  for (const store_op what :
       {store_op::erase, store_op::drop_space, store_op::drop_tenant, store_op::drop_session}) {
    for (const bool loses_power : {false, true}) {
      sim_disk disk(2);
      std::vector<bool> dies(12);
      {
        sim_store store(disk, tiny_options());
        for (std::uint64_t k = 0; k < 12; ++k) {
          REQUIRE(put(store, {k}) == store_outcome::done);
          dies[k] = what == store_op::erase          ? k == 3
                    : what == store_op::drop_session ? k % 6 == 3
                                                     : k % 2 == 1;
        }
        REQUIRE(simple(store, store_op::sync) == store_outcome::done);
        REQUIRE(simple(store, what, {3}) == store_outcome::done);
        for (std::uint64_t k = 0; k < 12; ++k) {
          CHECK((get(store, {k}) == store_outcome::done) == !dies[k]);
        }
        CHECK(store.is_consistent());
        loses_power ? disk.lose_power() : disk.crash();
      }
      disk.revive();
      sim_store again(disk, tiny_options());
      for (std::uint64_t k = 0; k < 12; ++k) {
        CHECK((get(again, {k}) == store_outcome::done) == !dies[k]);
      }
      CHECK(put(again, {3}) == store_outcome::done);
      CHECK(get(again, {3}) == store_outcome::done);
    }
  }
}

TEST_CASE("a deletion outlives a refused write whose bytes landed all the same",
          "[tier][segment]") {
  segment_store_options options = tiny_options(8);
  options.saves_snapshot = true;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    INFO("seed " << seed);
    sim_disk disk(seed);
    {
      sim_store store(disk, options);
      REQUIRE(put(store, {100}) == store_outcome::done);
      std::vector<std::unique_ptr<page_buffer>> pages;
      std::vector<store_item> items;
      for (std::uint64_t k = 1; k <= 3; ++k) {
        pages.push_back(std::make_unique<page_buffer>(toy_page{k}));
        pages.back()->fill();
        items.push_back(pages.back()->item(store_op::put, k));
      }
      disk.faults.no_room = 65'536;
      for (const auto& [user, done] : carry_out(store, items)) {
        REQUIRE(done.outcome == store_outcome::refused);
      }
      disk.faults.no_room = 0;
      // The head is where the refused pages were written.
      REQUIRE(simple(store, store_op::erase, {3}) == store_outcome::done);
    }
    {
      sim_store store(disk, options);
      REQUIRE(store.state().used_snapshot);
      REQUIRE(get(store, {3}) == store_outcome::miss);
      REQUIRE(put(store, {200}) == store_outcome::done);
      CHECK(disk.file_count() == 1);  // goes on behind what may lie there
    }
    sim_store store(disk, options);
    REQUIRE(get(store, {200}) == store_outcome::done);
    REQUIRE(get(store, {3}) == store_outcome::miss);
  }
}

TEST_CASE("one bad block does not bring a deleted page back", "[tier][segment]") {
  sim_disk disk(3);
  {
    sim_store store(disk, tiny_options());
    REQUIRE(put(store, {1}) == store_outcome::done);
    REQUIRE(simple(store, store_op::erase, {1}) == store_outcome::done);
    disk.crash();
  }
  disk.revive();
  const std::vector<std::byte> image = disk.image(0);
  for (std::size_t block = 0; block < image.size() / 4096; ++block) {
    disk.image(0) = image;
    std::ranges::fill(std::span(disk.image(0)).subspan(block * 4096, 4096), std::byte{0});
    sim_store again(disk, tiny_options());
    CHECK(get(again, {1}) == store_outcome::miss);
  }
}

TEST_CASE("what could not be read may have been a deletion", "[tier][segment]") {
  const segment_store_options options = [] {
    segment_store_options o = tiny_options(12, 32'768);
    o.saves_snapshot = true;
    return o;
  }();
  for (const store_op what : {store_op::erase, store_op::drop_tenant}) {
    sim_disk disk(31);
    std::uint32_t last = 0;
    {
      segment_store_options first = options;
      first.saves_snapshot = false;
      sim_store store(disk, first);
      REQUIRE(put(store, {1}) == store_outcome::done);  // tenant 2, as all odd ones
      for (std::uint64_t k = 2; k <= 10; k += 2) {
        REQUIRE(put(store, {k}) == store_outcome::done);
      }
      REQUIRE(simple(store, what, {1}) == store_outcome::done);
      last = disk.list()->back().file;
      REQUIRE(last > 1);
    }
    // Neither with an unreadable disk nor after it, whatever the process between has done.
    for (const bool is_unreadable : {true, true, false, false}) {
      disk.unreadable.clear();
      if (is_unreadable) {
        disk.unreadable.push_back({.file = last, .from = 4096});
      }
      sim_store store(disk, options);
      CHECK(get(store, {1}) == store_outcome::miss);
      CHECK((store.state().unreadable_blocks != 0) == is_unreadable);
      CHECK((get(store, {2}) == store_outcome::done) == !is_unreadable);
      CHECK(store.last_fault().count == (is_unreadable ? 1u : 0u));
      CHECK(store.is_consistent());
    }
  }
}

TEST_CASE("pages younger than what could not be read are served", "[tier][segment]") {
  sim_disk disk(32);
  {
    sim_store store(disk, tiny_options(12, 32'768));
    for (std::uint64_t k = 0; k < 8; ++k) {  // two in a segment
      REQUIRE(put(store, {k}) == store_outcome::done);
    }
    disk.crash();
  }
  disk.revive();
  disk.unreadable.push_back({.file = 1, .from = 4096, .end = 8192});
  sim_store store(disk, tiny_options(12, 32'768));
  disk.unreadable.clear();
  for (std::uint64_t k = 0; k < 8; ++k) {
    CHECK((get(store, {k}) == store_outcome::done) == (k >= 4));
  }
}

TEST_CASE("a segment that we may not read now keeps the store from opening", "[tier][segment]") {
  sim_disk disk(33);
  {
    sim_store store(disk, tiny_options());
    REQUIRE(put(store, {1}) == store_outcome::done);
    REQUIRE(simple(store, store_op::erase, {1}) == store_outcome::done);
  }
  for (const int error : {EMFILE, ENFILE, ENOMEM, EACCES}) {
    disk.unreadable = {{.file = 0, .error = error}};
    try {
      sim_store store(disk, tiny_options());
      FAIL("it opened");
    } catch (const std::system_error& e) {
      CHECK(e.code().value() == error);
    }
    CHECK(disk.in_flight() == 0);
  }
  disk.unreadable.clear();
  sim_store store(disk, tiny_options());
  CHECK(get(store, {1}) == store_outcome::miss);
}

TEST_CASE("a store that fails to open leaves no read on the disk", "[tier][segment]") {
  sim_disk disk(34);
  {
    sim_store store(disk, tiny_options(12, 32'768));
    for (std::uint64_t k = 0; k < 16; ++k) {
      REQUIRE(put(store, {k}) == store_outcome::done);
    }
  }
  for (std::uint32_t bad = 0; bad < 8; ++bad) {  // while others are read
    disk.unreadable = {{.file = bad, .from = 4096, .error = EMFILE}};
    CHECK_THROWS_AS(sim_store(disk, tiny_options(12, 32'768)), std::system_error);
    REQUIRE(disk.in_flight() == 0);
  }
}

TEST_CASE("operations on one key take effect in order", "[tier][segment]") {
  sim_disk disk(4);
  sim_store store(disk, tiny_options());
  page_buffer b({1}), read1({1}), read2({1}), read3({1}), read4({1}), other({2});
  b.fill();
  other.fill();
  const store_item items[] = {
      b.item(store_op::put, 0),
      other.item(store_op::put, 1),
      read1.item(store_op::get, 2),
      b.item(store_op::erase, 3),
      read2.item(store_op::get, 4),
      b.item(store_op::exists, 5),
      b.item(store_op::put, 6),
      read3.item(store_op::get, 7),
      b.item(store_op::drop_session, 8),
      read4.item(store_op::get, 9),
      b.item(store_op::put, 10),
      b.item(store_op::exists, 11),
      b.item(store_op::sync, 12),
  };
  auto done = carry_out(store, items);
  const store_outcome expected[] = {store_outcome::done,
                                    store_outcome::done,
                                    store_outcome::done,
                                    store_outcome::done,
                                    store_outcome::miss,
                                    store_outcome::miss,
                                    store_outcome::done,
                                    store_outcome::done,
                                    store_outcome::done,
                                    store_outcome::miss,
                                    store_outcome::done,
                                    store_outcome::done,
                                    store_outcome::done};
  for (std::uint64_t i = 0; i < std::size(items); ++i) {
    INFO(i);
    CHECK(done[i].outcome == expected[i]);
  }
  CHECK(read1.is_right());
  CHECK(read3.is_right());
  CHECK(get(store, {2}) == store_outcome::done);
  CHECK(store.pending() == 0);
}

TEST_CASE("an item that waited and ends at once gives its place back", "[tier][segment]") {
  sim_disk disk(65);
  segment_store_options options = tiny_options();
  options.queue_items = 4;
  sim_store store(disk, options);
  for (std::uint64_t k = 0; k < 20; ++k) {
    page_buffer b({k});
    b.fill();
    const store_item items[] = {b.item(store_op::put, 0),
                                b.item(store_op::exists, 1),
                                b.item(store_op::erase, 2),
                                b.item(store_op::touch, 3)};
    REQUIRE(carry_out(store, items).size() == 4);
  }
}

TEST_CASE("layers can be read alone, equal or not", "[tier][segment]") {
  sim_disk disk(5);
  sim_store store(disk, tiny_options());
  const std::size_t sizes[] = {9000, 100, 4096, 5000};
  std::vector<aligned_bytes> memory, read;
  std::vector<std::span<std::byte>> slices;
  for (const std::size_t bytes : sizes) {
    memory.emplace_back(bytes);
    read.emplace_back(bytes + 8);
    slices.push_back(memory.back().bytes());
    for (std::size_t i = 0; i < bytes; ++i) {
      slices.back()[i] = static_cast<std::byte>(mixed(bytes, i));
    }
  }
  page_buffer b({1});
  store_item item = b.item(store_op::put);
  item.slices = slices;
  REQUIRE(carry_out_one(store, item).outcome == store_outcome::done);
  for (std::uint32_t first = 0; first < 4; ++first) {
    for (std::uint32_t count = 1; first + count <= 4; ++count) {
      for (const std::size_t shift : {std::size_t{0}, std::size_t{8}}) {
        std::vector<std::span<std::byte>> into;
        for (std::uint32_t i = first; i < first + count; ++i) {
          into.push_back(read[i].bytes().subspan(shift, sizes[i]));
          std::ranges::fill(into.back(), std::byte{0xCB});
        }
        store_item get_item = b.item(store_op::get);
        get_item.slices = into;
        get_item.first_slice = first;
        REQUIRE(carry_out_one(store, get_item).outcome == store_outcome::done);
        for (std::uint32_t i = 0; i < count; ++i) {
          CHECK(std::ranges::equal(into[i], slices[first + i]));
        }
      }
    }
  }
  // Slices that the record does not have.
  store_item wrong = b.item(store_op::get);
  std::vector<std::span<std::byte>> into = {read[1].bytes().first(101)};
  wrong.slices = into;
  wrong.first_slice = 1;
  CHECK(carry_out_one(store, wrong).outcome == store_outcome::miss);
  wrong.first_slice = 4;
  CHECK(carry_out_one(store, wrong).outcome == store_outcome::miss);
  wrong.first_slice = 0xFFFF'FFFFu;
  CHECK(carry_out_one(store, wrong).outcome == store_outcome::miss);
}

TEST_CASE("a page of another identity is a miss, and stays for its own", "[tier][segment]") {
  sim_disk disk(6);
  sim_store store(disk, tiny_options());
  REQUIRE(put(store, {1}) == store_outcome::done);
  page_buffer b({1});
  b.identity().first_token = 8;
  CHECK(carry_out_one(store, b.item(store_op::get)).outcome == store_outcome::miss);
  page_buffer c({1});
  c.identity().name_space = digest_of(9);
  CHECK(carry_out_one(store, c.item(store_op::get)).outcome == store_outcome::miss);
  // Another link with the same first 16 bytes: the index cannot tell, the record does.
  page_buffer d({1});
  store_item item = d.item(store_op::get);
  item.key.link.bytes[20] ^= std::byte{1};
  CHECK(carry_out_one(store, item).outcome == store_outcome::miss);
  CHECK(store.stats().misplaced == 3);
}

TEST_CASE("a page expires, to the microsecond", "[tier][segment]") {
  sim_disk disk(7, 1);
  sim_store store(disk, tiny_options());
  page_buffer b({1});
  b.fill();
  store_item item = b.item(store_op::put);
  item.expires_us = disk.now_us() + 10'000;
  REQUIRE(carry_out_one(store, item).outcome == store_outcome::done);
  disk.pass(9'900 - (disk.now_us() - (item.expires_us - 10'000)));
  CHECK(get(store, {1}) == store_outcome::done);
  disk.pass(item.expires_us - disk.now_us());
  CHECK(get(store, {1}) == store_outcome::miss);
  disk.pass(100);
  CHECK(simple(store, store_op::exists, {1}) == store_outcome::miss);
  CHECK(store.stats().pages == 0);
  disk.crash();
  disk.revive();
  sim_store again(disk, tiny_options());
  CHECK(again.stats().pages == 0);
}

TEST_CASE("the same page again is not written again", "[tier][segment]") {
  sim_disk disk(8);
  sim_store store(disk, tiny_options());
  REQUIRE(put(store, {1}) == store_outcome::done);
  const std::uint64_t written = store.stats().bytes_written;
  CHECK(put(store, {1}) == store_outcome::done);
  CHECK(store.stats().bytes_written == written);
  page_buffer b({1});  // another session's: its deletion takes the page along
  b.fill();
  store_item item = b.item(store_op::put);
  item.owner.session = 99;
  CHECK(carry_out_one(store, item).outcome == store_outcome::done);
  CHECK(store.stats().bytes_written > written);
  CHECK(store.stats().pages == 1);
}

TEST_CASE("files never exceed the capacity, and what is used survives", "[tier][segment]") {
  sim_disk disk(9);
  segment_store_options options = tiny_options(4);
  options.carry_share_max = 0.75;  // three of five records
  sim_store store(disk, options);
  for (std::uint64_t k = 0; k < 3; ++k) {
    REQUIRE(put(store, {k}) == store_outcome::done);
  }
  for (std::uint64_t k = 10; k < 200; ++k) {
    REQUIRE(put(store, {k}) == store_outcome::done);
    REQUIRE(get(store, {k % 3}) == store_outcome::done);
    REQUIRE(store.state().segment_bytes <= options.capacity_bytes);
    REQUIRE(disk.file_count() <= 4);
    REQUIRE(store.is_consistent());
  }
  CHECK(store.state().reclaimed_segments > 10);
  CHECK(store.state().carried_pages >= store.state().reclaimed_segments);
  CHECK(store.stats().evicted_pages > 100);
  CHECK(disk.broken_contract.empty());
}

TEST_CASE("processes that end well share a segment, one that is killed closes it",
          "[tier][segment]") {
  sim_disk disk(41);
  segment_store_options options = tiny_options(8);
  options.saves_snapshot = true;
  std::uint64_t k = 0;
  const auto live = [&](bool is_killed) {
    sim_store store(disk, options);
    for (std::uint64_t old = 0; old < k; ++old) {
      REQUIRE(get(store, {old}) == store_outcome::done);
    }
    REQUIRE(put(store, {k++}) == store_outcome::done);
    if (is_killed) {
      disk.crash();
    }
  };
  for (int process = 0; process < 5; ++process) {  // 12 KiB each, of 64
    live(false);
    CHECK(disk.file_count() == 1);
  }
  live(false);
  CHECK(disk.file_count() == 2);
  live(true);
  disk.revive();
  CHECK(disk.file_count() == 2);
  for (int process = 0; process < 3; ++process) {  // the first one and its successors
    live(false);
    CHECK(disk.file_count() == 3);
  }
  {
    sim_store store(disk, options);  // nothing to say, and nothing lost by it
    CHECK(store.state().segments == 3);
  }
  live(false);
  CHECK(disk.file_count() == 3);
  // What a killed process wrote behind the last head, whole or torn, is not written over.
  for (const bool is_torn : {false, true}) {
    live(true);
    disk.revive();
    std::vector<std::byte>& image = disk.image(disk.list()->back().file);
    const std::size_t files = disk.file_count();
    if (is_torn) {
      const auto last =
          std::find_if(image.rbegin(), image.rend(), [](std::byte b) { return b != std::byte{0}; });
      *last = ~*last;
      k -= 1;
    }
    live(false);
    CHECK(disk.file_count() == files + 1);
  }
  CHECK(disk.broken_contract.empty());
}

TEST_CASE("a segment without a record ends neither snapshots nor sharing", "[tier][segment]") {
  sim_disk disk(43);
  segment_store_options options = tiny_options(40);
  options.saves_snapshot = true;
  std::uint64_t k = 0;
  const auto live = [&](bool uses_snapshot) {
    sim_store store(disk, options);
    CHECK(store.state().used_snapshot == uses_snapshot);
    for (std::uint64_t old = 0; old < k; ++old) {
      REQUIRE(get(store, {old}) == (old == 1 ? store_outcome::miss : store_outcome::done));
    }
    REQUIRE(put(store, {k++}) == store_outcome::done);
  };
  const auto check_sharing = [&](std::size_t files) {
    for (int process = 0; process < 3; ++process) {
      live(true);
      CHECK(disk.file_count() == files);
    }
  };
  live(false);
  live(true);
  {
    sim_store store(disk, options);
    REQUIRE(simple(store, store_op::erase, {1}) == store_outcome::done);
  }
  // A kill between the making of a file and its first write, or in it.
  for (const bool is_torn : {false, true}) {
    const std::uint32_t file = disk.list()->back().file + 1;
    REQUIRE(disk.create(file, options.segment_bytes));
    if (is_torn) {
      std::fill_n(disk.image(file).begin(), 512, std::byte{0x5A});
    }
    const std::size_t files = disk.file_count();
    check_sharing(files + 1);
  }
  // No room at a segment's first write, and an end in good order.
  for (int trial = 0; trial < 6; ++trial) {
    const std::size_t files = disk.file_count();
    {
      sim_store store(disk, options);
      CHECK(store.state().used_snapshot);
      for (bool is_new = false; !is_new; k += is_new ? 0 : 1) {
        page_buffer b({k});
        b.fill();
        const store_item item = b.item(store_op::put);
        REQUIRE(store.submit({&item, 1}, no_deadline) == 1);
        is_new = disk.file_count() > files;  // made, and not written yet
        disk.faults.no_room = is_new ? 65'536 : 0;
        store_completion done;
        while (store.poll({&done, 1}) == 0) {
          store.wait(no_deadline);
        }
        disk.faults.no_room = 0;
        REQUIRE(done.outcome == (is_new ? store_outcome::refused : store_outcome::done));
      }
    }
    check_sharing(files + 2);
  }
  CHECK(disk.broken_contract.empty());
}

TEST_CASE("files keep to a capacity and a segment size that change", "[tier][segment]") {
  struct sizes {
    std::uint64_t segments, segment_bytes;
  };
  const sizes was = {16, 65'536};
  const sizes is = GENERATE(
      sizes{64, 16'384}, sizes{4, 65'536}, sizes{16, 16'384}, sizes{3, 16'384}, sizes{6, 262'144});
  sim_disk disk(42);
  segment_store_options options = tiny_options(was.segments, was.segment_bytes);
  options.saves_snapshot = GENERATE(false, true);
  std::uint64_t k = 0;
  {
    sim_store store(disk, options);
    while (store.state().reclaimed_segments == 0) {
      REQUIRE(put(store, {k++}) == store_outcome::done);
    }
  }
  options.segment_bytes = is.segment_bytes;
  options.capacity_bytes = is.segments * is.segment_bytes;
  sim_store store(disk, options);
  const auto check = [&] {
    REQUIRE(disk.file_bytes() <= options.capacity_bytes);
    REQUIRE(store.state().segment_bytes == disk.file_bytes());
    REQUIRE(store.stats().used_bytes <= options.capacity_bytes);
    REQUIRE(store.is_consistent());
  };
  check();
  // The youngest of what fits is still there.
  const bool is_kept = options.capacity_bytes > 65'536;
  CHECK((get(store, {k - 1}) == store_outcome::done) == is_kept);
  for (int i = 0; i < 200; ++i) {
    REQUIRE(put(store, {k++}) == store_outcome::done);
    REQUIRE(get(store, {k - 1}) == store_outcome::done);
    check();
  }
  CHECK(disk.file_bytes() + 2 * options.segment_bytes + 65'536 > options.capacity_bytes);
  CHECK(disk.broken_contract.empty());
}

TEST_CASE("accounts are those of the medium after a restart", "[tier][segment]") {
  sim_disk disk(10);
  const segment_store_options options = tiny_options(4);
  std::uint64_t used = 0, pages = 0;
  {
    sim_store store(disk, options);
    for (std::uint64_t k = 0; k < 10; ++k) {
      REQUIRE(put(store, {k}) == store_outcome::done);
    }
    used = store.stats().used_bytes;
    pages = store.stats().pages;
    CHECK(used == 10 * 12'288);
    disk.crash();
  }
  for (int restart = 0; restart < 8; ++restart) {
    disk.revive();
    sim_store store(disk, options);
    if (restart == 0) {
      CHECK(store.stats().used_bytes == used);
      CHECK(store.stats().pages == pages);
    }
    for (std::uint64_t k = 0; k < 4; ++k) {
      CHECK(put(store, {100 + static_cast<std::uint64_t>(restart) * 4 + k}) == store_outcome::done);
      CHECK(disk.file_count() <= 4);
    }
    CHECK(store.is_consistent());
    disk.crash();
  }
}

TEST_CASE("a tenant at its share loses its own pages only", "[tier][segment]") {
  sim_disk disk(11);
  segment_store_options options = tiny_options(16);
  options.tenant_share_max = 0.25;
  sim_store store(disk, options);
  for (std::uint64_t k = 0; k < 10; ++k) {
    REQUIRE(put(store, {2 * k}) == store_outcome::done);  // tenant 1
  }
  for (std::uint64_t k = 0; k < 60; ++k) {
    REQUIRE(put(store, {2 * k + 1}) == store_outcome::done);  // tenant 2
  }
  std::uint64_t mine = 0, theirs = 0;
  for (std::uint64_t k = 0; k < 60; ++k) {
    mine += k < 10 && get(store, {2 * k}) == store_outcome::done ? 1u : 0u;
    theirs += get(store, {2 * k + 1}) == store_outcome::done ? 12'288u : 0u;
  }
  CHECK(mine == 10);
  CHECK(theirs <= options.capacity_bytes / 4);
  CHECK(theirs > options.capacity_bytes / 6);
  CHECK(get(store, {119}) == store_outcome::done);
  CHECK(get(store, {1}) == store_outcome::miss);
}

TEST_CASE("a window page goes with its full page", "[tier][segment]") {
  sim_disk disk(12);
  segment_store_options options = tiny_options(4);
  options.carry_share_max = 0.75;  // room for a window too many
  sim_store store(disk, options);
  // Page 1: both used. Page 2: the window alone. Page 3: neither. Page 4: never had a full page.
  REQUIRE(put(store, {4, 1}) == store_outcome::done);
  for (std::uint64_t k = 1; k <= 3; ++k) {
    REQUIRE(put(store, {k}) == store_outcome::done);
    REQUIRE(put(store, {k, 1}) == store_outcome::done);
  }
  std::uint64_t next = 100;
  const auto turn = [&] {  // until every segment of now is gone
    const std::uint64_t until = store.state().reclaimed_segments + 4;
    while (store.state().reclaimed_segments < until) {
      REQUIRE(get(store, {1}) == store_outcome::done);
      REQUIRE(get(store, {1, 1}) == store_outcome::done);
      static_cast<void>(get(store, {2, 1}));
      static_cast<void>(get(store, {4, 1}));
      REQUIRE(put(store, {next++}) == store_outcome::done);
      REQUIRE(simple(store, store_op::exists, {2}) == simple(store, store_op::exists, {2, 1}));
    }
  };
  turn();
  CHECK(simple(store, store_op::exists, {2, 1}) == store_outcome::miss);
  CHECK(simple(store, store_op::exists, {3, 1}) == store_outcome::miss);
  CHECK(simple(store, store_op::exists, {4, 1}) == store_outcome::miss);
  turn();
  CHECK(get(store, {1, 1}) == store_outcome::done);
}

TEST_CASE("a full page that goes takes windows in younger segments along", "[tier][segment]") {
  sim_disk disk(13);
  sim_store store(disk, tiny_options(6));
  REQUIRE(put(store, {1}) == store_outcome::done);
  std::uint64_t next = 100;
  while (store.state().segments < 4) {
    REQUIRE(put(store, {next++}) == store_outcome::done);
  }
  REQUIRE(put(store, {1, 1}) == store_outcome::done);
  while (simple(store, store_op::exists, {1}) == store_outcome::done) {
    REQUIRE(simple(store, store_op::exists, {1, 1}) == store_outcome::done);
    REQUIRE(put(store, {next++}) == store_outcome::done);
  }
  CHECK(simple(store, store_op::exists, {1, 1}) == store_outcome::miss);
}

TEST_CASE("no room pauses writes and keeps reads", "[tier][segment]") {
  sim_disk disk(14);
  sim_store store(disk, tiny_options());
  disk.quota_bytes = 2 * 65'536;
  std::uint64_t k = 0;
  while (put(store, {k}) == store_outcome::done) {
    ++k;
  }
  CHECK(k >= 8);
  CHECK(store.stats().health == store_health::write_paused);
  CHECK(store.last_fault().native == ENOSPC);
  const std::uint64_t tries = disk.fault_counts()[6];
  for (int i = 0; i < 1000; ++i) {  // no busy loop: a try a millisecond at most
    CHECK(put(store, {500}) == store_outcome::refused);
  }
  CHECK(disk.fault_counts()[6] - tries < 100);
  for (std::uint64_t i = 0; i < k; ++i) {
    CHECK(get(store, {i}) == store_outcome::done);
  }
  disk.quota_bytes = ~std::uint64_t{0};
  disk.pass(1'001);
  CHECK(put(store, {500}) == store_outcome::done);
  CHECK(store.stats().health == store_health::healthy);
  CHECK(get(store, {500}) == store_outcome::done);
}

TEST_CASE("a read error is tried once more, then the entry goes", "[tier][segment]") {
  sim_disk disk(15);
  sim_store store(disk, tiny_options());
  REQUIRE(put(store, {1}) == store_outcome::done);
  REQUIRE(put(store, {2}) == store_outcome::done);
  disk.faults.read_error = 65'536;
  CHECK(get(store, {1}) == store_outcome::miss);
  CHECK(disk.fault_counts()[7] == 2);
  CHECK(get(store, {1}) == store_outcome::miss);
  CHECK(disk.fault_counts()[7] == 2);  // not asked again
  CHECK(store.last_fault().native == EIO);
  disk.faults.read_error = 0;
  CHECK(get(store, {2}) == store_outcome::done);
  CHECK(put(store, {1}) == store_outcome::done);
  CHECK(get(store, {1}) == store_outcome::done);
}

TEST_CASE("too many errors degrade the store, and a probe brings it back", "[tier][segment]") {
  sim_disk disk(16);
  segment_store_options options = tiny_options(32);
  options.error_window_us = 1'000'000;
  sim_store store(disk, options);
  for (std::uint64_t k = 0; k < 40; ++k) {
    REQUIRE(put(store, {k}) == store_outcome::done);
  }
  disk.faults.read_error = 65'536;
  for (std::uint64_t k = 0; k < 12; ++k) {
    static_cast<void>(get(store, {k}));
  }
  CHECK(store.stats().health == store_health::degraded);
  const std::uint64_t reads = disk.fault_counts()[7];
  CHECK(get(store, {20}) == store_outcome::refused);
  CHECK(put(store, {99}) == store_outcome::refused);
  disk.pass(1'001);
  CHECK(get(store, {21}) == store_outcome::miss);  // the probe
  CHECK(get(store, {22}) == store_outcome::refused);
  CHECK(disk.fault_counts()[7] == reads + 2);
  disk.faults.read_error = 0;
  disk.pass(1'001);
  CHECK(get(store, {23}) == store_outcome::done);
  CHECK(store.stats().health == store_health::healthy);
  CHECK(get(store, {22}) == store_outcome::done);
}

TEST_CASE("a put that failed is not there", "[tier][segment]") {
  sim_disk disk(17);
  sim_store store(disk, tiny_options());
  disk.faults.write_error = 65'536;
  CHECK(put(store, {1}) == store_outcome::failed);
  disk.faults.write_error = 0;
  CHECK(simple(store, store_op::exists, {1}) == store_outcome::miss);
  CHECK(get(store, {1}) == store_outcome::miss);
  CHECK(store.stats().corrupt == 0);
  CHECK(put(store, {1}) == store_outcome::done);
  CHECK(get(store, {1}) == store_outcome::done);
}

TEST_CASE("a failed sync is told, and what it covered is not trusted", "[tier][segment]") {
  sim_disk disk(18);
  {
    sim_store store(disk, tiny_options());
    REQUIRE(put(store, {1}) == store_outcome::done);
    REQUIRE(simple(store, store_op::sync) == store_outcome::done);
    REQUIRE(put(store, {2}) == store_outcome::done);
    disk.faults.sync_failure = 65'536;
    CHECK(simple(store, store_op::sync) == store_outcome::failed);
    disk.faults.sync_failure = 0;
    CHECK(get(store, {1}) == store_outcome::done);
    CHECK(get(store, {2}) == store_outcome::miss);
    CHECK(store.state().failed_syncs == 1);
    // The next one is of a new segment.
    CHECK(put(store, {3}) == store_outcome::done);
    CHECK(simple(store, store_op::sync) == store_outcome::done);
    disk.lose_power();
  }
  disk.revive();
  sim_store again(disk, tiny_options());
  CHECK(get(again, {1}) == store_outcome::done);
  CHECK(get(again, {2}) == store_outcome::miss);
  CHECK(get(again, {3}) == store_outcome::done);
}

TEST_CASE("the smallest records fill the capacity, and a full index keeps what is new",
          "[tier][segment]") {
  sim_disk disk(61);
  segment_store_options options = tiny_options(16);
  options.pages_max = 0;
  {
    sim_store store(disk, options);
    for (std::uint64_t k = 0; store.stats().evicted_pages == 0; ++k) {
      REQUIRE(put(store, {k, 1}) == store_outcome::done);  // 8 KiB, seven to a segment
    }
    CHECK(store.stats().used_bytes > options.capacity_bytes / 4 * 3);
  }
  sim_disk other(62);
  options.pages_max = 64;
  sim_store store(other, options);
  for (std::uint64_t k = 0; k < 300; ++k) {
    REQUIRE(put(store, {k, 1}) == store_outcome::done);
    REQUIRE(get(store, {k, 1}) == store_outcome::done);
    REQUIRE(store.stats().pages + store.stats().evicted_pages == k + 1);
  }
  CHECK(store.stats().pages > 32);
}

TEST_CASE("the last number of all is no segment's", "[tier][segment]") {
  sim_disk disk(63);
  REQUIRE(disk.create(0xFFFF'FFFFu, 65'536));
  for (int life = 0; life < 3; ++life) {
    sim_store store(disk, tiny_options());
    for (std::uint64_t k = 0; k < 20; ++k) {
      REQUIRE(put(store, {k}) == store_outcome::done);
    }
    CHECK(store.is_consistent());
  }
  CHECK(disk.image(0xFFFF'FFFFu) == std::vector<std::byte>(65'536));
}

TEST_CASE("carries that have all memory leave some for the start of their segment",
          "[tier][segment]") {
  sim_disk disk(64);
  segment_store_options options = tiny_options(4, 131'072);
  // Carries of two blocks fill it, or all but one; and gets may have left it odd.
  options.bounce_bytes = GENERATE(18u, 19u, 20u, 21u, 22u, 23u) * std::uint64_t{4096};
  options.carries_in_flight = 16;
  options.batches_in_flight = 1;  // they wait for the one that fails
  options.carry_share_max = 0.75;
  sim_store store(disk, options);
  aligned_bytes memory(4096);
  const std::span<std::byte> slice = memory.bytes();
  const auto act = [&](store_op what, std::uint64_t k) {
    page_buffer b({k});
    store_item item = b.item(what);
    item.slices = {&slice, 1};
    return carry_out_one(store, item).outcome;
  };
  std::uint64_t k = 0;
  for (; k < 45; ++k) {  // three segments
    REQUIRE(act(store_op::put, k) == store_outcome::done);
  }
  for (std::uint64_t used = 0; used < 15; ++used) {
    REQUIRE(act(store_op::get, used) == store_outcome::done);
  }
  // The first write of the fourth fails, and the reclaim of the first begins.
  page_buffer b({k});
  store_item item = b.item(store_op::put);
  item.slices = {&slice, 1};
  REQUIRE(store.submit({&item, 1}, no_deadline) == 1);
  disk.faults.no_room = 65'536;
  store_completion done;
  while (store.poll({&done, 1}) == 0) {
    store.wait(no_deadline);
  }
  CHECK(done.outcome == store_outcome::refused);
  disk.faults.no_room = 0;
  for (int i = 0; i < 20; ++i) {  // all carries are read, and fill the memory
    disk.pass(options.probe_interval_us + 1);
    CHECK(store.poll({&done, 1}) == 0);
  }
  for (; k < 90; ++k) {
    REQUIRE(act(store_op::put, k) == store_outcome::done);
  }
  CHECK(store.state().carried_pages >= 7);
  CHECK(store.is_consistent());
}

TEST_CASE("a segment is not reclaimed under a read", "[tier][segment]") {
  sim_disk disk(19);
  sim_store store(disk, tiny_options(4));
  REQUIRE(put(store, {1}) == store_outcome::done);
  page_buffer b({1});
  const store_item item = b.item(store_op::get, 7);
  disk.faults.slow = 65'536;
  REQUIRE(store.submit(std::span(&item, 1), no_deadline) == 1);
  disk.faults.slow = 0;
  std::uint64_t next = 100;
  std::vector<std::unique_ptr<page_buffer>> buffers;
  store_completion done[4];
  bool was_read = false;
  // As many puts as fit while the read is on its way; then it ends, and so do they.
  for (int i = 0; i < 5000 && !was_read; ++i) {
    if (store.pending() < 8) {
      buffers.push_back(std::make_unique<page_buffer>(toy_page{next++}));
      buffers.back()->fill();
      const store_item more = buffers.back()->item(store_op::put);
      static_cast<void>(store.submit(std::span(&more, 1), no_deadline));
    }
    const std::size_t count = store.poll(done);
    for (std::size_t j = 0; j < count; ++j) {
      if (done[j].user == 7) {
        CHECK(done[j].outcome == store_outcome::done);
        was_read = true;
      }
    }
    disk.pass(20);
  }
  CHECK(was_read);
  CHECK(b.is_right());
  CHECK(disk.broken_contract.empty());
  while (store.pending() > 0) {
    store.wait(no_deadline);
    static_cast<void>(store.poll(done));
  }
  CHECK(get(store, {next - 1}) == store_outcome::done);
}

TEST_CASE("no flipped byte of a segment is handed out", "[tier][segment]") {
  sim_disk disk(20);
  {
    sim_store store(disk, tiny_options(4, 32'768));
    REQUIRE(put(store, {1}) == store_outcome::done);
    REQUIRE(put(store, {2, 1}) == store_outcome::done);
    REQUIRE(simple(store, store_op::erase, {3}) == store_outcome::done);
    disk.crash();
  }
  disk.revive();
  const auto matters = [](std::size_t at) {  // headers and slices; the rest is padding
    return (at >= 4096 && at < 12'288 + 700) || (at >= 16'384 && at < 20'480 + 1500);
  };
  const std::uint64_t step = scaled(100) >= 100 ? 1 : 13;
  for (std::size_t at = 0; at < disk.image(0).size(); at += step) {
    const std::byte was = disk.image(0)[at];
    disk.image(0)[at] = was ^ static_cast<std::byte>(1u << (at % 8));
    sim_store store(disk, tiny_options(4, 32'768));
    const bool first = get(store, {1}) == store_outcome::done;
    const bool second = get(store, {2, 1}) == store_outcome::done;
    if ((first && second) == matters(at)) {
      FAIL("byte " << at);
    }
    disk.image(0)[at] = was;
  }
}

TEST_CASE("an old snapshot beside newer segments is a hint", "[tier][segment]") {
  segment_store_options options = tiny_options(12);
  options.saves_snapshot = true;
  sim_disk disk(21);
  const auto with_store = [&](auto&& act) {
    sim_store store(disk, options);
    act(store);
  };
  with_store([](sim_store& s) {
    for (std::uint64_t k = 0; k < 12; ++k) {
      REQUIRE(put(s, {k}) == store_outcome::done);
    }
  });
  const auto old_snapshot = disk.small_files();
  with_store([](sim_store& s) {
    CHECK(s.state().used_snapshot);
    for (std::uint64_t k = 0; k < 12; ++k) {
      CHECK(get(s, {k}) == store_outcome::done);
    }
    REQUIRE(simple(s, store_op::erase, {3}) == store_outcome::done);
    REQUIRE(simple(s, store_op::drop_session, {4}) == store_outcome::done);  // 4, 10
    for (std::uint64_t k = 12; k < 20; ++k) {
      REQUIRE(put(s, {k}) == store_outcome::done);
    }
  });
  const auto new_snapshot = disk.small_files();
  disk.small_files() = old_snapshot;
  const auto is_as_it_should = [](sim_store& s) {
    for (std::uint64_t k = 0; k < 20; ++k) {
      CHECK((get(s, {k}) == store_outcome::done) == (k != 3 && k != 4 && k != 10));
    }
    CHECK(s.is_consistent());
  };
  with_store([&](sim_store& s) {
    CHECK(s.state().used_snapshot);
    is_as_it_should(s);
  });
  // And the newer one beside segments that lost what it speaks of.
  disk.small_files() = new_snapshot;
  std::ranges::fill(std::span(disk.image(0)).subspan(8192, 20'000), std::byte{0});
  with_store([&](sim_store& s) {
    for (std::uint64_t k = 0; k < 20; ++k) {
      static_cast<void>(get(s, {k}));
    }
    CHECK(get(s, {19}) == store_outcome::done);
    CHECK(get(s, {0}) != store_outcome::done);
  });
  // Of another life: the same file numbers, other stamps. Nothing of it is believed.
  sim_disk other(22);
  other.pass(1'000'000);
  {
    sim_store s(other, tiny_options(12));
    for (std::uint64_t k = 0; k < 12; ++k) {
      REQUIRE(put(s, {k + 50}) == store_outcome::done);
    }
  }
  other.small_files() = new_snapshot;
  sim_store s(other, options);
  CHECK(!s.state().used_snapshot);
  CHECK(get(s, {51}) == store_outcome::done);
  CHECK(get(s, {1}) == store_outcome::miss);
  // A torn snapshot is none.
  for (std::size_t bytes = 0; bytes < 200; ++bytes) {
    std::vector<std::byte>& file = other.small_files()["index.snapshot"];
    file = new_snapshot.begin()->second;
    file.resize(std::min(bytes * 7, file.size() - 1));
    sim_store t(other, tiny_options(12));
    REQUIRE(!t.state().used_snapshot);
  }
}

TEST_CASE("a sound record of another time or place is no hit", "[tier][segment]") {
  sim_disk disk(23);
  sim_store store(disk, tiny_options());
  REQUIRE(put(store, {1}) == store_outcome::done);
  REQUIRE(put(store, {2}) == store_outcome::done);
  std::vector<std::byte>& image = disk.image(0);
  const std::vector<std::byte> was = image;
  record_view view;
  REQUIRE(decode_record(std::span(image).subspan(4096), view) == record_verdict::sound);
  // Another generation of the same page in the same place.
  move_record(std::span(image).subspan(4096, 4096), {0, 4096}, view.fields.generation + 5);
  CHECK(get(store, {1}) == store_outcome::corrupt);
  CHECK(store.stats().misplaced == 1);
  // The right page of the right time, that says it belongs elsewhere.
  const std::uint64_t at = 4096 + view.record_bytes;
  REQUIRE(decode_record(std::span(image).subspan(at), view) == record_verdict::sound);
  move_record(std::span(image).subspan(at, 4096), {0, 4096}, view.fields.generation);
  CHECK(get(store, {2}) == store_outcome::corrupt);
  CHECK(store.stats().misplaced == 2);
  disk.crash();
  disk.revive();
  image = was;
  // A whole record where another one was: found by nobody.
  std::copy_n(was.begin() + 4096, 12'288, image.begin() + 4096 + 12'288);
  sim_store again(disk, tiny_options());
  CHECK(again.stats().pages == 1);
  CHECK(get(again, {1}) == store_outcome::done);
  CHECK(get(again, {2}) == store_outcome::miss);
}

TEST_CASE("generations never wrap", "[tier][segment]") {
  sim_disk disk(24);
  segment_store_options options = tiny_options();
  options.initial_generation = ~std::uint64_t{0} - (1u << 16) - 10;
  {
    sim_store store(disk, options);
    std::uint64_t k = 0;
    while (put(store, {k}) == store_outcome::done) {
      ++k;
    }
    CHECK(k > 5);
    CHECK(k <= 12);
    for (std::uint64_t i = 0; i < k; ++i) {
      CHECK(get(store, {i}) == store_outcome::done);
    }
    CHECK(simple(store, store_op::erase, {0}) == store_outcome::done);  // still possible
    disk.crash();
  }
  disk.revive();
  sim_store again(disk, tiny_options());
  CHECK(get(again, {0}) == store_outcome::miss);
  CHECK(get(again, {1}) == store_outcome::done);
  CHECK(put(again, {99}) == store_outcome::refused);
  // Across the 32-bit border nothing happens.
  sim_disk other(25);
  options.initial_generation = (std::uint64_t{1} << 32) - 10;
  sim_store store(other, options);
  for (std::uint64_t k = 0; k < 20; ++k) {
    CHECK(put(store, {k}) == store_outcome::done);
  }
  CHECK(simple(store, store_op::erase, {5}) == store_outcome::done);
  other.crash();
  other.revive();
  sim_store third(other, tiny_options());
  for (std::uint64_t k = 0; k < 20; ++k) {
    CHECK((get(third, {k}) == store_outcome::done) == (k != 5));
  }
}

TEST_CASE("a get that is not started in time is late", "[tier][segment]") {
  sim_disk disk(26);
  segment_store_options options = tiny_options();
  options.reads_in_flight = 1;
  sim_store store(disk, options);
  REQUIRE(put(store, {1}) == store_outcome::done);
  page_buffer a({1}), b({1}), c({1});
  const store_item first = a.item(store_op::get, 1);
  const store_item others[] = {b.item(store_op::get, 2), c.item(store_op::get, 3)};
  disk.faults.slow = 65'536;
  REQUIRE(store.submit(std::span(&first, 1), no_deadline) == 1);
  REQUIRE(store.submit(others, disk.now_us() + 50) == 2);
  store_completion done[4];
  REQUIRE(store.wait(no_deadline));
  REQUIRE(store.poll(done) == 2);
  CHECK(done[0].outcome == store_outcome::late);
  CHECK(done[1].outcome == store_outcome::late);
  CHECK(store.pending() == 1);
  REQUIRE(store.wait(no_deadline));
  REQUIRE(store.poll(done) == 1);
  CHECK(done[0].outcome == store_outcome::done);
  CHECK(store.stats().late == 2);
  CHECK(get(store, {1}) == store_outcome::done);
}

TEST_CASE("what cannot work is said at once", "[tier][segment]") {
  sim_disk disk(27);
  segment_store_options options = tiny_options();
  options.segment_bytes = 5000;
  CHECK_THROWS_AS(sim_store(disk, options), std::invalid_argument);
  options = tiny_options(2);
  CHECK_THROWS_AS(sim_store(disk, options), std::invalid_argument);
  sim_store store(disk, tiny_options());
  page_buffer b({1});
  store_item item = b.item(store_op::put);
  item.key.pool = 256;
  CHECK(carry_out_one(store, item).outcome == store_outcome::refused);
  item = b.item(store_op::put);
  item.slices = {};
  CHECK(carry_out_one(store, item).outcome == store_outcome::refused);
  aligned_bytes large(65'536);
  const std::span<std::byte> slices[] = {large.bytes()};
  item.slices = slices;  // with its header it does not fit a segment
  CHECK(carry_out_one(store, item).outcome == store_outcome::refused);
  CHECK(carry_out_one(store, {.op = store_op::get, .key = toy_page{1}.key()}).outcome ==
        store_outcome::refused);
}

}  // namespace segment_store_test
