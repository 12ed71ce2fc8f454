// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
#include "async.hpp"
#include "memory_map.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

namespace oriel::ptx_machine {
namespace {

class plain_registers final : public warp_registers {
 public:
  explicit plain_registers(std::uint32_t warps) : values_(std::size_t{warps} * count * 32) {}
  void read(std::uint32_t warp, std::uint32_t index, lanes_b32& values) const override {
    std::memcpy(values, &values_[(std::size_t{warp} * count + index) * 32], sizeof(values));
  }
  void write(std::uint32_t warp, std::uint32_t index, const lanes_b32& values) override {
    std::memcpy(&values_[(std::size_t{warp} * count + index) * 32], values, sizeof(values));
  }
  std::uint32_t& at(std::uint32_t warp, std::uint32_t index, std::uint32_t lane) {
    return values_[(std::size_t{warp} * count + index) * 32 + lane];
  }

 private:
  static constexpr std::uint32_t count = 64;
  std::vector<std::uint32_t> values_;
};

constexpr std::uint32_t shared_bytes = 32768;
constexpr std::uint32_t everybody = 0xFFFFFFFF;

/// A block of eight warps, and global memory of 4096 bytes that the memory map knows.
struct block {
  explicit block(std::uint64_t seed = 1, bool watch = true)
      : async({.shared = shared,
               .warps = 8,
               .registers_per_thread = 168,
               .registers = &registers,
               .seed = seed,
               .watch_races = watch,
               .place = [](std::uint32_t i) { return "instruction " + std::to_string(i); }}) {
    memory_map::of_process().add(address(0), sizeof(global));
    for (std::size_t i = 0; i < sizeof(global); ++i) {
      global[i] = std::byte(i * 7 + i / 256);
    }
  }
  ~block() { memory_map::of_process().remove(address(0)); }
  block(const block&) = delete;
  block& operator=(const block&) = delete;

  [[nodiscard]] std::uint64_t address(std::size_t offset) const {
    return reinterpret_cast<std::uint64_t>(global + offset);
  }
  /// An mbarrier as kernels begin: one thread initialises it, a fence, a barrier of all.
  void mbarrier(std::uint32_t offset, std::uint32_t count) {
    async.init(warp(0), offset, count);
    async.fence_mbarrier_init(warp(0));
    async.watch().barrier(0xFF, 0xFF);
  }
  static issuer warp(std::uint32_t w, std::uint32_t instruction = 1) {
    return {.warp = w, .instruction = instruction};
  }
  bool wait(std::uint32_t w, std::uint32_t offset, std::uint32_t parity) {
    for (int tries = 0; tries < 100; ++tries) {
      if (async.try_wait(warp(w), offset, parity)) {
        return true;
      }
      async.step();
    }
    return false;
  }
  void touch(std::uint32_t w, access kind, std::uint32_t offset, std::uint32_t bytes = 4) {
    const std::uint32_t offsets[32] = {offset};
    async.watch().lanes(warp(w, 10 + w), kind, 1, offsets, bytes);
  }
  [[nodiscard]] bool holds(std::uint32_t offset, std::size_t from, std::size_t bytes) const {
    return std::equal(shared.begin() + offset,
                      shared.begin() + offset + static_cast<std::ptrdiff_t>(bytes),
                      global + from);
  }
  [[nodiscard]] bool garbage(std::uint32_t offset, std::size_t bytes) const {
    return std::all_of(shared.begin() + offset,
                       shared.begin() + offset + static_cast<std::ptrdiff_t>(bytes),
                       [](std::byte b) { return b == std::byte{0xFF}; });
  }

  alignas(16) std::byte global[4096];
  std::vector<std::byte> shared = std::vector<std::byte>(shared_bytes);
  plain_registers registers{8};
  block_async async;
};

std::string message(const auto& what) {
  try {
    what();
  } catch (const machine_error& e) {
    return e.what();
  }
  return "";
}

bool says(const std::string& text, const std::string& part) {
  INFO(text);
  const bool found = text.find(part) != std::string::npos;
  CHECK(found);
  return found;
}

TEST_CASE("a phase of an mbarrier is complete when all have arrived, and the next begins") {
  block b;
  b.mbarrier(8, 3);
  CHECK_FALSE(b.wait(1, 8, 0));
  CHECK(b.wait(1, 8, 1));  // the phase before the first
  b.async.arrive(b.warp(0), 8, 2);
  CHECK_FALSE(b.wait(1, 8, 0));
  b.async.arrive(b.warp(1), 8);
  CHECK(b.wait(1, 8, 0));
  CHECK_FALSE(b.wait(1, 8, 1));
  b.async.arrive(b.warp(2), 8, 3);
  CHECK(b.wait(1, 8, 1));
}

TEST_CASE("errors of mbarriers") {
  block b;
  CHECK(says(message([&] { b.async.arrive(b.warp(0), 16); }), "no mbarrier"));
  CHECK(says(message([&] { b.async.init(b.warp(0), 12, 1); }), "multiple of 8"));
  CHECK(says(message([&] { b.async.init(b.warp(0), shared_bytes, 1); }), "outside"));
  CHECK(says(message([&] { b.async.init(b.warp(0), 16, 0); }), "count of 0"));
  CHECK(says(message([&] { b.async.init(b.warp(0), 16, 1 << 20); }), "count of"));
  b.mbarrier(16, 2);
  CHECK(says(message([&] { b.async.init(b.warp(0), 16, 2); }), "a write to the mbarrier"));
  CHECK(says(message([&] { b.async.arrive(b.warp(0), 16, 3); }), "more arrivals"));
  CHECK(says(message([&] { b.async.arrive_expect(b.warp(0), 16, 1 << 20); }), "overflows"));
  CHECK(says(message([&] { (void)b.async.try_wait(b.warp(0), 16, 2); }), "parity"));

  b.mbarrier(24, 1);
  b.async.arrive(b.warp(0), 24);
  CHECK(says(message([&] { b.async.arrive(b.warp(0), 24); }), "before any wait"));
  b.mbarrier(32, 1);
  b.shared[33] ^= std::byte{1};
  CHECK(says(message([&] { b.async.arrive(b.warp(0), 32); }), "written over"));
}

TEST_CASE("an mbarrier made invalid may be initialised again") {
  block b;
  b.mbarrier(8, 1);
  b.async.invalidate(b.warp(0), 8);
  CHECK(says(message([&] { b.async.arrive(b.warp(0), 8); }), "no mbarrier"));
  b.mbarrier(8, 2);
  b.async.arrive(b.warp(0), 8);
  CHECK(says(message([&] { b.async.invalidate(b.warp(0), 8); }), "middle of a phase"));
}

TEST_CASE("another warp uses an mbarrier after a barrier only") {
  block b;
  b.async.init(b.warp(0), 8, 2);
  CHECK_NOTHROW(b.async.arrive(b.warp(0), 8));
  CHECK(says(message([&] { b.async.arrive(b.warp(1), 8); }), "no barrier between"));
  b.async.watch().barrier(0xFF, 0xFF);
  CHECK_NOTHROW(b.async.arrive(b.warp(1), 8));
}

TEST_CASE("a parity that is two phases behind is told") {
  block b;
  b.mbarrier(8, 1);
  b.async.arrive(b.warp(0), 8);
  CHECK(b.wait(0, 8, 0));
  b.async.arrive(b.warp(0), 8);
  CHECK(b.wait(0, 8, 1));
  CHECK(says(message([&] { (void)b.async.try_wait(b.warp(3), 8, 0); }), "can not tell"));
}

TEST_CASE("a bulk load is in shared memory when its bytes are counted, at whatever time") {
  bool early = false;
  bool late = false;
  for (std::uint64_t seed = 1; seed < 20; ++seed) {
    block b(seed);
    b.mbarrier(8, 1);
    b.async.arrive_expect(b.warp(0), 8, 192);
    b.async.bulk_load(b.warp(0), 1024, b.address(16), 64, 8);
    b.async.bulk_load(b.warp(0), 2048, b.address(512), 128, 8);
    CHECK(b.garbage(1024, 64));
    CHECK(b.garbage(2048, 128));
    CHECK_FALSE(b.async.try_wait(b.warp(1), 8, 0));
    CHECK(b.async.step());
    CHECK(b.garbage(1024, 64) != b.garbage(2048, 128));
    (b.garbage(1024, 64) ? late : early) = true;
    CHECK_FALSE(b.async.try_wait(b.warp(1), 8, 0));
    CHECK(b.async.step());
    CHECK_FALSE(b.async.pending());
    CHECK(b.async.try_wait(b.warp(1), 8, 0));
    CHECK(b.holds(1024, 16, 64));
    CHECK(b.holds(2048, 512, 128));
    b.async.end_block();
  }
  CHECK(early);
  CHECK(late);
}

TEST_CASE("a bulk load reads when it is performed") {
  block b;
  b.mbarrier(8, 1);
  b.async.arrive_expect(b.warp(0), 8, 16);
  b.async.bulk_load(b.warp(0), 1024, b.address(0), 16, 8);
  b.global[3] = std::byte{0xAB};
  CHECK(b.wait(0, 8, 0));
  CHECK(b.shared[1027] == std::byte{0xAB});
}

TEST_CASE("errors of bulk copies") {
  block b;
  b.mbarrier(8, 1);
  CHECK(says(message([&] { b.async.bulk_load(b.warp(0), 1024, b.address(0), 24, 8); }),
             "multiple of 16"));
  CHECK(says(message([&] { b.async.bulk_load(b.warp(0), 1032, b.address(0), 16, 8); }),
             "multiple of 16"));
  CHECK(says(message([&] { b.async.bulk_load(b.warp(0), 1024, b.address(8), 16, 8); }),
             "multiple of 16"));
  CHECK(says(message([&] { b.async.bulk_load(b.warp(0), 1024, b.address(4096), 16, 8); }),
             "not memory"));
  CHECK(says(message([&] { b.async.bulk_load(b.warp(0), shared_bytes - 16, b.address(0), 32, 8); }),
             "outside"));
  CHECK(says(message([&] { b.async.bulk_load(b.warp(0), 0, b.address(0), 16, 8); }),
             "a write to the mbarrier"));
  CHECK(says(message([&] { b.async.bulk_prefetch(b.address(4080), 32); }), "not memory"));
  CHECK(says(message([&] { b.async.bulk_store(b.warp(0), 0, b.address(4), 1024, 16); }),
             "multiple of 16"));

  b.async.init(b.warp(0), 16, 1);
  CHECK(says(message([&] { b.async.bulk_load(b.warp(0), 1024, b.address(0), 16, 16); }),
             "fence.mbarrier_init"));
  b.async.fence_mbarrier_init(b.warp(1));
  CHECK(says(message([&] { b.async.bulk_load(b.warp(0), 1024, b.address(0), 16, 16); }),
             "fence.mbarrier_init"));
  b.async.fence_proxy_async(b.warp(0));
  CHECK_NOTHROW(b.async.bulk_load(b.warp(0), 1024, b.address(0), 16, 16));
}

TEST_CASE("bytes that a phase did not expect") {
  block b;
  b.mbarrier(8, 1);
  b.async.bulk_load(b.warp(0), 1024, b.address(0), 16, 8);
  b.async.arrive(b.warp(0), 8);  // completes the phase, whose bytes nobody expects
  CHECK(says(message([&] { b.async.step(); }), "nobody expected"));
}

TEST_CASE("the block ends without waiting") {
  SECTION("for a load") {
    block b;
    b.mbarrier(8, 1);
    b.async.arrive_expect(b.warp(0), 8, 16);
    b.async.bulk_load(b.warp(0), 1024, b.address(0), 16, 8);
    b.async.step();
    CHECK(says(message([&] { b.async.end_block(); }), "without a wait for the last bulk load"));
  }
  SECTION("for a store's reads") {
    block b;
    b.async.bulk_store(b.warp(2), 0, b.address(0), 1024, 16);
    b.async.bulk_commit(b.warp(2), 1);
    CHECK(says(message([&] { b.async.end_block(); }), "warp 2"));
    b.async.bulk_wait(b.warp(2), 1, 0, true);
    CHECK_NOTHROW(b.async.end_block());
  }
}

TEST_CASE("a bulk store reads by its wait_group.read, and writes by its wait_group or the end") {
  block b(5);
  const auto fill = [&b](std::uint32_t offset, std::uint8_t value) {
    std::fill_n(b.shared.begin() + offset, 16, std::byte{value});
  };
  fill(1024, 1);
  fill(2048, 2);
  b.async.bulk_store(b.warp(0), 3, b.address(0), 1024, 16);
  b.async.bulk_commit(b.warp(0), 1U << 3);
  b.async.bulk_store(b.warp(0), 3, b.address(16), 2048, 16);
  b.async.bulk_commit(b.warp(0), 1U << 3);
  fill(1024, 3);  // not yet read: the store gets this
  b.async.bulk_wait(b.warp(0), 1U << 3, 1, true);
  fill(1024, 4);
  fill(2048, 5);                       // of the group that may still be pending
  CHECK(b.global[0] == std::byte{0});  // read, not written
  b.async.bulk_wait(b.warp(0), everybody, 0, true);
  fill(2048, 6);
  b.async.bulk_wait(b.warp(0), 1U << 3, 0, false);
  CHECK(b.global[0] == std::byte{3});
  CHECK(b.global[31] == std::byte{5});
  CHECK_FALSE(b.async.pending());
}

TEST_CASE("cp.async: zeros behind the source, groups, garbage before") {
  block b;
  std::uint32_t destination[32];
  std::uint64_t source[32];
  std::uint32_t source_bytes[32];
  const auto aim = [&](std::uint32_t offset, std::uint32_t bytes, std::uint32_t from_bytes) {
    for (std::uint32_t lane = 0; lane < 32; ++lane) {
      destination[lane] = offset + lane * bytes;
      source[lane] = b.address(lane * bytes);
      source_bytes[lane] = from_bytes;
    }
  };
  aim(1024, 16, 16);
  b.async.copy(b.warp(0), everybody, destination, source, 16, source_bytes);
  b.async.copy_commit(b.warp(0), everybody);
  aim(2048, 8, 4);
  b.async.copy(b.warp(0), 0xFFFF, destination, source, 8, source_bytes);
  b.async.copy_commit(b.warp(0), everybody);
  CHECK(b.garbage(1024, 512));
  b.async.copy_wait(b.warp(0), everybody, 1);
  CHECK(b.holds(1024, 0, 512));
  CHECK(b.garbage(2048, 128));
  b.async.copy_wait(b.warp(0), everybody, 0);
  CHECK(b.holds(2048 + 8, 8, 4));
  CHECK(b.shared[2048 + 12] == std::byte{0});
  CHECK(b.shared[2048 + 15] == std::byte{0});

  aim(4096, 4, 0);
  std::fill(std::begin(source), std::end(source), 16);  // not read
  b.async.copy(b.warp(1), everybody, destination, source, 4, source_bytes);
  b.async.copy_wait_all(b.warp(0), everybody);  // another warp's
  CHECK(b.garbage(4096, 128));
  b.async.copy_wait_all(b.warp(1), everybody);
  CHECK(b.shared[4096] == std::byte{0});

  aim(4096, 4, 5);
  CHECK(says(message([&] { b.async.copy(b.warp(1), 1, destination, source, 4, source_bytes); }),
             "source of 5"));
  aim(4098, 4, 4);
  CHECK(says(message([&] { b.async.copy(b.warp(1), 1, destination, source, 4, source_bytes); }),
             "multiple of 4"));
  aim(4096, 4, 4);
  source[0] += 2;
  CHECK(says(message([&] { b.async.copy(b.warp(1), 1, destination, source, 4, source_bytes); }),
             "multiple of 4"));
  source[0] = 64;
  CHECK(says(message([&] { b.async.copy(b.warp(1), 1, destination, source, 4, source_bytes); }),
             "not memory"));
}

TEST_CASE("an arrival of copies comes after them") {
  for (std::uint64_t seed = 1; seed < 10; ++seed) {
    block b(seed);
    b.mbarrier(8, 32);
    std::uint32_t destination[32];
    std::uint64_t source[32];
    std::uint32_t source_bytes[32];
    for (std::uint32_t lane = 0; lane < 32; ++lane) {
      destination[lane] = 1024 + lane * 16;
      source[lane] = b.address(lane * 16);
      source_bytes[lane] = 16;
    }
    b.async.copy(b.warp(1), everybody, destination, source, 16, source_bytes);
    for (std::uint32_t lane = 0; lane < 32; ++lane) {
      b.async.copy_arrive(b.warp(1), lane, 8, false);
    }
    CHECK(b.async.step());
    CHECK(b.holds(1024, 0, 512));
    CHECK(b.wait(2, 8, 0));
    CHECK_NOTHROW(b.touch(2, access::read, 1024));
    CHECK(says(message([&] { b.touch(3, access::read, 1024); }), "cp.async of warp 1"));
  }
}

TEST_CASE("races between warps") {
  block b;
  b.touch(0, access::write, 512);
  CHECK_NOTHROW(b.touch(0, access::read, 512));
  const std::string text = message([&] { b.touch(1, access::read, 512); });
  CHECK(says(text, "write by warp 0 at instruction 10, and read by warp 1 at instruction 11"));
  CHECK(says(message([&] { b.touch(1, access::write, 512); }), "race"));
  b.async.watch().barrier(0b11, 0b11);
  CHECK_NOTHROW(b.touch(1, access::read, 512));
  CHECK(says(message([&] { b.touch(2, access::read, 512); }), "race"));  // was not at the barrier
  // Two read; who writes then has to know of both.
  CHECK_NOTHROW(b.touch(0, access::read, 512));
  b.async.watch().barrier(0b101, 0b101);
  CHECK(says(message([&] { b.touch(2, access::write, 512); }), "read by warp 1"));
  b.async.watch().barrier(0b110, 0b100);  // warp 1 arrives only
  CHECK_NOTHROW(b.touch(2, access::write, 512));
  CHECK(says(message([&] { b.touch(1, access::read, 512); }), "write by warp 2"));
}

TEST_CASE("races between lanes of a warp") {
  block b;
  const std::uint32_t own[32] = {512, 516};
  const std::uint32_t other[32] = {516, 512};
  const auto all = [&](access kind, const std::uint32_t(&offsets)[32], std::uint32_t instruction) {
    b.async.watch().lanes(b.warp(2, instruction), kind, 3, offsets, 4);
  };
  all(access::write, own, 1);
  CHECK_NOTHROW(all(access::read, own, 2));
  CHECK(says(message([&] { all(access::read, other, 3); }), "no bar.warp.sync"));
  b.async.watch().meet(2);
  CHECK_NOTHROW(all(access::read, other, 3));
  CHECK_NOTHROW(all(access::write, own, 4));
  CHECK(says(message([&] { all(access::write, other, 5); }), "no bar.warp.sync"));
  b.async.watch().barrier(0xFF, 0xFF);
  CHECK_NOTHROW(all(access::read, other, 6));
}

TEST_CASE("no races: other bytes of a word, atomics, a watch that is off") {
  block b;
  b.touch(0, access::write, 512, 2);
  CHECK_NOTHROW(b.touch(1, access::write, 514, 2));
  CHECK(says(message([&] { b.touch(0, access::write, 515, 1); }), "race"));
  b.touch(0, access::atomic, 600);
  CHECK_NOTHROW(b.touch(1, access::atomic, 600));
  CHECK(says(message([&] { b.touch(2, access::read, 600); }), "race"));
  block off(1, false);
  off.touch(0, access::write, 512);
  CHECK_NOTHROW(off.touch(1, access::write, 512));
}

TEST_CASE("arrivals order what was before them with what is after the wait") {
  block b;
  b.mbarrier(8, 1);
  b.touch(0, access::write, 512);
  b.async.arrive(b.warp(0), 8);
  b.touch(0, access::write, 516);
  CHECK(b.wait(1, 8, 0));
  CHECK_NOTHROW(b.touch(1, access::write, 512));
  CHECK(says(message([&] { b.touch(1, access::read, 516); }), "race"));
}

TEST_CASE("a bulk load races with who reads without a wait, and with who reads before") {
  block b;
  b.mbarrier(8, 1);
  b.mbarrier(16, 1);
  b.touch(1, access::read, 1024);
  CHECK(says(message([&] { b.async.bulk_load(b.warp(0), 1024, b.address(0), 16, 8); }),
             "read by warp 1"));
  b.async.arrive(b.warp(1), 16);
  CHECK(b.wait(0, 16, 0));
  b.async.arrive_expect(b.warp(0), 8, 16);
  b.async.bulk_load(b.warp(0), 1024, b.address(0), 16, 8);
  b.async.step();
  CHECK(says(message([&] { b.touch(0, access::read, 1024); }),
             "bulk load for the mbarrier at byte 8"));
  CHECK(b.wait(0, 8, 0));
  CHECK_NOTHROW(b.touch(0, access::read, 1024));
}

TEST_CASE("the async proxy sees generic writes after a fence only") {
  block b;
  b.touch(0, access::write, 1024, 16);
  b.async.watch().barrier(0b11, 0b11);
  const auto store = [&] { b.async.bulk_store(b.warp(1), 0, b.address(0), 1024, 16); };
  CHECK(says(message(store), "no fence.proxy.async"));
  b.async.fence_proxy_async(b.warp(1));
  CHECK_NOTHROW(store());
  // The writer's fence does too, where the barrier comes after it; but not for what it writes
  // after.
  b.touch(0, access::write, 2048, 16);
  b.async.fence_proxy_async(b.warp(0));
  b.touch(0, access::write, 4096, 16);
  b.async.watch().barrier(0b11, 0b11);
  CHECK_NOTHROW(b.async.bulk_store(b.warp(1), 0, b.address(0), 2048, 16));
  CHECK(says(message([&] { b.async.bulk_store(b.warp(1), 0, b.address(0), 4096, 16); }),
             "no fence.proxy.async"));
  // Who writes where a store may still read races with it, until the wait.
  b.async.bulk_commit(b.warp(1), 1);
  CHECK(says(message([&] { b.touch(1, access::write, 1024); }), "a bulk store of warp 1"));
  b.async.bulk_wait(b.warp(1), 1, 0, true);
  CHECK_NOTHROW(b.touch(1, access::write, 1024));
}

/// One product of m64n8k16 with A's elements 1 and B's elements 2: every accumulator grows by 32.
struct product_of_ones : block {
  explicit product_of_ones(std::uint64_t seed = 1) : block(seed) {
    std::iota(d.begin(), d.end(), 8);
    // A: 64 rows of 128 bytes at 8192; B: eight at 16384.
    for (std::uint32_t byte = 0; byte < 8192; byte += 2) {
      const std::uint16_t one = 0x3F80;
      std::memcpy(shared.data() + 8192 + byte, &one, 2);
    }
    for (std::uint32_t byte = 0; byte < 1024; byte += 2) {
      const std::uint16_t two = 0x4000;
      std::memcpy(shared.data() + 16384 + byte, &two, 2);
    }
  }
  static std::uint64_t descriptor(std::uint32_t start) {
    return start >> 4 | std::uint64_t{1} << 16 | std::uint64_t{64} << 32 | std::uint64_t{1} << 62;
  }
  [[nodiscard]] product of(bool accumulate) const {
    return {.shape = {.n = 8},
            .accumulate = accumulate,
            .d = d,
            .a = {},
            .a_descriptor = descriptor(8192),
            .b_descriptor = descriptor(16384)};
  }
  void all(const auto& what) {
    for (std::uint32_t w = 0; w < 4; ++w) {
      what(warp(w));
    }
  }
  void multiply(bool accumulate, std::uint32_t instruction = 1) {
    for (std::uint32_t w = 0; w < 4; ++w) {
      async.products().multiply(warp(w, instruction), of(accumulate));
    }
  }
  float value(std::uint32_t w, std::uint32_t i) {
    float f = 0;
    std::memcpy(&f, &registers.at(w, d[i], 5), sizeof(f));
    return f;
  }
  std::vector<std::uint32_t> d = std::vector<std::uint32_t>(4);
};

TEST_CASE("products are in the accumulators after the wait, and NaN before") {
  for (std::uint64_t seed = 1; seed < 5; ++seed) {
    product_of_ones b(seed);
    warpgroups& products = b.async.products();
    b.all([&](const issuer& w) { products.fence(w); });
    b.multiply(false);
    b.multiply(true, 2);
    b.all([&](const issuer& w) { products.commit(w); });
    b.multiply(true, 3);
    b.all([&](const issuer& w) { products.commit(w); });
    for (std::uint64_t i = 0; i < seed && i < 3; ++i) {
      CHECK(b.async.step());
    }
    CHECK(b.registers.at(0, 8, 0) == 0xFFFFFFFF);
    REQUIRE(products.in_flight(0) != nullptr);
    CHECK(products.in_flight(0)->accumulators[0] == 0xF00);
    b.all([&](const issuer& w) { CHECK(products.try_wait(w, 1)); });
    CHECK(b.registers.at(0, 8, 0) == 0xFFFFFFFF);  // the second group is of the same accumulators
    b.all([&](const issuer& w) { CHECK(products.try_wait(w, 0)); });
    CHECK(products.in_flight(0) == nullptr);
    for (std::uint32_t w = 0; w < 4; ++w) {
      for (std::uint32_t i = 0; i < 4; ++i) {
        CHECK(b.value(w, i) == 96.0F);
      }
    }
    CHECK_NOTHROW(products.end(b.warp(0)));
  }
}

TEST_CASE("a product is performed when its operands are read, not when it is issued") {
  product_of_ones b;
  b.async.watch().barrier(0xF, 0xF);
  b.all([&](const issuer& w) { b.async.products().fence(w); });
  b.multiply(false);
  b.all([&](const issuer& w) { b.async.products().commit(w); });
  std::fill_n(b.shared.begin() + 16384, 1024, std::byte{0});
  b.all([&](const issuer& w) { CHECK(b.async.products().try_wait(w, 0)); });
  CHECK(b.value(0, 0) == 0.0F);
}

TEST_CASE("a wait for products that other warps have still to issue") {
  product_of_ones b;
  warpgroups& products = b.async.products();
  b.all([&](const issuer& w) { products.fence(w); });
  for (std::uint32_t w = 0; w < 3; ++w) {
    products.multiply(b.warp(w), b.of(false));
    products.commit(b.warp(w));
  }
  CHECK_FALSE(products.try_wait(b.warp(0), 0));
  CHECK_FALSE(b.async.pending());
  products.multiply(b.warp(3), b.of(false));
  CHECK(products.try_wait(b.warp(0), 0));
  CHECK(says(message([&] { products.end(b.warp(1)); }), "not waited for"));
}

TEST_CASE("A from registers") {
  product_of_ones b;
  warpgroups& products = b.async.products();
  const std::vector<std::uint32_t> a = {20, 21, 22, 23};
  product p = b.of(false);
  p.a = a;
  p.a_descriptor = 0;
  for (std::uint32_t w = 0; w < 4; ++w) {
    for (const std::uint32_t index : a) {
      for (std::uint32_t lane = 0; lane < 32; ++lane) {
        b.registers.at(w, index, lane) = 0x40404040;  // two of 3.0
      }
    }
  }
  b.all([&](const issuer& w) { products.fence(w); });
  b.all([&](const issuer& w) { products.multiply(w, p); });
  CHECK(products.in_flight(2)->operands[0] == 0xF00000);
  b.all([&](const issuer& w) { products.commit(w); });
  b.all([&](const issuer& w) { CHECK(products.try_wait(w, 0)); });
  CHECK(b.value(3, 2) == 96.0F);
  // The next product needs a fence after a write of them.
  b.registers.at(0, 21, 7) = 0;
  CHECK(says(message([&] { products.multiply(b.warp(0), p); }), "A in registers written after"));
  products.fence(b.warp(0));
  CHECK_NOTHROW(products.multiply(b.warp(0), p));
}

TEST_CASE("errors of products") {
  product_of_ones b;
  warpgroups& products = b.async.products();
  CHECK(says(message([&] { products.multiply(b.warp(0), b.of(true)); }), "no wgmma.fence"));
  b.all([&](const issuer& w) { products.fence(w); });
  b.multiply(true);
  SECTION("accumulators written after the fence") {
    b.all([&](const issuer& w) { products.commit(w); });
    b.all([&](const issuer& w) { CHECK(products.try_wait(w, 0)); });
    CHECK_NOTHROW(products.multiply(b.warp(1), b.of(true)));
    b.registers.at(0, 9, 3) = 0;
    CHECK(says(message([&] { products.multiply(b.warp(0), b.of(true)); }), "accumulator written"));
    products.fence(b.warp(0));
    CHECK_NOTHROW(products.multiply(b.warp(0), b.of(true)));
  }
  SECTION("accumulators that overlap") {
    b.d = {10, 11, 12, 13};
    CHECK(says(message([&] { products.multiply(b.warp(0), b.of(true)); }),
               "other products in flight"));
  }
  SECTION("warps that differ") {
    products.multiply(b.warp(0), b.of(true));
    product p = b.of(true);
    p.b_descriptor = b.descriptor(8192);
    CHECK(says(message([&] { products.multiply(b.warp(1), p); }), "differ"));
    CHECK(says(message([&] { products.multiply(b.warp(1, 9), b.of(true)); }), "differ"));
    CHECK(says(message([&] { products.multiply(b.warp(1), b.of(false)); }), "differ"));
  }
  SECTION("operands outside shared memory") {
    product p = b.of(true);
    p.a_descriptor = b.descriptor(32768 - 1024);
    CHECK(says(message([&] { products.multiply(b.warp(0), p); }), "outside"));
  }
  SECTION("shapes that there are not") {
    product p = b.of(true);
    p.shape.n = 12;
    CHECK(says(message([&] { products.multiply(b.warp(0), p); }), "shape"));
  }
}

TEST_CASE("products race with writes, and need a proxy fence after them") {
  product_of_ones b;
  warpgroups& products = b.async.products();
  b.all([&](const issuer& w) { products.fence(w); });
  const auto last_of = [&] { products.multiply(b.warp(3), b.of(true)); };
  const auto first_three = [&] {
    for (std::uint32_t w = 0; w < 3; ++w) {
      products.multiply(b.warp(w), b.of(true));
    }
  };
  SECTION("a write of B that one warp does not know") {
    b.touch(0, access::write, 16384);
    b.async.fence_proxy_async(b.warp(0));
    b.async.watch().barrier(0b111, 0b111);
    first_three();
    CHECK(says(message(last_of), "race"));
  }
  SECTION("a write of B without a fence") {
    b.touch(0, access::write, 16384);
    b.async.watch().barrier(0xF, 0xF);
    first_three();
    CHECK(says(message(last_of), "no fence.proxy.async"));
  }
  SECTION("each warp's own rows of A, fenced") {
    for (std::uint32_t w = 0; w < 4; ++w) {
      b.touch(w, access::write, 8192 + w * 2048);
      b.async.fence_proxy_async(b.warp(w));
    }
    first_three();
    CHECK_NOTHROW(last_of());
  }
  SECTION("a write before the wait") {
    first_three();
    last_of();
    CHECK(says(message([&] { b.touch(2, access::write, 16384); }), "a product of warpgroup 0"));
    b.all([&](const issuer& w) { products.commit(w); });
    CHECK(products.try_wait(b.warp(2), 0));
    CHECK_NOTHROW(b.touch(2, access::write, 16384));
    CHECK(says(message([&] { b.touch(5, access::write, 16384 + 4); }), "race"));
  }
}

TEST_CASE("registers move between warpgroups") {
  block b;
  register_pool& pool = b.async.registers();
  const auto all = [&](std::uint32_t first, const auto& what) {
    for (std::uint32_t w = first; w < first + 4; ++w) {
      what(b.warp(w));
    }
  };
  CHECK_FALSE(pool.try_increase(b.warp(4), 232));
  all(0, [&](const issuer& w) { pool.decrease(w, 104); });
  all(4, [&](const issuer& w) { CHECK(pool.try_increase(w, 232)); });
  CHECK_FALSE(pool.try_increase(b.warp(0), 112));
  CHECK_NOTHROW(b.async.end_block());
  CHECK(says(message([&] { pool.decrease(b.warp(4), 16); }), "24, 32"));
  CHECK(says(message([&] { pool.decrease(b.warp(4), 100); }), "24, 32"));
  CHECK(says(message([&] { pool.decrease(b.warp(0), 168); }), "up to"));
  CHECK(says(message([&] { (void)pool.try_increase(b.warp(4), 200); }), "down to"));
  pool.decrease(b.warp(4), 200);
  CHECK(says(message([&] { pool.decrease(b.warp(5), 192); }), "differ"));
  CHECK(says(message([&] { b.async.end_block(); }), "four"));
}

TEST_CASE("what a thread may have at a launch") {
  CHECK(registers_at_launch(384, 1) == 168);
  CHECK(registers_at_launch(256, 0) == 256);
  CHECK(registers_at_launch(1024, 1) == 64);
  CHECK(registers_at_launch(256, 2) == 128);
}

}  // namespace
}  // namespace oriel::ptx_machine
