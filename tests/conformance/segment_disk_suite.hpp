// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The law of `segment_disk`, as Catch2 checks. Run it on any model, ours or yours:
///
///     TEST_CASE("my_disk is a segment_disk") {
///       check_segment_disk([&] { return my_disk{an_empty_place()}; });
///     }
///
/// What a loss of power leaves behind is checked by whoever can simulate one.
#pragma once

#include <oriel/core/random.hpp>
#include <oriel/tier/segment_disk.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace oriel_conformance {

inline constexpr std::size_t disk_block_bytes = oriel::disk_alignment_bytes;

/// Bytes where O_DIRECT wants them.
class disk_bytes {
 public:
  explicit disk_bytes(std::size_t blocks, unsigned char fill = 0)
      : bytes_(static_cast<std::byte*>(
            ::operator new(std::max<std::size_t>(blocks, 1) * disk_block_bytes, alignment))),
        size_(blocks * disk_block_bytes) {
    std::memset(bytes_.get(), fill, size_);
  }
  [[nodiscard]] std::span<std::byte> blocks(std::size_t first, std::size_t count) const {
    return {bytes_.get() + first * disk_block_bytes, count * disk_block_bytes};
  }
  [[nodiscard]] std::span<std::byte> all() const { return {bytes_.get(), size_}; }

 private:
  static constexpr std::align_val_t alignment{disk_block_bytes};
  struct give_back {
    void operator()(std::byte* bytes) const { ::operator delete(bytes, alignment); }
  };
  std::unique_ptr<std::byte, give_back> bytes_;
  std::size_t size_;
};

/// Bytes that tell where they belong.
inline void fill_blocks(std::span<std::byte> bytes, std::uint64_t mark) {
  for (std::size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    const std::uint64_t word = (mark << 32) + i;
    std::memcpy(bytes.data() + i, &word, sizeof word);
  }
}

inline bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

/// Submits one request and waits for it. @returns its error
template <oriel::segment_disk Disk>
int carry_out(Disk& disk, const oriel::disk_request& request) {
  REQUIRE(disk.submit({&request, 1}) == 1);
  oriel::disk_completion done;
  while (disk.poll({&done, 1}) == 0) {
    REQUIRE(disk.wait(~std::uint64_t{0}));
  }
  CHECK(done.user == request.user);
  return done.error;
}

template <oriel::segment_disk Disk>
int move_blocks(Disk& disk,
                oriel::disk_op op,
                std::uint32_t file,
                std::uint64_t first_block,
                std::span<std::byte> bytes) {
  return carry_out(
      disk,
      {.op = op, .file = file, .offset = first_block * disk_block_bytes, .parts = {&bytes, 1}});
}

template <oriel::segment_disk Disk>
int sync_file(Disk& disk, std::uint32_t file) {
  return carry_out(disk, {.op = oriel::disk_op::sync, .file = file, .user = file});
}

template <class Make>
void check_disk_names(Make make) {
  oriel::segment_disk auto disk = make();
  SECTION("an empty place has no files") {
    const auto files = disk.list();
    REQUIRE(files);
    CHECK(files->empty());
    CHECK(disk.in_flight() == 0);
  }
  SECTION("files are listed with their sizes, and removed") {
    REQUIRE(disk.create(7, 3 * disk_block_bytes));
    REQUIRE(disk.create(0xfffffffeu, 0));
    REQUIRE(disk.create(0, disk_block_bytes));
    const disk_bytes bytes(2, 1);
    REQUIRE(move_blocks(disk, oriel::disk_op::write, 0xfffffffeu, 0, bytes.all()) == 0);
    auto files = disk.list();
    REQUIRE(files);
    std::set<std::uint32_t> names;
    for (const oriel::disk_file& file : *files) {
      CHECK(names.insert(file.file).second);
      CHECK((file.file != 0xfffffffeu || file.bytes == 2 * disk_block_bytes));
      CHECK((file.file != 0xfffffffeu || file.written_bytes >= file.bytes));
    }
    CHECK(names == std::set<std::uint32_t>{0, 7, 0xfffffffeu});
    CHECK(disk.where(7) != disk.where(0));
    REQUIRE(disk.remove(7));
    REQUIRE(disk.sync_names());
    files = disk.list();
    REQUIRE(files);
    CHECK(files->size() == 2);
    CHECK(move_blocks(disk, oriel::disk_op::read, 7, 0, bytes.blocks(0, 1)) != 0);
    REQUIRE(disk.create(7, 0));  // A new file of an old name starts empty.
    CHECK(move_blocks(disk, oriel::disk_op::read, 7, 0, bytes.blocks(0, 1)) == ENODATA);
  }
  SECTION("what is there is not made again, what is not there is not removed") {
    REQUIRE(disk.create(1, 0));
    CHECK_FALSE(disk.create(1, 0));
    CHECK_FALSE(disk.remove(2));
  }
  SECTION("a file that is not there fails, and says so once") {
    const disk_bytes bytes(1);
    CHECK(move_blocks(disk, oriel::disk_op::read, 5, 0, bytes.all()) == ENOENT);
    CHECK(move_blocks(disk, oriel::disk_op::write, 5, 0, bytes.all()) == ENOENT);
    CHECK(sync_file(disk, 5) == ENOENT);
    CHECK(disk.in_flight() == 0);
  }
  SECTION("small files are replaced as a whole") {
    CHECK_FALSE(disk.read_small("snapshot"));
    std::vector<std::byte> bytes(10'001, std::byte{3});
    REQUIRE(disk.write_small("snapshot", bytes));
    auto read = disk.read_small("snapshot");
    REQUIRE(read);
    CHECK(*read == bytes);
    bytes.assign(5, std::byte{4});
    REQUIRE(disk.write_small("snapshot", bytes));
    REQUIRE(disk.write_small("other", {}));
    read = disk.read_small("snapshot");
    REQUIRE(read);
    CHECK(*read == bytes);
    read = disk.read_small("other");
    REQUIRE(read);
    CHECK(read->empty());
    const auto files = disk.list();
    REQUIRE(files);
    CHECK(files->empty());  // They are no segments.
  }
}

template <class Make>
void check_disk_transfers(Make make) {
  oriel::segment_disk auto disk = make();
  SECTION("what was not written reads as zeros, or as the end of the file") {
    REQUIRE(disk.create(1, 8 * disk_block_bytes));
    const disk_bytes written(2, 9), read(1, 7), zeros(1);
    REQUIRE(move_blocks(disk, oriel::disk_op::write, 1, 2, written.all()) == 0);
    for (const std::uint64_t block : {0u, 1u, 4u, 7u}) {
      const int error = move_blocks(disk, oriel::disk_op::read, 1, block, read.all());
      CHECK((error == ENODATA || (error == 0 && same_bytes(read.all(), zeros.all()))));
    }
  }
  SECTION("parts are filled and written in order, however many they are") {
    REQUIRE(disk.create(1, 0));
    constexpr std::size_t blocks = 700;
    const disk_bytes written(blocks), read(2 * blocks, 1);
    fill_blocks(written.all(), 5);
    std::vector<std::span<std::byte>> out, in;
    for (std::size_t at = 0, length = 0; at < blocks; at += length) {
      length = std::min<std::size_t>(at % 3, blocks - at);  // Some are empty.
      length = at % 3 == 0 && at % 2 == 0 ? 1 : length;
      length = length == 0 ? (out.push_back(written.blocks(at, 0)), 1) : length;
      out.push_back(written.blocks(at, length));
    }
    for (std::size_t at = 0; at < blocks; ++at) {
      in.push_back(read.blocks(2 * at, 1));  // No two are neighbours.
    }
    CHECK(carry_out(disk, {.op = oriel::disk_op::write, .file = 1, .parts = out, .user = 3}) == 0);
    CHECK(carry_out(disk, {.op = oriel::disk_op::read, .file = 1, .parts = in, .user = 4}) == 0);
    std::size_t wrong = 0;
    for (std::size_t at = 0; at < blocks; ++at) {
      wrong += same_bytes(in[at], written.blocks(at, 1)) ? 0u : 1u;
      wrong += same_bytes(read.blocks(2 * at + 1, 1), disk_bytes(1, 1).all()) ? 0u : 1u;
    }
    CHECK(wrong == 0);
  }
  SECTION("a read that reaches beyond the end fails, all others do not") {
    constexpr std::size_t blocks = 5;
    REQUIRE(disk.create(1, 0));
    const disk_bytes written(blocks), read(blocks + 2);
    fill_blocks(written.all(), 6);
    REQUIRE(move_blocks(disk, oriel::disk_op::write, 1, 0, written.all()) == 0);
    for (std::size_t first = 0; first <= blocks + 1; ++first) {
      for (std::size_t count = 1; count <= blocks + 2; ++count) {
        CAPTURE(first, count);
        const int error = move_blocks(disk, oriel::disk_op::read, 1, first, read.blocks(0, count));
        CHECK(error == (first + count <= blocks ? 0 : ENODATA));
        if (error == 0) {
          CHECK(same_bytes(read.blocks(0, count), written.blocks(first, count)));
        }
      }
    }
  }
  SECTION("nothing is moved at once") {
    REQUIRE(disk.create(1, 0));
    const disk_bytes bytes(1);
    CHECK(carry_out(disk, {.op = oriel::disk_op::read, .file = 1}) == 0);
    CHECK(move_blocks(disk, oriel::disk_op::write, 1, 9, bytes.blocks(0, 0)) == 0);
  }
  SECTION("syncs succeed, alone and together") {
    std::vector<oriel::disk_request> syncs;
    for (std::uint32_t file = 0; file < 4; ++file) {
      REQUIRE(disk.create(file, disk_block_bytes));
      CHECK(sync_file(disk, file) == 0);
      for (std::uint64_t i = 0; i < 3; ++i) {
        syncs.push_back({.op = oriel::disk_op::sync, .file = file, .user = 10 * file + i});
      }
    }
    std::set<std::uint64_t> users;
    std::size_t submitted = 0;
    while (users.size() < syncs.size()) {
      submitted += disk.submit(std::span(syncs).subspan(submitted));
      disk.wait(~std::uint64_t{0});
      oriel::disk_completion done[3];
      for (const auto& completion : std::span(done).first(disk.poll(done))) {
        CHECK(completion.error == 0);
        CHECK(users.insert(completion.user).second);
      }
    }
  }
}

template <class Make>
void check_disk_queue(Make make) {
  oriel::segment_disk auto disk = make();
  SECTION("with nothing pending a wait returns at once") {
    CHECK_FALSE(disk.wait(~std::uint64_t{0}));
    CHECK(disk.poll({}) == 0);
    CHECK(disk.submit({}) == 0);
    const std::uint64_t before_us = disk.now_us();
    CHECK(before_us <= disk.now_us());
  }
  SECTION("submit takes what it has room for, and each comes back once") {
    REQUIRE(disk.create(1, 0));
    const disk_bytes written(1, 2);
    REQUIRE(move_blocks(disk, oriel::disk_op::write, 1, 0, written.all()) == 0);
    constexpr std::size_t wanted = 5'000;
    const disk_bytes read(wanted);
    std::vector<std::span<std::byte>> parts(wanted);
    std::vector<oriel::disk_request> requests(wanted);
    for (std::size_t i = 0; i < wanted; ++i) {
      parts[i] = read.blocks(i, 1);
      requests[i] = {.op = oriel::disk_op::read, .file = 1, .parts = {&parts[i], 1}, .user = i};
    }
    std::size_t submitted = 0, back = 0;
    std::vector<int> times(wanted);
    while (back < wanted) {
      submitted += disk.submit(std::span(requests).subspan(submitted));
      CHECK(disk.in_flight() == submitted - back);
      CHECK(disk.wait(~std::uint64_t{0}));
      std::vector<oriel::disk_completion> done(1 + submitted % 50);
      const std::size_t count = disk.poll(done);
      CHECK(count >= 1);
      back += count;
      CHECK(disk.in_flight() == submitted - back);
      for (std::size_t i = 0; i < count; ++i) {
        CHECK(done[i].error == 0);
        ++times.at(done[i].user);
      }
    }
    CHECK(std::count(times.begin(), times.end(), 1) == static_cast<std::ptrdiff_t>(wanted));
    CHECK_FALSE(disk.wait(~std::uint64_t{0}));
  }
  SECTION("a wait that was up to now is a look") {
    REQUIRE(disk.create(1, disk_block_bytes));
    const disk_bytes bytes(1, 1);
    const std::span<std::byte> part = bytes.all();
    const oriel::disk_request write{.op = oriel::disk_op::write, .file = 1, .parts = {&part, 1}};
    REQUIRE(disk.submit({&write, 1}) == 1);
    while (!disk.wait(0)) {
    }
    oriel::disk_completion done;
    CHECK(disk.poll({&done, 1}) == 1);
  }
}

/// A disk's files in memory, one block one number.
struct disk_model {
  static constexpr std::uint32_t files = 3, blocks = 48;
  struct block {
    std::uint64_t mark = 0;     ///< 0: never written
    std::uint32_t readers = 0;  ///< in flight
    bool writer = false;
  };
  block at[files][blocks];
  std::uint64_t marks = 0;
};

/// One request of the random life, and its memory.
struct disk_errand {
  disk_bytes bytes{16};
  std::vector<std::span<std::byte>> parts;
  oriel::disk_request request;
  std::uint32_t first = 0, count = 0;
  bool busy = false;
};

/// Makes `errand` a request that does not race with those in flight. @returns false: try again
inline bool plan_errand(disk_errand& errand, disk_model& model, oriel::random_stream& random) {
  const std::uint32_t kind = random.next_below(16);
  const std::uint32_t file = random.next_below(disk_model::files);
  errand.first = random.next_below(disk_model::blocks);
  errand.count = 1 + random.next_below(16);
  errand.count = std::min(errand.count, disk_model::blocks - errand.first);
  errand.request = {.op = kind == 0  ? oriel::disk_op::sync
                          : kind < 8 ? oriel::disk_op::write
                                     : oriel::disk_op::read,
                    .file = file,
                    .offset = errand.first * disk_block_bytes};
  if (errand.request.op == oriel::disk_op::sync) {
    return true;
  }
  const auto blocks = std::span(model.at[file]).subspan(errand.first, errand.count);
  const bool writes = errand.request.op == oriel::disk_op::write;
  for (const disk_model::block& block : blocks) {
    if (block.writer || (writes && block.readers > 0)) {
      return false;
    }
  }

  errand.parts.clear();
  for (std::uint32_t i = 0; i < errand.count;) {
    const std::uint32_t n = 1 + random.next_below(errand.count - i);
    errand.parts.push_back(errand.bytes.blocks(i, n));
    i += n;
  }
  errand.request.parts = errand.parts;
  for (std::uint32_t i = 0; i < errand.count; ++i) {
    blocks[i].writer = writes;
    blocks[i].readers += writes ? 0 : 1;
    if (writes) {
      blocks[i].mark = ++model.marks;
      fill_blocks(errand.bytes.blocks(i, 1), blocks[i].mark);
    }
  }
  return true;
}

/// @returns blocks that are not what they should be
inline std::size_t judge_errand(const disk_errand& errand, disk_model& model) {
  if (errand.request.op == oriel::disk_op::sync) {
    return 0;
  }
  const bool writes = errand.request.op == oriel::disk_op::write;
  std::size_t wrong = 0;
  disk_bytes expected(1);
  for (std::uint32_t i = 0; i < errand.count; ++i) {
    disk_model::block& block = model.at[errand.request.file][errand.first + i];
    std::memset(expected.all().data(), 0, disk_block_bytes);
    if (block.mark != 0) {
      fill_blocks(expected.all(), block.mark);
    }
    wrong += writes || same_bytes(errand.bytes.blocks(i, 1), expected.all()) ? 0u : 1u;
    block.writer = false;
    block.readers -= writes ? 0 : 1;
  }
  return wrong;
}

/// Reads, writes and syncs in random order, as many in flight as the disk takes, up to 24.
template <oriel::segment_disk Disk>
void live_on_disk(Disk& disk, std::uint64_t seed, std::uint32_t steps) {
  disk_model model;
  const disk_bytes zeros(disk_model::blocks);
  for (std::uint32_t file = 0; file < disk_model::files; ++file) {
    REQUIRE(disk.create(file, disk_model::blocks * disk_block_bytes));
    REQUIRE(move_blocks(disk, oriel::disk_op::write, file, 0, zeros.all()) == 0);
  }
  std::vector<disk_errand> errands(24);
  oriel::random_stream random(seed);
  std::size_t wrong = 0, failed = 0, strange = 0;
  for (std::uint32_t step = 0; step < steps || disk.in_flight() > 0; ++step) {
    for (std::size_t i = 0; i < errands.size() && step < steps; ++i) {
      disk_errand& errand = errands[i];
      if (errand.busy || random.next_below(3) == 0 || !plan_errand(errand, model, random)) {
        continue;
      }
      errand.request.user = i;
      errand.busy = true;
      while (disk.submit({&errand.request, 1}) == 0) {
        FAIL("the disk has no room for 24 requests");
      }
    }
    if (random.next_below(2) == 0) {
      disk.wait(~std::uint64_t{0});
    }
    oriel::disk_completion done[5];
    for (const auto& completion :
         std::span(done).first(disk.poll(std::span(done).first(random.next_below(6))))) {
      disk_errand& errand = errands.at(completion.user);
      strange += errand.busy ? 0u : 1u;
      errand.busy = false;
      failed += completion.error != 0 ? 1u : 0u;
      wrong += judge_errand(errand, model);
    }
  }
  CAPTURE(seed);
  CHECK(wrong == 0);
  CHECK(failed == 0);
  CHECK(strange == 0);
}

}  // namespace oriel_conformance

/// @param make   returns a disk over a new, empty place, with room for 24 requests and 8 MiB
/// @param lives  seeds of the random life
template <class Make>
void check_segment_disk(Make make, std::uint64_t lives = 4, std::uint32_t steps = 400) {
  oriel_conformance::check_disk_names(make);
  oriel_conformance::check_disk_transfers(make);
  oriel_conformance::check_disk_queue(make);
  SECTION("many in flight, in any order, leave what a model says") {
    for (std::uint64_t seed = 1; seed <= lives; ++seed) {
      oriel::segment_disk auto disk = make();
      oriel_conformance::live_on_disk(disk, seed, steps);
    }
  }
  SECTION("the end waits for what touches memory") {
    using namespace oriel_conformance;
    std::vector<disk_bytes> bytes;
    std::vector<std::span<std::byte>> parts;
    std::vector<oriel::disk_request> requests;
    {
      oriel::segment_disk auto disk = make();
      REQUIRE(disk.create(1, 256 * disk_block_bytes));
      for (std::size_t i = 0; i < 16; ++i) {
        bytes.emplace_back(16, 1);
        parts.push_back(bytes.back().all());
      }
      for (std::size_t i = 0; i < 16; ++i) {
        requests.push_back({.op = i % 2 == 0 ? oriel::disk_op::read : oriel::disk_op::write,
                            .file = 1,
                            .offset = 16 * i * disk_block_bytes,
                            .parts = {&parts[i], 1}});
      }
      CHECK(disk.submit(requests) == 16);
    }
    bytes.clear();
  }
}
