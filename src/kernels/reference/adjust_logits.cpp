// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/adjust_logits.hpp>

void oriel::reference::adjust_logits(std::span<const float> logits,
                                     const logit_adjustments& a,
                                     std::span<float> out) {
  for (std::uint32_t id = 0; id < logits.size(); ++id) {
    bool is_used = false;
    std::uint32_t outputs = 0;
    for (const token_use& use : a.uses) {
      is_used |= to_index(use.id) == id;
      outputs += to_index(use.id) == id ? use.outputs : 0;
    }
    float z = logits[id];
    if (is_used) {
      z = z > 0.0f ? z / a.repetition : z * a.repetition;
    }
    if (outputs > 0) {
      z = z - a.frequency * static_cast<float>(outputs);
      z = z - a.presence;
    }
    for (const token_bias& b : a.biases) {
      z = to_index(b.id) == id ? z + b.bias : z;
    }
    out[id] = z;
  }
}
