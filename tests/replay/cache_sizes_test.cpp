// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/model/presets.hpp>

#include <catch2/catch.hpp>
#include <replay/cache_sizes.hpp>

#include <cstdint>

namespace cache_sizes_test {

using namespace oriel;
using namespace oriel::replay;

namespace {

constexpr std::uint64_t gib = std::uint64_t{1} << 30;

result<cache_sizes> pro(const cache_question& question) {
  return plan_cache(preset("mimo-v2.5-pro")->layers, question);
}

}  // namespace

TEST_CASE("a uniform cache of 400 GiB holds 1.2 M tokens of mimo-v2.5-pro, dual pools 8.2 M") {
  const auto uniform = pro({.capacity_bytes = 400 * gib, .pools = pool_form::uniform});
  REQUIRE(uniform);
  CHECK(uniform->sizes.pages.size() == 1);
  CHECK(uniform->capacity_tokens == 400 * gib / (64 * 358'400) * 64);
  const auto dual = pro({.capacity_bytes = 400 * gib, .window_share = 0.02});
  REQUIRE(dual);
  REQUIRE(dual->sizes.pages.size() == 2);
  CHECK(dual->sizes.pages[1] == 8 * gib / (64 * 307'200));
  CHECK(dual->capacity_tokens == dual->sizes.pages[0] * std::uint64_t{64});
  CHECK(dual->capacity_tokens > 8'200'000);
  for (const auto& made : {*uniform, *dual}) {
    CHECK(made.bytes <= 400 * gib);
    CHECK(made.bytes > 400 * gib - 64 * 358'400);
  }
}

TEST_CASE("tokens are those of the full pool, whatever the windows take") {
  for (const pool_form form : {pool_form::uniform, pool_form::dual}) {
    const auto made = pro({.capacity_tokens = 1'000'000, .pools = form, .page_tokens = 64});
    REQUIRE(made);
    CHECK(made->sizes.pages[0] == 15'625);
    CHECK(made->capacity_tokens == 1'000'000);
  }
}

TEST_CASE("a window pool holds a sequence's ring, however small its share") {
  const auto made = pro({.capacity_bytes = 400 * gib, .window_share = 0.0});
  REQUIRE(made);
  CHECK(made->sizes.pages[1] == made->plan.ring(0).ring_pages());
  CHECK(made->bytes <= 400 * gib);
}

TEST_CASE("capacities that buy nothing, or more than can be counted, are refused") {
  CHECK(pro({.capacity_bytes = 1}).error().code == errc::invalid_argument);
  CHECK(pro({.capacity_bytes = 1, .pools = pool_form::uniform}).error().code ==
        errc::invalid_argument);
  CHECK(pro({.capacity_tokens = 63}).error().code == errc::invalid_argument);
  CHECK(pro({.capacity_tokens = std::uint64_t{1} << 40}).error().code == errc::invalid_argument);
}

}  // namespace cache_sizes_test
