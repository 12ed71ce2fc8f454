// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Who is served in the next step: the engine's side of the scheduler.
#include <oriel/core/contract.hpp>
#include <oriel/core/hash.hpp>

#include <engine/engine.hpp>

#include <algorithm>
#include <tuple>
#include <utility>

namespace oriel::engine {

namespace {

constexpr double us = 1e-6;

/// Rows that a sequence lacks.
std::uint32_t missing_rows(std::size_t tokens, std::uint32_t length) noexcept {
  return static_cast<std::uint32_t>(tokens) - length;
}

}  // namespace

/// Joins what can be joined, then asks the scheduler who makes room and who is admitted.
void engine::admit() {
  end_fetches();
  join_fetches();
  choose_candidates();
  const step_plan& plan = scheduler_.plan(look(candidates_));
  std::vector<request_id> victims;
  for (const preemption& p : plan.preempt) {
    victims.push_back(running_seen_[p.running]->job.asked.id);
  }
  std::vector<std::list<work>::iterator> admitted;
  for (const std::uint32_t i : plan.admit) {
    admitted.push_back(candidates_[i]);
  }
  for (const request_id id : victims) {
    preempt(id);
  }
  for (const auto next : admitted) {
    admit(next);
  }
}

/// The scheduler chose it. Whoever was admitted just before may be its twin, or have evicted what
/// it was going to use: that is looked at once more.
void engine::admit(std::list<work>::iterator next) {
  reuse_decision decision;
  if (cache_) {
    decision = cache_->decide(next->space, next->tokens);
    if (waits_for_twin(*next, decision.length)) {
      metrics_.requests_waited.add();
      return;
    }
  }
  if (!start(*next, decision)) {
    if (!running_.empty()) {
      return;
    }
    // Nobody will give anything back: waiting would be for ever.
    events_.push_back({.id = next->asked.id,
                       .token = {},
                       .text = std::string(next->stream.finish(finish_reason::failed)),
                       .finish = finish_reason::failed,
                       .usage = next->usage});
    metrics_.requests_failed.add();
    leave_guard(*next);
  }
  queued_.erase(next);
}

/// Requests that wait for tiers start when the rest of their pages comes in time for each layer.
void engine::join_fetches() {
  for (auto next = queued_.begin();
       next != queued_.end() && running_.size() < options_.sequences_max;) {
    const bool joins = next->fetch && should_join(*next) && start_joined(*next);
    next = joins ? queued_.erase(next) : std::next(next);
  }
}

/// Those of the queue that could start now, in the order of service, as many as could matter; what
/// the cache has of their prompts is looked up anew. The others wait for a twin or for tiers.
void engine::choose_candidates() {
  constexpr std::size_t spares = 4;  // beyond the free slots: some may not fit
  candidates_.clear();
  const std::size_t slots =
      options_.sequences_max - std::min<std::size_t>(options_.sequences_max, running_.size());
  const bool is_demanding = guard_.demands_oldest(static_cast<double>(now_us_) * us);
  if (queued_.empty() || (slots == 0 && !is_demanding)) {
    return;
  }
  std::vector<std::list<work>::iterator> ordered;
  for (auto job = queued_.begin(); job != queued_.end(); ++job) {
    if (!job->fetch) {
      ordered.push_back(job);
    }
  }
  std::ranges::sort(ordered, {}, [&](const auto& job) {
    const bool is_demanded = is_demanding && job->place == guard_.oldest();
    return std::tuple(!is_demanded, scheduler_.order().rank(job->facts), job->facts.arrived_s);
  });
  for (const auto& job : ordered) {
    if (candidates_.size() >= slots + spares) {
      return;
    }
    if (job->wait && is_computing(*job->wait)) {
      continue;
    }
    reuse_decision decision;
    if (cache_) {
      decision = cache_->decide(job->space, job->tokens);
      if (waits_for_twin(*job, decision.length)) {
        metrics_.requests_waited.add();
        continue;
      }
      const std::uint64_t pages = pools_.plan().pages_for(full_pool, longest_tokens(job->asked));
      const bool has_room =  // A fetch needs it at once.
          promised_pages_ + late_pages() + pages <= pools_.pool(full_pool).capacity();
      if (has_room && must_wait_for_fetch(*job, decision)) {
        continue;
      }
    }
    estimate(*job, decision);
    candidates_.push_back(job);
  }
}

/// What the scheduler sees: these of the queue, all that run, and the pages that nobody was
/// promised.
step_state engine::look(std::span<const std::list<work>::iterator> candidates) {
  const pool_plan& plan = pools_.plan();
  const std::uint32_t pool_count = plan.pools();
  needs_.clear();
  const auto need = [&](const request& r) {
    const std::uint32_t longest = longest_tokens(r);
    for (std::uint32_t pool = 0; pool < pool_count; ++pool) {
      needs_.push_back(plan.pages_for(pool_id{pool}, longest));
    }
  };
  for (const auto& job : candidates) {
    need(job->asked);
  }
  for (const sequence& s : running_) {
    need(s.job.asked);
  }
  const auto taken = static_cast<std::uint32_t>(promised_pages_) + late_pages();
  needs_.push_back(pools_.pool(full_pool).capacity() -
                   std::min(pools_.pool(full_pool).capacity(), taken));
  const auto slots = static_cast<std::uint32_t>(options_.sequences_max - running_.size());
  for (std::uint32_t pool = 1; pool < pool_count; ++pool) {  // See make_pools.
    needs_.push_back(slots * plan.pages_for(pool_id{pool}, options_.context_tokens));
  }

  std::span<const std::uint32_t> left = needs_;
  const auto next_needs = [&] {
    const auto mine = left.first(pool_count);
    left = left.subspan(pool_count);
    return mine;
  };
  std::uint32_t demanded = step_state::no_demand;
  const bool is_demanding = guard_.demands_oldest(static_cast<double>(now_us_) * us);
  const auto see = [&](const work& job, std::size_t index) {
    if (is_demanding && job.place == guard_.oldest()) {
      demanded = static_cast<std::uint32_t>(index);
      metrics_.guard_demands.add();
    }
  };
  queued_seen_.clear();
  for (const auto& job : candidates) {
    see(*job, queued_seen_.size());
    queued_seen_.push_back(
        {.facts = job->facts, .pages = next_needs(), .next_page = job->next_page});
  }
  running_seen_.clear();
  sequences_seen_.clear();
  for (sequence& s : running_) {
    see(s.job, queued_seen_.size() + running_seen_.size());
    running_seen_.push_back(&s);
    sequences_seen_.push_back(facts_of(s, is_demanding));
    sequences_seen_.back().pages = next_needs();
  }
  return {.queued = queued_seen_,
          .running = sequences_seen_,
          .room = next_needs(),
          .demanded = demanded};
}

/// A victim publishes what it has: it comes back from the cache, from tiers, or is computed,
/// whichever is least then. So one price serves both ways of a preemption.
running_sequence engine::facts_of(const sequence& s, bool may_make_room) const noexcept {
  const std::uint32_t missing = missing_rows(s.job.tokens.size(), s.kv.length());
  const double recompute_s =
      may_make_room ? seconds_of(recompute_flops(model_, 0, s.kv.length()), rates_) : 0.0;
  return {.facts = s.job.facts,
          .missing_rows = missing,
          .rows_max = s.kv.healing() ? s.kv.lent_tokens() - s.kv.length() : ~std::uint32_t{0},
          .decodes = missing == 1,
          .idle_steps = s.idle_steps,
          .recompute_s = recompute_s};
}

/// What a request costs from where it would start: rank and guard go by it.
void engine::estimate(work& job, const reuse_decision& decision) {
  const auto tokens = static_cast<std::uint32_t>(job.tokens.size());
  flop_count flops = recompute_flops(model_, decision.length, tokens);
  if (decision.heal) {
    flops += heal_flops(model_,
                        cache_->healing(),
                        {.full_length = decision.found.full_tokens,
                         .prompt_tokens = tokens,
                         .safe_length = decision.found.window_safe_tokens});
  }
  job.facts.remaining_s = seconds_of(flops, rates_);
  job.facts.cached_tokens = decision.length;
  job.facts.uncached_tokens = tokens - decision.length;
  const std::size_t end =
      (decision.length / options_.page_tokens + std::size_t{1}) * options_.page_tokens;
  job.next_page = 0;
  if (cache_ && end < tokens) {
    const std::span<const token_id> until(job.tokens.data(), end);
    job.next_page = hash64(std::as_bytes(until), job.space.tenant()) | 1u;
  }
  if (job.place) {
    guard_.estimate(*job.place, job.facts.remaining_s);
  } else {
    const double now_s = static_cast<double>(options_.now_us()) * us;
    job.facts.arrived_s = job.facts.arrived_s == 0.0 ? now_s : job.facts.arrived_s;
    job.place = guard_.arrive(now_s, job.facts.remaining_s);
  }
}

/// Its prompt is computed, or it is gone.
void engine::leave_guard(work& job) noexcept {
  if (job.place) {
    guard_.leave(*job.place);
    job.place.reset();
  }
}

/// Gives the rows of the step to those that run now. A chunk ends where a heal does: there the
/// repaired windows are whole, and published.
void engine::choose_rows() {
  const step_plan& plan = scheduler_.plan(look({}));
  for (std::size_t i = 0; i < running_seen_.size(); ++i) {
    sequence& s = *running_seen_[i];
    s.rows = plan.rows[i];
    add_draft_rows(s);
    s.idle_steps = s.rows == 0 ? s.idle_steps + 1 : 0;
  }
}

/// What is left of a prompt after a step.
void engine::count_service(sequence& s) {
  if (!s.job.place) {
    return;
  }
  if (s.kv.length() >= s.known_tokens) {
    leave_guard(s.job);
    return;
  }
  s.job.facts.remaining_s =
      seconds_of(recompute_flops(model_, s.kv.length(), s.known_tokens), rates_);
  s.job.facts.cached_tokens = s.kv.length();
  s.job.facts.uncached_tokens = s.known_tokens - s.kv.length();
  guard_.estimate(*s.job.place, s.job.facts.remaining_s);
}

/// Looks for the running sequence that is about to publish most of a request's prefix, and more
/// than is there. The wait ends: a running prompt ends (the guard sees to it), and when it has
/// computed the prefix, or is gone, nothing is left to wait for. A request that came later waits
/// for the same twin where it shares as much, so none that passes by becomes the next one to wait
/// for.
bool engine::waits_for_twin(work& job, std::uint32_t reusable) const {
  job.wait.reset();
  std::uint32_t best = reusable;
  for (const sequence& s : running_) {
    if ((!s.lease && !s.gate) || !(s.job.space == job.space)) {
      continue;
    }
    const auto known = std::span(s.job.tokens).first(s.known_tokens);
    const auto fork =
        std::ranges::mismatch(known, std::span(job.tokens).first(job.tokens.size() - 1));
    const auto common = static_cast<std::uint32_t>(fork.in1 - known.begin());
    const twin_wait wait{s.job.asked.id, common / options_.page_tokens * options_.page_tokens};
    if (wait.tokens > best && is_computing(s, wait) && s.lease.full_tokens() < wait.tokens) {
      best = wait.tokens;
      job.wait = wait;
    }
  }
  return job.wait.has_value();
}

bool engine::is_computing(const twin_wait& wait) const {
  return std::ranges::any_of(running_, [&](const sequence& s) { return is_computing(s, wait); });
}

/// Who starts on pages that still come has nothing to show before they are there.
bool engine::is_computing(const sequence& s, const twin_wait& wait) {
  return s.job.asked.id == wait.twin && (s.gate || s.kv.length() < wait.tokens);
}

/// Makes a sequence of a request, or, if it fails or throws, changes nothing but what the cache
/// evicted for it. The prefix is locked before anything is allocated. False: the system has no
/// memory.
bool engine::start(work& job, const reuse_decision& decision) {
  const std::uint32_t longest = longest_tokens(job.asked);
  prefix_reuse::lease lease;
  borrowed_prefix lent;
  if (cache_) {
    lease = cache_->pin(job.space, job.tokens, decision, now_us_);
    if (lease) {  // Else the tree is out of namespaces: the request goes without it.
      lent = cache_->lend(lease, decision);
    }
  }
  const admission wanted{.tokens_now = lent.length, .tokens_max = longest, .prefix = lent};
  const bool has_room = !cache_ || cache_->make_room(wanted, now_us_);
  ORIEL_EXPECTS(has_room);  // See make_pools.
  auto kv = pools_.try_admit(wanted);
  if (!kv) {
    return false;
  }
  if (cache_ && cache_->tiers() != nullptr && lent.length != 0) {
    cache_->on_hit(job.tokens, job.names, lent);
  }
  const std::uint64_t pages = pools_.plan().pages_for(full_pool, longest);
  job.tokens.reserve(std::size_t{longest} + 1);
  std::optional<heal_plan> heal = lent.heal ? decision.heal : std::nullopt;
  // The last that may throw: takes the parts when there is memory for the whole.
  sequence& s = running_.emplace_back(
      std::move(job), std::move(lease), std::move(heal), std::move(*kv), pages, now_us_);
  promised_pages_ += pages;
  begin_drafts(s);
  count_start(s, lent.length);
  return true;
}

/// A sequence starts behind `length` cached tokens.
void engine::count_start(sequence& s, std::uint32_t length) {
  work& started = s.job;
  const std::uint32_t before = started.usage.cached_tokens + started.usage.computed_tokens;
  count_prompt(started, length, &request_usage::cached_tokens);
  std::uint32_t newly_cached = started.usage.cached_tokens + started.usage.computed_tokens - before;
  for (std::size_t role = tier_roles; role-- > 0;) {
    const std::uint32_t tokens = std::min(newly_cached, std::exchange(started.fetched[role], 0u));
    started.usage.fetched_tokens[role] += tokens;
    newly_cached -= tokens;
  }
  if (s.heal) {
    const std::uint32_t counted = started.usage.cached_tokens + started.usage.computed_tokens;
    const std::uint32_t healed = counted - std::min(counted, std::max(before, s.heal->safe_length));
    started.usage.healed_tokens += healed;
    metrics_.healed_tokens.add(healed);
  }
}

}  // namespace oriel::engine
