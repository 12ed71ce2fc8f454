// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// How clear a router's choice of experts is.
#pragma once

#include <oriel/kernels/moe_route.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <span>
#include <utility>
#include <vector>

namespace oriel::test {

/// The distance between the last choice that is taken and the first that is not, of experts in the kept groups or of
/// groups, whichever is less: near 0, another rounding may take another expert. Infinite where all are taken.
/// @param logits           [experts], finite
/// @param correction_bias  [experts], or null: zeros
inline float router_gap(const moe_route_shape& shape,
                        const float* logits,
                        const float* correction_bias) {
  const auto gap_behind = [](std::vector<float> values, std::size_t taken) {
    std::ranges::sort(values, std::greater());
    return taken == values.size() ? std::numeric_limits<float>::infinity()
                                  : values[taken - 1] - values[taken];
  };
  std::vector<float> choices(shape.experts);
  for (std::size_t e = 0; e < choices.size(); ++e) {
    choices[e] = 1.0f / (1.0f + std::exp(-logits[e])) + (correction_bias ? correction_bias[e] : 0);
  }
  const std::size_t group_experts = shape.experts / shape.groups;
  std::vector<std::pair<float, std::size_t>> groups;  // sum of the two best choices, first expert
  std::vector<float> sums, kept;
  for (std::size_t first = 0; first < choices.size(); first += group_experts) {
    std::vector<float> best(group_experts);
    std::ranges::copy(std::span(choices).subspan(first, group_experts), best.begin());
    std::ranges::sort(best, std::greater());
    sums.push_back(best[0] + (best.size() > 1 ? best[1] : 0.0f));
    groups.emplace_back(sums.back(), first);
  }
  std::ranges::sort(groups, std::greater());
  for (std::size_t g = 0; g < shape.kept_groups; ++g) {
    const auto of_group = std::span(choices).subspan(groups[g].second, group_experts);
    kept.insert(kept.end(), of_group.begin(), of_group.end());
  }
  return std::min(gap_behind(std::move(sums), shape.kept_groups),
                  gap_behind(std::move(kept), shape.top_k));
}

}  // namespace oriel::test
