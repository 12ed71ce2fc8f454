// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Penalties look at the tokens before a row: at the drafts before it too (docs/speculation.md).
#include <oriel/output/sampler.hpp>
#include <oriel/spec/verifier.hpp>

#include <catch2/catch.hpp>
#include <support/arrays.hpp>

#include <array>
#include <vector>

namespace penalties_test {

using namespace oriel;

namespace {

constexpr std::uint32_t vocabulary = 30;
constexpr std::size_t answer_tokens = 200;

/// Logits of each token's successor.
std::vector<float> successors() {
  random_stream random(21);
  return random_floats(vocabulary * vocabulary, random, -4.0f, 4.0f);
}

struct decoding {
  explicit decoding(const sampling_options& o) : options(o) { history.add_prompt(tokens); }

  const float* row_after(token_id id) const {
    return logits.data() + std::size_t{to_index(id)} * vocabulary;
  }

  /// One token at a time.
  std::vector<token_id> plain() {
    serial_executor serial;
    while (tokens.size() < answer_tokens) {
      const sampler_row row{.options = &options, .position = tokens.size(), .history = &history};
      sampled_token out{};
      choose(row_after(tokens.back()), vocabulary, {&row, 1}, {&out, 1}, serial);
      history.add_output(out.id);
      tokens.push_back(out.id);
    }
    return tokens;
  }

  /// By drafts of the likeliest tokens, as if nothing had been used.
  template <class Rule>
  std::vector<token_id> speculative(std::uint32_t drafts_each) {
    std::array<sampled_token, 8> out;
    while (tokens.size() < answer_tokens) {
      std::vector<drafted_token> drafts;
      std::vector<token_id> ends{tokens.back()};
      for (std::uint32_t i = 0; i < drafts_each; ++i) {
        drafts.push_back({.id = choose.greedy(row_after(ends.back()), {}).id});
        ends.push_back(drafts.back().id);
      }
      const verified v = verifier<Rule>()(
          drafts,
          {.seed = options.seed, .position = tokens.size()},
          [&](std::uint32_t row) {
            if (row > 0) {
              history.add_output(drafts[row - 1].id);
            }
            if constexpr (std::is_same_v<Rule, greedy_match>) {
              return choose.greedy(row_after(ends[row]), options, &history);
            } else {
              return choose.distribution(row_after(ends[row]), options, &history);
            }
          },
          out);
      history.add_output(out[v.accept_length - 1].id);
      accepted += v.accepted_drafts;
      for (std::uint32_t i = 0; i < v.accept_length; ++i) {
        tokens.push_back(out[i].id);
      }
    }
    tokens.resize(answer_tokens);
    return tokens;
  }

  sampling_options options;
  std::vector<float> logits = successors();
  sampler choose{vocabulary, 1};
  token_history history;
  std::vector<token_id> tokens{token_id{1}, token_id{2}, token_id{3}};
  std::uint32_t accepted = 0;
};

}  // namespace

TEST_CASE("with penalties and biases, verified drafts say what plain decoding says") {
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    sampling_options o{.temperature = seed % 3 == 0 ? 0.0f : 0.7f,
                       .top_p = seed % 2 == 0 ? 1.0f : 0.95f,
                       .seed = seed,
                       .repetition_penalty = seed % 4 == 0 ? 1.0f : 1.05f,
                       .frequency_penalty = 0.1f,
                       .presence_penalty = 0.2f};
    o.logit_bias = {{token_id{4}, 1.0f}};
    const std::vector<token_id> plain = decoding(o).plain();
    for (const std::uint32_t drafts : {1u, 3u, 7u}) {
      decoding d(o);
      INFO("seed " << seed << ", " << drafts << " drafts");
      CHECK((o.temperature == 0.0f ? d.speculative<greedy_match>(drafts)
                                   : d.speculative<rejection_sampling>(drafts)) == plain);
      CHECK(d.accepted > 10);
    }
  }
}

}  // namespace penalties_test
