// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/dispatch.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <vector>

using oriel::dispatch_static;

TEST_CASE("dispatch_static calls with the constant that equals the value, once") {
  for (const std::uint32_t value : {64u, 128u, 192u}) {
    std::vector<std::uint32_t> called;
    const bool found = dispatch_static<64, 128, 192>(value, [&](auto constant) {
      static_assert(decltype(constant)::value % 64 == 0);  // A constant, not a variable.
      called.push_back(constant);
    });
    CHECK(found);
    CHECK(called == std::vector{value});
  }
}

TEST_CASE("dispatch_static calls nothing for other values") {
  bool called = false;
  const auto note = [&](auto) { called = true; };
  CHECK_FALSE(dispatch_static<64, 128>(65, note));
  CHECK_FALSE(dispatch_static<64, 128>(0, note));
  CHECK_FALSE(dispatch_static<>(64, note));
  CHECK_FALSE(called);
}

TEST_CASE("dispatch_static runs at compile time, and takes the first of equal constants") {
  static_assert(dispatch_static<1, 2>(2, [](auto constant) { static_cast<void>(constant); }));
  int calls = 0;
  CHECK(dispatch_static<8, 8>(8, [&](auto) { ++calls; }));
  CHECK(calls == 1);
}
