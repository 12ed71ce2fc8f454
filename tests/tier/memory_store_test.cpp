// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "conformance/kv_store_suite.hpp"
#include "support/scale.hpp"
#include "tier/hand_clock.hpp"

#include <oriel/tier/memory_store.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <stdexcept>
#include <string_view>
#include <vector>

namespace memory_store_test {

using namespace oriel;

namespace {

template <class Memory>
struct memory_subject {
  explicit memory_subject(const memory_store_options& options)
      : tested(options, hand_clock(time)) {}
  auto& store() { return tested; }
  std::uint64_t now_us() const { return *time; }
  void advance(std::uint64_t us) { *time += us; }

  std::shared_ptr<std::uint64_t> time = std::make_shared<std::uint64_t>(1'000);
  memory_store<Memory, hand_clock> tested;
};

/// Room for so many pages of each pool.
memory_store_options room_for(const kv_store_law& law, std::uint64_t pages) {
  memory_store_options options{.page_size = law.page_size, .slice_bytes = law.slice_bytes};
  for (const auto& pool : law.slice_bytes) {
    std::uint64_t bytes = 0;
    for (const std::uint64_t slice : pool) {
      bytes += slice;
    }
    options.capacity_bytes += ((bytes + 63) / 64 * 64 + 80 + 4 * law.page_size) * pages;
  }
  return options;
}

template <class Memory = host_memory>
void check_law(const kv_store_law& law, const memory_store_options& options) {
  check_kv_store([&] { return memory_subject<Memory>(options); }, law);
}

}  // namespace

TEST_CASE("memory_store is a kv_store", "[tier]") {
  kv_store_law law{.random_items = scaled(6'000)};
  memory_store_options options = room_for(law, 64);
  SECTION("as it comes") {
    check_law(law, options);
  }
  SECTION("in order of use, on memory that grows") {
    options.order = memory_order::lru;
    check_law<on_demand_memory>(law, options);
  }
  SECTION("a queue of three, and 5000 bytes a poll") {
    options.queue_items = 3;
    options.copy_bytes_per_poll = 5'000;
    check_law(law, options);
  }
}

TEST_CASE("memory_store is a kv_store with slices of odd sizes", "[tier]") {
  kv_store_law law{
      .slice_bytes = {{100, 7, 1}, {33}, {64, 64}}, .page_size = 3, .random_items = scaled(6'000)};
  memory_store_options options = room_for(law, 64);
  options.copy_bytes_per_poll = 50;
  check_law(law, options);
}

TEST_CASE("memory_store is a kv_store where there is little room", "[tier]") {
  kv_store_law law{.may_evict = true, .may_refuse = true, .random_items = scaled(6'000)};
  memory_store_options options = room_for(law, 11);
  SECTION("all alike") {
    options.order = GENERATE(memory_order::lru, memory_order::s3_fifo);
    check_law(law, options);
  }
  SECTION("with shares") {
    options.tenants = {{.tenant = 1, .min_bytes = 60'000, .max_bytes = 120'000}};
    options.other_tenant_bytes_max = 100'000;
    check_law(law, options);
  }
}

TEST_CASE("options that cannot work are thrown back", "[tier]") {
  const memory_store_options good{
      .page_size = 16, .slice_bytes = {{4096, 4096}, {512}}, .capacity_bytes = 1 << 20};
  const auto is_refused = [&](auto change) {
    memory_store_options options = good;
    change(options);
    try {
      memory_store<> store(options);
      return false;
    } catch (const std::invalid_argument& e) {
      return std::string_view(e.what()).starts_with("memory_store: ");
    }
  };
  CHECK(!is_refused([](auto&) {}));
  CHECK(is_refused([](auto& o) { o.page_size = 0; }));
  CHECK(is_refused([](auto& o) { o.slice_bytes = {}; }));
  CHECK(is_refused([](auto& o) { o.slice_bytes.resize(16, {64}); }));
  CHECK(is_refused([](auto& o) { o.slice_bytes[1] = {}; }));
  CHECK(is_refused([](auto& o) { o.slice_bytes[0][1] = 0; }));
  CHECK(is_refused([](auto& o) { o.page_weights = {1.0}; }));
  CHECK(is_refused([](auto& o) { o.page_weights = {1.0, 0.0}; }));
  CHECK(is_refused([](auto& o) { o.page_weights = {1.0, std::nan("")}; }));
  CHECK(is_refused([](auto& o) { o.capacity_bytes = 0; }));
  CHECK(is_refused([](auto& o) { o.capacity_bytes = 8'000; }));
  CHECK(is_refused([](auto& o) { o.capacity_bytes = ~std::uint64_t{0}; }));
  CHECK(is_refused([](auto& o) { o.queue_items = 0; }));
  CHECK(is_refused([](auto& o) { o.copy_bytes_per_poll = 0; }));
}

}  // namespace memory_store_test
