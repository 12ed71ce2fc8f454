// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Drafts that are drawn by the blocks and judged by rejection sampling, through the whole engine:
// answers are distributed as plain decoding's.
#include "engine/with_blocks.hpp"

#include <oriel/core/random.hpp>
#include <oriel/output/sampler.hpp>
#include <oriel/output/token_history.hpp>

#include <catch2/catch.hpp>
#include <support/chi_squared.hpp>

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace rejection_test {

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

const std::vector<token_id> short_prompt{token_id{1}, token_id{3}, token_id{0}};

/// What is asked, and what happens meanwhile.
struct question {
  sampling_options sampling = {};
  std::vector<token_id> prompt = short_prompt;
  std::optional<token_id> stop = {};
  bool is_cached = false;  ///< most requests find the prompt in the cache, some without its windows
  bool is_disturbed = false;  ///< sequences are preempted
};

question with_filters(const sample_filters& filters) {
  question asked;
  asked.sampling.temperature = filters.temperature;
  asked.sampling.top_k = filters.top_k;
  asked.sampling.top_p = filters.top_p;
  asked.sampling.min_p = filters.min_p;
  return asked;
}

/// Of each outcome of the first tokens of an answer, by the logits behind every beginning. Behind a
/// stop token come stop tokens.
std::vector<double> joint_probabilities(const library& books, const question& asked) {
  cold_reference reference(books.model, books.weights, 64);
  sampler choose(vocabulary, 1);
  std::vector<double> joint(1, 1.0);
  for (std::uint32_t length = 0; length < tokens_each; ++length) {
    std::vector<double> longer;
    for (std::size_t beginning = 0; beginning < joint.size(); ++beginning) {
      std::vector<token_id> text = asked.prompt;
      token_history history;
      history.add_prompt(asked.prompt);
      std::size_t scale = joint.size();
      bool has_ended = false;
      for (std::uint32_t i = 0; i < length; ++i) {
        scale /= vocabulary;
        text.push_back(token_id{static_cast<std::uint32_t>(beginning / scale % vocabulary)});
        history.add_output(text.back());
        has_ended |= asked.stop == text.back();
      }
      const document d = reference.run(std::move(text), 1, false);
      const token_distribution next =
          choose.distribution(d.logits.data(), asked.sampling, &history);
      for (std::uint32_t id = 0; id < vocabulary; ++id) {
        const double p = has_ended ? (asked.stop == token_id{id} ? 1.0 : 0.0)
                                   : double{probability_of(next, token_id{id})};
        longer.push_back(joint[beginning] * p);
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
  std::uint64_t preempted = 0, cached = 0, healed = 0;
};

/// Every so often a sequence loses its place, and the cache its windows.
void disturb(oriel::engine::engine& e,
             const question& asked,
             std::uint64_t next,
             random_stream& draw) {
  if (asked.is_disturbed && draw.next_below(4) == 0) {
    (void)e.preempt(request_id{next - 1 - draw.next_below(8)});
  }
  if (asked.is_cached && draw.next_below(16) == 0) {
    auto& tree = e.cache()->tree();
    for (std::uint32_t kind = 0; kind < tree.options().windows.size(); ++kind) {
      tree.evict_window(kind, tree.evictable_window_pages(kind));
    }
  }
}

drawn sample(const library& books,
             const question& asked,
             std::uint64_t count,
             accept_kind accept,
             std::uint32_t drafts,
             std::uint32_t sequences = 16) {
  engine_options o{.chunk_tokens = 64, .sequences_max = sequences, .context_tokens = 64};
  o.prefix_cache = asked.is_cached;
  o.now_us = ticking_us;
  o.speculation = {.drafter = drafter_kind::mtp, .drafts_max = drafts, .accept = accept};
  thread_pool threads{1};
  oriel::engine::engine e{books.model, books.weights, books.tokens, o, threads};
  random_stream draw(7, 7);
  drawn out;
  out.outcome_of.resize(count);
  std::vector<std::uint32_t> said(count);
  std::uint64_t next = 0;
  while (next < count || !e.idle()) {
    for (std::uint32_t i = 0; i < sequences && next < count && e.running() < sequences; ++i) {
      request r;
      r.id = request_id{next};
      r.prompt = asked.prompt;
      r.max_new_tokens = tokens_each + 1;
      r.sampling = asked.sampling;
      r.sampling.seed = 5'000'000 + next;
      if (asked.stop) {
        r.stop.tokens = {*asked.stop};
      }
      REQUIRE(e.submit(std::move(r)));
      ++next;
    }
    while (!e.idle()) {
      disturb(e, asked, next, draw);
      for (const event& happened : e.step()) {
        const auto id = static_cast<std::uint64_t>(happened.id);
        // The first tokens_each of them; behind a stop token as many of it.
        const bool has_stopped = happened.finish == finish_reason::stop;
        for (bool goes_on = true; goes_on && said[id] < tokens_each; goes_on = has_stopped) {
          out.outcome_of[id] = out.outcome_of[id] * vocabulary + to_index(happened.token.value());
          ++said[id];
        }
      }
    }
  }
  for (const std::uint32_t outcome : out.outcome_of) {
    ++out.counts[outcome];
  }
  const engine_metrics& m = e.metrics();
  out.acceptance = static_cast<double>(m.accepted_tokens.value()) /
                   static_cast<double>(m.drafted_tokens.value());
  out.preempted = m.requests_preempted.value();
  out.cached = m.cached_tokens.value();
  out.healed = m.healed_tokens.value();
  return out;
}

/// Drawn and judged by rejection, answers are distributed as the model's own.
drawn check_joint(const library& books, const question& asked, std::uint64_t count) {
  std::vector<double> expected = joint_probabilities(books, asked);
  for (double& e : expected) {
    e *= static_cast<double>(count);
  }
  const drawn rejected = sample(books, asked, count, accept_kind::rejection, 3);
  const double p = test_counts<std::uint64_t>(rejected.counts, expected).p_value();
  WARN(count << " answers, temperature " << asked.sampling.temperature << ": p = " << p
             << "; accepted " << rejected.acceptance);
  CHECK(p > 0.001);
  CHECK(rejected.acceptance > 0.1);
  CHECK(rejected.acceptance < 0.95);
  // A tilted distribution would be seen.
  double sum = 0.0;
  for (std::size_t i = 0; i < outcomes; ++i) {
    expected[i] *= i % 2 == 0 ? 1.2 : 1.0;
    sum += expected[i];
  }
  for (double& e : expected) {
    e *= static_cast<double>(count) / sum;
  }
  if (count >= 10'000) {
    CHECK(test_counts<std::uint64_t>(rejected.counts, expected).p_value() < 0.001);
  }
  return rejected;
}

std::uint64_t answers_in_all(std::uint64_t in_ci) {
  return is_long_run() ? 200'000 : scaled(in_ci);
}

constexpr sample_filters all_filters[]{
    {.temperature = 0.5f}, {.temperature = 0.8f, .top_k = 4, .top_p = 0.95f, .min_p = 0.02f}};

}  // namespace

TEST_CASE("drawn drafts leave the model's joint distribution, through the engine") {
  const library books = small_vocabulary();
  const std::uint64_t count = answers_in_all(20'000);
  for (const sample_filters& filters : all_filters) {
    const question asked = with_filters(filters);
    (void)check_joint(books, asked, count);
    std::vector<double> expected = joint_probabilities(books, asked);
    for (double& e : expected) {
      e *= static_cast<double>(count);
    }
    const drawn matched = sample(books, asked, count, accept_kind::match, 3);
    CHECK(test_counts<std::uint64_t>(matched.counts, expected).p_value() > 0.001);
  }
}

TEST_CASE("drawn drafts leave penalised, biased distributions alone, through the engine") {
  const library books = small_vocabulary();
  for (const sample_filters& filters : all_filters) {
    question asked = with_filters(filters);
    asked.sampling.repetition_penalty = 1.4f;
    asked.sampling.frequency_penalty = 0.6f;
    asked.sampling.presence_penalty = 0.5f;
    asked.sampling.logit_bias = {{token_id{2}, 0.7f}};
    (void)check_joint(books, asked, answers_in_all(20'000));
  }
}

TEST_CASE("drawn drafts leave the distribution alone through stops, hits, heals and preemptions") {
  const library books = small_vocabulary();
  question asked = with_filters({.temperature = 0.7f});
  asked.stop = token_id{2};
  random_stream draw(8);
  while (asked.prompt.size() < 47) {
    asked.prompt.push_back(token_id{draw.next_below(vocabulary)});
  }
  asked.is_cached = asked.is_disturbed = true;
  const std::uint64_t count = answers_in_all(16'000);
  const drawn out = check_joint(books, asked, count);
  INFO(out.preempted << " preempted, " << out.cached << " tokens cached, " << out.healed
                     << " healed");
  CHECK(20 * out.preempted > count);
  CHECK(out.cached > 16 * count);
  CHECK(20 * out.healed > count);
}

TEST_CASE("drawn drafts: the same seed and length give the same tokens, whoever runs beside") {
  const library books = small_vocabulary();
  const question asked = with_filters({.temperature = 0.7f});
  for (const std::uint32_t drafts : {1u, 2u, 3u}) {
    const drawn alone = sample(books, asked, 200, accept_kind::rejection, drafts, 1);
    CHECK(alone.outcome_of ==
          sample(books, asked, 200, accept_kind::rejection, drafts, 7).outcome_of);
  }
  // Without a temperature there is nothing to draw.
  const question greedy = with_filters({.temperature = 0.0f});
  CHECK(sample(books, greedy, 3, accept_kind::rejection, 3).outcome_of ==
        sample(books, greedy, 3, accept_kind::match, 2).outcome_of);
}

}  // namespace rejection_test
