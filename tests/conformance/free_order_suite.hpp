// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The law of `free_order`, as Catch2 checks:
///
///     TEST_CASE("lifo_order is a free_order") { check_free_order<oriel::lifo_order>(); }
#pragma once

#include <oriel/kv/free_order.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <set>

template <oriel::free_order Order>
void check_free_order() {
  constexpr std::uint32_t capacity = 5;
  Order order(capacity);
  REQUIRE(order.size() == capacity);

  SECTION("a new one gives all pages from 0 upwards") {
    for (std::uint32_t i = 0; i < capacity; ++i) {
      CHECK(to_index(order.pop()) == i);
    }
    CHECK(order.size() == 0);
  }
  SECTION("it holds what was pushed and not popped, whatever the mixture") {
    std::set<std::uint32_t> out;
    for (std::uint32_t round = 0; round < 100; ++round) {
      for (std::uint32_t i = 0; i < 1 + round % capacity; ++i) {
        CHECK(out.insert(to_index(order.pop())).second);
        CHECK(*out.rbegin() < capacity);
      }
      CHECK(order.size() == capacity - out.size());
      while (out.size() > round % 2) {
        const auto which = (round % 3 != 0) ? out.begin() : std::prev(out.end());
        order.push(oriel::page_id{*which});
        out.erase(which);
      }
      while (!out.empty()) {
        order.push(oriel::page_id{*out.begin()});
        out.erase(out.begin());
      }
      CHECK(order.size() == capacity);
    }
  }
}
