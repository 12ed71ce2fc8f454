// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/sample.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace {

using namespace oriel;

/// Token ids in the order of sample.hpp: logit descending, id ascending; NaN and -infinity left
/// out.
std::vector<std::uint32_t> ordered_tokens(std::span<const float> logits) {
  std::vector<std::uint32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0u);
  std::erase_if(order, [&](std::uint32_t id) {
    return !(logits[id] > -std::numeric_limits<float>::infinity());
  });
  std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    return logits[a] > logits[b];
  });
  return order;
}

float weight_of(float logit, float largest, float temperature) {
  const float z = logit == largest ? 0.0f : (logit - largest) * (1.0f / temperature);
  return static_cast<float>(std::exp(double{z}));
}

/// How many of the first tokens hold `top_p` of the mass of all.
std::size_t top_p_count(const std::vector<float>& weights, float top_p) {
  std::uint64_t total = 0;
  for (const float w : weights) {
    total += mass_of(w);
  }
  const auto target = static_cast<std::uint64_t>(double{top_p} * static_cast<double>(total));
  std::uint64_t mass = 0;
  for (std::size_t count = 0; count < weights.size(); ++count) {
    mass += mass_of(weights[count]);
    if (mass >= target) {
      return count + 1;
    }
  }
  return weights.size();
}

}  // namespace

oriel::token_distribution oriel::reference::filter_logits(std::span<const float> logits,
                                                          const sample_filters& filters,
                                                          std::span<std::uint32_t> ids,
                                                          std::span<float> weights) {
  std::vector<std::uint32_t> order = ordered_tokens(logits);
  const std::size_t top_k = filters.temperature == 0.0f ? 1 : filters.top_k;
  if (top_k != 0 && top_k < order.size()) {
    order.resize(top_k);
  }
  std::vector<float> w(order.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    w[i] = i == 0 ? 1.0f : weight_of(logits[order[i]], logits[order[0]], filters.temperature);
  }
  if (filters.top_p < 1.0f && order.size() > 1) {
    order.resize(top_p_count(w, filters.top_p));
  }
  std::erase_if(order, [&](std::uint32_t id) {
    return id != order[0] &&
           weight_of(logits[id], logits[order[0]], filters.temperature) < filters.min_p;
  });
  std::vector<std::pair<std::uint32_t, float>> kept;
  for (std::size_t i = 0; i < order.size(); ++i) {
    kept.emplace_back(order[i], w[i]);
  }
  std::sort(kept.begin(), kept.end());
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < kept.size(); ++i) {
    ids[i] = kept[i].first;
    weights[i] = kept[i].second;
    total += mass_of(weights[i]);
  }
  return {ids.first(kept.size()), weights.first(kept.size()), total};
}
