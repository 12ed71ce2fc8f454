// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/request/sampling_options.hpp>

#include <limits>

// Comparisons are written so that a NaN fails them.
oriel::status oriel::check(const sampling_options& options) noexcept {
  constexpr float largest = 3.402'823'466e+38f;
  if (!(options.temperature >= 0.0f && options.temperature <= largest)) {
    return failure{errc::invalid_argument, 0, "temperature must be a finite number >= 0"};
  }
  if (!(options.top_p > 0.0f && options.top_p <= 1.0f)) {
    return failure{errc::invalid_argument, 0, "top_p must be in (0, 1]"};
  }
  if (!(options.min_p >= 0.0f && options.min_p <= 1.0f)) {
    return failure{errc::invalid_argument, 0, "min_p must be in [0, 1]"};
  }
  if (!(options.repetition_penalty > 0.0f && options.repetition_penalty <= 10.0f)) {
    return failure{errc::invalid_argument, 0, "repetition_penalty must be in (0, 10]"};
  }
  if (!(options.frequency_penalty >= -2.0f && options.frequency_penalty <= 2.0f)) {
    return failure{errc::invalid_argument, 0, "frequency_penalty must be in [-2, 2]"};
  }
  if (!(options.presence_penalty >= -2.0f && options.presence_penalty <= 2.0f)) {
    return failure{errc::invalid_argument, 0, "presence_penalty must be in [-2, 2]"};
  }
  if (options.logit_bias.size() > logit_biases_max) {
    return failure{errc::invalid_argument, 0, "logit_bias may have 1024 tokens at most"};
  }
  for (const token_bias& b : options.logit_bias) {
    const bool is_ban = b.bias == -std::numeric_limits<float>::infinity();
    if (!is_ban && !(b.bias >= -100.0f && b.bias <= 100.0f)) {
      return failure{errc::invalid_argument, 0, "logit_bias must be in [-100, 100], or -infinity"};
    }
  }
  if (options.logprobs.value_or(0) > top_logprobs_max) {
    return failure{errc::invalid_argument, 0, "logprobs must be 20 at most"};
  }
  return {};
}
