// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What the engine does with prefixes: who hits what, who waits for whom, and what it all counts.
#include "engine/toy_server.hpp"

#include <catch2/catch.hpp>
#include <engine/error.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

using namespace toy_engine;

TEST_CASE("a prompt is computed once, and its answer is found by the next turn") {
  server s(options_of(1, 512));
  const std::vector<token_id> first = prompt_of(1, 100);
  const ended cold = s.serve(first, 30);
  CHECK(cold.usage == request_usage{0, 0, 100});
  // 129 rows have KV: 100 of the prompt, 29 of the answer (nobody computed on the last token).
  std::vector<token_id> turn = first;
  turn.insert(turn.end(), cold.answer.begin(), cold.answer.end());
  turn.push_back(token_id{7});
  CHECK(s.serve(turn).usage == request_usage{128, 0, 3});
  // At least one token is computed.
  CHECK(s.serve({turn.begin(), turn.begin() + 128}).usage.cached_tokens <= 112);
  CHECK(s.engine.metrics().cached_tokens.value() ==
        128 + s.all.at(request_id{3}).usage.cached_tokens);
}

TEST_CASE("what diverges behind a lost window is healed, and the rows are those of the plan") {
  server s(options_of(1, 512));
  const std::vector<token_id> first = prompt_of(2, 400);
  s.serve(first);
  const auto rows_before = s.engine.rows_computed();
  const std::vector<token_id> other = leaving(first, 300);
  const auto decision = s.engine.cache()->decide(s.engine.cache()->namespace_of(""), other);
  REQUIRE(decision.heal);
  CHECK(decision.length == 288);
  CHECK(s.serve(other).usage == request_usage{288, 288, 112});
  const auto rows = s.engine.rows_computed();
  CHECK(rows.heal_layer_rows - rows_before.heal_layer_rows == decision.heal->layer_rows);
  CHECK(rows.layer_rows - rows_before.layer_rows == decision.heal->layer_rows + 112 * 5);
}

TEST_CASE("requests that part where another one healed find its windows") {
  const std::vector<token_id> first = prompt_of(2, 400);
  server s(options_of(1, 512));
  s.serve(first);
  CHECK(s.serve(leaving(first, 300)).usage == request_usage{288, 288, 112});
  CHECK(s.serve(leaving(first, 301)).usage == request_usage{288, 0, 112});
}

TEST_CASE("a fork heals once where branch points are kept") {
  const std::vector<token_id> first = prompt_of(2, 400);
  for (const std::uint32_t chunk : {512u, 64u, 33u}) {
    for (const bool stays : {true, false}) {
      CAPTURE(chunk, stays);
      engine_options o = options_of(1, chunk);
      o.cache_tokens = 4096;  // Windows of 8 boundaries.
      o.retain.branch_points = stays;
      server s(o);
      // A kept boundary has two window pages, the page of slack included.
      const auto lose_all_but = [&](std::uint32_t boundaries) {
        auto& tree = s.engine.cache()->tree();
        REQUIRE(tree.evictable_window_pages(0) >= 2 * boundaries);
        tree.evict_window(0, tree.evictable_window_pages(0) - 2 * boundaries);
      };
      s.serve(first);
      lose_all_but(1);
      CHECK(s.serve(leaving(first, 300)).usage.healed_tokens == 288);
      lose_all_but(stays ? 3 : 2);
      // Others part at the same page: for the first of them the fork is cached, or heals again.
      CHECK(s.serve(leaving(first, 301)).usage.cached_tokens == 288);
      CHECK(s.all.at(request_id{3}).usage.healed_tokens == (stays ? 0 : 288));
      lose_all_but(stays ? 4 : 3);
      CHECK(s.serve(leaving(first, 302)).usage.cached_tokens == 288);
      CHECK(s.all.at(request_id{4}).usage.healed_tokens == (stays ? 0 : 288));
    }
  }
}

TEST_CASE("a healing sequence stops at the boundary, and its neighbours take the rest") {
  server s(options_of(2, 512));
  const std::vector<token_id> first = prompt_of(2, 400), alone = prompt_of(17, 300);
  s.serve(first);
  const request_id healed = s.submit(leaving(first, 300));
  const request_id cold = s.submit(alone);
  s.step();
  CHECK(s.all.count(healed) == 0);  // Its prompt goes on in the next step.
  CHECK(s.all.count(cold) == 1);
  s.run();
  CHECK(s.all.at(healed).usage == request_usage{288, 288, 112});
  CHECK(s.all.at(cold).usage == request_usage{0, 0, 300});
}

TEST_CASE("retention keeps boundaries that need no heal") {
  const std::vector<token_id> first = prompt_of(3, 400);
  const auto resumed = [&](retention_choice retain, std::uint32_t fork) {
    engine_options o = options_of(1, 512);
    o.retain = retain;
    o.heal = false;
    server s(o);
    s.serve(first);
    return s.serve(leaving(first, fork)).usage.cached_tokens;
  };
  CHECK(resumed({}, 300) == 0);
  CHECK(resumed({.every_tokens = 128}, 300) == 256);
  CHECK(resumed({.dense_head_tokens = 96}, 300) == 96);
  CHECK(resumed({.dense_head_tokens = 96}, 60) == 48);
  engine_options o = options_of(1, 512);
  o.retain.branch_points = true;
  o.heal = false;
  server s(o);
  s.serve(first);
  CHECK(s.serve(leaving(first, 300)).usage.cached_tokens == 0);
  CHECK(s.serve(leaving(first, 301)).usage.cached_tokens == 288);  // The second at the fork.
  o.retain = {.every_tokens = 40};
  CHECK_THROWS_AS(server(o), error);
}

TEST_CASE("without heal, or without cache, the figures say so") {
  engine_options o = options_of(1, 512);
  o.heal = false;
  const std::vector<token_id> first = prompt_of(4, 200);
  server clips(o);
  clips.serve(first);
  CHECK(clips.serve(leaving(first, 150)).usage == request_usage{0, 0, 200});
  CHECK(clips.serve(first).usage == request_usage{192, 0, 8});
  o.prefix_cache = false;
  server none(o);
  CHECK(none.engine.cache() == nullptr);
  none.serve(first);
  CHECK(none.serve(first).usage == request_usage{0, 0, 200});
  CHECK(none.engine.usage().pool_bytes == 0);
}

TEST_CASE("twins: the second waits for what the first computes, others pass") {
  server s(options_of(3, 64));
  const std::vector<token_id> shared = prompt_of(5, 300);
  const request_id a = s.submit(shared, 8);
  const request_id b = s.submit(leaving(shared, 280), 8);
  const request_id c = s.submit(prompt_of(6, 40), 8);
  s.step();
  CHECK(s.engine.running() == 2);  // a and c.
  s.run();
  CHECK(s.all.at(a).usage == request_usage{0, 0, 300});
  CHECK(s.all.at(b).usage.cached_tokens == 272);
  CHECK(s.all.at(c).usage == request_usage{0, 0, 40});
  CHECK(s.engine.metrics().requests_waited.value() == 1);
  CHECK(s.engine.metrics().prompt_tokens.value() + s.engine.metrics().cached_tokens.value() == 640);
}

TEST_CASE("a twin does not wait for one that is gone") {
  const std::vector<token_id> shared = prompt_of(7, 300);
  for (const bool preempts : {false, true}) {
    server s(options_of(2, 32));
    const request_id a = s.submit(shared, 4);
    const request_id b = s.submit(shared, 4);
    s.step();
    CHECK(s.engine.running() == 1);
    s.step();
    if (preempts) {
      CHECK(s.engine.preempt(a));
      CHECK_FALSE(s.engine.preempt(a));  // It is queued.
    } else {
      CHECK(s.engine.cancel(a).has_value());
    }
    s.run();
    CHECK(s.all.at(b).finish == finish_reason::length);
    CHECK(s.all.at(b).usage.cached_tokens >= 64);  // Two chunks of the first were there.
    if (preempts) {
      CHECK(s.all.at(a).answer == s.all.at(b).answer);
    }
  }
}

TEST_CASE("a twin whose twin fails is served") {
  model_weights broken = random_weights(the_toy().model, dtype::bf16, 5);
  broken.final_norm.assign(broken.final_norm.size(), std::numeric_limits<float>::quiet_NaN());
  server s(options_of(2, 64), broken);
  s.submit(prompt_of(8, 200));
  s.submit(prompt_of(8, 200));
  s.run();
  for (const auto& [id, e] : s.all) {
    CHECK(e.finish == finish_reason::failed);
  }
  CHECK(s.all.size() == 2);
}

TEST_CASE("a preempted request gives back its pages and answers as if nothing had happened") {
  const std::vector<token_id> prompt = prompt_of(9, 200);
  const std::vector<token_id> answer = server(options_of(1, 512)).serve(prompt, 60).answer;
  REQUIRE(answer.size() == 60);
  for (const bool keeps : {true, false}) {
    server s(options_of(1, 64));
    const request_id id = s.submit(prompt, 60);
    std::uint32_t preempted = 0;
    for (int step = 1; !s.engine.idle(); ++step) {
      s.step();
      // Without a cache it needs six steps to get where it was.
      if (step % (keeps ? 3 : 9) == 0 && s.engine.preempt(id)) {
        ++preempted;
        CHECK(s.engine.usage().bytes == 0);
        CHECK(s.engine.running() == 0);
        if (!keeps) {
          s.engine.cache()->tree().clear();
          CHECK(s.engine.usage().pool_bytes == 0);
        }
      }
    }
    CHECK(preempted >= 5);
    CHECK(s.engine.metrics().requests_preempted.value() == preempted);
    CHECK(s.all.at(id).answer == answer);
    CHECK(s.all.at(id).usage == request_usage{0, 0, 200});  // What it computed itself is no hit.
  }
}

TEST_CASE("case 37: tenants share nothing, unless they say so") {
  server s(options_of(1, 512));
  const std::vector<token_id> prompt = prompt_of(10, 100);
  CHECK(s.serve(prompt, 1, "a").usage.cached_tokens == 0);
  CHECK(s.serve(prompt, 1, "b").usage.cached_tokens == 0);
  CHECK(s.serve(prompt, 1, "").usage.cached_tokens == 0);
  CHECK(s.serve(prompt, 1, "a").usage.cached_tokens == 96);
  const std::string shared(shared_salt);
  CHECK(s.serve(prompt, 1, shared).usage.cached_tokens == 0);
  CHECK(s.serve(prompt, 1, shared).usage.cached_tokens == 96);
  // Twins of two tenants do not wait for each other.
  s.submit(prompt_of(11, 100), 1, "a");
  s.submit(prompt_of(11, 100), 1, "b");
  s.run();
  CHECK(s.engine.metrics().requests_waited.value() == 0);
}

TEST_CASE("the cache lives on what sequences leave, and never stands in their way") {
  engine_options o = options_of(2, 48);
  o.context_tokens = 256;
  o.cache_tokens = 0;
  o.cache_windows = 0;
  server s(o);
  random_stream draw(12, 0);
  for (int i = 0; i < 60; ++i) {
    const std::uint32_t length = 20 + draw.next_below(230);
    s.submit(leaving(prompt_of(draw.next_below(3), length), draw.next_below(length)),
             1 + draw.next_below(256 - length));
  }
  s.run();
  CHECK(s.all.size() == 60);
  for (const auto& [id, e] : s.all) {
    CHECK(e.finish == finish_reason::length);
  }
  const prefix_counters& c = s.engine.cache()->tree().counters();
  CHECK(c.evicted_full_pages > 0);
  CHECK(c.evicted_window_pages > 0);
}
