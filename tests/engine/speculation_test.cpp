// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Drafts never change an answer: with MTP blocks or a lookup, at every draft length, batch, chunk,
// hit, heal and tier, tokens and the logits behind them have the bits of a cold run.
#include "engine/engine_life.hpp"
#include "engine/with_blocks.hpp"

#include <catch2/catch.hpp>
#include <engine/checkpoint.hpp>
#include <engine/weight_loader.hpp>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace speculation_test {

using namespace oriel;
using namespace oriel::engine;
using namespace engine_life;

namespace {

/// Something was drafted, accepted and rolled back, for most requests of another prompt: for more
/// than a thousand prompts in all cases together. A sanitizer's share is too small to hold it.
void check_drafts(const tally& t) {
  if (t.requests >= 150) {
    CHECK(t.drafted > t.requests);
    CHECK(4 * t.accepted > t.requests);
    CHECK(t.accepted < t.drafted);
    CHECK(100 * t.drafted_prompts.size() > 42 * t.requests);
  }
}

/// The scripts of this project: Python, as the nano model's training text, but no part of it.
std::vector<token_id> scripts(const tokenizer& tokens) {
  std::string text;
  for (const char* const name :
       {"cli_test.py", "fleet_test.py", "cache_test.py", "tiers_test.py"}) {
    std::ostringstream file;
    file << std::ifstream(std::filesystem::path{ORIEL_TEST_DIR} / "cli" / name).rdbuf();
    text += file.str();
  }
  return tokens.encode(text);
}

}  // namespace

TEST_CASE("drafts change nothing: one full layer in four") {
  library books = with_blocks({0, 16, 16, 16}, false, 16, 21);
  check_drafts(check_exact(books, 24, requests_of(900), 11));
}

TEST_CASE("drafts change nothing: two window sizes, experts, blocks of another window") {
  library books = with_blocks({16, 0, 40, 16, 0, 40}, true, 24, 22);
  check_drafts(check_exact(books, 24, requests_of(700), 12));
}

TEST_CASE("drafts change nothing: through tiers that fail now and then") {
  library books = with_blocks({0, 16, 33, 16}, false, 20, 23);
  const tier_maker tiers[]{unruly_tiers()};
  const tally t = check_exact(books, 24, requests_of(700), 13, tiers);
  check_drafts(t);
  if (t.requests >= 400) {
    CHECK(t.joined >= 20);
    for (const std::uint64_t requests : t.from_tier) {
      CHECK(requests >= 10);
    }
  }
}

TEST_CASE("drafts change nothing: the nano model drafts for itself") {
  const std::filesystem::path folder =
      std::filesystem::path{ORIEL_TEST_DIR} / ".." / "examples" / "models" / "nano";
  const checkpoint opened = open_checkpoint(folder);
  library books{.model = opened.config.geometry,
                .weights = load_weights(opened),
                .tokens = tokenizer::load((folder / "tokenizer.json").string()),
                .context = 400,
                .answer_tokens = 16,
                .cut_answer_tokens = 6,
                .speculates = true,
                .edits_drafts = false};
  books.text = scripts(books.tokens);
  REQUIRE(books.text.size() > 10'000);
  check_drafts(check_exact(books, 12, requests_of(150), 14));
}

TEST_CASE("a stop token among accepted drafts ends the answer where plain decoding ends it") {
  library books = with_blocks({0, 16, 16}, false, 16, 24);
  books.write(3, 24);
  class all_right final : public draft_editor {
   public:
    explicit all_right(const document& d) : text_(d) {}
    void on_drafts(request_id,
                   std::span<const token_id> known,
                   std::vector<token_id>& drafts) override {
      for (std::size_t i = 0; i < drafts.size() && known.size() + i < text_.tokens.size(); ++i) {
        drafts[i] = text_.tokens[known.size() + i];
      }
    }

   private:
    const document& text_;
  };
  for (const document& d : books.documents) {
    for (std::uint32_t at = 0; at < 12; ++at) {
      const token_id stop = d.tokens[d.prompt_tokens + at];
      std::vector<std::vector<token_id>> answers;
      for (const std::uint32_t drafts : {0u, 1u, 2u, 3u}) {
        all_right editor(d);
        engine_options o{.chunk_tokens = 40, .context_tokens = books.context};
        if (drafts != 0) {
          o.speculation = {.drafter = drafter_kind::mtp, .drafts_max = drafts, .editor = &editor};
        }
        thread_pool threads{1};
        oriel::engine::engine served{books.model, books.weights, books.tokens, o, threads};
        request r;
        r.prompt.assign(d.tokens.begin(), d.tokens.begin() + d.prompt_tokens);
        r.max_new_tokens = 24;
        r.sampling.temperature = 0;
        r.stop.tokens = {stop};
        REQUIRE(served.submit(std::move(r)));
        answers.emplace_back();
        std::uint32_t steps = 0;
        draft_counts counted;
        for (; !served.idle(); ++steps) {
          for (const event& happened : served.step()) {
            counted = happened.drafts;
            answers.back().push_back(happened.token.value());
            CHECK((happened.finish == finish_reason::stop) == (*happened.token == stop));
          }
        }
        CHECK(answers.back() == answers.front());
        const auto decoded = static_cast<std::uint32_t>(answers.back().size()) - 1;
        CHECK(steps <= (d.prompt_tokens + 39) / 40 + (decoded + drafts) / (1 + drafts));
        CHECK(counted.accepted == counted.drafted);  // What the stop cut off was not rejected.
      }
    }
  }
}

TEST_CASE("pages of another reading of the blocks are not found, the model's serve all others") {
  library books = with_blocks({0, 16, 16}, false, 16, 25);
  books.write(2, 25);
  const document& d = books.documents[0];
  const auto medium = std::make_shared<plain_medium>();
  const auto cached = [&](drafter_kind drafter, mtp_chain chain) {
    engine_options o{.chunk_tokens = 64, .context_tokens = books.context};
    o.now_us = ticking_us;
    o.model_digest = "books";
    o.tier_moves = {.fetches_max = 2, .fetch_us_min = 10'000'000, .fetch_us_max = 10'000'000};
    o.speculation = {.drafter = drafter, .chain = chain};
    std::vector<tier> tiers;
    tiers.push_back({.store = any_store(std::make_unique<plain_store>(medium, plain_faults{}, 1)),
                     .role = tier_role::disk,
                     .writes = placement::write_through,
                     .rates = {.latency_s = 0.0, .bytes_per_s = 1e15}});
    thread_pool threads{1};
    oriel::engine::engine served{
        books.model, books.weights, books.tokens, o, threads, std::move(tiers)};
    request r;
    r.prompt.assign(d.tokens.begin(), d.tokens.begin() + d.prompt_tokens);
    r.max_new_tokens = 2;
    r.sampling.temperature = 0;
    REQUIRE(served.submit(std::move(r)));
    request_usage usage;
    while (!served.idle()) {
      for (const event& happened : served.step()) {
        usage = happened.usage;
      }
    }
    REQUIRE(served.cache()->tiers()->finish(no_deadline));
    return usage.cached_tokens;
  };
  CHECK(cached(drafter_kind::mtp, mtp_chain::main_hidden) == 0);
  CHECK(cached(drafter_kind::mtp, mtp_chain::previous_hidden) == 0);
  CHECK(cached(drafter_kind::mtp, mtp_chain::main_hidden) > 200);
  CHECK(cached(drafter_kind::mtp, mtp_chain::previous_hidden) > 200);
  CHECK(cached(drafter_kind::none, mtp_chain::previous_hidden) > 200);
}

}  // namespace speculation_test
