// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A router, prompts, and workers that have told of their pages; for tests of decisions.
#pragma once

#include <oriel/core/random.hpp>
#include <oriel/route/affinity_router.hpp>

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace oriel_test {

using namespace oriel;

inline constexpr std::uint32_t page_tokens = 64;

/// Links of a prompt of `pages` whole pages and one more token. Different seeds share nothing.
struct prompt {
  std::vector<chain_hash> links;

  explicit prompt(std::uint32_t pages, std::uint64_t seed) {
    random_stream draw(seed, 77);
    for (std::uint32_t i = 0; i < pages; ++i) {
      links.push_back({std::uint64_t{draw.next_bits()} << 32 | draw.next_bits(), seed});
    }
  }
  /// The same, and more.
  [[nodiscard]] prompt longer(std::uint32_t pages, std::uint64_t seed) const {
    prompt p(pages, seed * 1'000'003 + 17);
    p.links.insert(p.links.begin(), links.begin(), links.end());
    return p;
  }
  [[nodiscard]] std::uint32_t tokens() const {
    return static_cast<std::uint32_t>(links.size()) * page_tokens + 1;
  }
};

/// Costs in round figures: 1,000 tokens a second, and no attention.
inline router_options plain_options(std::uint32_t workers) {
  router_options o;
  o.index = {.page_size = page_tokens, .windows = {128}, .workers = workers};
  o.work = {.token_s = 1e-3, .pair_s = 0.0};
  return o;
}

template <class Score = predicted_seconds>
struct router_world {
  affinity_router<Score> router;
  std::vector<std::uint64_t> events, reports;
  std::uint64_t next_id = 1;
  double now_s = 100.0;
  std::vector<route_action> actions;

  explicit router_world(const router_options& options, Score score = {}, bool reports_once = true)
      : router(options, std::move(score)),
        events(options.index.workers),
        reports(options.index.workers) {
    for (std::uint32_t w = 0; w < options.index.workers; ++w) {
      router.join(worker_id{w}, {}, 0.0);
      if (reports_once) {
        report(w, 0.0);
      }
    }
  }

  /// A worker has the first pages of a prompt, and the windows at the end of them if it may resume.
  void store(std::uint32_t worker,
             const prompt& p,
             std::uint32_t pages,
             std::uint8_t tier = 0,
             bool has_windows = true) {
    for (std::uint32_t pool = 0; pool < (has_windows ? 2u : 1u); ++pool) {
      const std::uint32_t first = pool == 0 ? 0 : pages - std::min(pages, 3u);
      router.apply({.worker = worker_id{worker},
                    .tier = tier,
                    .pool = pool,
                    .first_page = first,
                    .epoch = 1,
                    .sequence = ++events[worker],
                    .parent = first > 0 ? p.links[first - 1] : chain_hash{},
                    .links = std::span(p.links).subspan(first, pages - first)});
    }
  }
  void report(std::uint32_t worker, double queued_s, std::uint32_t queued = 0) {
    router.report({.worker = worker_id{worker},
                   .sequence = ++reports[worker],
                   .at_s = now_s,
                   .queued_s = queued_s,
                   .queued = queued},
                  now_s);
  }
  [[nodiscard]] route_request request(const prompt& p, std::uint64_t session = 0) {
    return {.id = next_id++, .session = session, .prompt_tokens = p.tokens(), .links = p.links};
  }
  route_answer ask(const prompt& p, std::uint64_t session = 0) {
    return router.route(request(p, session), now_s);
  }
  std::uint32_t place(const prompt& p, std::uint64_t session = 0) {
    const route_answer answer = ask(p, session);
    return answer.kind == route_kind::placed ? to_index(answer.decision.worker) : 999;
  }
  std::vector<route_action> tick() {
    actions.clear();
    router.tick(now_s, actions);
    return actions;
  }
};

}  // namespace oriel_test
