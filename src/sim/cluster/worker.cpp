// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Queue, plan and guard of a simulated node. worker_start.cpp: how a request starts;
// worker_step.cpp: what a step does.
#include "worker_parts.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

namespace oriel::sim {
namespace {

constexpr std::uint32_t spare_candidates = 8;  // beyond the free places: some may not fit

}  // namespace

node_worker::node_worker(std::uint32_t index, const worker_model& model, worker_listener& listener)
    : index_(index),
      model_(model),
      options_(*model.options),
      listener_(listener),
      device_(new page_cache(model.cache_of(options_.tiers.device_tokens))),
      scheduler_({.budget_tokens = options_.chunk_tokens * options_.ranks,
                  .prefill_share = options_.decode_in_steps ? options_.prefill_share : 0.0,
                  .sequences_max = sequences_max()},
                 chosen_order{options_.order}),
      oldest_first_(scheduler_.options()),
      guard_(options_.guard.value_or(guard_options{})) {
  on_device_ = std::make_unique<tier_listener>(listener, index, std::uint8_t{0});
  if (options_.tiers.host_tokens != 0) {
    host_.reset(new page_cache(model.cache_of(options_.tiers.host_tokens)));
    on_host_ = std::make_unique<tier_listener>(listener, index, std::uint8_t{1});
  }
  if (options_.ranks > 1) {
    packer_.emplace(rank_options{.ranks = options_.ranks,
                                 .chunk_tokens = options_.chunk_tokens,
                                 .least_tokens = model.page_tokens,
                                 .cost = options_.node.cost.own_cost(options_.ranks)});
  }
  arrival_bytes_.resize(model.layer_bytes.size());
  layer_seconds_.resize(model.layer_bytes.size());
  device_->tell(on_device_.get());  // Last: a worker that is not made whole tells nobody anything.
  if (host_) {
    host_->tell(on_host_.get());
  }
}

node_worker::~node_worker() {
  device_->tell(nullptr);
  if (host_) {
    host_->tell(nullptr);
  }
}

bool node_worker::arrive(const worker_job& of, double now_s) {
  now_s_ = now_s;
  if (guard_.work_s() > options_.ahead_max_s) {
    return false;
  }
  if (free_jobs_.empty()) {
    jobs_.emplace_back();
    free_jobs_.push_back(static_cast<std::uint32_t>(jobs_.size() - 1));
  }
  const std::uint32_t index = free_jobs_.back();
  free_jobs_.pop_back();
  job& j = jobs_[index];
  j = {};
  j.of = of;
  j.state = job_state::queued;
  j.order = ++last_order_;
  j.facts.arrived_s = now_s;
  j.place = no_place;
  j.record.started_s = -1.0;
  look(j);
  j.record.estimated_s = j.facts.remaining_s;
  j.record.ahead_s = guard_.work_s();
  j.place = guard_.arrive(now_s, j.facts.remaining_s);
  queue_.push_back(index);
  return true;
}

/// What is left of it is estimated anew; whatever that grows by is growth of the work ahead of
/// those that came later.
void node_worker::set_remaining(job& j, double seconds) {
  const double more_s = seconds - j.facts.remaining_s;
  j.facts.remaining_s = seconds;
  if (j.place != no_place) {
    guard_.estimate(j.place, seconds);
    if (more_s != 0.0) {
      growth_.push_back({j.order, more_s});
    }
  }
}

/// Who has not been served yet, by arrival: in the queue, or admitted without a row so far.
void node_worker::see_waiting() {
  waiting_.assign(queue_.begin(), queue_.end());
  for (const std::uint32_t index : running_) {
    if (!jobs_[index].was_started) {
      waiting_.push_back(index);
    }
  }
  if (waiting_.size() != queue_.size()) {
    std::ranges::sort(waiting_, {}, [&](std::uint32_t index) { return jobs_[index].order; });
  }
}

/// The theorem's E of everybody who waits: max(0, E + growth of the older ones' work).
void node_worker::settle_growth() {
  if (growth_.empty()) {
    return;
  }
  std::ranges::sort(growth_, {}, &growth::order);
  double sum_s = 0.0;
  auto next = growth_.begin();
  see_waiting();
  for (const std::uint32_t index : waiting_) {
    job& j = jobs_[index];
    for (; next != growth_.end() && next->order < j.order; ++next) {
      sum_s += next->seconds;
    }
    j.excess_s = std::max(0.0, j.excess_s + sum_s);
  }
  growth_.clear();
}

std::optional<double> node_worker::begin_step(double now_s) {
  now_s_ = now_s;
  if (is_stepping_ || queue_.size() + running_.size() == 0) {
    return std::nullopt;
  }
  for (const std::uint32_t index : running_) {
    skip_ahead(jobs_[index], now_s);
  }
  choose_candidates(false);
  settle_growth();
  const bool is_demanding = options_.guard && guard_.demands_oldest(now_s);
  if (is_demanding) {
    ++counters_.guard_demands;
    choose_candidates(true);
    settle_growth();
  }
  const step_plan& made = plan(is_demanding);
  double seconds = run_chunks(made, is_demanding, now_s);
  if (chunks_.empty() && decoders_.empty()) {
    return std::nullopt;
  }
  decode_steps_ = 1;
  if (chunks_.empty()) {
    double least = std::numeric_limits<double>::infinity();
    for (const std::uint32_t index : decoders_) {
      least = std::min(least, jobs_[index].decode_left);
    }
    decode_steps_ = static_cast<std::uint64_t>(
        std::max(1.0, std::ceil(least / options_.node.cost.accepted.tokens_per_step())));
    seconds = static_cast<double>(decode_steps_) * decode_s_;
  }
  ++counters_.steps;
  is_stepping_ = true;
  step_from_s_ = now_s;
  return now_s + seconds;
}

/// Of the queue those that could start now, in the order of service, as many as could matter; what
/// the caches have of them is looked up anew.
void node_worker::choose_candidates(bool is_demanding) {
  candidates_.assign(queue_.begin(), queue_.end());
  const std::size_t places =
      sequences_max() - std::min<std::size_t>(sequences_max(), running_.size());
  const std::size_t most = places + spare_candidates;
  if (candidates_.size() > most && !is_demanding) {
    const auto key = [&](std::uint32_t index) {
      const job& j = jobs_[index];
      return std::tuple(scheduler_.order().rank(j.facts), j.order);
    };
    std::ranges::nth_element(
        candidates_, candidates_.begin() + static_cast<std::ptrdiff_t>(most), {}, key);
    candidates_.resize(most);
  } else if (candidates_.size() > most) {
    candidates_.resize(most);  // The oldest.
  }
  for (const std::uint32_t index : candidates_) {
    job& j = jobs_[index];
    refresh(j);
    const bool was_held = j.is_held;
    j.is_held = !is_demanding && waits_for_twin(j);
    counters_.twin_waits += j.is_held && !was_held;
  }
}

void node_worker::refresh(job& j) {
  if (j.epoch == device_->epoch()) {
    return;
  }
  if (has_changed(j)) {
    look(j);
  }
  j.epoch = device_->epoch();
}

/// Has anything that it could hit come or gone? Asked once: it counts as seen.
bool node_worker::has_changed(job& j) const noexcept {
  const auto of = [&](const page_cache* tier) { return tier ? tier->changes(*j.of.space) : 0; };
  const std::array now = {of(device_.get()), of(host_.get()), of(model_.shared)};
  return std::exchange(j.changes, now) != now;
}

/// A sequence that runs is computing a part of its prefix that is not there yet. The wait ends when
/// all that both have in common is there, or the other is gone.
bool node_worker::waits_for_twin(const job& j) const noexcept {
  for (const std::uint32_t index : running_) {
    const job& other = jobs_[index];
    if (other.of.space != j.of.space || other.is_cancelled || other.is_decoding) {
      continue;
    }
    const std::uint32_t end = std::min(j.of.reusable, other.of.input_tokens / model_.page_tokens);
    if (end <= j.safe_pages || j.of.pages[j.safe_pages] != other.of.pages[j.safe_pages]) {
      continue;
    }
    // An id names all tokens up to its end, so that what is equal is equal up to some page.
    std::uint32_t equal = j.safe_pages + 1, differs = end;
    while (equal < differs) {
      const std::uint32_t middle = equal + (differs - equal) / 2;
      (j.of.pages[middle] == other.of.pages[middle] ? equal : differs) =
          j.of.pages[middle] == other.of.pages[middle] ? middle + 1 : middle;
    }
    if (other.computed / model_.page_tokens < equal && !ORIEL_MUTANT(sim_twins_go_together)) {
      return true;
    }
  }
  return false;
}

const step_plan& node_worker::plan(bool is_demanding) {
  const std::uint32_t pools = 1 + static_cast<std::uint32_t>(model_.windows_in_pages.size());
  const std::uint32_t capacity = device_->capacity();
  needs_.clear();
  const auto need = [&](const job& j) {
    needs_.push_back(pages_of(j));
    for (const std::uint32_t window : model_.windows_in_pages) {
      needs_.push_back(window);
    }
  };
  for (const std::uint32_t index : candidates_) {
    need(jobs_[index]);
  }
  for (const std::uint32_t index : running_) {
    need(jobs_[index]);
  }
  needs_.push_back(capacity - std::min(capacity, promised_));
  for (std::uint32_t kind = 0; kind + 1 < pools; ++kind) {
    const auto taken = static_cast<std::uint32_t>(running_.size()) * model_.windows_in_pages[kind];
    const std::uint32_t room = device_->options().window_pages[kind];
    needs_.push_back(room - std::min(room, taken));
  }
  std::span<const std::uint32_t> left = needs_;
  const auto next = [&] {
    const auto mine = left.first(pools);
    left = left.subspan(pools);
    return mine;
  };
  std::uint32_t demanded = step_state::no_demand;
  const auto see = [&](const job& j, std::size_t at) {
    if (is_demanding && j.place == guard_.oldest()) {
      demanded = static_cast<std::uint32_t>(at);
    }
  };
  queued_seen_.clear();
  for (const std::uint32_t index : candidates_) {
    const job& j = jobs_[index];
    see(j, queued_seen_.size());
    const bool has_next = j.safe_pages < j.of.reusable && !is_demanding;
    queued_seen_.push_back(
        {.facts = j.facts,
         .pages = next(),
         .is_held = j.is_held,
         .next_page =
             has_next ? link_of(to_index(j.of.pages[j.safe_pages]), j.of.clone).low | 1u : 0});
  }
  running_seen_.clear();
  for (const std::uint32_t index : running_) {
    const job& j = jobs_[index];
    see(j, queued_seen_.size() + running_seen_.size());
    running_seen_.push_back({.facts = j.facts,
                             .pages = next(),
                             .missing_rows = j.of.input_tokens - j.computed,
                             .recompute_s = estimate_s(j, 0) - estimate_s(j, j.computed)});
    if (j.is_decoding) {  // It keeps its place, whoever came before it.
      running_sequence& seen = running_seen_.back();
      seen.facts.arrived_s = -1.0;
      seen.missing_rows = 1;
      seen.decodes = true;
      seen.idle_steps = j.idle_steps;
    }
  }
  const step_state state{
      .queued = queued_seen_, .running = running_seen_, .room = next(), .demanded = demanded};
  if (!is_demanding) {
    return scheduler_.plan(state);
  }
  // Older ones before younger ones, all of them: else the rest of a step that the guard demanded
  // could go to one who came later, again and again.
  arrivals_.clear();
  for (const queued_request& q : queued_seen_) {
    arrivals_.push_back(q.facts.arrived_s);
  }
  for (const running_sequence& r : running_seen_) {
    arrivals_.push_back(r.facts.arrived_s);
  }
  return oldest_first_.plan(state, arrivals_, false);
}

bool node_worker::cancel(std::uint32_t user, double now_s) {
  now_s_ = now_s;
  const auto has_user = [&](std::uint32_t index) { return jobs_[index].of.user == user; };
  if (const auto at = std::ranges::find_if(queue_, has_user); at != queue_.end()) {
    forget(*at);
    return true;
  }
  const auto at = std::ranges::find_if(running_, has_user);
  if (at == running_.end() || jobs_[*at].is_cancelled) {
    return false;
  }
  const bool is_computing =
      is_stepping_ && (std::ranges::any_of(chunks_, [&](const chunk& c) { return c.job == *at; }) ||
                       std::ranges::find(decoders_, *at) != decoders_.end());
  if (is_computing) {
    jobs_[*at].is_cancelled = true;  // The step goes on; nothing of it is published.
  } else {
    forget(*at);
  }
  return true;
}

void node_worker::kill(std::vector<std::uint32_t>& lost, double now_s) {
  now_s_ = now_s;
  for (const auto* list : {&queue_, &running_}) {
    for (const std::uint32_t index : *list) {
      if (!jobs_[index].is_cancelled && !jobs_[index].is_decoding) {
        lost.push_back(jobs_[index].of.user);
      }
    }
  }
  chunks_.clear();
  decoders_.clear();
  growth_.clear();
  is_stepping_ = false;
  while (!queue_.empty()) {
    forget(queue_.back());
  }
  while (!running_.empty()) {
    forget(running_.back());
  }
  device_->clear();
  if (host_) {
    host_->clear();
  }
  growth_.clear();
  decoding_ = 0;
  decode_tokens_ = 0;
}

/// It leaves the queue or the running ones; what it holds is given back.
void node_worker::forget(std::uint32_t index) noexcept {
  job& j = jobs_[index];
  if (j.place != no_place) {
    growth_.push_back({j.order, -j.facts.remaining_s});
    guard_.leave(j.place);
    j.place = no_place;
  }
  if (j.state == job_state::running) {
    promised_ -= pages_of(j);
    std::erase(running_, index);
    if (j.is_decoding) {
      end_decode(j.of.input_tokens + j.of.output_tokens);
    }
  } else {
    std::erase(queue_, index);
  }
  const lease_end end{.ended = request_end::unknown};
  if (ORIEL_MUTANT(sim_cancelled_keeps_its_lease) && j.computed < j.of.input_tokens && j.device) {
    new page_cache::lease(std::move(j.device));
  }
  release(j, end, now_s_);
  j.state = job_state::free;
  free_jobs_.push_back(index);
}

load_report node_worker::load(double now_s) noexcept {
  double queued_s = guard_.work_s();
  if (is_stepping_) {  // What the step under way has done is not counted off yet.
    queued_s = std::max(0.0, queued_s - (now_s - step_from_s_));
  }
  return {.worker = worker_id{index_},
          .sequence = ++reports_,
          .at_s = now_s,
          .queued_s = queued_s,
          .queued = static_cast<std::uint32_t>(requests()),
          .decoding = decoding_,
          .decode_tokens = decode_tokens_};
}

double node_worker::begin_decode(std::uint32_t, std::uint32_t tokens, std::uint32_t resident) {
  ++decoding_;
  decode_tokens_ += resident;
  const node_cost& cost = options_.node.cost;
  return tokens / cost.accepted.tokens_per_step() *
         cost.decode_step_s(decoding_, static_cast<double>(decode_tokens_));
}

void node_worker::end_decode(std::uint32_t resident) noexcept {
  --decoding_;
  decode_tokens_ -= resident;
}

std::size_t node_worker::requests() const noexcept {
  std::size_t prefills = queue_.size();
  for (const std::uint32_t index : running_) {
    prefills += !jobs_[index].is_decoding;
  }
  return prefills;
}

/// Full pages of its longest form on the device.
std::uint32_t node_worker::pages_of(const job& j) const noexcept {
  const std::uint32_t tokens =
      j.of.input_tokens + (options_.decode_in_steps ? j.of.output_tokens : 0);
  return std::min(device_->capacity(), tokens / model_.page_tokens + 1);
}

/// Those that decode in steps have places of their own, four for each in prefill.
std::uint32_t node_worker::sequences_max() const noexcept {
  return options_.decode_in_steps ? 5 * options_.sequences_max : options_.sequences_max;
}

std::size_t node_worker::leases() const noexcept {
  return device_->tree().leases() + (host_ ? host_->tree().leases() : 0);
}

}  // namespace oriel::sim
