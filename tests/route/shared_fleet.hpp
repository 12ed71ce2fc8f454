// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Workers that tell, and routers that read, over one embedded log on a clock of the test.
#pragma once

#include "route/router_world.hpp"

#include <oriel/route/embedded_state_store.hpp>
#include <oriel/route/fleet_mirror.hpp>

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace oriel_test {

/// A store that can be cut off: what is appended is lost, and nothing comes.
struct gated_store {
  embedded_state_store store;
  bool is_cut_off = false;

  explicit gated_store(embedded_log& log) : store(log) {}
  bool append(std::span<const std::byte> bytes, double now_s) {
    return !is_cut_off && store.append(bytes, now_s);
  }
  void poll(std::vector<state_record>& records, double now_s) {
    if (!is_cut_off) {
      store.poll(records, now_s);
    }
  }
  bool hold(std::string_view name, double ttl_s, double now_s) {
    return !is_cut_off && store.hold(name, ttl_s, now_s);
  }
  void release(std::string_view name, double now_s) { store.release(name, now_s); }
  [[nodiscard]] state_status status() const { return store.status(); }
};
static_assert(state_store<gated_store>);

/// What a worker has, which it can tell again from the beginning.
template <class Store>
struct shared_worker {
  worker_voice<Store> voice;
  std::uint32_t number;
  std::uint64_t sequence = 0, beats = 0;
  std::vector<prompt> has = {};
  std::uint64_t replays = 0;
  bool is_up = true;

  shared_worker(Store& log, Store& wishes, std::uint32_t worker)
      : voice(log, wishes, worker_id{worker}), number(worker) {}

  [[nodiscard]] worker_event event(const prompt& p, std::uint32_t pool) const {
    const auto pages = static_cast<std::uint32_t>(p.links.size());
    const std::uint32_t first = pool == 0 ? 0 : pages - std::min(pages, 3u);
    return {.worker = worker_id{number},
            .pool = pool,
            .first_page = first,
            .epoch = 1,
            .parent = first > 0 ? p.links[first - 1] : chain_hash{},
            .links = std::span(p.links).subspan(first)};
  }
  /// Computes a prompt and tells of it. `lost`: all but the counting.
  void compute(const prompt& p, double now_s, bool is_lost = false) {
    has.push_back(p);
    for (std::uint32_t pool = 0; pool < 2; ++pool) {
      worker_event e = event(p, pool);
      e.sequence = ++sequence;
      if (!is_lost) {
        voice.event(e, now_s);
      }
    }
  }
  void replay(double now_s) {
    ++replays;
    worker_event mark{.worker = worker_id{number}, .epoch = 1};
    mark.kind = worker_event_kind::replay_begin;
    voice.event(mark, now_s);
    for (const prompt& p : has) {
      for (std::uint32_t pool = 0; pool < 2; ++pool) {
        worker_event e = event(p, pool);
        e.is_replay = true;
        voice.event(e, now_s);
      }
    }
    mark.kind = worker_event_kind::replay_end;
    mark.sequence = sequence;
    mark.replay_events = 2 * has.size();
    voice.event(mark, now_s);
  }
  void live(double now_s) {
    if (!is_up) {
      return;
    }
    voice.beat({.worker = worker_id{number}, .sequence = ++beats, .at_s = now_s}, {}, now_s);
    if (voice.pump(now_s)) {
      replay(now_s);
    }
  }
};

template <class Store>
struct basic_shared_router {
  affinity_router<predicted_seconds> router;
  fleet_mirror<Store, affinity_router<predicted_seconds>> mirror;
  std::uint64_t next_id = 1;

  basic_shared_router(Store& log,
                      Store& wishes,
                      const router_options& options,
                      std::uint64_t number)
      : router(options), mirror(log, wishes, router, {.sender = number}) {}

  std::uint32_t place(const prompt& p, double now_s) {
    const route_answer answer = router.route({.id = next_id++,
                                              .session = 1'000'000 + next_id,
                                              .prompt_tokens = p.tokens(),
                                              .links = p.links},
                                             now_s);
    mirror.tell(answer, now_s);
    return answer.kind == route_kind::placed ? to_index(answer.decision.worker) : 999;
  }
  void live(double now_s) {
    mirror.pump(now_s);
    std::vector<route_action> actions;
    router.tick(now_s, actions);
  }
};
using shared_router = basic_shared_router<gated_store>;

struct shared_fleet {
  embedded_log log, wishes;
  std::deque<gated_store> stores;
  std::deque<shared_worker<gated_store>> workers;
  std::vector<std::unique_ptr<shared_router>> routers;
  std::vector<gated_store*> router_doors;  // to the log
  double now_s = 100.0;

  shared_fleet(std::uint32_t worker_count,
               std::uint32_t router_count,
               std::size_t log_max = 100'000)
      : log(log_max), wishes(1000) {
    for (std::uint32_t i = 0; i < worker_count; ++i) {
      workers.emplace_back(door(log), door(wishes), i);
    }
    for (std::uint32_t i = 0; i < router_count; ++i) {
      add_router();
    }
    run(0.1);
  }
  gated_store& door(embedded_log& to) { return stores.emplace_back(to); }
  void add_router() {
    router_options o = plain_options(static_cast<std::uint32_t>(workers.size()));
    o.router = routers.size();
    gated_store& to_log = door(log);
    routers.push_back(std::make_unique<shared_router>(to_log, door(wishes), o, routers.size() + 1));
    router_doors.push_back(&to_log);
  }
  /// Lets time pass in steps of 20 ms.
  void run(double seconds) {
    for (const double end_s = now_s + seconds - 1e-9; now_s < end_s;) {
      now_s += 0.02;
      for (auto& w : workers) {
        w.live(now_s);
      }
      for (auto& r : routers) {
        r->live(now_s);
      }
    }
  }
};

}  // namespace oriel_test
