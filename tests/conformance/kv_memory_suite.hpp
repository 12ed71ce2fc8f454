// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The law of `kv_memory`, as Catch2 checks. Run it on any model, ours or yours:
///
///     TEST_CASE("host_memory is a kv_memory") { check_kv_memory<oriel::host_memory>(); }
#pragma once

#include <oriel/kv/memory.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

/// @param impossible_bytes  more than the policy can ever give.
template <oriel::kv_memory Memory>
void check_kv_memory(std::size_t impossible_bytes = std::size_t{1} << 60) {
  SECTION("nothing is a fine amount") {
    auto memory = Memory::reserve(0);
    REQUIRE(memory);
    CHECK(memory->base() == nullptr);
    CHECK(memory->size_bytes() == 0);
    CHECK(memory->commit(0));
  }
  SECTION("a refusal names its reason") {
    const auto memory = Memory::reserve(impossible_bytes);
    REQUIRE_FALSE(memory);
    CHECK(memory.error().code == oriel::errc::out_of_memory);
    CHECK(memory.error().native != 0);
    CHECK(std::strlen(memory.error().detail) > 0);
  }
  SECTION("commits grow, in place, and keep what was written") {
    constexpr std::size_t size = (std::size_t{40} << 20) + 4'096 + 64;
    auto memory = Memory::reserve(size);
    REQUIRE(memory);
    std::byte* const base = memory->base();
    REQUIRE(base != nullptr);
    CHECK(reinterpret_cast<std::uintptr_t>(base) % 64 == 0);
    CHECK(memory->size_bytes() == size);

    constexpr std::size_t stride = 61;
    const auto pattern = [](std::size_t i) { return static_cast<std::byte>(i * 31 % 251); };
    std::size_t written = 0, largest = 0;
    for (const std::size_t end : {std::size_t{1},
                                  std::size_t{4'097},
                                  std::size_t{17} << 20,
                                  std::size_t{100},
                                  std::size_t{33} << 20,
                                  size}) {
      REQUIRE(memory->commit(end));
      largest = std::max(largest, end);
      CHECK(memory->base() == base);
      CHECK(memory->committed_bytes() <= size);
      if constexpr (Memory::stores_bytes) {
        CHECK(memory->committed_bytes() >= largest);
        for (; written < largest; written += stride) {
          base[written] = pattern(written);
        }
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < written; i += stride) {
          wrong += base[i] != pattern(i) ? 1u : 0u;
        }
        CHECK(wrong == 0);
      } else {
        CHECK(memory->committed_bytes() == 0);
      }
    }
  }
  SECTION("moving hands over the range") {
    auto memory = Memory::reserve(100'000);
    REQUIRE(memory);
    REQUIRE(memory->commit(100'000));
    std::byte* const base = memory->base();
    Memory moved = std::move(*memory);
    CHECK(moved.base() == base);
    CHECK(moved.size_bytes() == 100'000);
    CHECK(memory->base() == nullptr);
    moved = Memory{std::move(moved)};
    CHECK(moved.base() == base);
    if constexpr (Memory::stores_bytes) {
      base[99'999] = std::byte{1};
    }
  }
}
