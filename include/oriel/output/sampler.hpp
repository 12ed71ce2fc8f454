// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `sampler`: the sampling kernel with its workspace, for rows of many requests at once.
#pragma once

#include <oriel/core/executor.hpp>
#include <oriel/kernels/sample.hpp>
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
  /// @pre out.size() == rows.size()
  /// @pre executor.concurrency() <= the constructor's
  void operator()(const float* logits,
                  std::size_t logits_stride,
                  std::span<const sampler_row> rows,
                  std::span<sampled_token> out,
                  executor_ref executor);

  /// What a token of this row is drawn from. Valid until the next call.
  [[nodiscard]] token_distribution distribution(const float* logits,
                                                const sampling_options& options) noexcept;

 private:
  struct alignas(64) cache_line {
    std::byte bytes[64];
  };

  [[nodiscard]] std::span<std::byte> workspace() noexcept;

  host::sample_plan plan_;
  std::vector<cache_line> workspace_;
  std::vector<sample_row> rows_;
};

}  // namespace oriel
