// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// An engine over a toy model, and requests to it, one call each.
#pragma once

#include "support/engine_accounts.hpp"
#include "support/no_text.hpp"
#include "support/toy_model.hpp"

#include <oriel/core/random.hpp>
#include <oriel/core/thread_pool.hpp>

#include <catch2/catch.hpp>
#include <engine/engine.hpp>
#include <engine/tokenizer/tokenizer.hpp>
#include <engine/weight_loader.hpp>

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace toy_engine {

using namespace oriel;
using namespace oriel::engine;

inline std::uint64_t ticking_us() {
  static std::uint64_t now = 0;
  return now += 1000;
}

struct toy {
  model_geometry model = toy_model({0, 16, 16, 0, 16}, false);
  model_weights weights = random_weights(model, dtype::bf16, 5);
  tokenizer tokens = no_text();
};

inline const toy& the_toy() {
  static const toy t;
  return t;
}

inline engine_options options_of(std::uint32_t sequences, std::uint32_t chunk) {
  engine_options o{.chunk_tokens = chunk, .sequences_max = sequences, .context_tokens = 512};
  o.now_us = ticking_us;
  return o;
}

struct ended {
  std::vector<token_id> answer;
  request_usage usage;
  finish_reason finish = finish_reason::none;
};

struct server {
  explicit server(const engine_options& o,
                  const model_weights& weights = the_toy().weights,
                  std::vector<tier> tiers = {})
      : engine(the_toy().model, weights, the_toy().tokens, o, threads, std::move(tiers)) {}

  request_id submit(const std::vector<token_id>& prompt,
                    std::uint32_t new_tokens = 1,
                    const std::string& tenant = "",
                    std::uint64_t session = 0) {
    request r;
    r.id = request_id{++last_id};
    r.prompt = prompt;
    r.max_new_tokens = new_tokens;
    r.sampling = {.temperature = 0.9f, .seed = 3};
    r.tenant = tenant;
    r.session = session;
    REQUIRE(engine.submit(std::move(r)));
    return request_id{last_id};
  }
  void step() {
    for (const event& happened : engine.step()) {
      ended& e = all[happened.id];
      if (happened.token) {
        e.answer.push_back(*happened.token);
      }
      e.usage = happened.usage;
      e.finish = happened.finish;
      if (happened.finish != finish_reason::none) {
        ended_in_order.push_back(happened.id);
      }
    }
    const std::string wrong = wrong_accounts(engine);
    REQUIRE(wrong == "");
  }
  void run() {
    while (!engine.idle()) {
      step();
    }
  }
  ended serve(const std::vector<token_id>& prompt,
              std::uint32_t new_tokens = 1,
              const std::string& tenant = "",
              std::uint64_t session = 0) {
    const request_id id = submit(prompt, new_tokens, tenant, session);
    run();
    return all.at(id);
  }

  thread_pool threads{1};
  oriel::engine::engine engine;
  std::uint64_t last_id = 0;
  /// Which of these ended first, second, ..., by their index.
  [[nodiscard]] std::vector<int> order_of_end(const std::vector<request_id>& ids) const {
    std::vector<int> order;
    for (const request_id id : ended_in_order) {
      if (const auto at = std::ranges::find(ids, id); at != ids.end()) {
        order.push_back(static_cast<int>(at - ids.begin()));
      }
    }
    return order;
  }

  std::map<request_id, ended> all;
  std::vector<request_id> ended_in_order;
};

inline std::vector<token_id> prompt_of(std::uint64_t seed, std::uint32_t count) {
  random_stream draw(seed, 4);
  std::vector<token_id> tokens;
  for (std::uint32_t i = 0; i < count; ++i) {
    tokens.push_back(token_id{draw.next_below(61)});
  }
  return tokens;
}

/// `prompt` up to `shared`, and something else from there on.
inline std::vector<token_id> leaving(std::vector<token_id> prompt, std::uint32_t shared) {
  for (std::size_t i = shared; i < prompt.size(); ++i) {
    prompt[i] = token_id{(to_index(prompt[i]) + 1) % 61};
  }
  return prompt;
}

}  // namespace toy_engine
