// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Drafts that are drawn by the blocks and judged by rejection sampling, through the whole engine:
// answers are distributed as plain decoding's.
#include "engine/with_blocks.hpp"

#include <oriel/kernels/sample.hpp>

#include <catch2/catch.hpp>
#include <support/chi_squared.hpp>

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

using namespace oriel;
using namespace oriel::engine;
using namespace engine_life;

namespace {

constexpr std::uint32_t vocabulary = 5, tokens_each = 4, outcomes = 625;

library small_vocabulary() {
  model_geometry model = toy_model({0, 16, 16}, false);
  model.vocabulary = vocabulary;
  model.mtp_layers.assign(3, toy_model({16}, false).layers[0]);
  model_weights weights = random_weights(model, dtype::bf16, 61);
  return {.model = std::move(model), .weights = std::move(weights), .tokens = no_text()};
}

const std::vector<token_id> prompt{token_id{1}, token_id{3}, token_id{0}};

/// Of each outcome of the first tokens of an answer, by the logits behind every beginning.
std::vector<double> joint_probabilities(const library& books, const sample_filters& filters) {
  cold_reference reference(books.model, books.weights, 64);
  std::vector<double> joint(1, 1.0);
  for (std::uint32_t length = 0; length < tokens_each; ++length) {
    std::vector<double> longer;
    for (std::size_t beginning = 0; beginning < joint.size(); ++beginning) {
      std::vector<token_id> text = prompt;
      std::size_t scale = joint.size();
      for (std::uint32_t i = 0; i < length; ++i) {
        scale /= vocabulary;
        text.push_back(token_id{static_cast<std::uint32_t>(beginning / scale % vocabulary)});
      }
      const document d = reference.run(std::move(text), 1);
      std::array<std::uint32_t, vocabulary> ids;
      std::array<float, vocabulary> weights;
      const token_distribution next =
          reference::filter_logits(std::span(d.logits).last(vocabulary), filters, ids, weights);
      for (std::uint32_t id = 0; id < vocabulary; ++id) {
        longer.push_back(joint[beginning] * double{probability_of(next, token_id{id})});
      }
    }
    joint = std::move(longer);
  }
  return joint;
}

struct drawn {
  std::vector<std::uint64_t> counts = std::vector<std::uint64_t>(outcomes);
  std::vector<std::uint32_t> outcome_of;  // [seeds]
  double acceptance = 0.0;
};

drawn sample(const library& books,
             const sample_filters& filters,
             std::uint64_t count,
             accept_kind accept,
             std::uint32_t drafts,
             std::uint32_t sequences = 16) {
  engine_options o{.chunk_tokens = 64, .sequences_max = sequences, .context_tokens = 64};
  o.prefix_cache = false;
  o.now_us = ticking_us;
  o.speculation = {.drafter = drafter_kind::mtp, .drafts_max = drafts, .accept = accept};
  thread_pool threads{1};
  engine::engine e{books.model, books.weights, books.tokens, o, threads};
  drawn out;
  out.outcome_of.resize(count);
  std::uint64_t next = 0;
  while (next < count || !e.idle()) {
    for (std::uint32_t i = 0; i < sequences && next < count && e.running() < sequences; ++i) {
      request r;
      r.id = request_id{next};
      r.prompt = prompt;
      r.max_new_tokens = tokens_each + 1;
      r.sampling = {.temperature = filters.temperature,
                    .top_k = filters.top_k,
                    .top_p = filters.top_p,
                    .min_p = filters.min_p,
                    .seed = 5'000'000 + next};
      REQUIRE(e.submit(std::move(r)));
      ++next;
    }
    while (!e.idle()) {
      for (const event& happened : e.step()) {
        std::uint32_t& outcome = out.outcome_of[static_cast<std::uint64_t>(happened.id)];
        if (happened.finish == finish_reason::none) {  // The first tokens_each of them.
          outcome = outcome * vocabulary + to_index(happened.token.value());
        }
      }
    }
  }
  for (const std::uint32_t outcome : out.outcome_of) {
    ++out.counts[outcome];
  }
  out.acceptance = static_cast<double>(e.metrics().accepted_tokens.value()) /
                   static_cast<double>(e.metrics().drafted_tokens.value());
  return out;
}

}  // namespace

TEST_CASE("drawn drafts leave the model's joint distribution, through the engine") {
  const library books = small_vocabulary();
  const std::uint64_t count = is_long_run() ? 200'000 : scaled(20'000);
  for (const sample_filters& filters :
       {sample_filters{.temperature = 0.5f},
        sample_filters{.temperature = 0.8f, .top_k = 4, .top_p = 0.95f, .min_p = 0.02f}}) {
    std::vector<double> expected = joint_probabilities(books, filters);
    for (double& e : expected) {
      e *= static_cast<double>(count);
    }
    const drawn rejected = sample(books, filters, count, accept_kind::rejection, 3);
    const drawn matched = sample(books, filters, count, accept_kind::match, 3);
    const double p = test_counts<std::uint64_t>(rejected.counts, expected).p_value();
    const double p_matched = test_counts<std::uint64_t>(matched.counts, expected).p_value();
    WARN(count << " answers, temperature " << filters.temperature << ": p = " << p
               << ", matched p = " << p_matched << "; accepted " << rejected.acceptance << " and "
               << matched.acceptance);
    CHECK(p > 0.001);
    CHECK(p_matched > 0.001);
    CHECK(rejected.acceptance > 0.1);
    CHECK(rejected.acceptance < 0.95);
    // A tilted distribution would be seen.
    std::vector<double> tilted = expected;
    for (std::size_t i = 0; i < outcomes; ++i) {
      tilted[i] *= i % 2 == 0 ? 1.2 : 1.0;
    }
    double sum = 0.0;
    for (const double e : tilted) {
      sum += e;
    }
    for (double& e : tilted) {
      e *= static_cast<double>(count) / sum;
    }
    if (count >= 10'000) {
      CHECK(test_counts<std::uint64_t>(rejected.counts, tilted).p_value() < 0.001);
    }
  }
}

TEST_CASE("drawn drafts: the same seed and length give the same tokens, whoever runs beside") {
  const library books = small_vocabulary();
  const sample_filters filters{.temperature = 0.7f};
  for (const std::uint32_t drafts : {1u, 2u, 3u}) {
    const drawn alone = sample(books, filters, 200, accept_kind::rejection, drafts, 1);
    CHECK(alone.outcome_of ==
          sample(books, filters, 200, accept_kind::rejection, drafts, 7).outcome_of);
  }
  // Without a temperature there is nothing to draw.
  CHECK(sample(books, {.temperature = 0.0f}, 3, accept_kind::rejection, 3).outcome_of ==
        sample(books, {.temperature = 0.0f}, 3, accept_kind::match, 2).outcome_of);
}
