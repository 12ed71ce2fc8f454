// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Drafts never change an answer: with MTP blocks or a lookup, at every draft length, batch, chunk,
// hit, heal and tier, tokens and the logits behind them have the bits of a cold run.
#include "engine/engine_life.hpp"
#include "support/plain_store.hpp"

#include <catch2/catch.hpp>

#include <cstdint>
#include <memory>
#include <vector>

using namespace oriel;
using namespace oriel::engine;
using namespace engine_life;

namespace {

/// Three MTP blocks of one window, dense as those of the family.
library with_blocks(const std::vector<std::uint32_t>& windows,
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
          .speculates = true};
}

}  // namespace

TEST_CASE("drafts change nothing: one full layer in four") {
  library books = with_blocks({0, 16, 16, 16}, false, 16, 21);
  const tally t = check_exact(books, 24, requests_of(900), 11);
  CHECK(t.drafted > t.requests);
  CHECK(t.accepted > t.requests);
  CHECK(t.accepted < t.drafted);
}
