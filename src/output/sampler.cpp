// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/output/sampler.hpp>

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
    rows_.push_back(
        {.filters = filters_of(*row.options), .seed = row.options->seed, .position = row.position});
  }
  host::run_sample(plan_,
                   {.out = out, .logits = logits, .logits_stride = logits_stride, .rows = rows_},
                   workspace(),
                   executor);
}

token_distribution sampler::distribution(const float* logits,
                                         const sampling_options& options) noexcept {
  return host::filter_logits(plan_, logits, filters_of(options), workspace());
}

}  // namespace oriel
