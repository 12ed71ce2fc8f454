// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Language models over five tokens: the next token's logits depend on the last two tokens. A
/// drafter is kin to its target, more or less.
#pragma once

#include <oriel/core/random.hpp>
#include <oriel/kernels/sample.hpp>

#include <catch2/catch.hpp>
#include <support/arrays.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace oriel_test {

inline constexpr std::uint32_t vocabulary = 5;
inline constexpr std::size_t tokens_each = 4;
inline constexpr std::size_t outcomes = 625;  ///< vocabulary ^ tokens_each

/// How a model's logits follow from those of its seed.
enum class kinship : std::uint8_t {
  itself,
  near,         ///< noise is added
  far,          ///< logits of another seed
  alternating,  ///< after even tokens itself, after odd ones only what it likes least
  misses_some,  ///< without its favourite, in every other context
  has_more,     ///< (of a pair: the target misses some)
  lower_half,   ///< tokens 0 and 1 alone
  disjoint,     ///< tokens 2, 3 and 4 alone
};

[[nodiscard]] inline const char* name_of(kinship kin) {
  constexpr const char* names[] = {
      "itself", "near", "far", "alternating", "misses some", "has more", "lower half", "disjoint"};
  return names[static_cast<std::size_t>(kin)];
}

class toy_model {
 public:
  toy_model(std::uint64_t seed, kinship kin, const oriel::sample_filters& filters) {
    oriel::random_stream own(seed), noise(seed, 1);
    const auto plan = oriel::host::plan_sample(vocabulary, 1);
    REQUIRE(plan);
    workspace_bytes workspace(plan->filter_bytes);
    for (std::uint32_t context = 0; context < contexts; ++context) {
      std::vector<float> logits = random_floats(vocabulary, own, -2.0f, 2.0f);
      change(logits, kin, context, noise);
      const auto d = oriel::host::filter_logits(*plan, logits.data(), filters, workspace.span());
      rows_.push_back({.ids = {d.ids.begin(), d.ids.end()},
                       .weights = {d.weights.begin(), d.weights.end()},
                       .total = d.total,
                       .likeliest = oriel::host::greedy_token(*plan, logits.data()).id});
    }
  }

  /// What follows these tokens, after the filters.
  [[nodiscard]] oriel::token_distribution after(std::span<const std::uint32_t> tokens) const {
    const row& r = rows_[context_of(tokens)];
    return {.ids = r.ids, .weights = r.weights, .total = r.total};
  }
  [[nodiscard]] oriel::token_id likeliest(std::span<const std::uint32_t> tokens) const {
    return rows_[context_of(tokens)].likeliest;
  }

 private:
  static constexpr std::uint32_t contexts = (vocabulary + 1) * (vocabulary + 1);

  struct row {
    std::vector<std::uint32_t> ids;
    std::vector<float> weights;
    std::uint64_t total;
    oriel::token_id likeliest;
  };

  static std::uint32_t context_of(std::span<const std::uint32_t> tokens) {
    const std::size_t n = tokens.size();
    const std::uint32_t last = n > 0 ? tokens[n - 1] + 1 : 0,
                        before = n > 1 ? tokens[n - 2] + 1 : 0;
    return last * (vocabulary + 1) + before;
  }

  static void change(std::vector<float>& logits,
                     kinship kin,
                     std::uint32_t context,
                     oriel::random_stream& noise) {
    constexpr float never = -std::numeric_limits<float>::infinity();
    const auto best =
        static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    for (std::uint32_t id = 0; id < vocabulary; ++id) {
      const float drawn = noise.next_uniform(-1.0f, 1.0f);
      switch (kin) {
        case kinship::near:
          logits[id] += drawn;
          break;
        case kinship::far:
          logits[id] = 2.0f * drawn;
          break;
        case kinship::alternating:
          logits[id] = (context / (vocabulary + 1)) % 2 == 1 ? -2.0f * logits[id] : logits[id];
          break;
        case kinship::misses_some:
          logits[id] = id == best && context % 2 == 0 ? never : logits[id];
          break;
        case kinship::lower_half:
          logits[id] = id < 2 ? logits[id] : never;
          break;
        case kinship::disjoint:
          logits[id] = id < 2 ? never : logits[id];
          break;
        case kinship::itself:
        case kinship::has_more:
          break;
      }
    }
  }

  std::vector<row> rows_;
};

[[nodiscard]] inline std::size_t outcome_of(std::span<const std::uint32_t> tokens) {
  std::size_t outcome = 0;
  for (const std::uint32_t t : tokens) {
    outcome = outcome * vocabulary + t;
  }
  return outcome;
}

/// Of each outcome of the first four tokens.
[[nodiscard]] inline std::vector<double> joint_probabilities(const toy_model& model) {
  std::vector<double> joint(outcomes);
  for (std::size_t outcome = 0; outcome < outcomes; ++outcome) {
    std::vector<std::uint32_t> tokens(tokens_each);
    std::size_t rest = outcome;
    for (std::size_t i = tokens_each; i-- > 0; rest /= vocabulary) {
      tokens[i] = static_cast<std::uint32_t>(rest % vocabulary);
    }
    joint[outcome] = 1.0;
    for (std::size_t i = 0; i < tokens_each; ++i) {
      joint[outcome] *= double{
          probability_of(model.after(std::span(tokens).first(i)), oriel::token_id{tokens[i]})};
    }
  }
  return joint;
}

}  // namespace oriel_test
