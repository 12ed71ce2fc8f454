// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/sample_kernels.hpp"
#include "detail/workspace.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/kernels/logprobs.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

namespace oriel::host {
namespace {

constexpr float never = -std::numeric_limits<float>::infinity();

/// Fills `top` with the first tokens of the row. @returns how many there are
std::uint32_t find_top(const sample_plan& plan,
                       const float* logits,
                       std::span<token_logprob> top,
                       std::span<std::byte> workspace) noexcept {
  if (top.empty()) {
    return 0;
  }
  const token_distribution first =
      filter_logits(plan, logits, {.top_k = static_cast<std::uint32_t>(top.size())}, workspace);
  std::uint32_t count = 0;
  for (std::uint32_t i = 0; i < first.weights.size() && count < top.size(); ++i) {
    const std::uint32_t id = first.ids.empty() ? i : first.ids[i];
    if (logits[id] > never) {
      top[count++] = {.id = token_id{id}, .logprob = logits[id]};
    }
  }
  std::sort(top.begin(), top.begin() + count, [](const token_logprob& a, const token_logprob& b) {
    return a.logprob != b.logprob ? a.logprob > b.logprob : a.id < b.id;
  });
  return count;
}

}  // namespace

logprobs_result run_logprobs(const sample_plan& plan,
                             const float* logits,
                             token_id chosen,
                             std::span<token_logprob> top,
                             std::span<std::byte> workspace) noexcept {
  ORIEL_EXPECTS(top.size() <= plan.vocabulary && to_index(chosen) < plan.vocabulary);
  const std::uint32_t count = find_top(plan, logits, top, workspace);

  const detail::sample_kernels& kernels = detail::sample_kernels_for(plan.path);
  detail::workspace_cutter cutter(workspace);
  const std::uint32_t blocks = (plan.vocabulary + detail::sample_block - 1) / detail::sample_block;
  const auto maxima = cutter.take<float>(blocks);
  const auto weights = cutter.take<float>(plan.vocabulary);
  const float largest = kernels.block_maxima(logits, plan.vocabulary, maxima.data());
  const std::uint64_t total = kernels.weigh(logits, plan.vocabulary, largest, 1.0f, weights.data());
  const double log_sum = std::log(std::ldexp(static_cast<double>(total), -44));
  const auto logprob_of = [&](float logit) {
    return logit == largest && largest > never ? static_cast<float>(-log_sum)
           : logit < largest ? static_cast<float>(double{logit} - double{largest} - log_sum)
                             : never;
  };
  for (token_logprob& t : top.first(count)) {
    t.logprob = logprob_of(t.logprob);
  }
  return {.chosen = logprob_of(logits[to_index(chosen)]), .top = count};
}

}  // namespace oriel::host
