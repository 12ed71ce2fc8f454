// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Whom the engine serves first, and that nobody waits for ever. Answers do not depend on it:
// prefix_exact_test draws orders too.
#include "engine/toy_server.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace engine_order_test {

using namespace toy_engine;

namespace {

engine_options options_with(order_kind order, std::uint32_t sequences, std::uint32_t chunk) {
  engine_options o = options_of(sequences, chunk);
  o.order = order;
  o.guard.least_wait_s = 1e6;  // Not before the end of the test.
  return o;
}

/// Steps until a request has its first token.
std::uint32_t steps_until_token(server& s, request_id id) {
  std::uint32_t steps = 0;
  while (s.all[id].answer.empty()) {
    REQUIRE(steps < 2000);
    s.step();
    ++steps;
  }
  return steps;
}

}  // namespace

TEST_CASE("the order decides who is served first, and the first come is not favoured by accident") {
  const auto first_served = [](order_kind order) {
    server s(options_with(order, 1, 32));
    const auto cached = prompt_of(9, 200);
    s.serve(cached);
    const request_id longest = s.submit(prompt_of(1, 400));
    const request_id hits = s.submit(leaving(cached, 192));  // Long, and mostly there.
    const request_id shortest = s.submit(prompt_of(2, 20));
    s.run();
    std::vector<request_id> ids{longest, hits, shortest};
    return s.order_of_end(ids);
  };
  using order = std::vector<int>;
  CHECK(first_served(order_kind::fcfs) == order{0, 1, 2});
  CHECK(first_served(order_kind::longest_prefix).front() == 1);
  CHECK(first_served(order_kind::least_tokens) == order{1, 2, 0});
  CHECK(first_served(order_kind::least_seconds) == order{1, 2, 0});
}

TEST_CASE("a short prompt overtakes a long one that is being computed") {
  for (const order_kind order : {order_kind::fcfs, order_kind::least_seconds}) {
    server s(options_with(order, 2, 16));
    const request_id long_one = s.submit(prompt_of(1, 400));
    s.step();
    const request_id short_one = s.submit(prompt_of(2, 15));
    const std::uint32_t steps = steps_until_token(s, short_one);
    CHECK((order == order_kind::fcfs ? steps >= 24 : steps == 1));
    CHECK(s.all[long_one].answer.empty() == (order != order_kind::fcfs));
    s.run();
    CHECK(s.all[long_one].usage.computed_tokens == 400);
  }
}

TEST_CASE("a long prompt is served though shorter ones keep coming, and makes a younger one go") {
  for (const bool is_guarded : {false, true}) {
    engine_options o = options_with(order_kind::least_seconds, 1, 16);
    o.guard = {.least_wait_s = is_guarded ? 0.2 : 1e6, .factor = 1.0};
    server s(o);
    const request_id running = s.submit(prompt_of(3, 15), 20);  // The one place is taken.
    s.step();
    const request_id long_one = s.submit(prompt_of(1, 400));
    for (std::uint32_t i = 0; i < 400 && s.all[long_one].answer.empty(); ++i) {
      s.submit(prompt_of(100 + i, 15), 20);
      s.step();
    }
    CHECK(s.all[long_one].answer.empty() == !is_guarded);
    CHECK((s.engine.metrics().guard_demands.value() != 0) == is_guarded);
    s.run();
    CHECK(s.all[long_one].answer.size() == 1);
    CHECK(s.all[running].answer.size() == 20);
    CHECK(s.engine.metrics().requests_failed.value() == 0);
  }
}

TEST_CASE("prompts are computed beside many that decode") {
  engine_options o = options_with(order_kind::least_seconds, 9, 9);
  o.prefill_share = 0.5;
  server s(o);
  std::vector<request_id> decoding;
  for (std::uint32_t i = 0; i < 8; ++i) {
    decoding.push_back(s.submit(prompt_of(i, 9), 200));
  }
  while (std::ranges::any_of(decoding, [&](request_id id) { return s.all[id].answer.empty(); })) {
    s.step();
  }
  std::vector<std::size_t> before;
  for (const request_id id : decoding) {
    before.push_back(s.all[id].answer.size());
  }
  const request_id prompt = s.submit(prompt_of(50, 100));
  CHECK(steps_until_token(s, prompt) <= 100 / 5 + 1);  // ceil(0.5 * 9) rows a step.
  std::size_t least = std::numeric_limits<std::size_t>::max(), most = 0;
  for (std::size_t i = 0; i < decoding.size(); ++i) {
    const std::size_t tokens = s.all[decoding[i]].answer.size() - before[i];
    least = std::min(least, tokens);
    most = std::max(most, tokens);
  }
  CHECK(least >= 8);  // Half of the steps, since they take turns.
  CHECK(most - least <= 1);
  s.run();
}

TEST_CASE("of equal prompts that are queued together one computes, the others hit") {
  server s(options_with(order_kind::least_seconds, 4, 64));
  const auto prompt = prompt_of(1, 200);
  std::vector<request_id> ids;
  for (int i = 0; i < 3; ++i) {
    ids.push_back(s.submit(prompt));
  }
  s.run();
  std::uint32_t computed = 0;
  for (const request_id id : ids) {
    computed += s.all[id].usage.computed_tokens;
  }
  CHECK(computed == 200 + 2 * 8);
}

}  // namespace engine_order_test
