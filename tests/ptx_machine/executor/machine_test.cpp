// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Small kernels, each for one rule of the ISA.
#include "small_kernels.hpp"

#include <catch2/catch.hpp>

#include <bit>
#include <limits>
#include <string>
#include <vector>

using namespace oriel::ptx_machine;  // NOLINT: a test

namespace {

/// The last line of a body: what %rd9 has to be for the result's register.
std::string widen(const std::string& code) {
  if (code.find("%rd9") != std::string::npos) {
    return "";
  }
  if (code.find("%rs9") != std::string::npos) {
    return "cvt.u64.u16 %rd9, %rs9;";
  }
  if (code.find("%fd9") != std::string::npos) {
    return "mov.b64 %rd9, %fd9;";
  }
  if (code.find("%f9") != std::string::npos) {
    return "mov.b32 %r9, %f9; cvt.u64.u32 %rd9, %r9;";
  }
  return code.find("%p9") != std::string::npos ? "selp.b64 %rd9, 1, 0, %p9;"
                                               : "cvt.u64.u32 %rd9, %r9;";
}

/// What an instruction makes of up to three values.
std::uint64_t value(const std::string& code, const words& in) {
  const words out = results(code + widen(code), in, {.threads = 1});
  return out.at(0);
}

std::uint64_t bits(float f) {
  return std::bit_cast<std::uint32_t>(f);
}
std::uint64_t bits(double d) {
  return std::bit_cast<std::uint64_t>(d);
}

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr std::uint64_t canonical_nan = 0x7FFFFFFF;

using Catch::Matchers::Contains;

}  // namespace

TEST_CASE("integers wrap, and their high halves are exact", "[ptx_machine]") {
  CHECK(value("add.s32 %r9, %r4, %r5;", {0xFFFFFFFF, 3}) == 2);
  CHECK(value("sub.s64 %rd9, %rd4, %rd5;", {1, 2}) == ~std::uint64_t{0});
  CHECK(value("mul.lo.s32 %r9, %r4, %r5;", {0x10001, 0x10001}) == 0x20001);
  CHECK(value("mul.hi.u64 %rd9, %rd4, %rd5;", {~0ULL, ~0ULL}) == ~0ULL - 1);
  CHECK(value("mul.wide.u32 %rd9, %r4, %r5;", {0xFFFFFFFF, 0xFFFFFFFF}) == 0xFFFFFFFE00000001);
  CHECK(value("mul.wide.s32 %rd9, %r4, %r5;", {0xFFFFFFFF, 5}) == static_cast<std::uint64_t>(-5));
  CHECK(value("mul.wide.u16 %r9, %rs4, %rs5;", {0xFFFF, 0xFFFF}) == 0xFFFE0001);
  CHECK(value("mad.wide.u32 %rd9, %r4, %r5, %rd6;", {0xFFFFFFFF, 2, 5}) == 0x200000003);
  CHECK(value("mad.lo.s32 %r9, %r4, -3, %r6;", {7, 0, 1}) == static_cast<std::uint32_t>(-20));
}

TEST_CASE("division truncates, and by zero gives ones", "[ptx_machine]") {
  CHECK(value("div.u32 %r9, %r4, %r5;", {0xFFFFFFFF, 2}) == 0x7FFFFFFF);
  CHECK(value("div.s32 %r9, %r4, %r5;", {static_cast<std::uint32_t>(-7), 2}) ==
        static_cast<std::uint32_t>(-3));
  CHECK(value("rem.s32 %r9, %r4, %r5;", {static_cast<std::uint32_t>(-7), 2}) == 0xFFFFFFFF);
  CHECK(value("div.s32 %r9, %r4, %r5;", {0x80000000, 0xFFFFFFFF}) == 0x80000000);
  CHECK(value("div.u64 %rd9, %rd4, %rd5;", {5, 0}) == ~0ULL);
}

TEST_CASE("shift counts clamp at the width", "[ptx_machine]") {
  CHECK(value("shl.b32 %r9, %r4, %r5;", {1, 31}) == 0x80000000);
  CHECK(value("shl.b32 %r9, %r4, %r5;", {1, 32}) == 0);
  CHECK(value("shr.u32 %r9, %r4, %r5;", {0x80000000, 33}) == 0);
  CHECK(value("shr.s32 %r9, %r4, %r5;", {0x80000000, 40}) == 0xFFFFFFFF);
  CHECK(value("shr.s64 %rd9, %rd4, %r5;", {1ULL << 63, 64}) == ~0ULL);
  CHECK(value("shl.b64 %rd9, %rd4, %r5;", {1, 0x100000001}) == 2);
  CHECK(value("shl.b16 %rs9, %rs4, %r5;", {0xFFFF, 8}) == 0xFF00);
}

TEST_CASE("bits are put in and counted", "[ptx_machine]") {
  CHECK(value("bfi.b32 %r9, %r4, %r5, 8, 4;", {0xABCD, 0xFFFFFFFF}) == 0xFFFFFDFF);
  CHECK(value("bfi.b32 %r9, %r4, %r5, 28, 8;", {0xAB, 0}) == 0xB0000000);
  CHECK(value("bfi.b64 %rd9, %rd4, %rd5, 32, 32;", {7, 9}) == 0x700000009);
  CHECK(value("bfi.b32 %r9, %r4, %r5, 0, 0;", {7, 9}) == 9);
  CHECK(value("popc.b32 %r9, %r4;", {0xF0F0F0F1}) == 17);
  CHECK(value("mov.b64 {%r10, %r11}, %rd4; mov.b64 %rd9, {%r11, %r10};", {0x1122334455667788}) ==
        0x5566778811223344);
  CHECK(value("mov.b32 %r9, {%rs4, %rs5};", {0x1111, 0x2222}) == 0x22221111);
}

TEST_CASE("floats round once, keep denormals and give one NaN", "[ptx_machine]") {
  const float e = 0x1p-12F;
  CHECK(value("fma.rn.f32 %f9, %f4, %f5, %f6;", {bits(1 + e), bits(1 + e), bits(-1 - 2 * e)}) ==
        bits(e * e));
  CHECK(value("mul.rn.f32 %f10, %f4, %f5; add.rn.f32 %f9, %f10, %f6;",
              {bits(1 + e), bits(1 + e), bits(-1 - 2 * e)}) == bits(0.0F));
  CHECK(value("mul.rn.f32 %f9, %f4, %f5;", {bits(0x1p-100F), bits(0x1p-40F)}) == bits(0x1p-140F));
  CHECK(value("sub.rn.f32 %f9, %f4, %f5;", {bits(infinity), bits(infinity)}) == canonical_nan);
  CHECK(value("div.rn.f32 %f9, %f4, %f5;", {bits(1.0F), bits(3.0F)}) == bits(1.0F / 3.0F));
  CHECK(value("neg.f32 %f9, %f4;", {bits(0.0F)}) == bits(-0.0F));
  CHECK(value("fma.rn.f64 %fd9, %fd4, %fd5, %fd6;", {bits(0.1), bits(10.0), bits(-1.0)}) ==
        bits(0x1p-54));
}

TEST_CASE("min and max prefer numbers, and order zeros by sign", "[ptx_machine]") {
  CHECK(value("max.f32 %f9, %f4, %f5;", {bits(not_a_number), bits(-1.0F)}) == bits(-1.0F));
  CHECK(value("min.f32 %f9, %f4, %f5;", {bits(2.0F), bits(not_a_number)}) == bits(2.0F));
  CHECK(value("max.f32 %f9, %f4, %f5;", {0xFFFFFFFF, 0x7F800001}) == canonical_nan);
  CHECK(value("max.f32 %f9, %f4, %f5;", {bits(-0.0F), bits(0.0F)}) == bits(0.0F));
  CHECK(value("min.f32 %f9, %f4, %f5;", {bits(0.0F), bits(-0.0F)}) == bits(-0.0F));
}

TEST_CASE("approximate functions flush denormals where they say so", "[ptx_machine]") {
  CHECK(value("ex2.approx.ftz.f32 %f9, %f4;", {bits(3.0F)}) == bits(8.0F));
  CHECK(value("ex2.approx.ftz.f32 %f9, %f4;", {bits(-130.0F)}) == bits(0.0F));
  CHECK(value("ex2.approx.ftz.f32 %f9, %f4;", {bits(-infinity)}) == bits(0.0F));
  CHECK(value("rcp.approx.ftz.f32 %f9, %f4;", {bits(-0x1p-140F)}) == bits(-infinity));
  CHECK(value("rcp.rn.f32 %f9, %f4;", {bits(0x1p126F)}) == bits(0x1p-126F));
}

TEST_CASE("conversions round to nearest even and saturate", "[ptx_machine]") {
  CHECK(value("cvt.rn.bf16.f32 %rs9, %f4;", {0x3F808000}) == 0x3F80);
  CHECK(value("cvt.rn.bf16.f32 %rs9, %f4;", {0x3F818000}) == 0x3F82);
  CHECK(value("cvt.rn.bf16.f32 %rs9, %f4;", {0xFF800001}) == 0x7FFF);
  CHECK(value("cvt.rn.bf16x2.f32 %r9, %f4, %f5;", {bits(1.0F), bits(2.0F)}) == 0x3F804000);
  CHECK(value("cvt.rn.satfinite.e4m3x2.f32 %rs9, %f4, %f5;", {bits(1e9F), bits(-1.0F)}) == 0x7EB8);
  CHECK(value("cvt.rn.satfinite.e4m3x2.f32 %rs9, %f4, %f5;", {bits(0x1p-10F), bits(0x3p-10F)}) ==
        0x0002);
  CHECK(value("cvt.rn.satfinite.e4m3x2.f32 %rs9, %f4, %f5;", {bits(not_a_number), bits(15.5F)}) ==
        0x7F58);
  CHECK(value("mul.rn.bf16x2 %r9, %r4, %r5;", {0x3F814000, 0x3F81C000}) == 0x3F82C080);
  CHECK(value("cvt.rn.f32.u32 %f9, %r4;", {0xFFFFFFFF}) == bits(0x1p32F));
  CHECK(value("cvt.rz.f32.u32 %f9, %r4;", {0xFFFFFFFF}) == bits(4294967040.0F));
  CHECK(value("cvt.rzi.u32.f32 %r9, %f4;", {bits(-5.0F)}) == 0);
  CHECK(value("cvt.rzi.s32.f32 %r9, %f4;", {bits(1e20F)}) == 0x7FFFFFFF);
  CHECK(value("cvt.rzi.s32.f32 %r9, %f4;", {bits(not_a_number)}) == 0);
  CHECK(value("cvt.rni.f64.f64 %fd9, %fd4;", {bits(2.5)}) == bits(2.0));
  CHECK(value("cvt.rn.f32.f64 %f9, %fd4;", {bits(1.0 + 0x1p-24)}) == bits(1.0F));
  CHECK(value("cvt.s64.s32 %rd9, %r4;", {0x80000000}) == 0xFFFFFFFF80000000);
  CHECK(value("cvt.u16.u8 %rs9, %rs4;", {0x1FF}) == 0xFF);
}

TEST_CASE("comparisons of NaN, and their combinations", "[ptx_machine]") {
  const words nan_and_one{bits(not_a_number), bits(1.0F)};
  CHECK(value("setp.ne.f32 %p9, %f4, %f5;", nan_and_one) == 0);
  CHECK(value("setp.neu.f32 %p9, %f4, %f5;", nan_and_one) == 1);
  CHECK(value("setp.lt.f32 %p9, %f4, %f5;", nan_and_one) == 0);
  CHECK(value("setp.ltu.f32 %p9, %f4, %f5;", nan_and_one) == 1);
  CHECK(value("setp.geu.f32 %p9, %f4, %f5;", nan_and_one) == 1);
  CHECK(value("setp.nan.f32 %p9, %f4, %f5;", nan_and_one) == 1);
  CHECK(value("setp.num.f32 %p9, %f5, %f5;", nan_and_one) == 1);
  CHECK(value("setp.lt.s32 %p9, %r4, %r5;", {0xFFFFFFFF, 0}) == 1);
  CHECK(value("setp.lt.u32 %p9, %r4, %r5;", {0xFFFFFFFF, 0}) == 0);
  CHECK(value("setp.eq.s32 %p1, %r4, %r4; setp.lt.and.s32 %p9, %r4, %r5, !%p1;", {1, 2}) == 0);
  // The second destination has the opposite comparison, combined in the same way.
  CHECK(value("setp.eq.s32 %p1, %r4, %r4; setp.lt.or.s32 %p2|%p9, %r4, %r5, !%p1;", {1, 2}) == 0);
  CHECK(value("setp.lt.s32 %p2|%p9, %r4, %r5;", {3, 2}) == 1);
}

TEST_CASE("lanes that part meet again", "[ptx_machine]") {
  // After the two branches all 32 lanes vote together.
  const words out = results(R"(
  and.b32 %r10, %r1, 3;
  setp.eq.s32 %p1, %r10, 0;
  @%p1 bra $ONE;
  mov.u32 %r11, 5;
  bra.uni $BOTH;
$ONE:
  mov.u32 %r11, 7;
$BOTH:
  setp.eq.s32 %p2, %r11, 7;
  vote.sync.ballot.b32 %r12, %p2, -1;
  cvt.u64.u32 %rd9, %r12;)");
  for (const std::uint64_t ballot : out) {
    CHECK(ballot == 0x11111111);
  }
}

TEST_CASE("loops of different lengths, and lanes that leave early", "[ptx_machine]") {
  const words out = results(R"(
  setp.eq.s32 %p3, %r1, 5;
  @%p3 ret;
  mov.u32 %r10, 0;
$AGAIN:
  add.s32 %r10, %r10, 1;
  setp.le.u32 %p1, %r10, %r1;
  @%p1 bra $AGAIN;
  redux.sync.max.u32 %r11, %r10, -1;
  mad.lo.s32 %r12, %r11, 100, %r10;
  cvt.u64.u32 %rd9, %r12;)");
  for (std::uint32_t i = 0; i < 32; ++i) {
    CHECK(out[i] == (i == 5 ? 0 : 3200 + i + 1));
  }
}

TEST_CASE("lanes that spin let others of their warp go on", "[ptx_machine]") {
  const words out = results(R"(
  mov.u32 %r10, dynamic;
  setp.ne.s32 %p1, %r1, 0;
  @%p1 bra $WAIT;
  mbarrier.init.shared::cta.b64 [%r10], 1;
$WAIT:
  bar.warp.sync -1;
  setp.eq.s32 %p2, %r1, 9;
  @%p2 bra $ARRIVE;
$SPIN:
  mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r10], 0;
  @!%p3 bra $SPIN;
  bra.uni $END;
$ARRIVE:
  mbarrier.arrive.shared::cta.b64 _, [%r10];
$END:
  mov.u64 %rd9, 1;)",
                            {},
                            {.shared_bytes = 16});
  CHECK(out == words(32, 1));
}

TEST_CASE("shuffles keep to their segments", "[ptx_machine]") {
  const auto shuffled = [](const std::string& operands) {
    return results("mov.u32 %r11, 99; shfl.sync." + operands + R"(, -1;
      selp.u32 %r12, 1000, 0, %p1;
      add.s32 %r12, %r12, %r10;
      cvt.u64.u32 %rd9, %r12;)");
  };
  const words up = shuffled("up.b32 %r10|%p1, %r1, 3, 0");
  CHECK(up[2] == 2);
  CHECK(up[3] == 1000);
  const words down = shuffled("down.b32 %r10|%p1, %r1, 2, 0x181f");
  CHECK(down[5] == 1007);
  CHECK(down[6] == 6);
  const words idx = shuffled("idx.b32 %r10|%p1, %r1, 9, 0x181f");
  CHECK(idx[17] == 1017);
  const words bfly = shuffled("bfly.b32 %r10|%p1, %r1, 16, 0x1f");
  CHECK(bfly[31] == 1015);
  CHECK(shuffled("bfly.b32 %r10|%p1, %r1, 8, 0x7")[3] == 3);
  CHECK_THAT(message_of("setp.lt.u32 %p1, %r1, 16; @!%p1 bra $END;\n"
                        "shfl.sync.idx.b32 %r10, %r1, 20, 31, 0xffff;\n$END:"),
             Contains("takes no part"));
}

TEST_CASE("match and reduce take the members of their mask", "[ptx_machine]") {
  const words match = results(R"(
  and.b32 %r10, %r1, 1;
  match.any.sync.b32 %r11, %r10, -1;
  cvt.u64.u32 %rd9, %r11;)");
  CHECK(match[4] == 0x55555555);
  CHECK(match[7] == 0xAAAAAAAA);
  const words sums = results(R"(
  setp.lt.u32 %p1, %r1, 4;
  selp.b32 %r10, 0xf, 0xfffffff0, %p1;
  redux.sync.add.u32 %r11, %r1, %r10;
  cvt.u64.u32 %rd9, %r11;)");
  CHECK(sums[0] == 6);
  CHECK(sums[31] == 490);
  CHECK_THAT(message_of("vote.sync.any.pred %p2, %p1, 0xff;"), Contains("own membermask"));
}

TEST_CASE("local memory is each lane's, and begins with ones", "[ptx_machine]") {
  const words out = results(R"(
  mov.u64 %rd10, own;
  add.u64 %rd11, %rd10, 8;
  st.local.u32 [%rd11], %r1;
  ld.local.v2.u32 {%r10, %r11}, [%rd10+8];
  mov.b64 %rd9, {%r10, %r11};)");
  CHECK(out[7] == 0xFFFFFFFF00000007);
  CHECK_THAT(message_of("mov.u64 %rd10, own; st.local.u32 [%rd10+32], %r1;"),
             Contains("local memory"));
}

TEST_CASE("warps exchange words through barriers", "[ptx_machine]") {
  const std::string body = R"(
  mov.u32 %r10, dynamic;
  shl.b32 %r11, %r1, 2;
  add.s32 %r11, %r11, %r10;
  st.shared.u32 [%r11], %r1;
  bar.sync 0;
  xor.b32 %r12, %r1, 96;
  shl.b32 %r12, %r12, 2;
  add.s32 %r12, %r12, %r10;
  ld.shared.u32 %r13, [%r12];
  cvt.u64.u32 %rd9, %r13;)";
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    const words out =
        results(body, {}, {.threads = 128, .blocks = 9, .shared_bytes = 512, .seed = seed});
    for (std::uint32_t i = 0; i < out.size(); ++i) {
      REQUIRE(out[i] == ((i % 128) ^ 96));
    }
  }
  // The same without the barrier is a race.
  std::string racy = body;
  racy.replace(racy.find("bar.sync 0;"), 11, "");
  CHECK_THAT(message_of(racy, {.threads = 128, .shared_bytes = 512}), Contains("ld.shared.u32"));
}

TEST_CASE("barriers count threads", "[ptx_machine]") {
  // Warps 0 and 1 meet at barrier 1, 2 and 3 at barrier 2; then all, but those that have left.
  const std::string body = R"(
  shr.u32 %r10, %r1, 6;
  add.s32 %r10, %r10, 1;
  bar.sync %r10, 64;
  setp.lt.u32 %p1, %r1, 32;
  @%p1 ret;
  bar.sync 0;
  mov.u64 %rd9, 3;)";
  const words out = results(body, {}, {.threads = 128});
  CHECK(out[31] == 0);
  CHECK(out[32] == 3);
  CHECK(out[127] == 3);
  CHECK_THAT(message_of("bar.sync 1, 33;"), Contains("33 threads"));
  CHECK_THAT(message_of("setp.lt.u32 %p1, %r1, 32; selp.b32 %r10, 64, 96, %p1; bar.sync 1, %r10;",
                        {.threads = 128}),
             Contains("at which others wait"));
  CHECK_THAT(message_of("setp.lt.u32 %p1, %r1, 32;\n@%p1 bra $END;\nbar.sync 1, 64;\n$END:",
                        {.threads = 64}),
             Contains("nothing can go on") && Contains("bar.sync") && Contains("warp 1"));
}

TEST_CASE("who arrives at a barrier and goes on does not wait for the others", "[ptx_machine]") {
  // Warp 0 writes and arrives, warp 1 waits and reads. Then the other way round, by another barrier.
  const std::string body = R"(
  .shared .align 4 .b8 word[8];
  mov.u32 %r10, word;
  setp.lt.u32 %p1, %r1, 32;
  mov.u64 %rd9, 5;
  @!%p1 bra $SECOND;
  st.shared.u64 [%r10], %rd9;
  bar.arrive 1, 64;
  bar.sync 2, 64;
  ld.shared.u64 %rd9, [%r10];
  bra $END;
$SECOND:
  bar.sync 1, 64;
  ld.shared.u64 %rd9, [%r10];
  add.u64 %rd9, %rd9, 1;
  st.shared.u64 [%r10], %rd9;
  bar.arrive 2, 64;
$END:)";
  const auto without = [&](const std::string& line, const std::string& with) {
    std::string changed = body;
    changed.replace(changed.find(line), line.size(), with);
    return changed;
  };
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    const words out = results(body, {}, {.threads = 64, .seed = seed});
    CHECK(out[0] == 6);
    CHECK(out[63] == 6);
  }
  const shape two{.threads = 64};
  CHECK_THAT(message_of(without("bar.sync 2, 64;", ""), two), Contains("race"));
  CHECK_THAT(message_of(without("bar.arrive 1, 64;", ""), two), Contains("nothing can go on"));
  CHECK_THAT(message_of(without("bar.arrive 1, 64;", "bar.arrive 1, 64; bar.arrive 1, 64;"), two),
             Contains("has arrived at barrier 1 before"));
  CHECK_THAT(message_of("bar.arrive 1, 33;"), Contains("33 threads"));
  CHECK_THAT(message_of("bar.arrive 1, 64;", two), !Contains("ends with barrier"));
  CHECK_THAT(message_of("setp.lt.u32 %p1, %r1, 32;\n@%p1 bra $END;\nbar.arrive 1, 64;\n$END:", two),
             Contains("ends with barrier 1"));
}

TEST_CASE("a warp that spins for what never comes is found", "[ptx_machine]") {
  CHECK_THAT(message_of(R"(
  mov.u32 %r10, dynamic;
  setp.ne.s32 %p1, %r1, 0;
  @%p1 bra $SPIN;
  mbarrier.init.shared::cta.b64 [%r10], 2;
  mbarrier.arrive.shared::cta.b64 _, [%r10];
$SPIN:
  bar.warp.sync -1;
  mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r10], 0;
  @!%p3 bra $SPIN;)",
                        {.shared_bytes = 16}),
             Contains("nothing can go on"));
}

TEST_CASE("a warp that has not converged where it must is found", "[ptx_machine]") {
  const std::string message = message_of(R"(
  setp.lt.u32 %p1, %r1, 16;
  @%p1 bra $LOW;
  bar.sync 0;
  bra.uni $END;
$LOW:
  bar.sync 0;
$END:)");
  CHECK_THAT(message, Contains("not converged") && Contains("0xffff0000") && Contains("0xffff "));
  CHECK_THAT(message_of("setp.lt.u32 %p1, %r1, 16;\n@%p1 bar.sync 0;"), Contains("leaves out"));
  CHECK_THAT(message_of("setp.lt.u32 %p1, %r1, 16;\n@%p1 bra.uni $END;\n$END:"),
             Contains("bra.uni"));
}

TEST_CASE("addresses have to be right", "[ptx_machine]") {
  CHECK_THAT(message_of("ld.global.u32 %r10, [%rd1+512];"),
             Contains("no global memory") && Contains("lane 0") && Contains("ld.global.u32"));
  CHECK_THAT(message_of("ld.global.u32 %r10, [%rd1+-4];"), Contains("no global memory"));
  CHECK_THAT(message_of("ld.global.u32 %r10, [%rd1+2];"), Contains("not a multiple of 4"));
  CHECK_THAT(message_of("ld.global.v4.u32 {%r10, %r11, %r12, %r13}, [%rd1+4];"),
             Contains("not a multiple of 16"));
  CHECK_THAT(
      message_of("mov.u32 %r10, dynamic; ld.shared.u32 %r11, [%r10+16];", {.shared_bytes = 16}),
      Contains("shared memory") && Contains("0x10"));
  CHECK_THAT(message_of("ld.param.u64 %rd10, [out+8];"), Contains("parameters"));
  CHECK_THAT(message_of("ld.shared.u32 %r10, [dynamic+-4];", {.shared_bytes = 16}),
             Contains("shared memory"));
  CHECK(message_of("mov.u32 %r10, dynamic; cvt.u64.u32 %rd10, %r10; cvta.shared.u64 %rd11, %rd10;\n"
                   "ld.u32 %r11, [%rd11]; cvt.u64.u32 %rd9, %r11;",
                   {.shared_bytes = 16})
            .empty());
}

TEST_CASE("a launch has to fit its kernel", "[ptx_machine]") {
  CHECK_THAT(message_of("", {.threads = 64, .directives = ".maxntid 32, 1, 1"}),
             Contains("64 threads"));
  CHECK_THAT(message_of("", {.shared_bytes = 300'000}), Contains("shared memory"));
  CHECK_THAT(
      message_of("", {.blocks = 3, .directives = ".explicitcluster .reqnctapercluster 2, 1, 1"}),
      Contains("clusters"));
}

TEST_CASE("blocks of a cluster wait for each other", "[ptx_machine]") {
  // The first block of each pair writes a word; the other reads it behind the cluster's barrier.
  const std::string body = R"(
  mov.u32 %r10, %cluster_ctarank;
  setp.ne.s32 %p1, %r10, 0;
  @%p1 bra $MEET;
  st.global.u64 [%rd2+256], 77;
$MEET:
  barrier.cluster.arrive.release.aligned;
  barrier.cluster.wait.acquire.aligned;
  @!%p1 bra $END;
  ld.global.u64 %rd9, [%rd2];
$END:
  setp.eq.s32 %p2, %r10, 0;
  selp.b64 %rd9, 1, %rd9, %p2;)";
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    const words out = results(body,
                              {},
                              {.blocks = 6,
                               .seed = seed,
                               .directives = ".explicitcluster .reqnctapercluster 2, 1, 1",
                               .multiprocessors = 1});
    for (std::uint32_t i = 0; i < out.size(); ++i) {
      REQUIRE(out[i] == (i / 32 % 2 == 0 ? 1 : 77));
    }
  }
  CHECK_THAT(message_of("barrier.cluster.wait.acquire.aligned;"), Contains("has not arrived"));
}

TEST_CASE("lanes add to shared memory one after another", "[ptx_machine]") {
  const words out = results(R"(
  mov.u32 %r10, dynamic;
  st.shared.u32 [%r10], 0;
  bar.warp.sync -1;
  atom.shared.add.u32 %r11, [%r10], 2;
  bar.warp.sync -1;
  ld.shared.u32 %r12, [%r10];
  mov.b64 %rd9, {%r11, %r12};)",
                            {},
                            {.shared_bytes = 16});
  std::uint64_t seen = 0;
  for (const std::uint64_t word : out) {
    CHECK(word >> 32 == 64);
    seen |= 1ULL << ((word & 0xFFFFFFFF) / 2);
  }
  CHECK(seen == 0xFFFFFFFF);
}

TEST_CASE("registers of products in flight are not to be touched", "[ptx_machine]") {
  // Zeros times zeros, 64 x 8 x 16, without a swizzle.
  const std::string start = R"(
  mov.u32 %r10, dynamic;
  shl.b32 %r11, %r1, 5;
  add.s32 %r11, %r11, %r10;
  st.shared.v4.u32 [%r11], {0, 0, 0, 0};
  st.shared.v4.u32 [%r11+16], {0, 0, 0, 0};
  fence.proxy.async.shared::cta;
  bar.sync 0;
  setp.ne.s32 %p1, %r1, %r1;
  mov.u64 %rd10, 0x1000080000;
  wgmma.fence.sync.aligned;
  wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16
    {%f1, %f2, %f3, %f10}, %rd10, %rd10, %p1, 1, 1, 0, 0;
  wgmma.commit_group.sync.aligned;
)";
  const std::string use = "add.rn.f32 %f9, %f10, %f10;\n";
  const std::string wait = "wgmma.wait_group.sync.aligned 0;\n";
  const shape s{.threads = 128, .shared_bytes = 4096};
  CHECK(results(start + wait + use + widen("%f9"), {}, s) == words(128, 0));
  CHECK_THAT(message_of(start + use + wait, s),
             Contains("reads %f10") && Contains("a product in flight"));
}

TEST_CASE("a warp's bulk copy and its wait are the machine's", "[ptx_machine]") {
  const std::string body = R"(
  mov.u32 %r10, dynamic;
  setp.ne.s32 %p1, %r1, 0;
  @%p1 bra $WAIT;
  mbarrier.init.shared::cta.b64 [%r10], 1;
  fence.mbarrier_init.release.cluster;
  mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r10], 64;
  add.s32 %r11, %r10, 16;
  cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r11], [%rd1], 64, [%r10];
$WAIT:
  bar.sync 0;
$SPIN:
  mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r10], 0;
  @!%p3 bra $SPIN;
  and.b32 %r12, %r1, 7;
  shl.b32 %r12, %r12, 3;
  add.s32 %r12, %r12, %r10;
  ld.shared.u64 %rd9, [%r12+16];)";
  const words in{10, 11, 12, 13, 14, 15, 16, 17};
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    const words out = results(body, in, {.threads = 64, .shared_bytes = 80, .seed = seed});
    for (std::uint32_t i = 0; i < out.size(); ++i) {
      REQUIRE(out[i] == 10 + i % 8);
    }
  }
}
