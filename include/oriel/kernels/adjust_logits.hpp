// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Penalties and biases: what a request changes in a row of logits before it is sampled. For each
/// token, in this order and in f32:
///
///     repetition   used in prompt or answer:  z = z > 0 ? z / repetition : z * repetition
///     frequency    z -= frequency * times used in the answer
///     presence     used in the answer:        z -= presence
///     bias         z += bias
///
/// The first is CTRL's (Keskar et al. 2019) as in Hugging Face's generate, the others are those of
/// OpenAI's API.
#pragma once

#include <oriel/core/ids.hpp>

#include <cstdint>
#include <span>

namespace oriel {

/// How often a sequence has used a token.
struct token_use {
  token_id id;
  std::uint32_t outputs;  ///< in the answer; 0: in the prompt alone
};

/// What is added to a token's logit. -infinity: it is never chosen.
struct token_bias {
  token_id id;
  float bias;

  friend bool operator==(const token_bias&, const token_bias&) = default;
};

/// What is changed in a row. The defaults change nothing.
struct logit_adjustments {
  float repetition = 1.0f;                  ///< finite, > 0; above 1 makes used tokens less likely
  float frequency = 0.0f;                   ///< finite; above 0 makes them less likely
  float presence = 0.0f;                    ///< finite; above 0 makes them less likely
  std::span<const token_use> uses = {};     ///< each token once, in any order
  std::span<const token_bias> biases = {};  ///< those of one token add up, in their order

  [[nodiscard]] constexpr bool change_nothing() const noexcept {
    return biases.empty() &&
           (uses.empty() || (repetition == 1.0f && frequency == 0.0f && presence == 0.0f));
  }
};

namespace reference {

/// The definition, token by token.
void adjust_logits(std::span<const float> logits,
                   const logit_adjustments& adjustments,
                   std::span<float> out);

}  // namespace reference

namespace host {

/// The same bits. A copy, and O(uses + biases).
/// @param out  [logits.size()], not overlapping
/// @pre ids are below logits.size()
void adjust_logits(std::span<const float> logits,
                   const logit_adjustments& adjustments,
                   std::span<float> out) noexcept;

}  // namespace host
}  // namespace oriel
