// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// An mbarrier as the PTX ISA describes it, for tests of rings of stages.
#pragma once

#include <catch2/catch.hpp>

#include <cstdint>

namespace oriel::test {

/// An mbarrier: a phase ends when all arrivals are there and no bytes are missing.
struct barrier_model {
  explicit barrier_model(std::uint32_t arrivals) : all(arrivals), pending(arrivals) {}
  void arrive(std::int64_t expected_bytes = 0) {
    REQUIRE(pending != 0);
    --pending;
    missing += expected_bytes;
    settle();
  }
  void complete(std::int64_t bytes) {
    missing -= bytes;
    settle();
  }
  void settle() {
    if (pending == 0 && missing == 0) {
      pending = all;
      ++phase;
    }
  }
  /// Parities tell apart the phase under way and the one before.
  [[nodiscard]] bool has_passed(std::uint32_t parity) const { return (phase & 1) != parity; }

  std::uint32_t all, pending;
  std::int64_t missing = 0;
  std::uint64_t phase = 0;
};

}  // namespace oriel::test
