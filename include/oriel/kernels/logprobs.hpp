// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Log-probabilities of a row: ln of the model's own distribution, before penalties, biases,
/// temperature and filters.
#pragma once

#include <oriel/core/ids.hpp>
#include <oriel/kernels/sample.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel {

struct token_logprob {
  token_id id;
  float logprob;  ///< <= 0; -infinity: never

  friend bool operator==(const token_logprob&, const token_logprob&) = default;
};

namespace reference {

/// Of all tokens, in double precision.
[[nodiscard]] std::vector<double> logprobs(std::span<const float> logits);

}  // namespace reference

namespace host {

/// What run_logprobs found.
struct logprobs_result {
  float chosen;       ///< of the chosen token
  std::uint32_t top;  ///< tokens filled in: less than asked for only where the row has no more
};

/// O(vocabulary). The sum over the row is one of integers (kernels/sample.hpp), so the result does
/// not depend on the path.
/// @param top  filled with the first tokens: largest logit first, lowest id among equals
/// @pre workspace.size() >= plan.filter_bytes, 64-byte aligned; top.size() <= plan.vocabulary
[[nodiscard]] logprobs_result run_logprobs(const sample_plan& plan,
                                           const float* logits,
                                           token_id chosen,
                                           std::span<token_logprob> top,
                                           std::span<std::byte> workspace) noexcept;

}  // namespace host
}  // namespace oriel
