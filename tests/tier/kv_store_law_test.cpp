// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The law itself: the obvious store passes it.
#include "conformance/kv_store_suite.hpp"
#include "tier/obvious_store.hpp"

#include <catch2/catch.hpp>

#include <memory>

namespace kv_store_law_test {

namespace {

struct obvious_subject {
  std::shared_ptr<obvious_switches> switches = std::make_shared<obvious_switches>();
  obvious_store tested{switches};

  obvious_store& store() { return tested; }
  std::uint64_t now_us() const { return switches->now_us; }
  void advance(std::uint64_t us) { switches->now_us += us; }
};

}  // namespace

TEST_CASE("the obvious store is a kv_store", "[tier]") {
  check_kv_store([] { return obvious_subject(); });
}

}  // namespace kv_store_law_test
