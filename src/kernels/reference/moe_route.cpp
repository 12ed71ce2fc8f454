// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/moe_route.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <vector>

namespace {

using namespace oriel;

constexpr float lowest = -std::numeric_limits<float>::infinity();

/// Indices of `values`, the largest first, ties by index.
std::vector<std::uint32_t> by_value(const std::vector<float>& values) {
  std::vector<std::uint32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    return values[a] > values[b];
  });
  return order;
}

/// Experts in the order of preference: kept groups first, then the others.
std::vector<std::uint32_t> preferred_experts(const moe_route_shape& shape,
                                             const std::vector<float>& choice) {
  const std::uint32_t per_group = shape.experts / shape.groups;
  std::vector<float> group_score(shape.groups);
  for (std::uint32_t g = 0; g < shape.groups; ++g) {
    std::vector<float> members(choice.begin() + g * per_group,
                               choice.begin() + (g + 1) * per_group);
    std::sort(members.begin(), members.end(), std::greater<>{});
    const float sum = members.size() > 1 ? members[0] + members[1] : members[0];
    group_score[g] = std::isnan(sum) ? lowest : sum;
  }
  std::vector<std::uint32_t> kept = by_value(group_score);
  kept.resize(shape.kept_groups);
  std::vector<std::uint32_t> order = by_value(choice);
  std::erase_if(order, [&](std::uint32_t expert) {
    return std::find(kept.begin(), kept.end(), expert / per_group) == kept.end();
  });
  return order;
}

}  // namespace

void oriel::reference::moe_route(const moe_route_shape& shape, const moe_route_args& args) {
  std::vector<float> score(shape.experts), choice(shape.experts);
  for (std::uint32_t token = 0; token < args.tokens; ++token) {
    for (std::uint32_t e = 0; e < shape.experts; ++e) {
      const double logit = args.logits[token * args.logits_stride + e];
      const auto sigmoid = static_cast<float>(1.0 / (1.0 + std::exp(-logit)));
      const float biased =
          args.correction_bias != nullptr ? sigmoid + args.correction_bias[e] : sigmoid;
      score[e] = std::isnan(sigmoid) ? 0.0f : sigmoid;
      choice[e] = std::isnan(biased) ? lowest : biased;
    }
    std::vector<std::uint32_t> ids = preferred_experts(shape, choice);
    ids.resize(shape.top_k);
    std::sort(ids.begin(), ids.end());
    float sum = 0.0f;
    for (const std::uint32_t id : ids) {
      sum += score[id];
    }
    for (std::uint32_t slot = 0; slot < shape.top_k; ++slot) {
      const float weight = shape.normalize ? score[ids[slot]] / (sum + 1e-20f) : score[ids[slot]];
      args.ids[token * shape.top_k + slot] = ids[slot];
      args.weights[token * shape.top_k + slot] = weight * shape.scale;
    }
  }
}
