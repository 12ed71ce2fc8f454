// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/sched/step_scheduler.hpp>

#include <algorithm>
#include <cmath>
#include <tuple>

namespace oriel {

step_planner::step_planner(const step_options& options) : options_(options) {
  ORIEL_EXPECTS(options.sequences_max > 0 && options.budget_tokens >= options.sequences_max);
  ORIEL_EXPECTS(options.prefill_share >= 0.0 && options.prefill_share < 1.0);
}

const step_plan& step_planner::plan(const step_state& state,
                                    std::span<const double> ranks,
                                    bool is_strict) {
  plan_.preempt.clear();
  plan_.admit.clear();
  plan_.rows.assign(state.running.size(), 0);
  room_.assign(state.room.begin(), state.room.end());
  is_preempted_.assign(state.running.size(), false);
  const auto running = static_cast<std::uint32_t>(state.running.size());
  slots_ = options_.sequences_max - std::min(options_.sequences_max, running);
  sort(state, ranks);
  admit(state, is_strict);
  share_rows(state);
  return plan_;
}

/// Everyone by rank, then by arrival; whom the guard demands before all.
void step_planner::sort(const step_state& state, std::span<const double> ranks) {
  order_.clear();
  const auto queued = static_cast<std::uint32_t>(state.queued.size());
  for (std::uint32_t i = 0; i < ranks.size(); ++i) {
    const service_facts& facts =
        i < queued ? state.queued[i].facts : state.running[i - queued].facts;
    order_.push_back({ranks[i], facts.arrived_s, i});
  }
  const auto key = [&](const place& p) {
    const bool is_demanded = p.index == state.demanded && !ORIEL_MUTANT(demand_is_ignored);
    return std::tuple(!is_demanded, p.rank, p.arrived_s, p.index);
  };
  std::ranges::sort(order_, {}, key);
}

void step_planner::admit(const step_state& state, bool is_strict) {
  for (const place& p : order_) {
    if (p.index >= state.queued.size()) {
      continue;
    }
    const queued_request& wanted = state.queued[p.index];
    ORIEL_EXPECTS(wanted.pages.size() == room_.size());
    if (wanted.is_held || (has_twin(state, wanted) && !ORIEL_MUTANT(twins_go_together))) {
      continue;
    }
    const bool fits = has_room(wanted) || (p.index == state.demanded && make_room(state, wanted));
    if (!fits) {
      if (is_strict || p.index == state.demanded) {
        break;  // What comes free is for this one.
      }
      continue;
    }
    for (std::size_t pool = 0; pool < room_.size(); ++pool) {
      room_[pool] -= wanted.pages[pool];
    }
    --slots_;
    plan_.admit.push_back(p.index);
    plan_.rows.push_back(0);
  }
}

bool step_planner::has_room(const queued_request& wanted) const noexcept {
  if (slots_ == 0) {
    return false;
  }
  for (std::size_t pool = 0; pool < room_.size(); ++pool) {
    if (wanted.pages[pool] > room_[pool] && !(ORIEL_MUTANT(one_pool_is_enough) && pool != 0)) {
      return false;
    }
  }
  return true;
}

bool step_planner::has_twin(const step_state& state, const queued_request& wanted) const noexcept {
  return wanted.next_page != 0 && std::ranges::any_of(plan_.admit, [&](std::uint32_t other) {
           return state.queued[other].next_page == wanted.next_page;
         });
}

/// Takes from those that arrived later, the cheapest first, until it fits; or takes nothing.
bool step_planner::make_room(const step_state& state, const queued_request& wanted) {
  std::vector<std::pair<double, std::uint32_t>> victims;
  for (std::uint32_t i = 0; i < state.running.size(); ++i) {
    const running_sequence& r = state.running[i];
    if (r.facts.arrived_s > wanted.facts.arrived_s || ORIEL_MUTANT(older_ones_make_room)) {
      victims.emplace_back(std::min(r.recompute_s, r.swap_s), i);
    }
  }
  std::ranges::sort(victims);
  const std::vector<std::uint32_t> room = room_;
  const std::uint32_t slots = slots_;
  std::size_t taken = 0;
  for (; taken < victims.size() && !has_room(wanted); ++taken) {
    ++slots_;
    const running_sequence& r = state.running[victims[taken].second];
    for (std::size_t pool = 0; pool < room_.size(); ++pool) {
      room_[pool] += r.pages[pool];
    }
  }
  if (!has_room(wanted)) {
    if (!ORIEL_MUTANT(failed_plan_preempts)) {
      room_ = room;
      slots_ = slots;
      return false;
    }
  }
  for (std::size_t i = 0; i < taken; ++i) {
    const std::uint32_t at = victims[i].second;
    const running_sequence& r = state.running[at];
    is_preempted_[at] = true;
    plan_.preempt.push_back(
        {at, r.swap_s < r.recompute_s ? preemption_way::swap : preemption_way::recompute});
  }
  return has_room(wanted);
}

void step_planner::share_rows(const step_state& state) {
  const auto queued = static_cast<std::uint32_t>(state.queued.size());
  std::uint64_t prompt_rows = 0;  // that prompts could use
  decoders_.clear();
  for (std::uint32_t i = 0; i < state.running.size(); ++i) {
    const running_sequence& r = state.running[i];
    if (is_preempted_[i]) {
      continue;
    }
    if (r.decodes) {
      decoders_.push_back(i);
    } else {
      prompt_rows += std::min(r.missing_rows, r.rows_max);
    }
  }
  for (const std::uint32_t i : plan_.admit) {
    prompt_rows += state.queued[i].facts.uncached_tokens;
  }
  const auto kept = static_cast<std::uint32_t>(
      std::ceil(options_.prefill_share * static_cast<double>(options_.budget_tokens)));
  std::uint32_t left = options_.budget_tokens;
  const std::uint32_t reserved =
      ORIEL_MUTANT(prompts_keep_no_share)
          ? 0
          : static_cast<std::uint32_t>(std::min<std::uint64_t>(kept, prompt_rows));
  std::ranges::sort(decoders_, {}, [&](std::uint32_t i) {
    const running_sequence& r = state.running[i];
    return std::tuple(~r.idle_steps, r.facts.arrived_s, i);
  });
  for (const std::uint32_t i : decoders_) {
    const std::uint32_t rows = std::min(state.running[i].missing_rows, state.running[i].rows_max);
    if (left - reserved >= rows) {
      plan_.rows[i] = rows;
      left -= rows;
    }
  }
  for (const place& p : order_) {
    std::uint32_t* rows = nullptr;
    std::uint32_t wanted = 0;
    if (p.index >= queued) {
      const running_sequence& r = state.running[p.index - queued];
      if (r.decodes || is_preempted_[p.index - queued]) {
        continue;
      }
      rows = &plan_.rows[p.index - queued];
      wanted = std::min(r.missing_rows, r.rows_max);
    } else {
      const auto found = std::ranges::find(plan_.admit, p.index);
      if (found == plan_.admit.end()) {
        continue;
      }
      rows =
          &plan_.rows[state.running.size() + static_cast<std::size_t>(found - plan_.admit.begin())];
      wanted = state.queued[p.index].facts.uncached_tokens;
    }
    *rows = std::min(wanted, left);
    left -= *rows;
  }
}

}  // namespace oriel
