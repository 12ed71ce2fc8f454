// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The shared state: the law for the embedded store, frames that are damaged, routers that start,
// lag and come back, and workers that are asked to tell all again.
#include "conformance/state_store_suite.hpp"
#include "route/shared_fleet.hpp"
#include "support/scale.hpp"

#include <catch2/catch.hpp>

#include <deque>
#include <memory>

namespace state_store_test {

using namespace oriel_test;

namespace {

struct embedded_world {
  std::unique_ptr<embedded_log> log = std::make_unique<embedded_log>(1000);
  std::deque<embedded_state_store> stores = {};
  double now = 10.0;

  embedded_state_store& join() { return stores.emplace_back(*log); }
  [[nodiscard]] double now_s() const { return now; }
  void pass(double seconds) { now += seconds; }
  [[nodiscard]] static std::size_t log_max() { return 900; }
};

fleet_record some_event(random_stream& draw, std::vector<chain_hash>& links) {
  links.resize(draw.next_below(40));
  for (chain_hash& link : links) {
    link = {draw.next_bits(), draw.next_bits()};
  }
  return {.kind = fleet_record_kind::event,
          .worker = worker_id{draw.next_below(8)},
          .sender = draw.next_bits(),
          .event = {.kind = static_cast<worker_event_kind>(draw.next_below(5)),
                    .tier = static_cast<std::uint8_t>(draw.next_below(4)),
                    .is_replay = draw.next_below(2) == 1,
                    .pool = draw.next_below(3),
                    .first_page = draw.next_bits(),
                    .epoch = draw.next_bits(),
                    .sequence = draw.next_bits(),
                    .replay_events = draw.next_bits(),
                    .parent = {draw.next_bits(), draw.next_bits()},
                    .links = links}};
}

using affinity = affinity_router<predicted_seconds>;
/// A router, and no more.
struct blind_router : affinity {
  void set_degraded(bool) = delete;
};
static_assert(mirrored_router<affinity>);
static_assert(router<blind_router> && !mirrored_router<blind_router>);

}  // namespace

TEST_CASE("embedded_state_store is a state_store") {
  check_state_store_laws([] { return embedded_world{}; });
}

TEST_CASE("records come back as they were, and damaged ones are none") {
  random_stream draw(1);
  std::vector<chain_hash> links, out;
  for (std::uint64_t i = 0; i < scaled(2000); ++i) {
    std::vector<std::byte> bytes;
    const fleet_record event = some_event(draw, links);
    encode(event, bytes);
    encode(
        {.kind = fleet_record_kind::load,
         .worker = worker_id{3},
         .load = {.sequence = 9, .queued_s = 1.5, .queued = 4, .decoding = 5, .decode_tokens = 6},
         .profile = {.has = 7, .can_prefill = false},
         .is_draining = true,
         .age_s = 0.25},
        bytes);
    encode({.kind = fleet_record_kind::placed, .worker = worker_id{1}, .seconds = 2.5}, bytes);
    const std::vector<std::byte> whole = bytes;
    std::span<const std::byte> rest = whole;
    const auto first = decode(rest, 50.0, out);
    REQUIRE(first);
    CHECK(first->event.sequence == event.event.sequence);
    CHECK(first->event.worker == event.worker);
    CHECK(first->event.first_page == event.event.first_page);
    CHECK(out == links);
    const auto load = decode(rest, 50.0, out);
    REQUIRE(load);
    CHECK(load->load.at_s == 49.75);
    CHECK(load->load.worker == worker_id{3});
    CHECK(load->load.decode_tokens == 6);
    CHECK(!load->profile.can_prefill);
    CHECK(load->profile.can_decode);
    CHECK(load->is_draining);
    const auto placed = decode(rest, 50.0, out);
    REQUIRE(placed);
    CHECK(placed->seconds == 2.5);
    CHECK(rest.empty());
    // Cut, and with bytes changed: some record, or none; never more links than there are bytes.
    bytes.resize(draw.next_below(static_cast<std::uint32_t>(bytes.size() + 1)));
    for (std::uint32_t k = 0; k < 3 && !bytes.empty(); ++k) {
      bytes[draw.next_below(static_cast<std::uint32_t>(bytes.size()))] =
          static_cast<std::byte>(draw.next_below(256));
    }
    rest = bytes;
    while (!rest.empty()) {
      const auto record = decode(rest, 50.0, out);
      if (!record) {
        break;
      }
      REQUIRE(out.size() * 16 <= bytes.size());
    }
  }
}

TEST_CASE("a count of links beyond the bytes that are there is no record") {
  std::vector<std::byte> bytes;
  std::vector<chain_hash> links(2), out;
  encode({.kind = fleet_record_kind::event, .event = {.links = links}}, bytes);
  bytes[bytes.size() - 36] = std::byte{200};  // the count
  std::span<const std::byte> rest = bytes;
  CHECK(!decode(rest, 0.0, out));
  bytes[bytes.size() - 36] = std::byte{1};
  rest = bytes;
  CHECK(!decode(rest, 0.0, out));
}

TEST_CASE("routers that share the state see the same prefixes, and count each other's placements") {
  shared_fleet f(4, 2);
  const prompt p(100, 1);
  f.workers[2].compute(p, f.now_s);
  f.run(1.0);
  for (auto& r : f.routers) {
    CHECK(r->place(p, f.now_s) == 2);
  }
  CHECK(f.routers[0]->router.queue_s(worker_id{2}, f.now_s) == Approx(1e-3));
  f.run(0.05);
  CHECK(f.routers[0]->router.queue_s(worker_id{2}, f.now_s) == Approx(2e-3).margin(0.05));
  CHECK(f.routers[0]->mirror.counters().placements == 1);
  CHECK(f.routers[1]->mirror.counters().placements == 1);
}

TEST_CASE("a router that starts late knows what the log has, and asks for what it has not") {
  shared_fleet f(3, 1, 600);  // of two seconds
  std::vector<prompt> prompts;
  for (std::uint64_t i = 0; i < 200; ++i) {
    prompts.emplace_back(20, i);
    f.workers[i % 3].compute(prompts.back(), f.now_s);
    f.run(0.05);
  }
  f.add_router();
  shared_router& late = *f.routers.back();
  f.run(0.1);
  CHECK(late.router.index().memory().pages < 200 * 20);
  f.run(3.0);
  CHECK(late.mirror.counters().replays_wanted == 3);
  CHECK(late.router.index().memory().pages == 200 * 20);
  for (std::uint64_t i = 0; i < 200; ++i) {
    CHECK(late.place(prompts[i], f.now_s) == i % 3);
  }
}

TEST_CASE("a view that is too old is not gone by, and is again when it is young") {
  shared_fleet f(4, 1);
  const prompt p(100, 1);
  f.workers[1].compute(p, f.now_s);
  f.run(1.0);
  shared_router& r = *f.routers[0];
  CHECK(!r.router.is_degraded());
  CHECK(r.mirror.lag_s(f.now_s) < 0.3);
  f.router_doors[0]->is_cut_off = true;
  f.run(1.5);
  CHECK(!r.router.is_degraded());
  f.run(1.0);
  CHECK(r.router.is_degraded());
  CHECK(r.mirror.lag_s(f.now_s) > 2.0);
  f.router_doors[0]->is_cut_off = false;
  f.run(0.5);
  CHECK(!r.router.is_degraded());
  CHECK(r.mirror.counters().degraded == 1);
  CHECK(r.place(p, f.now_s) == 1);
}

TEST_CASE("lost events are noticed, asked for, and the view is whole again") {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    INFO("seed " << seed);
    shared_fleet f(3, 2);
    random_stream draw(seed);
    std::vector<prompt> prompts;
    for (std::uint64_t i = 0; i < 200; ++i) {
      prompts.emplace_back(20, i + 1000 * seed);
      f.workers[i % 3].compute(prompts.back(), f.now_s, draw.next_below(20) == 0);
      f.run(0.02);
    }
    f.workers[0].compute(prompts[0], f.now_s);
    f.run(8.0);
    for (auto& r : f.routers) {
      CHECK(r->router.index().memory().pages == 200 * 20);
      for (std::uint32_t w = 0; w < 3; ++w) {
        CHECK(r->router.index().state(worker_id{w}) == worker_state::sure);
      }
    }
  }
}

TEST_CASE("the loss of a worker's last event is noticed by its heartbeats") {
  shared_fleet f(2, 1);
  f.workers[0].compute(prompt(20, 1), f.now_s);
  f.run(0.5);
  const prompt last(20, 2);
  f.workers[1].compute(last, f.now_s, true);  // all that it ever tells, and it is lost
  f.workers[1].voice.count(1, 2);
  f.run(0.3);
  CHECK(f.routers[0]->mirror.counters().replays_wanted == 0);
  f.run(0.5);
  CHECK(f.routers[0]->mirror.counters().replays_wanted == 1);
  CHECK(f.routers[0]->place(last, f.now_s) == 1);
}

TEST_CASE("a worker that has left is forgotten, one that is only silent is ejected") {
  shared_fleet f(3, 1);
  const prompt p(50, 1);
  f.workers[0].compute(p, f.now_s);
  f.run(1.0);
  shared_router& r = *f.routers[0];
  CHECK(r.place(p, f.now_s) == 0);
  f.workers[1].is_up = false;
  f.run(6.0);
  CHECK(r.router.table().is_ejected(worker_id{1}));
  f.workers[0].voice.leave(f.now_s);
  f.workers[0].is_up = false;
  f.run(0.1);
  CHECK(!r.router.table().is_member(worker_id{0}));
  CHECK(r.router.index().memory().pages == 0);
  CHECK(r.place(p, f.now_s) == 2);
}

}  // namespace state_store_test
