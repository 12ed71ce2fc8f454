// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Which worker gets a request: what other routers are complained of for, and each term of the
// score.
#include "route/router_world.hpp"
#include "support/death.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>

namespace affinity_router_test {

using namespace oriel_test;

namespace {
constexpr double endless = std::numeric_limits<double>::infinity();
}  // namespace

TEST_CASE("one hot worker does not turn affinity off for the others") {
  const auto decide = [](auto score) {
    router_world w(plain_options(8), score);
    const prompt here(100, 1);
    w.store(3, here, 100);
    w.report(0, 300.0, 100);  // another one is hot
    return w.place(here.longer(2, 1));
  };
  CHECK(decide(predicted_seconds{}) == 3);
  CHECK(decide(match_minus_load{}) == 3);
  CHECK(decide(threshold_gate{}) != 3);  // What is complained of.
}

TEST_CASE("a cold request goes to nobody who is overloaded, however little is cached there") {
  router_world w(plain_options(4));
  for (std::uint32_t worker = 1; worker < 4; ++worker) {
    w.store(worker, prompt(200, worker), 200);
  }
  w.report(0, 60.0);  // has nothing, and much to do
  std::set<std::uint32_t> used;
  for (std::uint64_t i = 0; i < 6; ++i) {
    used.insert(w.place(prompt(10, 100 + i)));
  }
  CHECK(used == std::set<std::uint32_t>{1, 2, 3});
}

TEST_CASE("load counts from the decision on, before anybody reports or starts") {
  router_world w(plain_options(8));
  std::vector<std::uint32_t> count(8);
  for (std::uint64_t i = 0; i < 64; ++i) {  // 32 K in, 1 out, all at once
    ++count[w.place(prompt(500, i))];
  }
  CHECK(std::ranges::all_of(count, [](std::uint32_t n) { return n == 8; }));
  CHECK(w.router.queue_s(worker_id{2}, w.now_s) == Approx(8 * 32.001));
}

TEST_CASE("of equal workers all take their turns, and nobody begins with number 0 by rule") {
  const auto spread = [](auto score) {
    router_world w(plain_options(5), score);
    std::vector<std::uint32_t> count(5);
    for (std::uint64_t i = 0; i < 50; ++i) {
      const route_answer answer = w.ask(prompt(3, i));
      ++count[to_index(answer.decision.worker)];
      w.router.started(i + 1, 1, w.now_s);
      w.router.prefilled(i + 1, 1, 0.193, w.now_s);
      w.router.finished(i + 1, 1, w.now_s);
      for (std::uint32_t worker = 0; worker < 5; ++worker) {
        w.report(worker, 0.0);
      }
    }
    return std::ranges::all_of(count, [](std::uint32_t n) { return n == 10; });
  };
  CHECK(spread(predicted_seconds{}));
  CHECK(spread(match_minus_load{}));
  CHECK(spread(threshold_gate{}));
  CHECK(spread(least_load{}));
  CHECK(spread(round_robin{}));
  std::set<std::uint32_t> first;
  for (std::uint64_t number = 0; number < 16; ++number) {
    router_options o = plain_options(8);
    o.router = number;
    router_world w(o);
    first.insert(w.place(prompt(3, 1)));
  }
  CHECK(first.size() >= 5);  // 16 routers of one fleet do not all begin with the same worker
}

TEST_CASE("routers that see the same old reports do not all choose the same worker") {
  constexpr std::uint32_t routers = 8, workers = 16;
  const auto most_on_one = [&](bool tells) {
    std::vector<std::unique_ptr<router_world<>>> fleet;
    for (std::uint64_t i = 0; i < routers; ++i) {
      router_options o = plain_options(workers);
      o.router = i;
      auto& w = *fleet.emplace_back(std::make_unique<router_world<>>(o));
      for (std::uint32_t worker = 0; worker < workers; ++worker) {
        w.report(worker, worker == 5 ? 0.0 : 4.0);  // one is idle
      }
    }
    std::vector<std::uint32_t> count(workers);
    for (std::uint64_t i = 0; i < 12; ++i) {
      for (auto& w : fleet) {
        const prompt p(15, 1000 * i + count[0] + w->next_id + 77 * count[5]);
        const route_answer answer = w->ask(p);
        ++count[to_index(answer.decision.worker)];
        for (auto& other : fleet) {
          if (tells && other != w) {
            other->router.note_placed(
                answer.decision.worker, answer.decision.estimate_s, w->now_s + 1e-3);
          }
        }
      }
    }
    return *std::ranges::max_element(count);
  };
  // 96 requests of one second: a fair share is 6, and 4 more for the one that was idle.
  CHECK(most_on_one(true) <= 11);
  CHECK(most_on_one(false) <= 40);  // told nothing, each counts its own alone
}

TEST_CASE("of two requests of a session that come at once the second follows the first") {
  router_world w(plain_options(8));
  const prompt both(200, 1);
  const std::uint32_t first = w.place(both.longer(4, 1), 7);
  CHECK(w.place(both.longer(9, 2), 7) == first);  // no event has come yet
  CHECK(w.router.choices().followed == 1);
  CHECK(w.place(prompt(200, 9), 8) != first);
}

TEST_CASE(
    "a worker whose windows are gone is no hit; where workers heal it costs what a heal does") {
  router_options o = plain_options(4);
  const prompt p(100, 1);
  const auto decide = [&] {
    router_world w(o);
    w.store(1, p, 100, 0, false);  // 6,400 tokens of full pages, no windows
    w.store(2, p, 60);             // 3,840 tokens, resumable
    return w.ask(p.longer(1, 1)).decision;
  };
  CHECK(to_index(decide().worker) == 2);
  o.work.heal_s = 0.5;
  const route_decision healed = decide();
  CHECK(to_index(healed.worker) == 1);
  CHECK(healed.terms.heal_s == 0.5);
  CHECK(healed.estimate_s == Approx(0.5 + 0.065));
}

TEST_CASE("pages of lower tiers count as what it costs to fetch them, or not at all") {
  router_options o = plain_options(3);
  o.work.fetch_begin_s[1] = 0.01;
  o.work.fetch_token_s[1] = 1e-4;
  o.work.fetch_begin_s[3] = 0.1;
  o.work.fetch_token_s[3] = 5e-3;  // slower than to compute
  router_world w(o);
  const prompt p(100, 1);
  w.store(0, p, 50, 0);
  w.store(0, p, 100, 1);
  w.store(1, p, 100, 3);
  std::vector<route_candidate> rows;
  w.router.explain(w.request(p), w.now_s, rows);
  REQUIRE(rows.size() == 3);
  CHECK(rows[0].terms.fetch_s == Approx(0.01 + 1e-4 * 50 * 64));
  CHECK(rows[0].terms.prefill_s == Approx(1e-3));
  CHECK(rows[1].terms.fetch_s == 0.0);
  CHECK(rows[1].terms.prefill_s == Approx(6.401));
  CHECK(rows[2].terms.prefill_s == Approx(6.401));
  CHECK(w.place(p) == 0);
}

TEST_CASE(
    "what a shared store has is everybody's, at the price of a fetch, and it is never chosen") {
  router_options o = plain_options(3);
  o.work.fetch_token_s[3] = 1e-4;
  o.shared = worker_id{2};
  router_world w(o);
  w.router.drain(worker_id{2}, w.now_s);  // As good as never having joined.
  const prompt p(100, 1);
  w.store(2, p, 100, 3);
  w.store(0, p, 60);
  std::vector<route_candidate> rows;
  w.router.explain(w.request(p), w.now_s, rows);
  CHECK(rows[0].terms.fetch_s == Approx(40 * 64 * 1e-4));
  CHECK(rows[1].terms.fetch_s == Approx(100 * 64 * 1e-4));
  CHECK(rows[0].terms.prefill_s == Approx(0.001));
  CHECK(rows[1].terms.prefill_s == Approx(0.001));
  CHECK(!rows[2].is_eligible);
  CHECK(w.place(p) == 0);
}

TEST_CASE("who has the pages but not their windows is a conversation's home all the same") {
  router_options o = plain_options(3);
  o.work.fetch_token_s[3] = o.work.fetch_token_s[1] = 1e-6;
  const prompt p(100, 1);
  const auto duplicate_s = [&](const router_options& options) {
    router_world w(options);
    w.router.drain(worker_id{2}, w.now_s);
    w.store(2, p, 100, 3);
    w.store(0, p, 100, 1, false);
    std::vector<route_candidate> rows;
    w.router.explain(w.request(p.longer(1, 1)), w.now_s, rows);
    return std::pair(rows[0].terms.duplicate_s, rows[1].terms.duplicate_s);
  };
  o.shared = worker_id{2};  // The windows come from the store,
  CHECK(duplicate_s(o).first == 0.0);
  CHECK(duplicate_s(o).second > 6.0);
  o.shared = no_worker;  // or are healed.
  o.work.heal_s = 0.1;
  CHECK(duplicate_s(o).first == 0.0);
  CHECK(duplicate_s(o).second > 5.0 * 6.0);
}

TEST_CASE(
    "a session moves when waiting costs more than computing twice, not when it costs as much") {
  const prompt p(100, 1);  // 6.4 s to compute
  const auto decide = [&](double queue_s, double weight) {
    router_world w(plain_options(2),
                   predicted_seconds({.duplicate_weight = weight, .copy_weight = 0.0}));
    w.store(0, p, 100);
    w.report(0, queue_s);
    return w.place(p.longer(1, 1));
  };
  CHECK(decide(7.0, 0.0) == 1);  // greedy
  CHECK(decide(7.0, 1.0) == 0);
  CHECK(decide(12.0, 1.0) == 0);
  CHECK(decide(14.0, 1.0) == 1);
}

TEST_CASE("what new pages push out makes a full worker dearer") {
  router_world w(plain_options(2));
  w.router.report({.worker = worker_id{0}, .sequence = 100, .at_s = w.now_s, .evict_token_s = 1e-2},
                  w.now_s);
  for (std::uint64_t i = 0; i < 3; ++i) {
    CHECK(w.place(prompt(10, i)) == 1);
    w.report(1, 0.0);
    w.now_s += 2.0;
  }
}

/// Places a request and sees it served at once.
template <class World>
std::uint32_t serve(World& w, const prompt& p, std::uint64_t session = 0) {
  const route_answer a = w.ask(p, session);
  const std::uint64_t id = w.next_id - 1;
  w.router.started(id, a.attempt, w.now_s);
  w.router.prefilled(id, a.attempt, 0.0, w.now_s);
  w.router.finished(id, a.attempt, w.now_s);
  return to_index(a.decision.worker);
}

TEST_CASE("a long prompt goes where least comes, behind another one if need be") {
  router_world w(plain_options(2));
  const prompt busy(10, 1);
  w.store(0, busy, 10);
  for (std::uint32_t i = 0; i < 200; ++i) {  // One each second, of conversations at worker 0.
    w.now_s += 1.0;
    CHECK(serve(w, busy.longer(1, 10 + i)) == 0);
    w.tick();
    w.report(0, 0.0);
    w.report(1, 30.0);
  }
  CHECK(w.place(prompt(2, 2)) == 0);             // 0.1 s: nobody waits long for that.
  CHECK(w.place(prompt(100'000 / 64, 3)) == 1);  // 100 s: a hundred would, half of it each.
  CHECK(w.place(busy.longer(1, 4)) == 0);
}

TEST_CASE("sessions settle where queues are usually short, and in time they forget") {
  router_world w(plain_options(3));
  w.report(0, 5.0);
  w.report(2, 5.0);
  CHECK(serve(w, prompt(100'000 / 64, 1)) == 1);  // It was busy for 100 s.
  const auto count = [&](std::uint64_t seed) {
    std::vector<std::uint32_t> placed(3);
    for (std::uint64_t i = 0; i < 30; ++i) {
      for (std::uint32_t worker = 0; worker < 3; ++worker) {
        w.report(worker, 0.0);
      }
      ++placed[serve(w, prompt(10, seed + i))];
    }
    return placed;
  };
  w.now_s += 200.0;
  w.tick();
  CHECK(count(100)[1] == 0);
  for (std::uint32_t i = 0; i < 10; ++i) {
    w.now_s += 300.0;
    w.tick();
  }
  CHECK(count(200)[1] > 5);
}

TEST_CASE("session hash: sessions stay, spread, and when a worker goes only its own move") {
  router_world w(plain_options(8), session_hash({.slack = endless}));
  std::map<std::uint64_t, std::uint32_t> home;
  std::vector<std::uint32_t> count(8);
  for (std::uint64_t session = 1; session <= 800; ++session) {
    home[session] = w.place(prompt(2, session), session);
    ++count[home[session]];
  }
  CHECK(*std::ranges::min_element(count) > 60);
  CHECK(*std::ranges::max_element(count) < 140);
  w.router.leave(worker_id{3}, w.now_s);
  for (const auto& [session, worker] : home) {
    const std::uint32_t now = w.place(prompt(3, session), session);
    CHECK((worker == 3 ? now != 3 : now == worker));
  }
}

TEST_CASE("session hash: nobody is far above the mean, in seconds or in requests") {
  for (const bool counts_requests : {false, true}) {
    router_world w(plain_options(8),
                   session_hash({.slack = 0.25,
                                 .least_s = 1.0,
                                 .least_requests = 1,
                                 .counts_requests = counts_requests}));
    std::vector<std::uint32_t> count(8);
    for (std::uint64_t i = 0; i < 400; ++i) {
      ++count[w.place(prompt(15, i), 1 + i % 3)];  // three sessions, far too busy
    }
    CHECK(*std::ranges::max_element(count) <= 50 * 1.25 + 2);
  }
}

TEST_CASE("a request goes where its model and its adapter are, or nowhere") {
  router_world w(plain_options(3));
  w.router.join(worker_id{0}, {.has = 0b001}, 0.0);
  w.router.join(worker_id{1}, {.has = 0b011}, 0.0);
  w.router.join(worker_id{2}, {.has = 0b101}, 0.0);
  const prompt p(4, 1);
  const auto ask = [&](std::uint64_t needs) {
    route_request r = w.request(p);
    r.needs = needs;
    return w.router.route(r, w.now_s);
  };
  for (int i = 0; i < 5; ++i) {
    CHECK(ask(0b010).decision.worker == worker_id{1});
    CHECK(ask(0b101).decision.worker == worker_id{2});
  }
  CHECK(ask(0b110).reason == refusal::nobody);
  CHECK(ask(0b110).retry_after_s > 0.0);
}

TEST_CASE("pairs: prefill where the prefix is, decode where there is least, one after the other") {
  router_world w(plain_options(5));
  for (std::uint32_t i = 0; i < 5; ++i) {
    w.router.join(worker_id{i}, {.can_prefill = i < 2, .can_decode = i >= 2}, 0.0);
  }
  const prompt p(50, 1);
  w.store(1, p, 50);
  w.store(4, p, 50);  // decodes; it is no place for a prefill
  std::multiset<std::uint32_t> decoders;
  for (int i = 0; i < 6; ++i) {
    const route_decision d = w.ask(p).decision;
    CHECK(d.worker == worker_id{1});
    decoders.insert(to_index(d.decode));
  }
  CHECK(decoders == std::multiset<std::uint32_t>{2, 2, 3, 3, 4, 4});
}

TEST_CASE("who is new among others gets one request at first, and its share in the end") {
  router_options o = plain_options(4);
  o.health.slow_start_s = 10.0;
  router_world w(o);
  w.router.leave(worker_id{2}, w.now_s);
  w.router.join(worker_id{2}, {}, w.now_s);
  w.report(2, 0.0);
  for (const std::uint32_t worker : {0u, 1u, 3u}) {
    w.report(worker, 3.0);  // it is idle, the others are not
  }
  std::vector<std::uint32_t> count(4);
  for (std::uint64_t i = 0; i < 4; ++i) {
    ++count[w.place(prompt(15, i))];
  }
  CHECK(count[2] == 1);
  w.now_s += 10.0;
  for (std::uint32_t worker = 0; worker < 4; ++worker) {
    w.report(worker, worker == 2 ? 0.0 : 3.0);
  }
  for (std::uint64_t i = 0; i < 2; ++i) {
    CHECK(w.place(prompt(15, 50 + i)) == 2);
  }
}

TEST_CASE("explain shows every worker and changes nothing") {
  router_world w(plain_options(3));
  const prompt p(100, 1);
  w.store(1, p, 64);
  w.router.drain(worker_id{2}, w.now_s);
  const route_request r = w.request(p);
  std::vector<route_candidate> rows;
  w.router.explain(r, w.now_s, rows);
  w.router.explain(r, w.now_s, rows);
  REQUIRE(rows.size() == 6);
  CHECK(rows[1].prefix.safe_pages[0] == 64);
  CHECK(rows[1].terms.match == Approx(0.64));
  CHECK(rows[0].terms.duplicate_s > 0.0);
  CHECK(rows[0].terms.total > rows[1].terms.total);
  CHECK(rows[0].terms.total == rows[3].terms.total);
  CHECK(!rows[2].is_eligible);
  CHECK(w.router.book().in_flight() == 0);
  const route_answer answer = w.router.route(r, w.now_s);
  CHECK(answer.decision.worker == worker_id{1});
  CHECK(answer.decision.terms.total == rows[1].terms.total);
}

TEST_CASE("degraded, sessions go by hash, and are counted; well again, by prefix") {
  router_world w(plain_options(8));
  const prompt p(100, 1);
  w.store(6, p, 100);
  w.router.set_degraded(true);
  const std::uint32_t by_hash = w.place(p, 5);
  CHECK(w.place(p, 5) == by_hash);
  CHECK(w.router.choices().degraded == 2);
  std::vector<route_candidate> rows;  // The terms are of what decides.
  w.router.explain(w.request(p, 5), w.now_s, rows);
  const auto total = [](const route_candidate& r) { return r.terms.total; };
  CHECK(std::ranges::min_element(rows, {}, total)->worker == worker_id{by_hash});
  CHECK(w.ask(p, 5).decision.terms.total == rows[by_hash].terms.total);
  w.router.set_degraded(false);
  CHECK(w.place(p, 6) == 6);
}

TEST_CASE("a worker that is none breaks the contract, and is ignored in what others send") {
  router_world w(plain_options(2));
  auto& r = w.router;
  for (const worker_id none : {worker_id{2}, worker_id{1'000'000}, no_worker}) {
    CHECK(!r.report({.worker = none, .sequence = 1, .at_s = 1.0}, w.now_s));
    r.note_placed(none, 1.0, w.now_s);
    CHECK(r.apply({.worker = none, .epoch = 1, .sequence = 1}) == event_outcome::invalid);
    CHECK(aborts([&] { r.join(none, {}, w.now_s); }));
    CHECK(aborts([&] { r.drain(none, w.now_s); }));
    CHECK(aborts([&] { r.leave(none, w.now_s); }));
    CHECK(aborts([&] { static_cast<void>(r.queue_s(none, w.now_s)); }));
  }
  CHECK(r.queue_s(w.now_s) == 0.0);
  router_options shared = plain_options(2);
  shared.shared = worker_id{2};
  CHECK(aborts([&] { affinity_router<predicted_seconds>{shared}; }));
}

TEST_CASE("prices are of the index's pages, whatever their size, and a size has to be said") {
  for (const std::uint32_t page : {16u, 64u}) {
    router_options o = plain_options(2);
    o.index = {.page_size = page, .windows = {}, .workers = 2};
    router_world w(o);
    const prompt p(4000 / page, 1);
    w.router.apply({.worker = worker_id{0},
                    .epoch = 1,
                    .sequence = 1,
                    .links = std::span(p.links).first(p.links.size() / 4)});
    std::vector<route_candidate> rows;
    w.router.explain({.id = 1, .prompt_tokens = 4001, .links = p.links}, w.now_s, rows);
    const double cached = page * static_cast<double>(p.links.size() / 4);
    CHECK(rows[0].terms.prefill_s == Approx(1e-3 * (4001 - cached)));
    CHECK(rows[1].terms.prefill_s == Approx(4.001));
  }
  CHECK(aborts([] { affinity_router<predicted_seconds>({.index = {.workers = 2}}); }));
}

TEST_CASE("names for messages: the first and the last of each") {
  CHECK(name_of(route_kind::placed) == std::string("placed"));
  CHECK(name_of(route_kind::ended) == std::string("ended"));
  CHECK(name_of(refusal::none) == std::string("none"));
  CHECK(name_of(refusal::too_many) == std::string("too_many"));
  CHECK(name_of(route_end::completed) == std::string("completed"));
  CHECK(name_of(route_end::failed) == std::string("failed"));
  CHECK(name_of(action_kind::again) == std::string("again"));
  CHECK(name_of(action_kind::ended) == std::string("ended"));
  CHECK(name_of(event_outcome::applied) == std::string("applied"));
  CHECK(name_of(event_outcome::invalid) == std::string("invalid"));
  CHECK(name_of(worker_state::absent) == std::string("absent"));
  CHECK(name_of(worker_state::replaying) == std::string("replaying"));
}

}  // namespace affinity_router_test
