// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "async_block.hpp"
#include "shared_watch.hpp"

#include <string>

namespace oriel::ptx_machine {
namespace {

TEST_CASE("races between warps") {
  test_block b;
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
  test_block b;
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
  test_block b;
  b.touch(0, access::write, 512, 2);
  CHECK_NOTHROW(b.touch(1, access::write, 514, 2));
  CHECK(says(message([&] { b.touch(0, access::write, 515, 1); }), "race"));
  b.touch(0, access::atomic, 600);
  CHECK_NOTHROW(b.touch(1, access::atomic, 600));
  CHECK(says(message([&] { b.touch(2, access::read, 600); }), "race"));
  test_block off(1, false);
  off.touch(0, access::write, 512);
  CHECK_NOTHROW(off.touch(1, access::write, 512));
}

TEST_CASE("arrivals order what was before them with what is after the wait") {
  test_block b;
  b.mbarrier(8, 1);
  b.touch(0, access::write, 512);
  b.async.arrive(b.warp(0), 8);
  b.touch(0, access::write, 516);
  CHECK(b.wait(1, 8, 0));
  CHECK_NOTHROW(b.touch(1, access::write, 512));
  CHECK(says(message([&] { b.touch(1, access::read, 516); }), "race"));
  b.touch(2, access::write, 520);
  b.async.arrive_expect(b.warp(2), 8, 0, false);  // .relaxed
  CHECK(b.wait(1, 8, 1));
  CHECK(says(message([&] { b.touch(1, access::read, 520); }), "race"));
}

TEST_CASE("a bulk load races with who reads without a wait, and with who reads before") {
  test_block b;
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
             "completes on the mbarrier at byte 8"));
  CHECK(b.wait(0, 8, 0));
  CHECK_NOTHROW(b.touch(0, access::read, 1024));
}

TEST_CASE("the async proxy sees generic writes after a fence only") {
  test_block b;
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

}  // namespace
}  // namespace oriel::ptx_machine
