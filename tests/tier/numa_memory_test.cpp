// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "conformance/kv_memory_suite.hpp"

#include <oriel/tier/numa_memory.hpp>

#include <catch2/catch.hpp>

#include <fstream>
#include <utility>

using namespace oriel;

TEST_CASE("numa_memory is a kv_memory", "[tier]") {
  check_kv_memory<numa_memory>();
}

TEST_CASE("numa_memory is bound where it was asked for, or says that it is not", "[tier]") {
  const auto here = numa_memory::reserve(1 << 20);
  REQUIRE(here);
  CHECK(here->node() >= 0);
  {
    const numa_node_scope far(1'000'000);
    const auto nowhere = numa_memory::reserve(1 << 20);
    REQUIRE(nowhere);
    CHECK(nowhere->node() == 1'000'000);
    CHECK(!nowhere->is_bound());
    nowhere->base()[12'345] = std::byte{1};
    {
      const numa_node_scope near(0);
      CHECK(numa_memory::reserve(4'096)->node() == 0);
    }
    CHECK(numa_memory::reserve(4'096)->node() == 1'000'000);
  }
  CHECK(numa_memory::reserve(4'096)->node() != 1'000'000);
}

TEST_CASE("the system says whether it moves pages between nodes", "[tier]") {
  std::ifstream file("/proc/sys/kernel/numa_balancing");
  int value = 0;
  file >> value;
  CHECK(numa_balancing_is_on() == (value != 0));
}
