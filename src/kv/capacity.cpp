// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kv/capacity.hpp>
#include <oriel/kv/dual_pool.hpp>

#include <utility>
#include <vector>

namespace oriel {
namespace {

/// Sequences of `tokens` tokens that the pools of `plan` admit before they say no.
result<std::uint64_t> count_admitted(const pool_plan& plan,
                                     std::uint64_t budget_bytes,
                                     std::uint32_t tokens) {
  if (plan.bytes_for(tokens) > budget_bytes) {
    return std::uint64_t{0};
  }
  result<pool_sizes> sizes = plan.size_for_tokens(budget_bytes, tokens);
  if (!sizes) {
    return sizes.error();
  }
  using pools_type = dual_pool<address_only_memory>;
  result<pools_type> pools = pools_type::make(plan, *sizes);
  if (!pools) {
    return pools.error();
  }
  std::vector<pools_type::sequence_type> sequences;  // Destroyed before the pools.
  for (;;) {
    auto admitted = pools->try_admit({.tokens_now = tokens, .tokens_max = tokens});
    if (!admitted) {
      if (admitted.error().code == errc::out_of_memory) {
        return admitted.error();
      }
      return std::uint64_t{sequences.size()};
    }
    sequences.push_back(std::move(*admitted));
  }
}

}  // namespace

result<capacity_answer> sequences_that_fit(std::span<const kv_layer_shape> layers,
                                           const capacity_question& question) {
  ORIEL_EXPECTS(question.sequence_tokens > 0);
  std::vector<kv_layer_shape> uniform(layers.begin(), layers.end());
  for (kv_layer_shape& layer : uniform) {
    layer.window_tokens = 0;
  }
  capacity_answer answer;
  const auto count = [&](std::span<const kv_layer_shape> shapes,
                         std::uint64_t& sequences,
                         std::uint64_t& bytes_per_sequence) -> status {
    const result<pool_plan> plan = pool_plan::make(shapes, question.pools);
    if (!plan) {
      return plan.error();
    }
    const auto counted = count_admitted(*plan, question.budget_bytes, question.sequence_tokens);
    if (!counted) {
      return counted.error();
    }
    sequences = *counted;
    bytes_per_sequence = plan->bytes_for(question.sequence_tokens);
    return {};
  };
  if (status s = count(layers, answer.sequences_dual, answer.bytes_per_sequence_dual); !s) {
    return s.error();
  }
  if (status s = count(uniform, answer.sequences_uniform, answer.bytes_per_sequence_uniform); !s) {
    return s.error();
  }
  return answer;
}

}  // namespace oriel
