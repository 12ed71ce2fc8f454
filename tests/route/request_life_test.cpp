// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What becomes of a request: limits, turns, deadlines, retries, cancellation, workers that fail.
#include "route/router_world.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <map>

namespace request_life_test {

using namespace oriel_test;

namespace {

/// Of the last tick: who is to be asked again, and who has ended how.
struct seen {
  std::vector<std::uint64_t> again;
  std::map<std::uint64_t, route_end> ended;
  std::vector<std::uint32_t> abandoned;  // workers
};

seen sort_out(const std::vector<route_action>& actions) {
  seen s;
  for (const route_action& a : actions) {
    if (a.kind == action_kind::again) {
      s.again.push_back(a.id);
    } else if (a.kind == action_kind::abandon) {
      s.abandoned.push_back(to_index(a.worker));
    } else {
      REQUIRE(s.ended.emplace(a.id, a.end).second);
    }
  }
  return s;
}

template <class World>
void expect_empty(World& w) {
  CHECK(w.router.book().in_flight() == 0);
  CHECK(w.router.book().waiting() == 0);
  CHECK(w.router.book().waiting_s() == 0.0);
  for (std::uint32_t i = 0; i < w.router.table().workers(); ++i) {
    CHECK(w.router.table().prefills(worker_id{i}) == 0);
    CHECK(w.router.table().decodes(worker_id{i}) == 0);
    w.report(i, 0.0);
    CHECK(w.router.queue_s(worker_id{i}, w.now_s) == 0.0);
  }
}

}  // namespace

TEST_CASE("a request that is asked for again is the same one, and an ended one stays ended") {
  router_world w(plain_options(3));
  const prompt p(10, 1);
  const route_request r = w.request(p);
  const route_answer first = w.router.route(r, w.now_s);
  REQUIRE(first.kind == route_kind::placed);
  for (int i = 0; i < 3; ++i) {
    const route_answer same = w.router.route(r, w.now_s);
    CHECK(same.kind == route_kind::placed);
    CHECK(same.attempt == 1);
    CHECK(same.decision.worker == first.decision.worker);
  }
  CHECK(w.router.table().prefills(first.decision.worker) == 1);
  CHECK(w.router.finished(r.id, 1, w.now_s));
  CHECK(!w.router.finished(r.id, 1, w.now_s));
  CHECK(w.router.route(r, w.now_s).kind == route_kind::ended);
  CHECK(sort_out(w.tick()).ended == std::map<std::uint64_t, route_end>{{1, route_end::completed}});
  CHECK(w.tick().empty());
  expect_empty(w);
}

TEST_CASE("cancellation gives back the place in the queue, the prefill and the decode, once") {
  router_options o = plain_options(1);
  o.life.hold_above_s = 1.0;
  router_world w(o);
  for (std::uint64_t i = 0; i < 5; ++i) {
    CHECK(w.ask(prompt(20, i)).kind == (i < 1 ? route_kind::placed : route_kind::waits));
  }
  CHECK(w.router.cancel(3, w.now_s));  // waits
  CHECK(!w.router.cancel(3, w.now_s));
  CHECK(w.router.book().waiting() == 3);
  CHECK(w.router.started(1, 1, w.now_s));
  w.now_s += 1.281;
  CHECK(w.router.prefilled(1, 1, 1.281, w.now_s));
  CHECK(w.router.table().decodes(worker_id{0}) == 1);
  CHECK(w.router.cancel(1, w.now_s));  // decodes
  const seen s = sort_out(w.tick());
  CHECK(s.abandoned == std::vector<std::uint32_t>{0});
  CHECK(s.ended.size() == 2);
  REQUIRE(s.again == std::vector<std::uint64_t>{2});  // there is room for one
  CHECK(w.router.cancel(2, w.now_s));                 // between `again` and the call
  CHECK(!w.router.finished(1, 1, w.now_s));
  CHECK(w.router.book().counters().stale == 1);
  CHECK(w.router.cancel(4, w.now_s));
  CHECK(w.router.cancel(5, w.now_s));
  CHECK(sort_out(w.tick()).ended.size() == 3);
  expect_empty(w);
}

TEST_CASE("overload is refused with the time after which it is no longer one") {
  router_options o = plain_options(2);
  o.life.ahead_max_s = 10.0;
  router_world w(o);
  std::uint32_t placed = 0;
  route_answer last;
  for (std::uint64_t i = 0; i < 60; ++i) {
    last = w.ask(prompt(50, i));  // 3.2 s
    placed += last.kind == route_kind::placed;
  }
  CHECK(placed == 8);  // four at each: the fourth has 9.6 s ahead, the fifth would have 12.8 s
  CHECK(last.reason == refusal::overload);
  CHECK(last.retry_after_s == Approx(4 * 3.201 - 10.0));
  CHECK(w.router.book().counters().refused[static_cast<std::size_t>(refusal::overload)] == 52);
}

TEST_CASE("overload of one worker is no overload: the request goes to another") {
  router_options o = plain_options(2);
  o.life.ahead_max_s = 10.0;
  router_world w(o);
  const prompt p(1000, 1);
  w.store(0, p, 1000);
  w.report(0, 11.0);
  CHECK(w.place(p) == 1);
}

TEST_CASE("a tenant's bucket: bursts pass, then its rate; others do not notice") {
  router_world w(plain_options(4));
  tenant_options limits;
  limits.seconds_per_s = 0.5;
  limits.burst_s = 10.0;
  w.router.set_tenant(tenant_id{1}, limits, w.now_s);
  const auto ask = [&](std::uint32_t tenant, std::uint64_t seed) {
    const prompt p(15, seed);  // 0.961 s
    route_request r = w.request(p);
    r.tenant = tenant_id{tenant};
    return w.router.route(r, w.now_s);
  };
  int placed = 0;
  for (std::uint64_t i = 0; i < 30; ++i) {
    placed += ask(1, i).kind == route_kind::placed;
  }
  CHECK(placed == 10);
  const route_answer refused = ask(1, 99);
  CHECK(refused.reason == refusal::tenant_limit);
  CHECK(refused.retry_after_s > 0.0);
  CHECK(ask(2, 5).kind == route_kind::placed);
  w.now_s += refused.retry_after_s;
  CHECK(ask(1, 50).kind == route_kind::placed);
  CHECK(ask(1, 51).kind == route_kind::refused);

  // Who ends before its prefill began has its seconds back; who was placed anew pays what it took.
  limits.seconds_per_s = 1e-9;
  limits.burst_s = 1.0;
  w.router.set_tenant(tenant_id{4}, limits, w.now_s);
  for (std::uint64_t i = 0; i < 5; ++i) {
    CHECK(ask(4, 200 + i).kind == route_kind::placed);
    CHECK(w.router.cancel(w.next_id - 1, w.now_s));
  }
  CHECK(ask(4, 300).kind == route_kind::placed);
  const std::uint64_t id = w.next_id - 1;
  CHECK(w.router.failed(id, 1, w.now_s));
  const prompt known(15, 300);
  w.store(2, known, 14);
  route_request again = w.request(known);
  again.id = id;
  again.tenant = tenant_id{4};
  REQUIRE(w.router.route(again, w.now_s).decision.estimate_s < 0.2);
  CHECK(w.router.prefilled(id, 2, 0.01, w.now_s));
  CHECK(w.router.finished(id, 2, w.now_s));
  CHECK(ask(4, 301).kind == route_kind::placed);

  limits = {};
  limits.tokens_per_s = 1000.0;
  limits.burst_tokens = 1000.0;
  w.router.set_tenant(tenant_id{3}, limits, w.now_s);
  CHECK(ask(3, 60).kind == route_kind::placed);  // 961 tokens
  CHECK(ask(3, 61).retry_after_s == Approx(0.922));
}

TEST_CASE(
    "waiting tenants get seconds as their weights, and a burst of one does not delay another") {
  router_options o = plain_options(1);
  o.life.hold_above_s = 0.5;
  router_world w(o);
  tenant_options heavy;
  heavy.weight = 3.0;
  w.router.set_tenant(tenant_id{2}, heavy, w.now_s);
  std::map<std::uint64_t, std::pair<std::uint32_t, prompt>> all;
  for (std::uint64_t i = 0; i < 120; ++i) {
    const std::uint32_t tenant = i < 60 ? 1 : 2;  // the first one's come first, all of them
    const prompt p(i % 2 == 0 ? 15 : 30, i);
    all.emplace(w.next_id, std::pair{tenant, p});
    route_request r = w.request(p);
    r.tenant = tenant_id{tenant};
    w.router.route(r, w.now_s);
  }
  std::map<std::uint32_t, double> served_s;
  std::uint64_t running = 1;
  for (int step = 0; step < 60; ++step) {
    const auto& [tenant, p] = all.at(running);
    served_s[tenant] += p.tokens() * 1e-3;
    w.router.finished(running, 1, w.now_s);
    w.report(0, 0.0);
    const seen s = sort_out(w.tick());
    REQUIRE(s.again.size() == 1);
    running = s.again.front();
    route_request r = w.request(all.at(running).second);
    r.id = running;
    r.tenant = tenant_id{all.at(running).first};
    REQUIRE(w.router.route(r, w.now_s).kind == route_kind::placed);
  }
  CHECK(served_s[2] / served_s[1] == Approx(3.0).epsilon(0.15));
}

TEST_CASE("higher priority goes first where requests wait; nobody overtakes by coming later") {
  router_options o = plain_options(1);
  o.life.hold_above_s = 0.5;
  router_world w(o);
  std::map<std::uint64_t, prompt> all;
  const auto ask = [&](std::uint64_t id, std::uint8_t priority) {
    all.emplace(id, prompt(15, id));
    const prompt& p = all.at(id);
    route_request r = w.request(p);
    r.id = id;
    r.priority = priority;
    return w.router.route(r, w.now_s).kind;
  };
  CHECK(ask(1, 0) == route_kind::placed);
  CHECK(ask(2, 0) == route_kind::waits);
  CHECK(ask(3, 9) == route_kind::waits);
  CHECK(ask(4, 9) == route_kind::waits);
  w.router.finished(1, 1, w.now_s);
  w.report(0, 0.0);
  CHECK(ask(5, 9) == route_kind::waits);  // there is room, and others wait for it
  std::vector<std::uint64_t> order;
  for (int i = 0; i < 4; ++i) {
    const seen s = sort_out(w.tick());
    REQUIRE(s.again.size() == 1);
    order.push_back(s.again[0]);
    CHECK(ask(s.again[0], all.contains(s.again[0]) && s.again[0] == 2 ? 0 : 9) ==
          route_kind::placed);
    w.router.finished(s.again[0], 1, w.now_s);
    w.report(0, 0.0);
  }
  CHECK(order == std::vector<std::uint64_t>{3, 4, 5, 2});
}

TEST_CASE("deadlines: hopeless ones are refused, others time out where they are") {
  router_options o = plain_options(2);
  o.life.hold_above_s = 5.0;
  router_world w(o);
  const prompt p(15, 1);
  route_request r = w.request(p);
  r.deadline_s = w.now_s + 0.5;  // it takes 0.96 s
  CHECK(w.router.route(r, w.now_s).reason == refusal::deadline);
  r.deadline_s = w.now_s + 2.0;
  REQUIRE(w.router.route(r, w.now_s).kind == route_kind::placed);
  route_request fine = w.request(p);
  fine.deadline_s = w.now_s + 3.0;
  REQUIRE(w.router.route(fine, w.now_s).kind == route_kind::placed);
  CHECK(w.router.prefilled(fine.id, 1, 1.0, w.now_s + 1.0));
  w.now_s += 3.5;
  const seen s = sort_out(w.tick());
  CHECK(s.ended == std::map<std::uint64_t, route_end>{{r.id, route_end::timed_out}});
  CHECK(s.abandoned.size() == 1);
  CHECK(!w.router.prefilled(r.id, 1, 1.0, w.now_s));  // too late: it changes nothing
  CHECK(w.router.finished(fine.id, 1, w.now_s));
  w.tick();
  expect_empty(w);
}

TEST_CASE("a deadline is met elsewhere where affinity would miss it") {
  router_world w(plain_options(2));
  const prompt p(100, 1);
  w.store(0, p, 100);
  w.report(0, 9.0);
  route_request r = w.request(p);
  CHECK(w.router.route(r, w.now_s).decision.worker == worker_id{0});
  r = w.request(p);
  r.session = 1;  // of nobody that is expected
  r.deadline_s = w.now_s + 8.0;
  CHECK(w.router.route(r, w.now_s).decision.worker == worker_id{1});
}

TEST_CASE(
    "a silent worker is ejected, what it had is tried elsewhere, and its late answers count for "
    "nothing") {
  router_world w(plain_options(2));
  const prompt p(50, 1);
  const std::uint64_t id = w.next_id;
  const std::uint32_t first = w.place(p);
  w.now_s += 4.0;
  w.report(1 - first, 0.0);
  CHECK(w.tick().empty());
  w.now_s += 1.5;  // nothing heard for more than 5 s
  const seen s = sort_out(w.tick());
  CHECK(s.again == std::vector<std::uint64_t>{id});
  CHECK(s.abandoned == std::vector<std::uint32_t>{first});
  CHECK(w.router.table().prefills(worker_id{first}) == 0);
  route_request r = w.request(p);
  r.id = id;
  const route_answer second = w.router.route(r, w.now_s);
  REQUIRE(second.kind == route_kind::placed);
  CHECK(second.attempt == 2);
  CHECK(to_index(second.decision.worker) == 1 - first);
  CHECK(!w.router.prefilled(id, 1, 3.2, w.now_s));  // the old one was only slow
  CHECK(!w.router.finished(id, 1, w.now_s));
  CHECK(w.router.table().prefills(second.decision.worker) == 1);
  CHECK(w.router.finished(id, 2, w.now_s));
  CHECK(!w.router.finished(id, 2, w.now_s));  // doubled
  CHECK(sort_out(w.tick()).ended.size() == 1);
  CHECK(w.router.book().counters().stale == 3);
  w.report(first, 0.0);  // heard again: back in use
  CHECK(w.router.table().is_eligible(worker_id{first}, 0));
  expect_empty(w);
}

TEST_CASE("while the shared state is away nobody is ejected for silence; then it counts anew") {
  router_world w(plain_options(3));
  const prompt p(50, 1);
  const std::uint64_t id = w.next_id;
  w.place(p);
  w.now_s += 2.0;
  w.router.set_degraded(true);
  for (int i = 0; i < 30; ++i) {
    CHECK(w.tick().empty());
    w.now_s += 1.0;
  }
  CHECK(w.ask(p).kind == route_kind::placed);
  CHECK(w.tick().empty());
  w.router.set_degraded(false);
  w.now_s += 4.0;
  CHECK(w.tick().empty());
  w.now_s += 1.5;
  CHECK(sort_out(w.tick()).again.size() == 2);
  CHECK(w.ask(p).reason == refusal::nobody);
  CHECK(w.router.cancel(id, w.now_s));
}

TEST_CASE("who has handed its KV on may go; the decode's worker is to blame for the decode") {
  router_options o = plain_options(2);
  o.health.failures_to_eject = 1;
  router_world w(o);
  w.router.join(worker_id{0}, {.can_decode = false}, w.now_s);
  w.router.join(worker_id{1}, {.can_prefill = false}, w.now_s);
  const prompt p(50, 1);
  const route_answer first = w.ask(p), second = w.ask(p);
  REQUIRE(second.decision.worker == worker_id{0});
  REQUIRE(first.decision.worker == worker_id{0});
  REQUIRE(first.decision.decode == worker_id{1});
  CHECK(w.router.prefilled(1, 1, 3.2, w.now_s));
  w.router.leave(worker_id{0}, w.now_s);
  CHECK(sort_out(w.tick()).again == std::vector<std::uint64_t>{2});
  CHECK(w.router.failed(1, 1, w.now_s));
  CHECK(w.router.table().is_ejected(worker_id{1}));
  CHECK(sort_out(w.tick()).ended.at(1) == route_end::failed);
  CHECK(w.router.cancel(2, w.now_s));
}

TEST_CASE("attempts and retries have a budget; after the first token nothing is repeated") {
  router_options o = plain_options(2);
  o.health.failures_to_eject = 1'000'000;
  o.life.retry_burst = 4.0;
  o.life.retry_share = 0.0;
  router_world w(o);
  std::uint64_t failed = 0;
  for (std::uint64_t i = 0; i < 3; ++i) {
    const prompt p(5, i);
    route_request r = w.request(p);
    for (std::uint32_t attempt = 1;; ++attempt) {
      REQUIRE(w.router.route(r, w.now_s).attempt == attempt);
      w.router.failed(r.id, attempt, w.now_s);
      const seen s = sort_out(w.tick());
      if (s.ended.contains(r.id)) {
        CHECK(s.ended.at(r.id) == route_end::failed);
        failed += attempt;
        break;
      }
    }
  }
  CHECK(failed == 3 + 3 + 1);  // attempts_max; then the budget is gone
  CHECK(w.router.book().counters().retries == 4);
  CHECK(w.router.book().counters().retries_denied == 1);

  router_world second(plain_options(2));
  const prompt p(5, 1);
  second.place(p);
  second.router.prefilled(1, 1, 0.3, second.now_s);
  second.router.failed(1, 1, second.now_s);
  CHECK(sort_out(second.tick()).ended.at(1) == route_end::failed);
}

TEST_CASE("who fails again and again is left alone, longer each time, and starts slowly") {
  router_options o = plain_options(2);
  o.health.eject_after_s = std::numeric_limits<double>::infinity();
  o.life.attempts_max = 1;
  router_world w(o);
  const auto fail_until_ejected = [&] {
    for (int i = 0; i < 20 && !w.router.table().is_ejected(worker_id{0}); ++i) {
      const prompt p(5, w.next_id);
      const std::uint64_t id = w.next_id;
      if (w.place(p) == 0) {
        w.router.failed(id, 1, w.now_s);
      } else {
        w.router.finished(id, 1, w.now_s);
      }
    }
    CHECK(w.router.table().is_ejected(worker_id{0}));
  };
  fail_until_ejected();
  w.now_s += 9.9;
  w.tick();
  CHECK(w.router.table().is_ejected(worker_id{0}));
  w.now_s += 0.2;
  w.tick();
  CHECK(!w.router.table().is_ejected(worker_id{0}));
  fail_until_ejected();
  w.now_s += 19.9;
  w.tick();
  CHECK(w.router.table().is_ejected(worker_id{0}));
  w.now_s += 0.2;
  w.tick();
  CHECK(!w.router.table().is_ejected(worker_id{0}));
  CHECK(w.router.table().ejections() == 2);
}

TEST_CASE("drain: nothing new, the old goes on; leave: the old goes elsewhere") {
  router_world w(plain_options(3));
  std::map<std::uint32_t, std::uint64_t> on;
  for (std::uint64_t i = 1; i <= 3; ++i) {
    on[w.place(prompt(30, i))] = i;
  }
  REQUIRE(on.size() == 3);
  w.router.drain(worker_id{0}, w.now_s);
  for (std::uint64_t i = 0; i < 6; ++i) {
    CHECK(w.place(prompt(30, 50 + i)) != 0);
  }
  CHECK(w.router.finished(on[0], 1, w.now_s));
  w.router.leave(worker_id{1}, w.now_s);
  const seen s = sort_out(w.tick());
  CHECK(s.again.size() == 4);  // its first one and three more
  for (const std::uint64_t id : s.again) {
    const prompt p(30, 1000 + id);
    route_request r = w.request(p);
    r.id = id;
    CHECK(w.router.route(r, w.now_s).decision.worker == worker_id{2});
  }
}

TEST_CASE("an accepted request waits a while for any worker at all, then fails") {
  router_options o = plain_options(1);
  router_world w(o);
  const prompt p(5, 1);
  w.place(p);
  w.router.leave(worker_id{0}, w.now_s);
  route_request r = w.request(p);
  r.id = 1;
  int asked = 0;
  for (int second = 0; second < 40; ++second) {
    const seen s = sort_out(w.tick());
    for (const std::uint64_t id : s.again) {
      CHECK(id == 1);
      CHECK(w.router.route(r, w.now_s).kind == route_kind::waits);
      ++asked;
    }
    if (!s.ended.empty()) {
      CHECK(s.ended.at(1) == route_end::failed);
      CHECK(second > 30);
      break;
    }
    w.now_s += 1.0;
  }
  CHECK(asked > 10);
  expect_empty(w);
}

TEST_CASE("seconds that are none change nothing") {
  router_world w(plain_options(1));
  for (const double bad :
       {-1.0, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    CHECK(!w.router.report({.worker = worker_id{0}, .sequence = 1000, .queued_s = bad}, w.now_s));
    w.place(prompt(15, w.next_id));
    CHECK(w.router.prefilled(w.next_id - 1, 1, bad, w.now_s));
  }
  CHECK(w.router.book().counters().actual_s == Approx(3 * 0.961));
  CHECK(w.router.table().prefills(worker_id{0}) == 0);
}

TEST_CASE("a worker that joins again has started anew: what it had is tried elsewhere") {
  router_world w(plain_options(2));
  const prompt p(15, 1);
  const std::uint64_t id = w.next_id;
  const std::uint32_t worker = w.place(p);
  w.router.join(worker_id{worker}, {}, w.now_s);
  CHECK(sort_out(w.tick()).again == std::vector<std::uint64_t>{id});
  CHECK(w.router.table().prefills(worker_id{worker}) == 0);
  CHECK(w.router.report({.worker = worker_id{worker}, .sequence = 1, .at_s = w.now_s}, w.now_s));
}

TEST_CASE("errors of estimates are counted, longer and shorter ones apart") {
  router_world w(plain_options(1));
  for (std::uint64_t id = 1; id <= 4; ++id) {
    w.place(prompt(15, id));
    w.router.prefilled(id, 1, id == 1 ? 2 * 0.961 : 0.9 * 0.961, w.now_s);
  }
  CHECK(w.router.book().longer_permille().count() == 1);
  CHECK(w.router.book().longer_permille().percentile(1.0) >= 1000);
  CHECK(w.router.book().shorter_permille().count() == 3);
  CHECK(w.router.book().counters().actual_s == Approx(2 * 0.961 + 2.7 * 0.961));
}

}  // namespace request_life_test
