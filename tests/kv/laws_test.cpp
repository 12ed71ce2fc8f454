// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Every model of every concept of kv/ obeys its law.
#include "conformance/free_order_suite.hpp"
#include "conformance/kv_memory_suite.hpp"
#include "conformance/page_allocator_suite.hpp"
#include "conformance/window_ring_suite.hpp"

#include <oriel/kv/memory.hpp>
#include <oriel/kv/page_pool.hpp>
#include <oriel/kv/paged_allocator.hpp>
#include <oriel/kv/window_ring.hpp>

#include <catch2/catch.hpp>

#include <array>
#include <utility>

namespace laws_test {

namespace {

template <oriel::kv_memory Memory, oriel::free_order Order = oriel::lifo_order>
auto make_pool(std::uint32_t capacity_pages) {
  const std::array layers{
      oriel::kv_layer_shape{.kv_heads = 2, .head_dim_qk = 24, .head_dim_vo = 8}};
  auto pool = oriel::page_pool<Memory, Order>::make(oriel::page_layout(16, layers), capacity_pages);
  REQUIRE(pool);
  return std::move(*pool);
}

}  // namespace

TEST_CASE("lifo_order is a free_order") {
  check_free_order<oriel::lifo_order>();
}
TEST_CASE("fifo_order is a free_order") {
  check_free_order<oriel::fifo_order>();
}

TEST_CASE("paged_allocator<lifo_order> is a page_allocator") {
  check_page_allocator([] { return oriel::paged_allocator<oriel::lifo_order>{8}; });
}
TEST_CASE("paged_allocator<fifo_order> is a page_allocator") {
  check_page_allocator([] { return oriel::paged_allocator<oriel::fifo_order>{8}; });
}
// One test case for each: Catch2 enters a section of a test case once, whoever calls it.
TEST_CASE("page_pool<host_memory> is a page_allocator") {
  check_page_allocator([] { return make_pool<oriel::host_memory>(8); });
}
TEST_CASE("page_pool<huge_page_memory> is a page_allocator") {
  check_page_allocator([] { return make_pool<oriel::huge_page_memory>(8); });
}
TEST_CASE("page_pool<on_demand_memory, fifo_order> is a page_allocator") {
  check_page_allocator([] { return make_pool<oriel::on_demand_memory, oriel::fifo_order>(8); });
}
TEST_CASE("page_pool<address_only_memory> is a page_allocator") {
  check_page_allocator([] { return make_pool<oriel::address_only_memory>(8); });
}

TEST_CASE("window_ring keeps its promises over paged_allocator<lifo_order>") {
  check_window_ring([] { return oriel::paged_allocator<oriel::lifo_order>{24}; });
}
TEST_CASE("window_ring keeps its promises over paged_allocator<fifo_order>") {
  check_window_ring([] { return oriel::paged_allocator<oriel::fifo_order>{24}; });
}
TEST_CASE("window_ring keeps its promises over page_pool") {
  check_window_ring([] { return make_pool<oriel::on_demand_memory>(24); });
}

TEST_CASE("host_memory is a kv_memory") {
  check_kv_memory<oriel::host_memory>();
}
TEST_CASE("huge_page_memory is a kv_memory") {
  check_kv_memory<oriel::huge_page_memory>();
}
TEST_CASE("on_demand_memory is a kv_memory") {
  check_kv_memory<oriel::on_demand_memory>();
}
TEST_CASE("address_only_memory is a kv_memory") {
  check_kv_memory<oriel::address_only_memory>();
}

}  // namespace laws_test
