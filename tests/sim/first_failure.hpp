// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Runs many seeds, and seeds from a file.
#pragma once

#include "isolated.hpp"

#include <cstdint>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace sim {

/// Runs seeds until one fails; the report of that one, or nothing.
/// @param make  make(seed): a scenario, which has run, failure_of and report
template <class Make>
[[nodiscard]] std::string first_failure(std::uint64_t first,
                                        std::uint64_t count,
                                        const Make& make) {
  std::uint64_t at = first;
  while (at < first + count) {
    const std::string found = run_isolated(
        [&] {
          for (std::uint64_t seed = at; seed < first + count; ++seed) {
            if (std::string why = run(make(seed)).failure; !why.empty()) {
              return std::to_string(seed) + ' ' + why;
            }
          }
          return std::string();
        },
        600);
    if (found.empty()) {
      return {};
    }
    // A broken contract ends the child before it can tell the seed: find it one by one.
    for (; at < first + count; ++at) {
      const auto made = make(at);
      if (const std::string why = failure_of(made); !why.empty()) {
        return report(made, why);
      }
    }
    return "failed once, and not again: " + found;
  }
  return {};
}

/// The numbers at the beginnings of its lines. @throws std::runtime_error if there is no such file
[[nodiscard]] inline std::vector<std::uint64_t> seeds_of(const char* path) {
  std::ifstream file(path);
  if (!file) {
    throw std::runtime_error(std::string("no seeds in ") + path);
  }
  std::vector<std::uint64_t> seeds;
  for (std::string line; std::getline(file, line);) {
    std::istringstream text(line);
    if (std::uint64_t seed = 0; text >> seed) {
      seeds.push_back(seed);
    }
  }
  return seeds;
}

}  // namespace sim
