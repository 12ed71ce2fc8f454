// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "core/never.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/route/worker_table.hpp>

#include <algorithm>
#include <cmath>

namespace oriel {

worker_table::worker_table(std::uint32_t workers, const health_options& options)
    : options_(options), workers_(workers) {
  ORIEL_EXPECTS(workers > 0 && options.failures_to_eject > 0 && options.eject_after_s > 0.0);
  ORIEL_EXPECTS(options.slow_start_share > 0.0 && options.slow_start_share <= 1.0);
}

void worker_table::join(worker_id worker, const worker_profile& profile, double now_s) {
  entry& w = at(worker);
  const entry old = std::move(w);
  faded_s_ = first_join_s_ == never_s ? now_s : faded_s_;
  first_join_s_ = std::min(first_join_s_, now_s);
  w = {.profile = profile, .is_member = true, .heard_s = now_s};
  if (now_s > first_join_s_ + options_.slow_start_s) {
    w.back_s = now_s;
  }
  // Its requests of before are still to be given back.
  w.waiting = old.waiting;
  w.running = old.running;
  w.decodes = old.decodes;
  w.waiting_s = old.waiting_s;
  w.running_until_s = old.running_until_s;
}

bool worker_table::report(const load_report& load, double now_s) {
  if (!is_known(load.worker) && !ORIEL_MUTANT(strangers_are_believed)) {
    return false;
  }
  entry& w = at(load.worker);
  if (!w.is_member || (w.told_sequence != 0 && load.sequence <= w.told_sequence)) {
    return false;
  }
  const bool is_sane = load.queued_s >= 0.0 && load.queued_s < 1e9 && load.evict_token_s >= 0.0 &&
                       load.evict_token_s < 1e9 && std::isfinite(load.at_s);
  if (!is_sane) {
    return false;
  }
  w.heard_s = now_s;
  w.told_sequence = load.sequence;
  w.told_s = load.at_s;
  w.told_queued = load.queued;
  w.told_decoding = load.decoding;
  w.told_decode_tokens = load.decode_tokens;
  w.evict_token_s = load.evict_token_s;
  w.has_foreign_load = true;
  std::erase_if(w.since, [&](const placed_since& p) { return p.at_s <= load.at_s; });
  w.free_at_s = load.at_s + load.queued_s;
  for (const placed_since& p : w.since) {
    w.free_at_s += p.seconds;
  }
  if (w.is_ejected && w.eject_until_s == never_s) {
    w.is_ejected = false;
    w.back_s = now_s;
  }
  return true;
}

void worker_table::add_since(entry& w, double seconds, double at_s) {
  w.free_at_s = std::max(w.free_at_s, at_s) + seconds;
  if (w.since.size() >= 1024) {  // Nobody reports: the oldest are long done.
    w.since.erase(w.since.begin(), w.since.begin() + 512);
  }
  w.since.push_back({at_s, seconds});
}

// It waits behind what is there: so much is added to the integral of the queue.
void worker_table::remember(worker_id worker, double seconds, double now_s) noexcept {
  entry& w = at(worker);
  w.arrivals_per_s += 1.0 / memory_s;
  w.usual_queue_s += seconds * (queue_s(worker, now_s) + 0.5 * seconds) / memory_s;
}

void worker_table::fade(double now_s) noexcept {
  const double kept = std::exp(std::min(0.0, faded_s_ - now_s) / memory_s);
  faded_s_ = now_s;
  for (entry& w : workers_) {
    w.arrivals_per_s *= kept;
    w.usual_queue_s *= kept;
  }
}

void worker_table::note_placed(worker_id worker, double seconds, double at_s) {
  if (!is_known(worker)) {
    return;
  }
  entry& w = at(worker);
  if (w.is_member) {
    remember(worker, seconds, at_s);
  }
  if (!w.is_member || (w.told_sequence != 0 && at_s <= w.told_s)) {
    return;  // The report has it.
  }
  w.has_foreign_load = true;
  add_since(w, seconds, at_s);
}

void worker_table::place(worker_id worker, worker_id decode, double estimate_s, double now_s) {
  entry& w = at(worker);
  remember(worker, estimate_s, now_s);
  ++w.waiting;
  if (!ORIEL_MUTANT(load_counts_when_work_starts)) {
    w.waiting_s += estimate_s;
    add_since(w, estimate_s, now_s);
  }
  if (decode != no_worker) {
    ++at(decode).decodes;
  }
}

void worker_table::start(worker_id worker, double estimate_s, double now_s) noexcept {
  entry& w = at(worker);
  --w.waiting;
  w.waiting_s = w.waiting == 0 ? 0.0 : w.waiting_s - estimate_s;
  w.running_until_s = (w.running == 0 ? now_s : std::max(w.running_until_s, now_s)) + estimate_s;
  ++w.running;
}

void worker_table::end_prefill(worker_id worker,
                               double estimate_s,
                               double change_s,
                               bool was_started) noexcept {
  entry& w = at(worker);
  if (was_started) {
    --w.running;
  } else {
    --w.waiting;
    w.waiting_s = w.waiting == 0 ? 0.0 : std::max(0.0, w.waiting_s - estimate_s);
  }
  w.free_at_s += change_s;
}

void worker_table::end_decode(worker_id decode) noexcept {
  if (decode != no_worker) {
    --at(decode).decodes;
  }
}

void worker_table::eject(entry& w, double until_s) noexcept {
  w.is_ejected = w.is_new_ejection = true;
  w.eject_until_s = until_s;
  ++ejections_;
}

void worker_table::failed(worker_id worker, double now_s) noexcept {
  entry& w = at(worker);
  if (!w.is_member || w.is_ejected || ++w.failures < options_.failures_to_eject) {
    return;
  }
  w.failures = 0;
  const double factor = std::ldexp(1.0, static_cast<int>(std::min(w.ejections, 30u)));
  ++w.ejections;
  eject(w, now_s + std::min(options_.eject_s * factor, options_.eject_max_s));
}

void worker_table::excuse_silence(double now_s) noexcept {
  for (entry& w : workers_) {
    w.heard_s = std::max(w.heard_s, now_s);
  }
}

void worker_table::tick(double now_s, std::vector<worker_id>& ejected) {
  fade(now_s);
  for (std::uint32_t i = 0; i < workers_.size(); ++i) {
    entry& w = workers_[i];
    if (!w.is_member) {
      continue;
    }
    if (w.is_ejected && now_s >= w.eject_until_s) {
      w.is_ejected = false;
      w.back_s = now_s;
      w.heard_s = std::max(w.heard_s, now_s);
    }
    const bool is_silent = now_s - w.heard_s > options_.eject_after_s;
    if (is_silent && !w.is_ejected && !ORIEL_MUTANT(silent_workers_stay)) {
      eject(w, never_s);
    }
    if (w.is_new_ejection) {
      w.is_new_ejection = false;
      ejected.push_back(worker_id{i});
    }
  }
}

worker_id worker_table::choose_decode(worker_id prefill, std::uint64_t needs) noexcept {
  const auto fits = [&](const entry& w) {
    return w.is_member && !w.is_draining && !w.is_ejected && w.profile.can_decode &&
           (needs & ~w.profile.has) == 0;
  };
  if (fits(at(prefill))) {
    return prefill;
  }
  const std::uint32_t count = workers();
  std::uint32_t best = count;
  std::uint64_t least_tokens = 0;
  std::uint32_t least_requests = 0;
  for (std::uint32_t k = 0; k < count; ++k) {
    const std::uint32_t i = (next_decode_ + k) % count;
    const entry& w = workers_[i];
    const std::uint32_t requests = std::max(w.decodes, w.told_decoding);
    const bool is_less = requests < least_requests ||
                         (requests == least_requests && w.told_decode_tokens < least_tokens);
    if (fits(w) && (best == count || is_less)) {
      best = i;
      least_tokens = w.told_decode_tokens;
      least_requests = requests;
    }
  }
  if (best == count) {
    return no_worker;
  }
  next_decode_ = best + 1;
  return worker_id{best};
}

}  // namespace oriel
