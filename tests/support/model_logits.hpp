// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Rows of logits for tests of sampling: like a model's, and the top_p at which such a row keeps
/// one token more.
#pragma once

#include <oriel/core/random.hpp>
#include <oriel/kernels/sample.hpp>

#include <support/arrays.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

namespace oriel::test {

/// A bulk of deviation 2, and a few tokens far above it.
inline std::vector<float> model_logits(std::uint32_t vocabulary, random_stream& random) {
  std::vector<float> row(vocabulary);
  for (float& z : row) {
    z = -6.0f;
    for (int j = 0; j < 4; ++j) {
      z += random.next_uniform(0.0f, 3.4f);
    }
    z += random.next_below(20'000) == 0 ? 12.0f : 0.0f;
  }
  return row;
}

/// Two neighbouring numbers.
struct top_p_edge {
  float within;  ///< the largest top_p for which `kept` tokens are enough
  float beyond;  ///< one token more
};

/// @pre more than `kept` tokens have mass
inline top_p_edge top_p_edge_of(std::span<const float> logits,
                                float temperature,
                                std::uint32_t kept) {
  const auto vocabulary = static_cast<std::uint32_t>(logits.size());
  const auto plan = host::plan_sample(vocabulary, 1);
  workspace_bytes workspace(plan->workspace_bytes);
  const token_distribution all =
      host::filter_logits(*plan, logits.data(), {.temperature = temperature}, workspace.span());
  std::vector<std::uint64_t> masses;
  for (const float weight : all.weights) {
    masses.push_back(mass_of(weight));
  }
  std::partial_sort(masses.begin(), masses.begin() + kept, masses.end(), std::greater<>());
  const std::uint64_t prefix =
      std::accumulate(masses.begin(), masses.begin() + kept, std::uint64_t{0});
  const auto is_within = [&](float top_p) {
    return static_cast<std::uint64_t>(double{top_p} * static_cast<double>(all.total)) <= prefix;
  };
  auto within = static_cast<float>(static_cast<double>(prefix) / static_cast<double>(all.total));
  while (!is_within(within)) {
    within = std::nextafter(within, 0.0f);
  }
  while (is_within(std::nextafter(within, 2.0f))) {
    within = std::nextafter(within, 2.0f);
  }
  return {within, std::nextafter(within, 2.0f)};
}

}  // namespace oriel::test
