// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// A real Redis server in trouble while requests run: killed, stopped, slow, cut off in the middle
// of replies, replaced by an empty one and by one that another model filled. Whatever happens,
// logits have the bits of a cold run, nobody waits for long, and hits come back by themselves.
#include "support/cold_reference.hpp"
#include "support/engine_accounts.hpp"
#include "support/no_text.hpp"
#include "support/scale.hpp"
#include "support/toy_model.hpp"
#include "tier/fault_proxy.hpp"
#include "tier/redis_server.hpp"

#include <oriel/core/random.hpp>
#include <oriel/tier/redis_store.hpp>
#include <oriel/tier/store_thread.hpp>

#include <catch2/catch.hpp>
#include <engine/engine.hpp>
#include <engine/weight_loader.hpp>

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace redis_trouble_test {

using namespace oriel;
using namespace oriel::engine;

namespace {

constexpr std::uint32_t context = 320, answer_tokens = 3, together = 4;
constexpr std::uint64_t fetch_us = 60'000;

/// A model, and documents of which each shares a prefix with the one before.
struct library {
  explicit library(std::uint64_t seed) : weights(random_weights(model, dtype::bf16, seed)) {
    random_stream draw(7, 1);  // The same prompts, whatever the weights.
    cold_reference reference(model, weights, context);
    for (std::uint32_t i = 0; i < 8; ++i) {
      std::vector<token_id> prompt;
      if (i % 4 != 0) {
        const document& parent = documents[i - 1];
        prompt.assign(parent.tokens.begin(), parent.tokens.begin() + 60 + draw.next_below(60));
      }
      while (prompt.size() < 200 + 8 * i) {
        prompt.push_back(token_id{draw.next_below(model.vocabulary)});
      }
      documents.push_back(reference.run(std::move(prompt), answer_tokens));
    }
  }
  model_geometry model = toy_model({16, 0, 33, 16}, false);
  model_weights weights;
  tokenizer tokens = no_text();
  std::vector<document> documents;
};

tier redis_tier(std::uint16_t port) {
  redis_options o{.url = "redis://127.0.0.1:" + std::to_string(port) + "/0"};
  o.connect_timeout_us = 100'000;
  o.silence_timeout_us = 1'000'000;  // Longer than a fetch may last: its deadline ends it.
  o.failures_to_open = 2;
  o.lates_to_open = 4;
  o.backoff_min_us = 1'000;
  o.backoff_max_us = 20'000;
  return {.store = any_store(std::make_unique<store_thread<redis_store>>(
              store_thread_options{.queue_items = 4096}, std::move(o))),
          .role = tier_role::remote,
          .rates = {.latency_s = 0.0, .bytes_per_s = 1e15}};  // On paper, so that it is asked.
}

engine_options options_of(const std::string& digest, logits_observer* observer) {
  engine_options o{.chunk_tokens = 64, .sequences_max = together, .context_tokens = context};
  o.page_tokens = 16;
  o.now_us = steady_now_us;
  o.observer = observer;
  o.model_digest = digest;
  o.tier_moves = {.fetches_max = together, .fetch_us_min = fetch_us, .fetch_us_max = fetch_us};
  return o;
}

/// An engine over a Redis server, and what its requests are held to.
class reader final : public logits_observer {
 public:
  reader(const library& books, const std::string& digest, std::uint16_t port)
      : books_(books),
        engine_(books.model, books.weights, books.tokens, options_of(digest, this), threads_, [&] {
          std::vector<tier> tiers;
          tiers.push_back(redis_tier(port));
          return tiers;
        }()) {}

  /// Four requests from a cold device; `trouble` begins after one of their first steps.
  void serve(const std::function<void()>& trouble = [] {}) {
    auto& tree = engine_.cache()->tree();
    tree.evict_full(tree.evictable_full_pages(), steady_now_us());
    for (std::uint32_t i = 0; i < together; ++i) {
      request r;
      r.id = request_id{++last_id_};
      const document& d = books_.documents[draw_.next_below(8)];
      r.prompt.assign(d.tokens.begin(), d.tokens.begin() + d.prompt_tokens);
      r.max_new_tokens = answer_tokens;
      r.sampling.temperature = 0;
      asked_[r.id] = &d;
      REQUIRE(engine_.submit(std::move(r)));
    }
    // Whatever is fetched when `mark_us` is read has ended one deadline later. A request fetches
    // once, perhaps after it waited for the fetch of another: so after as many deadlines as there
    // are requests nobody waits for a tier any more, however slow this machine is.
    std::uint64_t mark_us = steady_now_us();
    std::uint32_t deadlines = 0;
    const std::uint32_t begins_at = draw_.next_below(3);
    for (std::uint32_t n = 0; !engine_.idle() || n <= begins_at; ++n) {
      const bool has_passed = n != 0 && steady_now_us() >= mark_us + fetch_us;
      step();
      if (n == 0 || has_passed) {
        deadlines += has_passed;
        mark_us = steady_now_us();
      }
      overdue_ += deadlines > together && engine_.running() == 0 && !engine_.idle();
      if (n == begins_at) {
        trouble();
      }
    }
  }

  /// Requests until pages come from the server again: nothing is done but to ask.
  bool hits_again() {
    return eventually([&] {
      const std::uint64_t before = fetched_;
      serve();
      engine_.cache()->tiers()->finish(steady_now_us() + 20'000);
      return fetched_ > before;
    });
  }

  void on_logits(request_id id, std::uint32_t position, std::span<const float> logits) override {
    const float* const cold = asked_.at(id)->logits.data() + (position - 1) * logits.size();
    wrong_rows_ += std::memcmp(cold, logits.data(), logits.size_bytes()) != 0;
    ++rows_;
  }

  void check(const std::string& when) {
    INFO(when);
    CHECK(wrong_rows_ == 0);
    CHECK(wrong_tokens_ == 0);
    CHECK(overdue_ == 0);
    CHECK(ended_ == last_id_);
    CHECK(engine_.cache()->tiers()->counters().fetches <= last_id_);
  }

  [[nodiscard]] std::uint64_t fetched() const { return fetched_; }
  [[nodiscard]] std::uint64_t requests() const { return ended_; }
  [[nodiscard]] std::uint64_t rows() const { return rows_; }
  [[nodiscard]] const tier_counters& counters() { return engine_.cache()->tiers()->counters(); }
  bool finish() { return engine_.cache()->tiers()->finish(no_deadline); }

 private:
  void step() {
    for (const event& happened : engine_.step()) {
      REQUIRE(happened.token.has_value());
      const document& d = *asked_.at(happened.id);
      wrong_tokens_ += d.tokens[d.prompt_tokens + answered_[happened.id]++] != *happened.token;
      if (happened.finish != finish_reason::none) {
        REQUIRE(happened.finish == finish_reason::length);
        fetched_ += happened.usage.fetched_tokens[static_cast<std::size_t>(tier_role::remote)];
        ++ended_;
      }
    }
    const std::string wrong = wrong_accounts(engine_);
    REQUIRE(wrong == "");
  }

  const library& books_;
  thread_pool threads_{1};
  random_stream draw_{9, 1};
  oriel::engine::engine engine_;
  std::map<request_id, const document*> asked_;
  std::map<request_id, std::uint32_t> answered_;
  std::uint64_t last_id_ = 0, ended_ = 0, rows_ = 0, fetched_ = 0;
  std::uint64_t wrong_rows_ = 0, wrong_tokens_ = 0, overdue_ = 0;
};

/// Waves of requests in trouble: the first meets it in the middle.
void serve_some(reader& r, const std::function<void()>& trouble) {
  r.serve(trouble);
  for (std::uint64_t wave = 0; wave < scaled(6); ++wave) {
    r.serve();
  }
}

}  // namespace

TEST_CASE("a Redis server in trouble costs hits, never bits, and hits come back", "[redis]") {
  if (is_missing("redis-server")) {
    return;
  }
  const library books(21), others(22);
  REQUIRE(std::ranges::equal(std::span(books.documents[0].tokens).first(200),
                             std::span(others.documents[0].tokens).first(200)));
  REQUIRE(books.documents[0].logits != others.documents[0].logits);
  redis_server server;
  fault_proxy proxy(server.port(), 5);
  reader r(books, "books", proxy.port());
  REQUIRE(r.hits_again());
  r.check("in peace");

  const auto pass_through = [&](const std::string& what,
                                const std::function<void()>& begin,
                                const std::function<void()>& end) {
    INFO(what);
    const tier_counters before = r.counters();
    const std::uint64_t fetched = r.fetched();
    serve_some(r, begin);
    r.check(what);
    const tier_counters after = r.counters();
    WARN(what << ": fetches " << after.fetches - before.fetches << ", late "
              << after.fetches_late - before.fetches_late << ", useless "
              << after.fetches_useless - before.fetches_useless << ", tokens fetched "
              << r.fetched() - fetched);
    end();
    CHECK(r.hits_again());
    r.check(what + ", and after it");
  };
  for (std::uint64_t round = 0; round < scaled(4); ++round) {
    pass_through(
        "killed", [&] { server.kill(); }, [&] { server.start(); });
    pass_through(
        "stopped", [&] { server.pause(); }, [&] { server.resume(); });
    pass_through(
        "slow",
        [&] { proxy.now.delay_us = 4'000, proxy.now.bytes_per_s = 3'000'000; },
        [&] { proxy.heal(); });
    pass_through(
        "silent", [&] { proxy.now.is_black_hole = true; }, [&] { proxy.heal(); });
    pass_through(
        "cut off", [&] { proxy.now.cut_odds = 12; }, [&] { proxy.heal(); });
    pass_through(
        "replaced by an empty one", [&] { server.kill(), server.start(); }, [] {});
    pass_through(
        "replaced by one that another model filled with the same prompts",
        [&] {
          server.kill();
          server.start();
          reader other(others, "others", server.port());
          for (int wave = 0; wave < 4; ++wave) {
            other.serve();
          }
          CHECK(other.finish());
          CHECK(other.counters().copied_pages[static_cast<std::size_t>(tier_role::remote)] > 0);
          other.check("the other model");
        },
        [] {});
  }
  CHECK(proxy.faults_done() > 0);
  CHECK(r.finish());
  WARN("requests " << r.requests() << ", rows of logits " << r.rows() << ", tokens fetched "
                   << r.fetched());
}

}  // namespace redis_trouble_test
