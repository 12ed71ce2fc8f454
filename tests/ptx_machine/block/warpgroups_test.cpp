// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "async_block.hpp"
#include "warpgroups.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

namespace oriel::ptx_machine {
namespace {

/// One product of m64n8k16 with A's elements 1 and B's elements 2: every accumulator grows by 32.
struct product_of_ones : test_block {
  explicit product_of_ones(std::uint64_t seed = 1) : test_block(seed) {
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
  SECTION("and so where the product does not add to them") {
    b.all([&](const issuer& w) { products.commit(w); });
    b.all([&](const issuer& w) { CHECK(products.try_wait(w, 0)); });
    b.registers.at(0, 9, 3) = 0;
    CHECK(says(message([&] { products.multiply(b.warp(0), b.of(false)); }), "accumulator written"));
    products.fence(b.warp(0));
    CHECK_NOTHROW(products.multiply(b.warp(0), b.of(false)));
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
  test_block b;
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
