// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Models of the family at toy size, for tests with random weights.
#pragma once

#include "support/toy_geometry.hpp"

#include <catch2/catch.hpp>

#include <cstdint>
#include <vector>

/// The same, and it is known to be sound.
inline oriel::model_geometry toy_model(const std::vector<std::uint32_t>& windows, bool moe) {
  oriel::model_geometry m = toy_geometry(windows, moe);
  REQUIRE_FALSE(problem_in(m));
  return m;
}
