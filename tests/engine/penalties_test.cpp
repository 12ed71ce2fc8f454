// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What a row's penalties look at is the tokens before it, wherever these were computed: answers and
// log-probabilities are the same with drafts, hits, preemptions and tiers.
#include "engine/engine_life.hpp"
#include "engine/with_blocks.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <span>
#include <utility>
#include <vector>

namespace penalties_test {

using namespace oriel;
using namespace oriel::engine;
using namespace engine_life;

namespace {

/// Tokens of an answer, and of each the log-probabilities that were asked for.
struct answer {
  std::vector<token_id> tokens;
  std::vector<token_logprob> logprobs;

  friend bool operator==(const answer&, const answer&) = default;
};
using answers = std::map<request_id, answer>;

/// Drafts that are right three times in four, or the blocks' own.
class mostly_right final : public draft_editor {
 public:
  mostly_right(const answers& right, const std::vector<request>& requests)
      : right_(right), requests_(requests) {}
  void on_drafts(request_id id,
                 std::span<const token_id> known,
                 std::vector<token_id>& drafts) override {
    const request& r = requests_[static_cast<std::uint64_t>(id)];
    const std::vector<token_id>& said = right_.at(id).tokens;
    for (std::size_t i = 0; i < drafts.size(); ++i) {
      const std::size_t at = known.size() - r.prompt.size() + i;
      if (at < said.size() && draw_.next_below(4) != 0) {
        drafts[i] = said[at];
      }
    }
  }

 private:
  const answers& right_;
  const std::vector<request>& requests_;
  random_stream draw_{4, 4};
};

/// Prompts that begin alike, half of them greedy, all of them with something that depends on what
/// was said.
std::vector<request> penalised(library& books, std::uint64_t count) {
  random_stream draw(77);
  std::vector<request> requests;
  for (std::uint64_t i = 0; i < count; ++i) {
    const document& d = books.documents[i % books.documents.size()];
    request r;
    r.id = request_id{i};
    const auto length = d.prompt_tokens - static_cast<std::uint32_t>(i % 7);
    r.prompt.assign(d.tokens.begin(), d.tokens.begin() + length);
    r.max_new_tokens = 20 + draw.next_below(20);
    r.sampling.temperature = i % 2 == 0 ? 0.0f : 0.5f;
    r.sampling.top_p = i % 4 == 1 ? 0.9f : 1.0f;
    r.sampling.min_p = i % 4 == 3 ? 0.02f : 0.0f;
    r.sampling.seed = i;
    r.sampling.repetition_penalty = i % 3 == 0 ? 1.3f : 1.0f;
    r.sampling.frequency_penalty = i % 3 == 1 ? 1.5f : 0.2f;
    r.sampling.presence_penalty = i % 3 == 2 ? 1.0f : 0.0f;
    r.sampling.logprobs = static_cast<std::uint32_t>(i % 3);
    r.sampling.logit_bias = {
        {token_id{static_cast<std::uint32_t>(i % 5)}, 2.0f},
        {token_id{static_cast<std::uint32_t>(5 + i % 5)}, -std::numeric_limits<float>::infinity()}};
    requests.push_back(std::move(r));
  }
  return requests;
}

struct served {
  answers said;
  std::uint64_t accepted, preempted, cached;
};

served serve(const library& books,
             const std::vector<request>& requests,
             const engine_options& options,
             bool preempts = false,
             const tier_maker& tiers = {}) {
  thread_pool threads{1};
  oriel::engine::engine e{books.model,
                          books.weights,
                          books.tokens,
                          options,
                          threads,
                          tiers ? tiers(books.model, options, 5) : std::vector<tier>{}};
  random_stream draw(6, 6);
  served out{};
  for (const request& r : requests) {
    REQUIRE(e.submit(r));
  }
  while (!e.idle()) {
    if (preempts && draw.next_below(3) == 0) {
      (void)e.preempt(request_id{draw.next_below(static_cast<std::uint32_t>(requests.size()))});
    }
    for (const event& happened : e.step()) {
      answer& a = out.said[happened.id];
      a.tokens.push_back(happened.token.value());
      const token_logprobs& p = happened.logprobs.value();
      a.logprobs.push_back({.id = a.tokens.back(), .logprob = p.chosen});
      a.logprobs.insert(a.logprobs.end(), p.top.begin(), p.top.end());
    }
  }
  out.accepted = e.metrics().accepted_tokens.value();
  out.preempted = e.metrics().requests_preempted.value();
  out.cached = e.metrics().cached_tokens.value();
  return out;
}

}  // namespace

TEST_CASE("penalties, biases and log-probabilities: the same with drafts, hits and preemptions") {
  library books = with_blocks({0, 16, 16}, false, 16, 41);
  books.context = 200;
  books.write(8, 41);
  const std::vector<request> requests = penalised(books, 24);
  engine_options plain{.context_tokens = books.context};
  plain.prefix_cache = false;
  plain.now_us = ticking_us;
  const answers right = serve(books, requests, plain).said;

  std::vector<request> without = requests;
  for (request& r : without) {
    r.sampling = {.temperature = r.sampling.temperature,
                  .top_p = r.sampling.top_p,
                  .min_p = r.sampling.min_p,
                  .seed = r.sampling.seed,
                  .logprobs = r.sampling.logprobs};
  }
  std::size_t changed = 0;
  for (const auto& [id, other] : serve(books, without, plain).said) {
    changed += other.tokens != right.at(id).tokens;
  }
  CHECK(changed > requests.size() / 2);  // They matter here.

  mostly_right editor(right, requests);
  std::uint64_t accepted = 0, preempted = 0;
  for (const std::uint32_t drafts : {0u, 1u, 2u, 3u, 7u}) {
    for (const bool edits : {false, true}) {
      for (const bool has_tiers : {false, true}) {
        CAPTURE(drafts, edits, has_tiers);
        engine_options o{.chunk_tokens = 33, .sequences_max = 3, .context_tokens = books.context};
        o.now_us = ticking_us;
        o.cache_tokens = 600;
        if (drafts != 0) {
          o.speculation = {.drafter = drafts > 3 ? drafter_kind::lookup : drafter_kind::mtp,
                           .drafts_max = drafts,
                           .editor = edits ? &editor : nullptr};
        }
        const served s = serve(books, requests, o, true, has_tiers ? unruly_tiers() : tier_maker());
        CHECK((s.said == right));
        CHECK(s.cached > 100);
        accepted += s.accepted;
        preempted += s.preempted;
      }
    }
  }
  CHECK(accepted > 1'000);
  CHECK(preempted > 60);
}

}  // namespace penalties_test
