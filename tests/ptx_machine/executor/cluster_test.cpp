// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Blocks of a cluster that store into each other's shared memory.
#include "small_kernels.hpp"

#include <catch2/catch.hpp>

#include <string>
#include <vector>

using namespace oriel::ptx_machine;  // NOLINT: a test

namespace {

using Catch::Matchers::Contains;

constexpr std::uint32_t rounds = 7;

std::string cluster_of(std::uint32_t blocks) {
  return ".explicitcluster .reqnctapercluster " + std::to_string(blocks) + ", 1, 1";
}

/// Two mbarriers at the beginning of each block's shared memory, and all blocks know of them.
/// %r10: shared memory, %r11: the rank; %p1: not the first thread.
const std::string ready = R"(
  mov.u32 %r10, dynamic;
  mov.u32 %r11, %cluster_ctarank;
  setp.ne.s32 %p1, %r1, 0;
  @%p1 bra $READY;
  mbarrier.init.shared::cta.b64 [%r10], 1;
  mbarrier.init.shared::cta.b64 [%r10+8], 1;
  fence.mbarrier_init.release.cluster;
$READY:
  barrier.cluster.arrive.release.aligned;
  barrier.cluster.wait.acquire.aligned;
)";

/// Each block has a number, %r20: it tells it to its neighbours to the left and to the right, and goes on with the sum
/// of twice the left one's and thrice the right one's. All of its threads have to get the same. Messages have their
/// round, and the mbarriers and the places of what comes are used in turn:
///
///     | mbarrier 0 | mbarrier 1 | from the left, 0 | from the right, 0 | from the left, 1 | from the right, 1 |
const std::string ring = ready + R"(
  mov.u32 %r12, %cluster_nctarank;
  add.s32 %r13, %r11, 1;
  rem.u32 %r13, %r13, %r12;
  mapa.shared::cluster.u32 %r14, %r10, %r13;
  add.s32 %r15, %r11, %r12;
  sub.s32 %r15, %r15, 1;
  rem.u32 %r15, %r15, %r12;
  mapa.shared::cluster.u32 %r16, dynamic, %r15;
  add.s32 %r20, %r11, 1;
  mov.u32 %r17, 0;
$ROUND:
  and.b32 %r18, %r17, 1;
  shl.b32 %r19, %r18, 4;
  shl.b32 %r18, %r18, 3;
  @%p1 bra $WAIT;
  add.s32 %r21, %r14, %r18;
  add.s32 %r22, %r14, %r19;
  st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%r22+16], {%r20, %r17}, [%r21];
  add.s32 %r21, %r10, %r18;
  mbarrier.arrive.expect_tx.relaxed.cluster.shared::cta.b64 _, [%r21], 16;
  add.s32 %r21, %r16, %r18;
  add.s32 %r22, %r16, %r19;
  mov.b64 %rd10, {%r20, %r17};
  st.async.shared::cluster.mbarrier::complete_tx::bytes.u64 [%r22+24], %rd10, [%r21];
$WAIT:
  shr.u32 %r23, %r17, 1;
  and.b32 %r23, %r23, 1;
  add.s32 %r21, %r10, %r18;
$SPIN:
  mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p2, [%r21], %r23;
  @!%p2 bra $SPIN;
  add.s32 %r22, %r10, %r19;
  ld.shared.v4.u32 {%r24, %r25, %r26, %r27}, [%r22+16];
  setp.ne.s32 %p3, %r25, %r17;
  setp.ne.or.s32 %p3, %r27, %r17, %p3;
  selp.b32 %r25, 1000000, 0, %p3;
  mad.lo.s32 %r20, %r24, 2, %r25;
  mad.lo.s32 %r20, %r26, 3, %r20;
  bar.sync 0;
  add.s32 %r17, %r17, 1;
  setp.lt.u32 %p3, %r17, 7;
  @%p3 bra $ROUND;
  cvt.u64.u32 %rd9, %r20;)";

std::vector<std::uint32_t> ring_numbers(std::uint32_t blocks) {
  std::vector<std::uint32_t> numbers(blocks);
  for (std::uint32_t i = 0; i < blocks; ++i) {
    numbers[i] = i + 1;
  }
  for (std::uint32_t round = 0; round < rounds; ++round) {
    const std::vector<std::uint32_t> before = numbers;
    for (std::uint32_t i = 0; i < blocks; ++i) {
      numbers[i] = 2 * before[(i + blocks - 1) % blocks] + 3 * before[(i + 1) % blocks];
    }
  }
  return numbers;
}

shape ring_of(std::uint32_t blocks, std::uint64_t seed) {
  return {.threads = 64,
          .blocks = 2 * blocks,
          .shared_bytes = 48,
          .seed = seed,
          .directives = cluster_of(blocks)};
}

std::string without(std::string text, const std::string& part) {
  text.replace(text.find(part), part.size(), "");
  return text;
}

/// `text` with arrivals at the cluster's barrier that are no releases.
std::string relaxed(std::string text) {
  const std::string order = ".arrive.release.";
  for (std::size_t at = 0; (at = text.find(order, at)) != std::string::npos;) {
    text.replace(at, order.size(), ".arrive.relaxed.");
  }
  return text;
}

/// Of two blocks of two warps each tells the other its rank, at byte 16, and all threads get what has come.
const std::string exchange = R"(
  xor.b32 %r13, %r11, 1;
  mapa.shared::cluster.u32 %r12, %r10, %r13;
  @%p1 bra $WAIT;
  st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%r12+16], %r11, [%r12];
  mbarrier.arrive.expect_tx.relaxed.cluster.shared::cta.b64 _, [%r10], 4;
$WAIT:
  mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p2, [%r10], 0;
  @!%p2 bra $WAIT;
  ld.shared.u32 %r14, [%r10+16];
  cvt.u64.u32 %rd9, %r14;)";

shape two_blocks(std::uint64_t seed) {
  return {
      .threads = 64, .blocks = 2, .shared_bytes = 32, .seed = seed, .directives = cluster_of(2)};
}

/// What a cluster of two says as the first thread of each block stores, `between` comes and the blocks get `ready`,
/// behind which all of them read it.
std::string message_of_readers(const std::string& between,
                               const std::string& ready_then,
                               std::uint64_t seed) {
  return message_of(
      "setp.ne.s32 %p1, %r1, 0; setp.lt.u32 %p2, %r1, 32;"
      "@!%p1 st.shared.u32 [dynamic+24], 7;" +
          between + ready_then + "ld.shared.u32 %r12, [%r10+24];",
      two_blocks(seed));
}

/// What a cluster of two says as the second warp of each block uses the second mbarrier of its own.
std::string message_of_other_warp(const std::string& ready_then, std::uint64_t seed) {
  return message_of(ready_then + R"(
  setp.ne.s32 %p2, %r1, 32;
  @!%p2 mbarrier.arrive.shared::cta.b64 _, [%r10+8];)",
                    two_blocks(seed));
}

/// What a cluster of two says as the first thread of block 0 runs `code`; %r12 is the shared memory of block 1, where
/// nobody waits for anything.
std::string message_of_sender(const std::string& code,
                              const std::string& before = ready,
                              std::uint64_t seed = 1) {
  return message_of(before + R"(
  setp.ne.or.s32 %p1, %r11, 0, %p1;
  @%p1 bra $MEET;
  mapa.shared::cluster.u32 %r12, %r10, 1;)" +
                        code + R"(
$MEET:
  barrier.cluster.arrive.release.aligned;
  barrier.cluster.wait.acquire.aligned;)",
                    {.blocks = 2, .shared_bytes = 64, .seed = seed, .directives = cluster_of(2)});
}

const std::string store = "st.async.shared::cluster.mbarrier::complete_tx::bytes.";

}  // namespace

TEST_CASE("blocks tell each other numbers, with two mbarriers in turn", "[ptx_machine]") {
  for (const std::uint32_t blocks : {2U, 3U, 5U, 8U}) {
    const std::vector<std::uint32_t> numbers = ring_numbers(blocks);
    for (std::uint64_t seed = 0; seed < 12; ++seed) {
      INFO(blocks << " blocks, seed " << seed);
      const words out = results(ring, {}, ring_of(blocks, seed));
      for (std::uint32_t i = 0; i < out.size(); ++i) {
        REQUIRE(out[i] == numbers[i / 64 % blocks]);
      }
    }
  }
}

TEST_CASE("messages of a ring that nothing orders are found", "[ptx_machine]") {
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    INFO("seed " << seed);
    const shape four = ring_of(4, seed);
    // The other warp may not have read what the next message but one is written over.
    CHECK_THAT(message_of(without(ring, "bar.sync 0;"), four), Contains("race"));
    // It reads what nobody has waited for.
    CHECK_THAT(message_of(without(ring, "@!%p2 bra $SPIN;"), four),
               Contains("race") || Contains("before any wait"));
    // Only to the right: a block runs ahead of the one on its right, whose messages come by the long way.
    std::string one_way = ring;
    one_way.replace(one_way.find("[%r21], 16;"), 11, "[%r21], 8;");
    one_way = without(one_way, store + "u64 [%r22+24], %rd10, [%r21];");
    one_way.replace(one_way.find("ld.shared.v4.u32 {%r24, %r25, %r26, %r27}"),
                    41,
                    "mov.u32 %r27, %r17; ld.shared.v2.u32 {%r24, %r25}");
    CHECK_THAT(message_of(one_way, four),
               Contains("race") || Contains("could count for an earlier one"));
    one_way.replace(one_way.find("%r17, 7;"), 8, "%r17, 2;");  // Each mbarrier once.
    CHECK(message_of(one_way, four).empty());
  }
}

TEST_CASE("an address of another block is for st.async alone", "[ptx_machine]") {
  for (const std::string access : {"ld.shared.u32 %r13, [%r12+16];",
                                   "st.shared.u32 [%r12+16], 1;",
                                   "atom.shared.add.u32 %r13, [%r12+16], 1;",
                                   "mbarrier.arrive.shared::cta.b64 _, [%r12];"}) {
    CHECK_THAT(message_of_sender(access),
               Contains("the cluster's block 1, which only st.async reaches"));
  }
  // A block's own addresses are the same in both windows.
  CHECK(message_of_sender("mapa.shared::cluster.u32 %r13, %r10, 0; st.shared.u32 [%r13+16], 1;")
            .empty());
  CHECK_THAT(message_of_sender("mapa.shared::cluster.u32 %r13, %r10, 2;"),
             Contains("no block 2 in a cluster of 2"));
  CHECK_THAT(message_of_sender("mapa.shared::cluster.u32 %r13, %r12, 0;"),
             Contains("no address of the block's own"));
  CHECK_THAT(
      message_of_sender("add.s32 %r12, %r12, 0x1000000;" + store + "u32 [%r12+16], 1, [%r12];"),
      Contains("no shared memory of a cluster of 2 blocks"));
}

TEST_CASE("stores to another block that are wrong", "[ptx_machine]") {
  const std::string four = "v4.f32 [%r12+24], {%f4, %f4, %f4, %f4}, [%r12];";
  CHECK_THAT(message_of_sender(store + four),
             Contains("to the cluster's block 1") && Contains("no multiple of 16"));
  CHECK_THAT(message_of_sender(store + "v2.f64 [%r12+64], {%fd4, %fd4}, [%r12];"),
             Contains("outside the block's 64"));
  CHECK_THAT(message_of_sender(store + "s32 [%r12+16], %r10, [%r10];"),
             Contains("the cluster's block 1, and its mbarrier is in block 0"));
  CHECK_THAT(message_of_sender(store + "b32 [%r12+16], %r10, [%r12+24];"),
             Contains("no mbarrier has been initialised"));
  const std::string good = store + "b32 [%r12+16], %r10, [%r12];";
  CHECK_THAT(message_of_sender(good, without(ready, "fence.mbarrier_init.release.cluster;")),
             Contains("before a fence.mbarrier_init"));
  CHECK_THAT(message_of(ready + store + "b32 [%r10+16], %r10, [%r10];", {.shared_bytes = 64}),
             Contains("cluster of one block"));
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    CHECK_THAT(message_of_sender(good, ready, seed),
               Contains("block 0 to it is under way") || Contains("without a wait"));
    const std::string no_wait = without(without(ready, "barrier.cluster.arrive.release.aligned;"),
                                        "barrier.cluster.wait.acquire.aligned;");
    CHECK_THAT(message_of_sender(good, no_wait, seed),
               Contains("no barrier between") || Contains("no mbarrier has been initialised"));
    // Between a cluster's arrival and its wait nobody knows of anything.
    std::string early = ready;
    early.replace(early.find("barrier.cluster.wait.acquire.aligned;"), 37, "");
    CHECK_THAT(
        message_of(early + R"(
  mapa.shared::cluster.u32 %r12, %r10, 1;
  setp.ne.or.s32 %p1, %r11, 0, %p1;
  @!%p1 )" + good + "barrier.cluster.wait.acquire.aligned;",
                   {.blocks = 2, .shared_bytes = 64, .seed = seed, .directives = cluster_of(2)}),
        Contains("no barrier between") || Contains("no mbarrier has been initialised"));
    // Block 1 ends at once.
    CHECK_THAT(
        message_of(ready + R"(
  mapa.shared::cluster.u32 %r12, %r10, 1;
  setp.ne.or.s32 %p1, %r11, 0, %p1;
  @!%p1 )" + good,
                   {.blocks = 2, .shared_bytes = 64, .seed = seed, .directives = cluster_of(2)}),
        Contains("has ended") || Contains("under way") || Contains("without a wait"));
  }
}

TEST_CASE("behind relaxed arrivals all know of mbarriers that were fenced", "[ptx_machine]") {
  const std::string fence = "fence.mbarrier_init.release.cluster;";
  std::string init_behind = ready;  // The second mbarrier's.
  init_behind.replace(init_behind.find("mbarrier.init.shared::cta.b64 [%r10+8]"), 0, fence);
  init_behind.erase(init_behind.rfind(fence), fence.size());
  std::string fenced_by_other = without(ready, fence);
  fenced_by_other.insert(fenced_by_other.find("$READY:") + 7,
                         "setp.lt.u32 %p2, %r1, 32; @!%p2 " + fence);
  const auto is_unknown = Contains("no barrier between that and this use");
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    INFO("seed " << seed);
    const words out = results(relaxed(ready) + exchange, {}, two_blocks(seed));
    for (std::uint32_t i = 0; i < out.size(); ++i) {
      REQUIRE(out[i] == 1 - i / 64);
    }
    CHECK(message_of(relaxed(ring), ring_of(4, seed)).empty());
    CHECK_THAT(message_of(relaxed(without(ready, fence)) + exchange, two_blocks(seed)), is_unknown);

    CHECK(message_of_other_warp(relaxed(ready), seed).empty());
    CHECK(message_of_other_warp(without(ready, fence), seed).empty());
    CHECK_THAT(message_of_other_warp(relaxed(without(ready, fence)), seed), is_unknown);
    CHECK_THAT(message_of_other_warp(relaxed(init_behind), seed), is_unknown);
    CHECK_THAT(message_of_other_warp(relaxed(fenced_by_other), seed), is_unknown);
  }
}

TEST_CASE("behind relaxed arrivals nobody knows of plain stores", "[ptx_machine]") {
  const auto is_race = Contains("race: shared byte 24: write by warp 0");
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    INFO("seed " << seed);
    CHECK_THAT(message_of_readers("", relaxed(ready), seed), is_race);
    CHECK(message_of_readers("", ready, seed).empty());
    CHECK(message_of_readers("bar.sync 0;", relaxed(ready), seed).empty());
    CHECK(message_of_readers("", relaxed(ready) + "bar.sync 0;", seed).empty());
    // A fence releases what its warp did before.
    CHECK(message_of_readers("fence.acq_rel.cluster;", relaxed(ready), seed).empty());
    CHECK(message_of_readers("fence.acq_rel.gpu;", relaxed(ready), seed).empty());
    CHECK_THAT(message_of_readers("@!%p2 fence.acq_rel.gpu;", relaxed(ready), seed), is_race);
    CHECK_THAT(message_of_readers(
                   "fence.acq_rel.gpu; @!%p1 st.shared.u32 [dynamic+24], 8;", relaxed(ready), seed),
               is_race);
    // Nor does another block, which stores there.
    const std::string own = "setp.ne.s32 %p1, %r1, 0; @!%p1 st.shared.u32 [dynamic+16], 7;";
    CHECK_THAT(message_of(own + relaxed(ready) + exchange, two_blocks(seed)),
               Contains("race: shared byte 16: write by warp 0") &&
                   Contains("write by what completes on the mbarrier at byte 0"));
    CHECK(message_of(own + ready + exchange, two_blocks(seed)).empty());
    CHECK(message_of(own + "fence.acq_rel.cluster;" + relaxed(ready) + exchange, two_blocks(seed))
              .empty());
  }
}
