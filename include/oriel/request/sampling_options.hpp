// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `sampling_options`: how a client wants its tokens chosen.
#pragma once

#include <oriel/core/result.hpp>
#include <oriel/kernels/adjust_logits.hpp>
#include <oriel/kernels/sample.hpp>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace oriel {

/// The defaults sample from the model's own distribution.
struct sampling_options {
  float temperature = 1.0f;  ///< finite, >= 0; 0 = greedy
  std::uint32_t top_k = 0;   ///< keep this many tokens; 0 = off
  float top_p = 1.0f;        ///< in (0, 1]: keep the fewest tokens with this much mass; 1 = off
  float min_p = 0.0f;        ///< in [0, 1]: keep tokens this likely relative to the best; 0 = off
  std::uint64_t seed = 0;    ///< the same seed and prompt give the same tokens

  // Before the temperature (kernels/adjust_logits.hpp).
  float repetition_penalty = 1.0f;  ///< in (0, 10], of tokens in prompt or answer; 1 = off
  float frequency_penalty = 0.0f;   ///< in [-2, 2], for each use in the answer; 0 = off
  float presence_penalty = 0.0f;    ///< in [-2, 2], of tokens in the answer; 0 = off
  /// In [-100, 100], or -infinity: never. At most logit_biases_max; those of one token add up.
  std::vector<token_bias> logit_bias = {};

  /// Not none: tell the log-probability of each token, and of so many likeliest ones, at most
  /// top_logprobs_max. Changes no token.
  std::optional<std::uint32_t> logprobs = {};
};

inline constexpr std::uint32_t logit_biases_max = 1'024;
inline constexpr std::uint32_t top_logprobs_max = 20;

/// The part that the sampling kernel reads (order and meaning of the filters: kernels/sample.hpp).
[[nodiscard]] inline sample_filters filters_of(const sampling_options& o) noexcept {
  return {.temperature = o.temperature, .top_k = o.top_k, .top_p = o.top_p, .min_p = o.min_p};
}

/// Do the next tokens depend on which ones were used before? Then a sampler wants to know them.
[[nodiscard]] inline bool has_penalties(const sampling_options& o) noexcept {
  return o.repetition_penalty != 1.0f || o.frequency_penalty != 0.0f || o.presence_penalty != 0.0f;
}

/// What is changed in a row of a sequence that has used these tokens. A view of both.
[[nodiscard]] inline logit_adjustments adjustments_of(const sampling_options& o,
                                                      std::span<const token_use> uses) noexcept {
  return {.repetition = o.repetition_penalty,
          .frequency = o.frequency_penalty,
          .presence = o.presence_penalty,
          .uses = uses,
          .biases = o.logit_bias};
}

/// @returns errc::invalid_argument with the name and range of the first field out of range.
[[nodiscard]] status check(const sampling_options& options) noexcept;

}  // namespace oriel
