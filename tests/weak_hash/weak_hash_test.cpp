// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The objects of test.prefix do meet the weak hashes here, or this program would test nothing of its own.
#include "support/weak_hash.hpp"

#include <oriel/core/hash.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <vector>

TEST_CASE("in this program hashes have 4 bits") {
  CHECK_FALSE(hashes_differ);
  for (std::uint32_t token = 0; token < 100; ++token) {
    const std::vector<oriel::token_id> page(16, oriel::token_id{token});
    const oriel::chain_hash link = oriel::next_link({}, page);
    CHECK(link.low <= 0xF);
    CHECK(link.high == 0);
  }
}
