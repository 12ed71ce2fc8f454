// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Toy models that can draft.
#pragma once

#include "engine/engine_life.hpp"

#include <cstdint>
#include <utility>
#include <vector>

namespace engine_life {

/// Three MTP blocks of one window, dense as those of the family.
inline library with_blocks(const std::vector<std::uint32_t>& windows,
                           bool moe,
                           std::uint32_t mtp_window,
                           std::uint64_t seed) {
  model_geometry model = toy_model(windows, moe);
  model.mtp_layers.assign(3, toy_model({mtp_window}, false).layers[0]);
  model_weights weights = random_weights(model, dtype::bf16, seed);
  return {.model = std::move(model),
          .weights = std::move(weights),
          .tokens = no_text(),
          .answer_tokens = 24,
          .cut_answer_tokens = 6,
          .speculates = true};
}

}  // namespace engine_life
