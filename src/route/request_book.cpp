// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "core/never.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/route/request_book.hpp>

#include <algorithm>
#include <cmath>
#include <functional>

namespace oriel {

request_book::request_book(worker_table& workers, const life_options& options)
    : workers_(workers),
      options_(options),
      tenants_(options.tenants),
      waiting_for_s_(workers.workers()),
      room_s_(workers.workers()),
      retry_tokens_(options.retry_burst) {
  ORIEL_EXPECTS(options.attempts_max > 0 && options.ended_ids > 0 && options.in_flight_max > 0);
  ended_ring_.reserve(options.ended_ids);
}

request_book::entry* request_book::find(std::uint64_t id) noexcept {
  const auto found = requests_.find(id);
  return found == requests_.end() ? nullptr : &found->second;
}

// Of an answer that counts: the request is here, and this is its attempt.
request_book::entry* request_book::find_attempt(std::uint64_t id, std::uint32_t attempt) noexcept {
  entry* const e = find(id);
  const bool is_at_worker = e != nullptr && e->at >= stage::placed;
  if (!is_at_worker || (e->attempts != attempt && !ORIEL_MUTANT(attempts_are_not_compared))) {
    ++counters_.stale;
    return nullptr;
  }
  return e;
}

route_answer request_book::refuse(refusal reason, double retry_after_s) {
  ++counters_.refused[static_cast<std::size_t>(reason)];
  return {.kind = route_kind::refused, .reason = reason, .retry_after_s = retry_after_s};
}

bool request_book::begin(const route_request& request, route_answer& answer) {
  const entry* const e = find(request.id);
  if (e != nullptr) {
    if (e->at == stage::turn || e->at == stage::retry || ORIEL_MUTANT(repeated_ids_are_new)) {
      return false;
    }
    ++counters_.repeated;
    answer = e->answer;
    return true;
  }
  if (ended_.contains(request.id)) {
    ++counters_.repeated;
    answer = {.kind = route_kind::ended};
    return true;
  }
  if (requests_.size() >= options_.in_flight_max) {
    answer = refuse(refusal::too_many, options_.retry_after_s);
    return true;
  }
  return false;
}

route_answer request_book::no_worker_for(const route_request& request, double now_s) {
  entry* const e = find(request.id);
  if (e == nullptr) {
    return refuse(refusal::nobody, options_.retry_after_s);
  }
  // It was accepted: it waits until somebody comes back, for a while.
  if (e->stranded_s < 0.0) {
    e->stranded_s = now_s;
  }
  if (e->at == stage::turn) {
    take_from_queue(request.id, *e);
  }
  put_in_queue(request.id, *e, no_worker, e->answer.decision.estimate_s);
  return e->answer;
}

// There is no room, or somebody was there before.
bool request_book::must_wait(worker_id worker, double ahead_s) const noexcept {
  return ahead_s > options_.hold_above_s || waiting_for_s_[to_index(worker)].requests > 0;
}

// Refused, or kind `waits` where it may go on.
route_answer request_book::check_new(const route_request& request,
                                     const route_decision& decision,
                                     double ahead_s,
                                     double now_s) {
  if (ahead_s > options_.ahead_max_s && !ORIEL_MUTANT(admission_has_no_bound)) {
    return refuse(refusal::overload, ahead_s - options_.ahead_max_s);
  }
  if (options_.refuses_late && now_s + ahead_s + decision.estimate_s > request.deadline_s) {
    return refuse(refusal::deadline, std::max(options_.retry_after_s, ahead_s));
  }
  const bool would_wait = must_wait(decision.worker, ahead_s);
  if (would_wait &&
      (queue_.size() >= options_.waiting_max || !tenants_.add_waiting(request.tenant))) {
    return refuse(refusal::queue_full, std::max(options_.retry_after_s, ahead_s));
  }
  const double short_s =
      tenants_.take(request.tenant, decision.estimate_s, request.prompt_tokens, now_s);
  if (would_wait) {
    tenants_.end_waiting(request.tenant);  // put_in_queue counts it.
  }
  if (short_s > 0.0) {
    return refuse(refusal::tenant_limit, short_s);
  }
  return {.kind = route_kind::waits};
}

request_book::entry& request_book::accept(const route_request& request, double estimate_s) {
  entry& e = requests_[request.id];
  e.tenant = request.tenant;
  e.deadline_s = request.deadline_s;
  e.charged_s = estimate_s;
  e.key = {.less_priority = static_cast<std::uint8_t>(255 - request.priority),
           .tag = tenants_.start_tag(request.tenant, estimate_s),
           .sequence = ++sequence_};
  if (request.deadline_s != never_s) {
    deadlines_.emplace_back(request.deadline_s, request.id);
    std::ranges::push_heap(deadlines_, std::greater<>());
  }
  ++counters_.accepted;
  retry_tokens_ = std::min(options_.retry_burst, retry_tokens_ + options_.retry_share);
  return e;
}

route_answer request_book::settle(const route_request& request,
                                  const route_decision& decision,
                                  double now_s) {
  const wanted_load& others = waiting_for_s_[to_index(decision.worker)];
  const double queue_s = workers_.queue_s(decision.worker, now_s);
  entry* e = find(request.id);
  if (e == nullptr) {
    const double ahead_s = queue_s + others.seconds;
    if (const route_answer answer = check_new(request, decision, ahead_s, now_s);
        answer.kind == route_kind::refused) {
      return answer;
    }
    entry& added = accept(request, decision.estimate_s);
    added.answer.ahead_s = ahead_s;
    if (must_wait(decision.worker, ahead_s)) {
      return wait(request.id, added, decision, ahead_s);
    }
    place(added, decision, now_s);
    return added.answer;
  }
  e->stranded_s = -1.0;
  if (e->at == stage::turn) {
    take_from_queue(request.id, *e);
  }
  if (queue_s > options_.hold_above_s) {
    return wait(request.id, *e, decision, e->answer.ahead_s);
  }
  place(*e, decision, now_s);
  return e->answer;
}

route_answer request_book::wait(std::uint64_t id,
                                entry& e,
                                const route_decision& decision,
                                double ahead_s) {
  counters_.waited += !e.has_waited;
  e.has_waited = true;
  e.answer = {.kind = route_kind::waits, .decision = decision, .ahead_s = ahead_s};
  put_in_queue(id, e, decision.worker, decision.estimate_s);
  return e.answer;
}

void request_book::put_in_queue(std::uint64_t id, entry& e, worker_id wanted, double seconds) {
  e.at = stage::waits;
  e.answer.kind = route_kind::waits;
  e.wanted = wanted;
  e.waiting_s = seconds;
  queue_.insert({e.key, id});
  tenants_.add_waiting(e.tenant);
  waiting_s_ += seconds;
  if (wanted != no_worker) {
    wanted_load& w = waiting_for_s_[to_index(wanted)];
    w.seconds += seconds;
    ++w.requests;
  }
}

void request_book::take_from_queue(std::uint64_t id, entry& e) {
  queue_.erase({e.key, id});
  tenants_.end_waiting(e.tenant);
  waiting_s_ = queue_.empty() ? 0.0 : std::max(0.0, waiting_s_ - e.waiting_s);
  if (e.wanted != no_worker) {
    wanted_load& w = waiting_for_s_[to_index(e.wanted)];
    w.seconds = --w.requests == 0 ? 0.0 : std::max(0.0, w.seconds - e.waiting_s);
  }
}

void request_book::place(entry& e, const route_decision& decision, double now_s) {
  tenants_.serve(e.key.tag);
  ++e.attempts;
  e.at = stage::placed;
  e.answer.kind = route_kind::placed;
  e.answer.attempt = e.attempts;
  e.answer.decision = decision;
  ++counters_.placed;
  workers_.place(decision.worker, decision.decode, decision.estimate_s, now_s);
}

// The worker's load is given back; it may be a worker that is gone.
void request_book::release(entry& e) {
  const route_decision& d = e.answer.decision;
  if (e.at == stage::placed || e.at == stage::started) {
    workers_.end_prefill(d.worker, d.estimate_s, -d.estimate_s, e.at == stage::started);
  }
  if (!ORIEL_MUTANT(decode_load_is_kept)) {
    workers_.end_decode(d.decode);
  }
}

bool request_book::started(std::uint64_t id, std::uint32_t attempt, double now_s) {
  entry* const e = find_attempt(id, attempt);
  if (e == nullptr || e->at != stage::placed) {
    return false;
  }
  e->at = stage::started;
  workers_.start(e->answer.decision.worker, e->answer.decision.estimate_s, now_s);
  return true;
}

bool request_book::prefilled(std::uint64_t id, std::uint32_t attempt, double actual_s) {
  entry* const e = find_attempt(id, attempt);
  if (e == nullptr || e->at == stage::prefilled) {
    return false;
  }
  const route_decision& d = e->answer.decision;
  if (!(actual_s >= 0.0 && actual_s < 1e9)) {
    actual_s = d.estimate_s;  // A worker that says such things says nothing.
  }
  workers_.end_prefill(d.worker, d.estimate_s, actual_s - d.estimate_s, e->at == stage::started);
  workers_.did_well(d.worker);
  tenants_.correct(e->tenant,
                   actual_s - (ORIEL_MUTANT(tenants_pay_twice) ? d.estimate_s : e->charged_s));
  e->charged_s = 0.0;  // Paid; another attempt would cost its own.
  note_error(d.estimate_s, actual_s);
  e->at = stage::prefilled;
  return true;
}

void request_book::note_error(double estimate_s, double actual_s) noexcept {
  counters_.estimated_s += estimate_s;
  counters_.actual_s += actual_s;
  const double error = (actual_s - estimate_s) / std::max(estimate_s, 1e-9);
  const auto permille = static_cast<std::uint64_t>(std::min(std::abs(error) * 1e3, 1e12));
  (error > 0.0 ? longer_ : shorter_).add(permille);
}

bool request_book::finished(std::uint64_t id, std::uint32_t attempt) {
  entry* const e = find_attempt(id, attempt);
  if (e == nullptr) {
    return false;
  }
  release(*e);
  end(id, route_end::completed);
  return true;
}

bool request_book::failed(std::uint64_t id, std::uint32_t attempt, double now_s) {
  entry* const e = find_attempt(id, attempt);
  if (e == nullptr) {
    return false;
  }
  const route_decision& d = e->answer.decision;
  const bool is_decoding = e->at == stage::prefilled && d.decode != no_worker;
  workers_.failed(is_decoding ? d.decode : d.worker, now_s);
  retry_or_fail(id, *e);
  return true;
}

void request_book::retry_or_fail(std::uint64_t id, entry& e) {
  const bool may_repeat = e.at != stage::prefilled || options_.retries_after_first_token;
  release(e);
  if (!may_repeat || e.attempts >= options_.attempts_max) {
    return end(id, route_end::failed);
  }
  if (retry_tokens_ < 1.0 && !ORIEL_MUTANT(retries_have_no_budget)) {
    ++counters_.retries_denied;
    return end(id, route_end::failed);
  }
  retry_tokens_ -= 1.0;
  ++counters_.retries;
  e.at = stage::retry;
  actions_.push_back({.kind = action_kind::again, .id = id, .attempt = e.attempts});
}

// It ends before its time, wherever it is.
void request_book::withdraw(std::uint64_t id, entry& e, route_end how) {
  if (e.at == stage::waits || e.at == stage::turn) {
    take_from_queue(id, e);
  } else if (e.at != stage::retry) {
    release(e);
    actions_.push_back({.kind = action_kind::abandon,
                        .id = id,
                        .attempt = e.attempts,
                        .worker = e.answer.decision.worker});
  }
  end(id, how);
}

bool request_book::cancel(std::uint64_t id) {
  entry* const e = find(id);
  if (e == nullptr) {
    return false;
  }
  withdraw(id, *e, route_end::cancelled);
  return true;
}

void request_book::lose_worker(worker_id worker) {
  std::vector<std::uint64_t> lost;
  for (const auto& [id, e] : requests_) {
    const route_decision& d = e.answer.decision;
    const bool has_prefill = e.at == stage::placed || e.at == stage::started;
    const bool needs_prefill = has_prefill || d.decode == no_worker;  // else its KV has moved on
    if (e.at >= stage::placed && ((needs_prefill && d.worker == worker) || d.decode == worker)) {
      lost.push_back(id);
    }
  }
  std::ranges::sort(lost);  // The map's order is nobody's business.
  for (const std::uint64_t id : lost) {
    entry& e = *find(id);
    actions_.push_back({.kind = action_kind::abandon,
                        .id = id,
                        .attempt = e.attempts,
                        .worker = e.answer.decision.worker});
    retry_or_fail(id, e);
  }
}

// The one place where a request ends.
void request_book::end(std::uint64_t id, route_end how) {
  const auto found = requests_.find(id);
  const entry& e = found->second;
  if (e.at != stage::started) {  // It was not served, or has paid; a part of a prefill is kept.
    tenants_.correct(e.tenant, -e.charged_s);
  }
  actions_.push_back({.kind = action_kind::ended,
                      .id = id,
                      .attempt = e.attempts,
                      .worker = e.attempts > 0 ? e.answer.decision.worker : no_worker,
                      .end = how});
  ++counters_.ended[static_cast<std::size_t>(how)];
  requests_.erase(found);
  if (ended_ring_.size() < options_.ended_ids) {
    ended_ring_.push_back(id);
  } else {
    ended_.erase(std::exchange(ended_ring_[ended_at_], id));
    ended_at_ = (ended_at_ + 1) % options_.ended_ids;
  }
  ended_.insert(id);
}

void request_book::tick(double now_s, std::vector<route_action>& actions) {
  while (!deadlines_.empty() && deadlines_.front().first < now_s) {
    std::ranges::pop_heap(deadlines_, std::greater<>());
    const auto [deadline_s, id] = deadlines_.back();
    deadlines_.pop_back();
    entry* const e = find(id);
    if (e == nullptr || e->deadline_s != deadline_s || e->at == stage::prefilled) {
      continue;  // Ended, or another request with its id, or its first token is out.
    }
    withdraw(id, *e, route_end::timed_out);
  }
  if (!queue_.empty()) {
    give_turns(now_s);
  }
  actions.insert(actions.end(), actions_.begin(), actions_.end());
  actions_.clear();
}

// Says `again` to those that would find room now, in the order of service.
void request_book::give_turns(double now_s) {
  for (std::uint32_t i = 0; i < room_s_.size(); ++i) {
    room_s_[i] = options_.hold_above_s - workers_.queue_s(worker_id{i}, now_s);
  }
  std::vector<std::uint64_t> hopeless;
  for (const auto& [key, id] : queue_) {
    entry& e = *find(id);
    if (e.at == stage::turn) {
      continue;
    }
    if (e.stranded_s >= 0.0 && now_s - e.stranded_s > options_.no_worker_max_s) {
      hopeless.push_back(id);
      continue;
    }
    // Nobody was there, or the one it waits for is gone: let it choose anew.
    const bool is_lost = e.wanted == no_worker || !workers_.is_eligible(e.wanted, 0);
    if (!is_lost) {
      double& room_s = room_s_[to_index(e.wanted)];
      if (room_s < 0.0) {
        continue;
      }
      room_s -= e.waiting_s;
    }
    e.at = stage::turn;
    actions_.push_back({.kind = action_kind::again, .id = id, .attempt = e.attempts});
  }
  for (const std::uint64_t id : hopeless) {
    take_from_queue(id, *find(id));
    end(id, route_end::failed);
  }
}

}  // namespace oriel
