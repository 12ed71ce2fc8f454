// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Random lives: requests that are cancelled, time out, are retried and refused; workers that die
// and come back; answers that are late, doubled, or of attempts long given up. Beside the router a
// slow and obvious model of each request. Each ends exactly once, and nothing of it is left.
#include "route/router_world.hpp"
#include "support/scale.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <map>
#include <vector>

namespace request_life_random_test {

using namespace oriel_test;

namespace {

struct model_request {
  route_request request;
  std::uint32_t prompt = 0;
  enum { fresh, waits, again, placed, started, prefilled, ended } at = fresh;
  std::uint32_t attempt = 0, ends = 0;
  worker_id worker = no_worker, decode = no_worker;
  double estimate_s = 0.0;
};

/// What a worker has said, or the client; it arrives at `at_s`.
struct message {
  enum { started, prefilled, finished, failed, cancel, asks_twice } what = started;
  double at_s = 0.0;
  std::uint64_t id = 0;
  std::uint32_t attempt = 0;
  double actual_s = 0.0;
};

struct life {
  static constexpr std::uint32_t workers = 6, prompts = 40;

  router_world<> w;
  random_stream draw;
  std::vector<prompt> all_prompts;
  std::map<std::uint64_t, model_request> model;
  std::multimap<double, message> messages;
  std::vector<bool> is_up = std::vector<bool>(workers, true);
  std::uint64_t finished_ids = 0, refused = 0;
  bool has_reports;

  static router_options options(random_stream& draw, std::uint64_t seed, bool has_reports) {
    router_options o = plain_options(workers);
    o.router = seed;
    o.life.hold_above_s = draw.next_below(2) == 0 ? 2.0 : 1e9;
    o.life.ahead_max_s = draw.next_below(2) == 0 ? 6.0 : 40.0;
    o.life.waiting_max = 20;
    o.life.retries_after_first_token = draw.next_below(2) == 0;
    o.life.no_worker_max_s = 3.0;
    o.life.tenants.waiting_max = 8;
    o.life.tenants.seconds_per_s = 2.0;
    o.health.eject_after_s = has_reports ? 1.5 : 1e9;
    o.health.eject_s = 1.0;
    return o;
  }

  life(std::uint64_t seed, bool reports)
      : w(
            [&] {
              random_stream mix(seed, 5);
              return options(mix, seed, reports);
            }(),
            {},
            reports),
        draw(seed),
        has_reports(reports) {
    for (std::uint32_t i = 0; i < prompts; ++i) {
      all_prompts.emplace_back(1 + draw.next_below(30), 1000 + i);
    }
  }

  void send(message m, double after_s) {
    m.at_s = w.now_s + after_s;
    messages.emplace(m.at_s, m);
    if (draw.next_below(20) == 0) {  // doubled, later
      messages.emplace(m.at_s + 3.0 * draw.next_uniform(), m);
    }
  }
  // What becomes of an attempt at its worker; a dead one says nothing.
  void run_at_worker(const model_request& r) {
    if (!is_up[to_index(r.worker)]) {
      return;
    }
    const double start_s = draw.next_uniform(),
                 prefill_s = r.estimate_s * 2.0 * draw.next_uniform();
    const double late_s = draw.next_below(10) == 0 ? 5.0 : 0.0;
    message m{.id = r.request.id, .attempt = r.attempt, .actual_s = prefill_s};
    m.what = message::started;
    send(m, start_s);
    if (draw.next_below(12) == 0) {
      m.what = message::failed;
      return send(m, start_s + late_s);
    }
    if (draw.next_below(8) != 0) {  // Some skip a step.
      m.what = message::prefilled;
      send(m, start_s + prefill_s + late_s);
    }
    m.what = draw.next_below(20) == 0 ? message::failed : message::finished;
    send(m, start_s + prefill_s + late_s + draw.next_uniform());
  }

  void ask(model_request& r) {
    const bool may_decide = r.at == model_request::fresh || r.at == model_request::again;
    const route_answer answer = w.router.route(r.request, w.now_s);
    if (!may_decide) {  // It is known: the answer of before, and nothing changes.
      const route_kind expected = r.at == model_request::ended   ? route_kind::ended
                                  : r.at == model_request::waits ? route_kind::waits
                                                                 : route_kind::placed;
      REQUIRE(answer.kind == expected);
      return;
    }
    switch (answer.kind) {
      case route_kind::placed:
        REQUIRE(answer.attempt == r.attempt + 1);
        REQUIRE(w.router.table().is_member(answer.decision.worker));
        r.at = model_request::placed;
        r.attempt = answer.attempt;
        r.worker = answer.decision.worker;
        r.decode = answer.decision.decode;
        r.estimate_s = answer.decision.estimate_s;
        return run_at_worker(r);
      case route_kind::waits:
        r.at = model_request::waits;
        return;
      case route_kind::refused:
        REQUIRE(r.at == model_request::fresh);  // Nobody is refused who was accepted.
        REQUIRE(answer.reason != refusal::none);
        REQUIRE(answer.retry_after_s > 0.0);
        ++refused;
        model.erase(r.request.id);
        return;
      case route_kind::ended:
        FAIL("ended before it began");
    }
  }

  // The model's rules: an answer counts if it is of the last attempt, which is under way.
  void hear(const message& m) {
    const auto found = model.find(m.id);
    if (found == model.end()) {
      return;
    }
    model_request& r = found->second;
    if (m.what == message::asks_twice) {
      return ask(r);
    }
    const bool is_at_worker = r.at >= model_request::placed && r.at < model_request::ended;
    const bool counts = is_at_worker && m.attempt == r.attempt;
    switch (m.what) {
      case message::started:
        REQUIRE(w.router.started(m.id, m.attempt, w.now_s) ==
                (counts && r.at == model_request::placed));
        r.at = counts && r.at == model_request::placed ? model_request::started : r.at;
        return;
      case message::prefilled:
        REQUIRE(w.router.prefilled(m.id, m.attempt, m.actual_s, w.now_s) ==
                (counts && r.at != model_request::prefilled));
        r.at = counts ? model_request::prefilled : r.at;
        return;
      case message::finished:
        REQUIRE(w.router.finished(m.id, m.attempt, w.now_s) == counts);
        r.at = counts ? model_request::ended : r.at;
        return;
      case message::failed:
        REQUIRE(w.router.failed(m.id, m.attempt, w.now_s) == counts);
        if (counts) {
          tick();  // Says whether it is tried again.
        }
        return;
      default:
        REQUIRE(w.router.cancel(m.id, w.now_s) == (r.at != model_request::ended));
        r.at = model_request::ended;
    }
  }

  void tick() {
    std::vector<std::uint64_t> again;
    for (const route_action& a : w.tick()) {
      model_request& r = model.at(a.id);
      switch (a.kind) {
        case action_kind::abandon:
          REQUIRE(a.attempt == r.attempt);
          break;
        case action_kind::again:
          REQUIRE(a.attempt == r.attempt);
          if (r.at != model_request::ended) {  // Cancelled after it was said.
            r.at = model_request::again;
            again.push_back(a.id);
          }
          break;
        case action_kind::ended:
          REQUIRE(++r.ends == 1);
          r.at = model_request::ended;
          ++finished_ids;
      }
    }
    for (const std::uint64_t id : again) {
      if (model_request& r = model.at(id); r.at == model_request::again) {
        ask(r);
      }
    }
  }

  void compare() {
    std::vector<std::uint32_t> prefills(workers), decodes(workers);
    std::vector<double> seconds(workers);
    std::size_t in_flight = 0, waiting = 0;
    for (const auto& [id, r] : model) {
      const bool is_prefill = r.at == model_request::placed || r.at == model_request::started;
      in_flight += r.at != model_request::ended;
      waiting += r.at == model_request::waits;
      if (is_prefill) {
        ++prefills[to_index(r.worker)];
        seconds[to_index(r.worker)] += r.at == model_request::placed ? r.estimate_s : 0.0;
      }
      if ((is_prefill || r.at == model_request::prefilled) && r.decode != no_worker) {
        ++decodes[to_index(r.decode)];
      }
    }
    REQUIRE(w.router.book().in_flight() == in_flight);
    REQUIRE(w.router.book().waiting() == waiting);
    for (std::uint32_t i = 0; i < workers; ++i) {
      REQUIRE(w.router.table().prefills(worker_id{i}) == prefills[i]);
      REQUIRE(w.router.table().decodes(worker_id{i}) == decodes[i]);
      REQUIRE(w.router.queue_s(worker_id{i}, w.now_s) >= seconds[i] - 1e-6);
      if (prefills[i] == 0 && !has_reports) {
        REQUIRE(w.router.queue_s(worker_id{i}, w.now_s) == 0.0);
      }
    }
  }

  void trouble_workers() {
    const std::uint32_t worker = draw.next_below(workers);
    switch (draw.next_below(40)) {
      case 0:
        is_up[worker] = !is_up[worker];
        break;
      case 1:
        w.router.drain(worker_id{worker}, w.now_s);
        break;
      case 2:
        w.router.leave(worker_id{worker}, w.now_s);
        tick();  // Says what it had.
        break;
      default:
        if (draw.next_below(3) == 0) {
          if (!w.router.table().is_member(worker_id{worker})) {
            w.reports[worker] = 0;
            w.router.join(worker_id{worker}, {.can_decode = worker != 2}, w.now_s);
          }
        }
    }
  }

  model_request& add(std::uint64_t id) {
    const std::uint32_t chosen = draw.next_below(prompts);
    const prompt& p = all_prompts[chosen];
    model_request& r = model[id];
    r.prompt = chosen;
    r.request = {.id = id,
                 .tenant = tenant_id{draw.next_below(3)},
                 .session = draw.next_below(30),
                 .priority = static_cast<std::uint8_t>(draw.next_below(3)),
                 .prompt_tokens = p.tokens(),
                 .links = p.links};
    if (draw.next_below(3) == 0) {
      r.request.deadline_s = w.now_s + 4.0 * draw.next_uniform();
    }
    return r;
  }

  void run(std::uint64_t count) {
    for (std::uint64_t id = 1; id <= count; ++id) {
      INFO("request " << id);
      w.now_s += 0.6 * draw.next_uniform();
      deliver();
      if (has_reports) {
        for (std::uint32_t i = 0; i < workers; ++i) {
          if (is_up[i] && draw.next_below(3) == 0) {
            w.report(i, 2.0 * draw.next_uniform());
          }
        }
      }
      trouble_workers();
      ask(add(id));
      if (draw.next_below(10) == 0) {
        send({.what = message::cancel, .id = id}, 3.0 * draw.next_uniform());
      }
      if (draw.next_below(10) == 0) {
        send({.what = message::asks_twice, .id = id}, 3.0 * draw.next_uniform());
      }
      if (id % 16 == 0) {
        tick();
        compare();
        std::erase_if(model, [&](const auto& item) {  // Long over.
          return item.second.ends == 1 && item.first + 200 < id;
        });
      }
    }
    finish();
  }
  void deliver() {
    while (!messages.empty() && messages.begin()->first <= w.now_s) {
      const message m = messages.begin()->second;
      messages.erase(messages.begin());
      hear(m);
    }
  }
  // Everybody is well again, and answers what it has.
  void finish() {
    for (int round = 0; round < 60; ++round) {
      w.now_s += 1.0;
      deliver();
      for (std::uint32_t i = 0; i < workers; ++i) {
        is_up[i] = true;
        if (!w.router.table().is_member(worker_id{i})) {
          w.reports[i] = 0;
          w.router.join(worker_id{i}, {}, w.now_s);
        }
        if (has_reports) {
          w.report(i, 0.0);
        }
      }
      tick();
      for (auto& [id, r] : model) {
        if (round > 10 && r.at >= model_request::placed && r.at < model_request::ended) {
          hear({.what = message::finished, .id = id, .attempt = r.attempt});
        }
      }
    }
    tick();
    compare();
    for (const auto& [id, r] : model) {
      INFO("request " << id);
      REQUIRE(r.ends == 1);
    }
    const life_counters& c = w.router.book().counters();
    CHECK(w.router.book().in_flight() == 0);
    CHECK(c.accepted == finished_ids);
    CHECK(c.ended[0] + c.ended[1] + c.ended[2] + c.ended[3] == finished_ids);
    for (std::uint32_t i = 0; i < workers; ++i) {
      CHECK(w.router.queue_s(worker_id{i}, w.now_s + 100.0) == 0.0);
    }
  }
};

}  // namespace

TEST_CASE("random lives: each accepted request ends once, and no load of it is left") {
  std::uint64_t ended[route_ends] = {}, retries = 0, stale = 0, refused = 0, waited = 0;
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    INFO("seed " << seed);
    life l(seed, seed % 2 == 0);
    l.run(scaled(10'000));
    const life_counters& c = l.w.router.book().counters();
    for (std::size_t i = 0; i < route_ends; ++i) {
      ended[i] += c.ended[i];
    }
    retries += c.retries;
    stale += c.stale;
    waited += c.waited;
    refused += l.refused;
  }
  for (const std::uint64_t count : ended) {
    CHECK(count > 0);  // Every end was seen, and every kind of trouble.
  }
  CHECK(retries > 0);
  CHECK(stale > 0);
  CHECK(refused > 0);
  CHECK(waited > 0);
}

}  // namespace request_life_random_test
