// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/result.hpp>

#include <catch2/catch.hpp>
#include <support/death.hpp>

#include <memory>
#include <set>
#include <string>
#include <type_traits>
#include <utility>

using oriel::errc;
using oriel::failure;
using oriel::result;
using oriel::status;

static_assert(std::is_trivially_copyable_v<failure>);
static_assert(std::is_nothrow_constructible_v<result<std::string>, failure>);
static_assert(!std::is_convertible_v<result<int>, bool>);  // Only in a condition.
static_assert(*result<int>(7) == 7);                       // Usable at compile time.

TEST_CASE("a result holds a value") {
  result<std::string> r = std::string("page");
  REQUIRE(r);
  CHECK(r.has_value());
  CHECK(*r == "page");
  CHECK(r->size() == 4);
  r->push_back('s');
  CHECK(*std::as_const(r) == "pages");
}

TEST_CASE("a result holds a failure, with all that it says") {
  const result<std::string> r = failure{errc::out_of_memory, 12, "map"};
  REQUIRE_FALSE(r);
  CHECK_FALSE(r.has_value());
  CHECK(r.error().code == errc::out_of_memory);
  CHECK(r.error().native == 12);
  CHECK(std::string(r.error().detail) == "map");
}

TEST_CASE("a value that can only be moved moves through a result") {
  result<std::unique_ptr<int>> r = std::make_unique<int>(3);
  result<std::unique_ptr<int>> moved = std::move(r);
  REQUIRE(moved);
  const std::unique_ptr<int> value = *std::move(moved);
  CHECK(*value == 3);
}

TEST_CASE("a status is success unless it holds a failure") {
  CHECK(status{});
  const status s = failure{errc::device_failure, 700, "launch"};
  REQUIRE_FALSE(s);
  CHECK(s.error().code == errc::device_failure);
  CHECK(s.error().native == 700);
}

TEST_CASE("asking for what is not there breaks the contract") {
  CHECK(aborts([] {
    const result<int> r = failure{errc::out_of_pages};
    static_cast<void>(*r);
  }));
  CHECK(aborts([] {
    const result<std::string> r = failure{errc::out_of_pages};
    static_cast<void>(r->size());
  }));
  CHECK(aborts([] { static_cast<void>(result<int>(1).error()); }));
  CHECK(aborts([] { static_cast<void>(status{}.error()); }));
}

TEST_CASE("every code has a name of its own") {
  std::set<std::string> names;
  constexpr auto last = static_cast<int>(errc::locked);
  for (int code = 0; code <= last; ++code) {
    names.insert(name_of(static_cast<errc>(code)));
  }
  CHECK(names.size() == last + 1);
  CHECK(names.count("unknown") == 0);
  CHECK(std::string(name_of(errc::out_of_pages)) == "out_of_pages");
  CHECK(std::string(name_of(static_cast<errc>(last + 1))) == "unknown");
}
