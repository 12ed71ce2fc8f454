// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "async.hpp"
#include "async_block.hpp"

#include <algorithm>
#include <iterator>
#include <string>

namespace oriel::ptx_machine {
namespace {

TEST_CASE("a phase of an mbarrier is complete when all have arrived, and the next begins") {
  test_block b;
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
  test_block b;
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
  test_block b;
  b.mbarrier(8, 1);
  b.async.invalidate(b.warp(0), 8);
  CHECK(says(message([&] { b.async.arrive(b.warp(0), 8); }), "no mbarrier"));
  b.mbarrier(8, 2);
  b.async.arrive(b.warp(0), 8);
  CHECK(says(message([&] { b.async.invalidate(b.warp(0), 8); }), "middle of a phase"));
}

TEST_CASE("another warp uses an mbarrier after a barrier only") {
  test_block b;
  b.async.init(b.warp(0), 8, 2);
  CHECK_NOTHROW(b.async.arrive(b.warp(0), 8));
  CHECK(says(message([&] { b.async.arrive(b.warp(1), 8); }), "no barrier between"));
  b.async.watch().barrier(0xFF, 0xFF);
  CHECK_NOTHROW(b.async.arrive(b.warp(1), 8));
}

TEST_CASE("a parity that is two phases behind is told") {
  test_block b;
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
    test_block b(seed);
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
  test_block b;
  b.mbarrier(8, 1);
  b.async.arrive_expect(b.warp(0), 8, 16);
  b.async.bulk_load(b.warp(0), 1024, b.address(0), 16, 8);
  b.global[3] = std::byte{0xAB};
  CHECK(b.wait(0, 8, 0));
  CHECK(b.shared[1027] == std::byte{0xAB});
}

TEST_CASE("errors of bulk copies") {
  test_block b;
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
  test_block b;
  b.mbarrier(8, 1);
  b.async.bulk_load(b.warp(0), 1024, b.address(0), 16, 8);
  b.async.arrive(b.warp(0), 8);  // completes the phase, whose bytes nobody expects
  CHECK(says(message([&] { b.async.step(); }), "nobody expected"));
}

TEST_CASE("the block ends without waiting") {
  SECTION("for a load") {
    test_block b;
    b.mbarrier(8, 1);
    b.async.arrive_expect(b.warp(0), 8, 16);
    b.async.bulk_load(b.warp(0), 1024, b.address(0), 16, 8);
    b.async.step();
    CHECK(says(message([&] { b.async.end_block(); }), "without a wait for the last bulk load"));
  }
  SECTION("for a store's reads") {
    test_block b;
    b.async.bulk_store(b.warp(2), 0, b.address(0), 1024, 16);
    b.async.bulk_commit(b.warp(2), 1);
    CHECK(says(message([&] { b.async.end_block(); }), "warp 2"));
    b.async.bulk_wait(b.warp(2), 1, 0, true);
    CHECK_NOTHROW(b.async.end_block());
  }
}

TEST_CASE("a bulk store reads by its wait_group.read, and writes by its wait_group or the end") {
  test_block b(5);
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
  test_block b;
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
    test_block b(seed);
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

TEST_CASE("a store from another block lands by the wait, before or after its bytes are expected") {
  bool before = false;
  bool after = false;
  for (std::uint64_t seed = 1; seed < 20; ++seed) {
    test_block a(seed, true, 0);
    test_block b(seed, true, 1);
    b.mbarrier(8, 1);
    cluster_barrier(a, b);
    send(a, 3, b, 1024, 8, 0xAB);
    send(a, 3, b, 1032, 8, 0xAC);
    CHECK(b.garbage(1024, 16));
    CHECK(b.async.step());
    CHECK(b.garbage(1024, 8) != b.garbage(1032, 8));
    (b.garbage(1024, 8) ? after : before) = true;
    CHECK_FALSE(b.async.try_wait(b.warp(1), 8, 0));
    b.async.arrive_expect(b.warp(0), 8, 16);
    CHECK(b.wait(1, 8, 0));
    CHECK(b.shared[1024] == std::byte{0xAB});
    CHECK(b.shared[1039] == std::byte{0xAC});
    CHECK_NOTHROW(b.touch(1, access::read, 1024));
    CHECK(says(message([&] { b.touch(2, access::read, 1024); }), "race"));
    b.async.end_block();
  }
  CHECK(before);
  CHECK(after);
}

TEST_CASE("a store to a place that another block still reads") {
  test_block a(1, true, 0);
  test_block b(1, true, 1);
  a.mbarrier(8, 1);
  b.mbarrier(8, 1);
  cluster_barrier(a, b);
  b.touch(2, access::read, 1024);
  CHECK(says(message([&] { send(a, 0, b, 1024, 8, 1); }), "read by warp 2"));
  // A message of the reader itself orders it, and of a warp that a barrier has made know of it.
  SECTION("of the reader") {
    send(b, 2, a, 2048, 8, 1);
  }
  SECTION("of another warp, after a barrier") {
    b.async.watch().barrier(0xFF, 0xFF);
    send(b, 0, a, 2048, 8, 1);
  }
  a.async.arrive_expect(a.warp(0), 8, 8);
  CHECK(a.wait(0, 8, 0));
  CHECK_NOTHROW(send(a, 0, b, 1024, 8, 1));
  CHECK(says(message([&] { send(a, 0, b, 1024, 8, 1); }), "race"));  // nothing orders the two
  // Another warp of the sender's block knows less than it.
  b.touch(2, access::read, 1040);
  CHECK(says(message([&] { send(a, 1, b, 1040, 8, 1); }), "read by warp 2"));
}

TEST_CASE("a store to another block knows that its mbarrier is ready") {
  test_block a(1, true, 0);
  test_block b(1, true, 1);
  const auto sent = [&] { return message([&] { send(a, 0, b, 1024, 8, 1); }); };
  CHECK(says(sent(), "no mbarrier"));
  b.async.init(b.warp(0), 8, 1);
  b.async.watch().barrier(0xFF, 0xFF);
  CHECK(says(sent(), "no barrier between"));
  cluster_barrier(a, b);
  CHECK(says(sent(), "fence.mbarrier_init"));
  b.async.fence_mbarrier_init(b.warp(0));
  CHECK(sent().empty());
  b.async.arrive_expect(b.warp(0), 8, 8);
  CHECK(b.wait(0, 8, 0));
  // Whoever sends in the next phase has to know that this one is complete.
  const auto sent_again = [&] { return message([&] { send(a, 0, b, 2048, 8, 1); }); };
  CHECK(says(sent_again(), "could count for an earlier one"));
  cluster_barrier(a, b);
  CHECK(sent_again().empty());
}

TEST_CASE("errors of stores to another block") {
  test_block a(1, true, 0);
  test_block b(1, true, 1);
  b.mbarrier(8, 1);
  b.mbarrier(16, 1);
  cluster_barrier(a, b);
  const auto sent = [&](std::uint32_t offset, std::uint32_t mbarrier, std::size_t bytes) {
    return message([&] { send(a, 0, b, offset, mbarrier, 1, bytes); });
  };
  CHECK(says(sent(1028, 8, 8), "no multiple of 8"));
  CHECK(says(sent(1032, 8, 16), "no multiple of 16"));
  CHECK(says(sent(shared_bytes, 8, 4), "outside"));
  CHECK(says(sent(1024, 12, 4), "no multiple of 8"));
  CHECK(says(sent(16, 8, 8), "a write to the mbarrier"));
  SECTION("bytes of a phase that is complete without them") {
    CHECK(sent(1024, 8, 8).empty());
    b.async.arrive(b.warp(0), 8);
    CHECK(says(message([&] { b.async.step(); }), "an st.async of warp 0 of the cluster's block 0"));
  }
  SECTION("the block ends before they land") {
    CHECK(sent(1024, 8, 8).empty());
    CHECK(says(message([&] { b.async.end_block(); }), "block 0 to it is under way"));
  }
  SECTION("the block ends and has not waited for them") {
    CHECK(sent(1024, 8, 8).empty());
    b.async.step();
    CHECK(says(message([&] { b.async.end_block(); }), "without a wait"));
  }
  SECTION("the block has ended") {
    b.async.end_block();
    CHECK(says(sent(1024, 8, 8), "the block has ended"));
  }
}

}  // namespace
}  // namespace oriel::ptx_machine
