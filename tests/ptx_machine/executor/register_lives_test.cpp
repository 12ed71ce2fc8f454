// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Registers share places only where neither holds something that may still be read.
#include "machine.hpp"
#include "register_lives.hpp"

#include <catch2/catch.hpp>
#include <ptx_machine/block/memory_map.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

using namespace oriel::ptx_machine;  // NOLINT: a test

namespace {

module parsed(const std::string& body) {
  return parse(R"(.version 9.0
.target sm_90a
.address_size 64
.visible .entry test(.param .u64 out)
{
  .reg .pred %p<4>; .reg .b32 %r<16>; .reg .f32 %f<16>; .reg .b64 %rd<8>;
)" + body + "\n}\n",
               "test");
}

std::uint32_t index_of(const kernel& k, const std::string& name) {
  const auto at = std::find_if(k.registers.begin(), k.registers.end(), [&](const register_info& r) {
    return r.name == name;
  });
  REQUIRE(at != k.registers.end());
  return static_cast<std::uint32_t>(at - k.registers.begin());
}

struct found {
  explicit found(const std::string& body)
      : text(parsed(body)), of(text.kernels.at(0)), lives(register_lives(text, of)) {
    places = place_lives(of, lives, counts);
  }
  [[nodiscard]] const register_life& life(const std::string& name) const {
    return lives[index_of(of, name)];
  }
  [[nodiscard]] std::uint32_t place(const std::string& name) const {
    return places[index_of(of, name)];
  }

  module text;
  const kernel& of;
  std::vector<register_life> lives;
  std::uint32_t counts[4];
  std::vector<std::uint32_t> places;
};

}  // namespace

TEST_CASE("a register's place is another's once nobody reads it", "[ptx_machine]") {
  const found f(
      "mov.u32 %r1, 1; add.s32 %r2, %r1, 1; add.s32 %r3, %r2, 1; add.s32 %r4, %r3, 1;"
      "add.s32 %r5, %r4, %r2; ret;");
  CHECK(f.life("%r1").first == 0);
  CHECK(f.life("%r1").last == 1);
  CHECK(f.place("%r2") != f.place("%r1"));  // An instruction's source and destination never share.
  CHECK(f.place("%r3") == f.place("%r1"));
  CHECK(f.place("%r4") != f.place("%r2"));
  CHECK(f.counts[static_cast<std::size_t>(register_class::b32)] == 3);
  CHECK_FALSE(f.life("%r6").exists());
}

TEST_CASE("what a loop reads again lives all through it", "[ptx_machine]") {
  const found f(
      "mov.u32 %r1, 0; mov.u32 %r2, 7; $L_again: add.s32 %r1, %r1, %r2; mov.u32 %r3, %r1;"
      "setp.lt.s32 %p1, %r3, 100; @%p1 bra $L_again; mov.u32 %r4, 1; ret;");
  CHECK(f.life("%r2").first == 1);
  CHECK(f.life("%r2").last == 5);
  CHECK(f.place("%r3") != f.place("%r1"));
  CHECK(f.place("%r3") != f.place("%r2"));
}

TEST_CASE("only a write that every way and lane passes is one", "[ptx_machine]") {
  const found f(
      "mov.u32 %r1, %tid.x; setp.eq.s32 %p1, %r1, 3; @%p1 mov.u32 %r2, 1;"
      "add.s32 %r3, %r2, 1; @%p1 bra $L_past; mov.u32 %r4, 1; $L_past: add.s32 %r5, %r4, %r3;"
      "mov.u32 %r6, 1; add.s32 %r7, %r6, %r5; ret;");
  CHECK(f.life("%r2").unwritten);
  CHECK(f.life("%r4").unwritten);
  for (const std::string r : {"%r1", "%r3", "%r5", "%r6", "%r7"}) {
    CHECK_FALSE(f.life(r).unwritten);
  }
  CHECK(f.life("%r4").first == 0);
}

TEST_CASE("what no instruction has written is ones in every block of a launch", "[ptx_machine]") {
  // Four blocks, one after another: what one leaves in its registers the next must not find.
  const module m = parsed(
      "ld.param.u64 %rd1, [out]; mov.u32 %r1, %ctaid.x; mul.wide.u32 %rd2, %r1, 4;"
      "add.s64 %rd1, %rd1, %rd2; setp.eq.s32 %p1, %r1, 77; @%p1 mov.u32 %r2, 1;"
      "st.global.u32 [%rd1], %r2; mov.u32 %r2, 5; add.s32 %r3, %r2, %r2; mov.u32 %r4, %r3;"
      "st.global.u32 [%rd1+16], %r4; ret;");
  std::vector<std::uint32_t> out(8);
  const auto address = reinterpret_cast<std::uint64_t>(out.data());
  memory_map::of_process().add(address, out.size() * 4);
  run(m,
      m.kernels.at(0),
      {.grid = {4}, .block = {32}, .seed = 1, .multiprocessors = 1},
      std::as_bytes(std::span(&address, 1)));
  memory_map::of_process().remove(address);
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(out[i] == 0xFFFFFFFF);
    CHECK(out[4 + i] == 10);
  }
}
