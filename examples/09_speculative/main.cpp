// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Example 09: speculation. A drafter guesses, one step computes the guesses, a verifier keeps those
// that the model would have said itself, and the KV of the others is rolled back. The "model" here
// recites a text with a small variation, so that a lookup in what was said guesses much and not
// all. Then drafts that are drawn: they are judged by rejection sampling, and their number follows
// what they gain.
#include <oriel/kv/dual_pool.hpp>
#include <oriel/spec/draft_chain.hpp>
#include <oriel/spec/draft_length.hpp>
#include <oriel/spec/prompt_lookup.hpp>
#include <oriel/spec/verifier.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

namespace {

using oriel::token_id;

/// What the model says behind `tokens`: letters of a text that repeats with one letter changed.
token_id model_says(std::span<const token_id> tokens) {
  static const std::string text = "the cat sat on the mat. ";
  const std::size_t at = tokens.size();
  const bool varies = at % text.size() == 4;
  return token_id{varies ? static_cast<std::uint32_t>("crbhp"[at / text.size() % 5])
                         : static_cast<unsigned char>(text[at % text.size()])};
}

/// Greedy decoding with drafts from a lookup. @returns whether plain decoding says the same
bool recite() {
  // One full layer and one of a window of 8 tokens; a step appends a token and up to 5 drafts.
  const std::array layers{
      oriel::kv_layer_shape{.kv_heads = 1, .head_dim_qk = 8, .head_dim_vo = 8},
      oriel::kv_layer_shape{.kv_heads = 1, .head_dim_qk = 8, .head_dim_vo = 8, .window_tokens = 8}};
  const auto plan = oriel::pool_plan::make(layers, {.page_size = 4, .step_tokens = 32});
  oriel::pool_sizes sizes{{64, plan ? plan->ring(0).ring_pages() : 0}};
  auto pools = oriel::dual_pool<oriel::address_only_memory>::make(*plan, sizes);
  auto kv = pools->try_admit({.tokens_now = 0, .tokens_max = 200});

  std::vector<token_id> tokens;
  while (tokens.size() < 30) {  // The prompt.
    tokens.push_back(model_says(tokens));
  }
  if (!kv || !kv->reserve(29)) {  // Its last token is the first row of the first step.
    return false;
  }
  kv->commit(29);

  oriel::prompt_lookup drafter({.drafts_max = 5});
  drafter.accept(tokens);
  const oriel::verifier<oriel::greedy_match> verify;
  for (std::uint32_t step = 1; tokens.size() < 100; ++step) {
    std::array<oriel::drafted_token, 5> drafts;
    const std::span<const oriel::drafted_token> chain(drafts.data(), drafter.draft(drafts));
    const auto rows = static_cast<std::uint32_t>(1 + chain.size());
    if (!kv->reserve(rows)) {
      return false;
    }
    // One step computes all rows: row i is what the model says behind draft i - 1.
    std::vector<token_id> assumed = tokens;
    std::vector<oriel::sampled_token> said;
    for (std::uint32_t row = 0; row < rows; ++row) {
      said.push_back({.id = model_says(assumed), .probability = 1.0f});
      if (row < chain.size()) {
        assumed.push_back(chain[row].id);
      }
    }
    std::array<oriel::sampled_token, 6> out;
    const oriel::verified v = verify(
        chain, {}, [&](std::uint32_t row) { return said[row]; }, out);
    kv->commit(v.accept_length);  // The rows behind are rolled back, in every pool.

    const std::size_t first = tokens.size();
    std::string text;
    for (std::uint32_t i = 0; i < v.accept_length; ++i) {
      tokens.push_back(out[i].id);
      text += static_cast<char>(to_index(out[i].id));
    }
    drafter.accept(std::span(tokens).subspan(first));
    std::printf("step %2u: %zu drafts, %u accepted, KV of %3u tokens: \"%s\"\n",
                step,
                chain.size(),
                v.accepted_drafts,
                kv->length(),
                text.c_str());
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {  // Plain decoding says the same.
    if (!(tokens[i] == model_says(std::span(tokens).first(i)))) {
      return false;
    }
  }
  return true;
}

/// Four letters by their weights.
oriel::token_distribution letters(std::span<const float> weights) {
  std::uint64_t total = 0;
  for (const float weight : weights) {
    total += oriel::mass_of(weight);
  }
  return {.ids = {}, .weights = weights, .total = total};
}

/// Sampling. The drafter is not quite the model, and yet what comes out is distributed as the
/// model's own. @returns whether it is
bool draw() {
  const std::array model{0.5f, 0.25f, 0.15f, 0.1f}, drafter{0.4f, 0.4f, 0.1f, 0.1f};
  oriel::draft_chain chain;
  const oriel::verifier<oriel::rejection_sampling> verify;
  oriel::adaptive_draft_length length({.drafts_max = 3});
  oriel::acceptance_curve curve;  // What this sequence's drafts were worth.
  const oriel::acceptance_curve* const curves[]{&curve};
  std::array<std::uint32_t, 4> said{}, steps_by_drafts{};
  std::uint32_t tokens = 0, steps = 0;
  for (; tokens < 20'000; ++steps) {
    std::uint32_t drafts[1];
    length.plan(curves, drafts);
    chain.clear();
    for (std::uint32_t i = 0; i < drafts[0]; ++i) {
      (void)chain.draw(letters(drafter), {.seed = 1, .position = std::uint64_t{tokens} + i});
    }
    std::array<oriel::sampled_token, 4> out;
    const oriel::verified v = verify(
        chain.drafts(),
        {.seed = 1, .position = tokens},
        [&](std::uint32_t) { return letters(model); },
        out);
    for (std::uint32_t i = 0; i < v.accept_length; ++i) {
      ++said[to_index(out[i].id)];
    }
    tokens += v.accept_length;
    curve.on_verified(drafts[0], v.accepted_drafts);
    // An engine takes the time. Here a draft costs a tenth of a plain step.
    length.on_step({.batch = 1,
                    .rows = 1 + drafts[0],
                    .tokens = v.accept_length,
                    .seconds = 1.0 + 0.1 * drafts[0]});
    ++steps_by_drafts[drafts[0]];
  }
  std::printf("drawn: %.2f tokens a step; steps with 0 to 3 drafts: %u %u %u %u\n",
              double{1} * tokens / steps,
              steps_by_drafts[0],
              steps_by_drafts[1],
              steps_by_drafts[2],
              steps_by_drafts[3]);
  bool is_right = true;
  for (std::size_t i = 0; i < said.size(); ++i) {
    const double share = double{1} * said[i] / tokens;
    std::printf("  %c: %.3f of the tokens; the model %.3f, the drafter %.3f\n",
                static_cast<char>('a' + i),
                share,
                double{model[i]},
                double{drafter[i]});
    is_right = is_right && std::abs(share - double{model[i]}) < 0.02;
  }
  return is_right;
}

}  // namespace

int main() {
  return recite() && draw() ? 0 : 1;
}
