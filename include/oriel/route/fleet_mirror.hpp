// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A router's and a worker's side of the shared state.
///
///     fleet_mirror mirror(log, wishes, router, options);   // a router's
///     mirror.pump(now_s);                           // often: reads the log into the router
///     const route_answer answer = router.route(request, now_s);
///     mirror.tell(answer, now_s);                   // other routers count it too
///
///     worker_voice voice(log, wishes, worker);             // a worker's
///     voice.event(event, now_s);  voice.beat(load, profile, now_s);
///     if (voice.pump(now_s)) { voice.event(replay_begin) ... }
///
/// `log` carries what workers have and what routers decide, `wishes` alone what routers want of
/// workers: a worker reads only that, and none of the others' events.
///
/// A router that starts reads what the log still has and asks the workers for the rest. When it
/// hears nothing of its own beats for long, its view is old: it is `degraded` until they come
/// again.
#pragma once

#include <oriel/core/mutation.hpp>
#include <oriel/route/fleet_record.hpp>
#include <oriel/route/prefix_index.hpp>
#include <oriel/route/router.hpp>
#include <oriel/route/state_store.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel {

struct mirror_options {
  std::uint64_t sender = 1;      ///< of this router's life: drawn anew at each start, not 0
  double beat_s = 0.1;           ///< how often the lag is measured
  double degrade_after_s = 2.0;  ///< of lag
  double replay_after_s = 0.5;   ///< events are missing for so long: ask for all
  double replay_again_s = 5.0;   ///< and again
};

/// Plain counts since construction.
struct mirror_counters {
  std::uint64_t events = 0, loads = 0, placements = 0;  ///< of others, taken over
  std::uint64_t malformed = 0;                          ///< records that were none
  std::uint64_t replays_wanted = 0;
  std::uint64_t degraded = 0;  ///< times that the view became too old
};

/// What a mirror asks of its router besides: what is known of each worker's pages, and to go by
/// something else while that is too old.
// clang-format off
template <class R>
concept mirrored_router = router<R> && requires(R& r, const R& c, bool is_degraded) {
  { c.index() } -> std::convertible_to<const prefix_index&>;
  { c.is_degraded() } -> std::same_as<bool>;
  r.set_degraded(is_degraded);
};
// clang-format on

/// *Thread safety* that of the router: one thread. *Memory* 40 bytes a worker, one record.
template <state_store Store, mirrored_router Router>
class fleet_mirror {
 public:
  /// All three outlive it.
  fleet_mirror(Store& log, Store& wishes, Router& router, const mirror_options& options)
      : log_(log),
        wishes_(wishes),
        router_(router),
        options_(options),
        workers_(workers_of(router)) {}

  /// Reads what has come into the router; beats; asks for replays. Never waits.
  /// O(records that came + workers).
  void pump(double now_s) {
    if (first_s_ < 0.0) {
      first_s_ = seen_sent_s_ = now_s;
    }
    if (now_s - sent_s_ >= options_.beat_s || sent_s_ < 0.0) {
      sent_s_ = now_s;
      send({.kind = fleet_record_kind::beat, .sender = options_.sender, .sent_s = now_s}, now_s);
    }
    records_.clear();
    wishes_.poll(records_, now_s);
    log_.poll(records_, now_s);
    for (const state_record& record : records_) {
      take(record, now_s);
    }
    want_replays(now_s);
    const bool is_old = lag_s(now_s) > options_.degrade_after_s && !ORIEL_MUTANT(lag_is_ignored);
    counters_.degraded += is_old && !router_.is_degraded();
    router_.set_degraded(is_old);
  }

  /// What the router has decided. O(1).
  void tell(const route_answer& answer, double now_s) {
    if (answer.kind == route_kind::placed) {
      send({.kind = fleet_record_kind::placed,
            .worker = answer.decision.worker,
            .sender = options_.sender,
            .seconds = answer.decision.estimate_s},
           now_s);
    }
  }

  /// How old the view is: since the last of our own beats that came back was sent.
  [[nodiscard]] double lag_s(double now_s) const noexcept {
    return std::max(0.0, now_s - seen_sent_s_);
  }
  [[nodiscard]] const mirror_counters& counters() const noexcept { return counters_; }

 private:
  struct worker_view {
    std::uint64_t epoch = 0, events = 0;  // as its last heartbeat told
    double event_s = -1e300;              // when the last event came
    double lacks_since_s = -1.0;          // < 0: nothing is missing
    double asked_s = -1e300;
    bool is_known = false;
  };

  [[nodiscard]] static std::size_t workers_of(const Router& router) {
    return router.index().options().workers;
  }
  void send(const fleet_record& record, double now_s) {
    bytes_.clear();
    encode(record, bytes_);
    (record.kind == fleet_record_kind::wants_replay ? wishes_ : log_).append(bytes_, now_s);
  }
  void take(const state_record& stored, double now_s) {
    std::span<const std::byte> rest = stored.bytes;
    while (!rest.empty()) {
      const auto record = decode(rest, stored.stored_s, links_);
      if (!record || to_index(record->worker) >= workers_.size()) {
        ++counters_.malformed;
        if (!record) {
          return;
        }
        continue;
      }
      carry_out(*record, stored.stored_s, now_s);
    }
  }
  void carry_out(const fleet_record& r, double stored_s, double now_s) {
    switch (r.kind) {
      case fleet_record_kind::event:
        ++counters_.events;
        workers_[to_index(r.worker)].event_s = now_s;
        router_.apply(r.event);
        break;
      case fleet_record_kind::load:
        ++counters_.loads;
        hear(r, stored_s);
        break;
      case fleet_record_kind::placed:
        if (r.sender != options_.sender) {
          ++counters_.placements;
          router_.note_placed(r.worker, r.seconds, stored_s);
        }
        break;
      case fleet_record_kind::left:
        workers_[to_index(r.worker)] = {};
        router_.leave(r.worker, now_s);
        break;
      case fleet_record_kind::beat:
        if (r.sender == options_.sender) {
          seen_sent_s_ = std::max(seen_sent_s_, r.sent_s);
        }
        break;
      case fleet_record_kind::wants_replay:  // of another router: its replay serves us too
        workers_[to_index(r.worker)].asked_s = now_s;
        break;
    }
  }
  // Heartbeats are the registry: who beats takes part.
  void hear(const fleet_record& r, double stored_s) {
    worker_view& view = workers_[to_index(r.worker)];
    const bool has_restarted = view.is_known && r.epoch > view.epoch && view.epoch != 0;
    view.epoch = r.epoch;
    view.events = r.events;
    if (!view.is_known || has_restarted) {
      view.is_known = true;
      router_.join(r.worker, r.profile, stored_s);
    }
    router_.report(r.load, stored_s);
    if (r.is_draining) {
      router_.drain(r.worker, stored_s);
    }
  }
  // Is something missing that nobody will send by himself? A beat comes after the events that it
  // counts.
  [[nodiscard]] bool lacks_events(worker_id worker, double now_s) const {
    const worker_view& view = workers_[to_index(worker)];
    const prefix_index& index = router_.index();
    const worker_state state = index.state(worker);
    if (!view.is_known) {
      return false;
    }
    if (state == worker_state::replaying) {  // It goes on, or its end was lost.
      return now_s - view.event_s > options_.replay_again_s;
    }
    const auto missing = index.missing(worker);
    const bool is_behind = view.events > 0 && (index.epoch(worker) != view.epoch ||
                                               index.sequence(worker) < view.events);
    return state == worker_state::unsure || missing.first < missing.end || is_behind;
  }
  void want_replays(double now_s) {
    for (std::uint32_t i = 0; i < workers_.size(); ++i) {
      worker_view& view = workers_[i];
      if (!lacks_events(worker_id{i}, now_s)) {
        view.lacks_since_s = -1.0;
        continue;
      }
      view.lacks_since_s = view.lacks_since_s < 0.0 ? now_s : view.lacks_since_s;
      if (now_s - view.lacks_since_s >= options_.replay_after_s &&
          now_s - view.asked_s >= options_.replay_again_s &&
          !ORIEL_MUTANT(nobody_asks_for_replays)) {
        view.asked_s = now_s;
        ++counters_.replays_wanted;
        send({.kind = fleet_record_kind::wants_replay,
              .worker = worker_id{i},
              .sender = options_.sender},
             now_s);
      }
    }
  }

  Store& log_;
  Store& wishes_;
  Router& router_;
  mirror_options options_;
  std::vector<worker_view> workers_;
  double first_s_ = -1.0, sent_s_ = -1.0;
  double seen_sent_s_ = 0.0;  // when the last own beat that came back was sent
  mirror_counters counters_;
  std::vector<state_record> records_;
  std::vector<chain_hash> links_;
  std::vector<std::byte> bytes_;
};

/// A worker's side: what it tells, and whether anybody wants to hear it all again.
template <state_store Store>
class worker_voice {
 public:
  /// Both outlive it.
  worker_voice(Store& log, Store& wishes, worker_id worker)
      : log_(log), wishes_(wishes), worker_(worker) {}

  /// @pre the event is this worker's, and has at most 4096 links
  void event(const worker_event& event, double now_s) {
    count(event.epoch, event.sequence);
    send({.kind = fleet_record_kind::event, .worker = worker_, .event = event}, now_s);
  }
  /// Heartbeats tell of this epoch and event; event() does it itself.
  void count(std::uint64_t epoch, std::uint64_t sequence) noexcept {
    events_ = std::max(sequence, epoch == epoch_ ? events_ : 0);
    epoch_ = epoch;
  }
  /// `load.at_s` is now_s or before.
  void beat(const load_report& load,
            const worker_profile& profile,
            double now_s,
            bool is_draining = false) {
    send({.kind = fleet_record_kind::load,
          .worker = worker_,
          .load = load,
          .profile = profile,
          .is_draining = is_draining,
          .epoch = epoch_,
          .events = events_,
          .age_s = std::max(0.0, now_s - load.at_s)},
         now_s);
  }
  void leave(double now_s) { send({.kind = fleet_record_kind::left, .worker = worker_}, now_s); }

  /// Sends what waits. @returns does a router want a replay, since the last call?
  bool pump(double now_s) {
    records_.clear();
    log_.poll(records_, now_s);  // Sends. A log that is only written gives nothing.
    records_.clear();
    wishes_.poll(records_, now_s);
    bool wants_replay = false;
    for (const state_record& stored : records_) {
      std::span<const std::byte> rest = stored.bytes;
      while (!rest.empty()) {
        const auto record = decode(rest, stored.stored_s, links_);
        if (!record) {
          break;
        }
        wants_replay = wants_replay || (record->kind == fleet_record_kind::wants_replay &&
                                        record->worker == worker_);
      }
    }
    return wants_replay;
  }

 private:
  void send(const fleet_record& record, double now_s) {
    bytes_.clear();
    encode(record, bytes_);
    log_.append(bytes_, now_s);
  }

  Store& log_;
  Store& wishes_;
  worker_id worker_;
  std::uint64_t epoch_ = 0, events_ = 0;  // of the last event
  std::vector<state_record> records_;
  std::vector<chain_hash> links_;
  std::vector<std::byte> bytes_;
};

}  // namespace oriel
