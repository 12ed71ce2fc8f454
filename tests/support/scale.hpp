// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// How much a random test does: the environment variable ORIEL_TEST_SCALE is a factor on its
/// number of operations (1 if not set; tests/run.sh takes a twentieth under asan, a tenth under tsan).
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>

/// Was tests/run.sh called with --long? Then the soaks take their minutes.
inline bool is_long_run() {
  return std::getenv("ORIEL_TEST_LONG") != nullptr;
}

/// `operations` times the scale, at least 1.
inline std::uint64_t scaled(std::uint64_t operations) {
  const char* text = std::getenv("ORIEL_TEST_SCALE");
  const double scale = text != nullptr ? std::atof(text) : 1.0;
  return std::max<std::uint64_t>(
      1,
      static_cast<std::uint64_t>(static_cast<double>(operations) * std::clamp(scale, 0.0, 100.0)));
}

/// Of a case that is run for each of `seeds`: beyond the scale's share, but never one of the first four.
inline bool is_left_out(std::uint64_t seed, std::uint64_t seeds) {
  return seed >= std::max<std::uint64_t>(4, scaled(seeds));
}
