// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `sampler`: the sampling kernels with their workspace, for rows of many requests at once.
#pragma once

#include <oriel/core/executor.hpp>
#include <oriel/kernels/logprobs.hpp>
#include <oriel/kernels/sample.hpp>
#include <oriel/output/token_history.hpp>
#include <oriel/request/sampling_options.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel {

/// One row to sample: whose options, and where the new token will stand.
struct sampler_row {
  const sampling_options* options;
  std::uint64_t position;  ///< of the new token in its sequence, prompt included
  /// The tokens before it. Null: options have no penalties (has_penalties).
  const token_history* history = nullptr;
};

/// How likely a token was to the model itself, and what else it could have been.
struct token_logprobs {
  float chosen = 0.0f;             ///< ln of its probability
  std::vector<token_logprob> top;  ///< the likeliest first
};

/// Chooses tokens on the host. Not safe to call from two threads at once; allocates only when it is
/// made and when a call brings more rows than any before.
///
///     sampler choose(vocabulary, pool.concurrency());
///     choose(logits, vocabulary, rows, tokens, pool);
class sampler {
 public:
  /// @throws std::invalid_argument if plan_sample refuses the vocabulary or the path
  explicit sampler(std::uint32_t vocabulary, std::uint32_t concurrency, isa path = best_isa());

  /// Draws one token per row of `logits` ([rows, vocabulary], `logits_stride` elements apart).
  /// @pre out.size() == rows.size(), a row whose options have penalties has a history
  /// @pre executor.concurrency() <= the constructor's
  void operator()(const float* logits,
                  std::size_t logits_stride,
                  std::span<const sampler_row> rows,
                  std::span<sampled_token> out,
                  executor_ref executor);

  /// What a token of this row is drawn from. Valid until the next call.
  [[nodiscard]] token_distribution distribution(const float* logits,
                                                const sampling_options& options,
                                                const token_history* history = nullptr) noexcept;

  /// The likeliest token of this row after penalties and biases, as temperature 0 takes it.
  [[nodiscard]] sampled_token greedy(const float* logits,
                                     const sampling_options& options,
                                     const token_history* history = nullptr) noexcept;

  /// Of the model's own distribution, before all options. Allocates when `out` has had fewer.
  /// @pre top_tokens <= top_logprobs_max
  void logprobs(const float* logits,
                token_id chosen,
                std::uint32_t top_tokens,
                token_logprobs& out);

 private:
  struct alignas(64) cache_line {
    std::byte bytes[64];
  };

  [[nodiscard]] std::span<std::byte> workspace() noexcept;
  [[nodiscard]] const float* adjusted(const float* logits,
                                      const sampling_options& options,
                                      const token_history* history) noexcept;

  host::sample_plan plan_;
  std::vector<cache_line> workspace_;
  std::vector<sample_row> rows_;
};

}  // namespace oriel
