// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/output/sampler.hpp>

#include <algorithm>
#include <stdexcept>

namespace oriel {
namespace {

host::sample_plan plan_or_throw(std::uint32_t vocabulary, std::uint32_t concurrency, isa path) {
  const auto plan = host::plan_sample(vocabulary, concurrency, path);
  if (!plan) {
    throw std::invalid_argument(plan.error().detail);
  }
  return *plan;
}

logit_adjustments adjustments_with(const sampling_options& options, const token_history* history) {
  ORIEL_EXPECTS(history != nullptr || !has_penalties(options));
  return adjustments_of(options,
                        history != nullptr ? history->uses() : std::span<const token_use>());
}

}  // namespace

sampler::sampler(std::uint32_t vocabulary, std::uint32_t concurrency, isa path)
    : plan_(plan_or_throw(vocabulary, concurrency, path)),
      workspace_(plan_.workspace_bytes / sizeof(cache_line)) {}

std::span<std::byte> sampler::workspace() noexcept {
  return std::as_writable_bytes(std::span(workspace_));
}

void sampler::operator()(const float* logits,
                         std::size_t logits_stride,
                         std::span<const sampler_row> rows,
                         std::span<sampled_token> out,
                         executor_ref executor) {
  ORIEL_EXPECTS(out.size() == rows.size());
  rows_.clear();
  for (const sampler_row& row : rows) {
    rows_.push_back({.filters = filters_of(*row.options),
                     .seed = row.options->seed,
                     .position = row.position,
                     .adjustments = adjustments_with(*row.options, row.history)});
  }
  host::run_sample(plan_,
                   {.out = out, .logits = logits, .logits_stride = logits_stride, .rows = rows_},
                   workspace(),
                   executor);
}

/// The row after penalties and biases: itself, or a copy behind the filters' workspace.
const float* sampler::adjusted(const float* logits,
                               const sampling_options& options,
                               const token_history* history) noexcept {
  const logit_adjustments adjustments = adjustments_with(options, history);
  if (adjustments.change_nothing()) {
    return logits;
  }
  auto* const copy = reinterpret_cast<float*>(workspace().subspan(plan_.filter_bytes).data());
  host::adjust_logits({logits, plan_.vocabulary}, adjustments, {copy, plan_.vocabulary});
  return copy;
}

token_distribution sampler::distribution(const float* logits,
                                         const sampling_options& options,
                                         const token_history* history) noexcept {
  return host::filter_logits(plan_,
                             adjusted(logits, options, history),
                             filters_of(options),
                             workspace().first(plan_.filter_bytes));
}

sampled_token sampler::greedy(const float* logits,
                              const sampling_options& options,
                              const token_history* history) noexcept {
  return host::greedy_token(plan_, adjusted(logits, options, history));
}

void sampler::logprobs(const float* logits,
                       token_id chosen,
                       std::uint32_t top_tokens,
                       token_logprobs& out) {
  ORIEL_EXPECTS(top_tokens <= top_logprobs_max);
  out.top.resize(std::min(top_tokens, plan_.vocabulary));
  const host::logprobs_result result =
      host::run_logprobs(plan_, logits, chosen, out.top, workspace().first(plan_.filter_bytes));
  out.chosen = result.chosen;
  out.top.resize(result.top);
}

}  // namespace oriel
