// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/kernels/adjust_logits.hpp>

#include <cstring>

void oriel::host::adjust_logits(std::span<const float> logits,
                                const logit_adjustments& a,
                                std::span<float> out) noexcept {
  ORIEL_EXPECTS(out.size() == logits.size());
  std::memcpy(out.data(), logits.data(), logits.size_bytes());
  for (const token_use& use : a.uses) {
    ORIEL_EXPECTS(to_index(use.id) < out.size());
    float& z = out[to_index(use.id)];
    z = z > 0.0f ? z / a.repetition : z * a.repetition;
    if (use.outputs != 0) {
      z -= a.frequency * static_cast<float>(use.outputs);
      z -= a.presence;
    }
  }
  for (const token_bias& b : a.biases) {
    ORIEL_EXPECTS(to_index(b.id) < out.size());
    out[to_index(b.id)] += b.bias;
  }
}
