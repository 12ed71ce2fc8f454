// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What a step of a simulated node computes, how long that takes, and what it leaves.
#include "worker_parts.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>

#include <algorithm>
#include <cmath>
#include <utility>

namespace oriel::sim {

/// Carries a plan out: who makes room, who starts, which rows are computed, and how long that
/// takes.
double node_worker::run_chunks(const step_plan& made, bool is_demanding, double now_s) {
  chunks_.clear();
  decoders_.clear();
  const std::size_t ran = running_.size();
  std::vector<std::uint32_t>& order = rows_of_;
  order.assign(running_.begin(), running_.end());
  for (const std::uint32_t i : made.admit) {
    order.push_back(candidates_[i]);
  }
  for (const preemption& p : made.preempt) {
    preempt(order[p.running], now_s);
  }
  for (std::size_t i = ran; i < order.size(); ++i) {
    admit(order[i], now_s);
  }
  for (std::size_t i = 0; i < order.size(); ++i) {
    job& j = jobs_[order[i]];
    if (j.is_decoding) {
      j.idle_steps = made.rows[i] == 0 ? j.idle_steps + 1 : 0;
    }
    if (made.rows[i] == 0 || j.state != job_state::running || j.is_cancelled) {
      continue;
    }
    if (j.is_decoding) {
      decoders_.push_back(order[i]);
      continue;
    }
    // What was fetched, or came meanwhile, need not be computed.
    chunks_.push_back(
        {.job = order[i], .rows = std::min(made.rows[i], j.of.input_tokens - j.computed)});
  }
  double step_s = 0.0;
  if (packer_) {
    pack_ranks(is_demanding);
  }
  std::ranges::sort(chunks_, {}, [&](const chunk& c) { return jobs_[c.job].order; });
  if (is_demanding) {
    drop_younger();
  }
  for (chunk& c : chunks_) {
    job& j = jobs_[c.job];
    c.seconds = options_.node.cost.chunk_s(j.computed, c.rows) + j.heal_s;
    counters_.heal_s += j.heal_s;
    j.heal_s = 0.0;
    counters_.prefill_tokens += c.rows;
    step_s += c.seconds;
  }
  if (!chunks_.empty()) {
    step_s = packer_ ? barrier_s() : step_s + options_.node.cost.step_s;
    step_s += stall(step_s, now_s);
  }
  decode_s_ = decoders_.empty()
                  ? 0.0
                  : options_.node.cost.decode_step_s(static_cast<double>(decoders_.size()),
                                                     static_cast<double>(decode_tokens_));
  for (const chunk& c : chunks_) {
    start(jobs_[c.job], now_s);
  }
  return step_s + decode_s_;
}

/// In a step that the guard demanded nobody is served who came after one that is not: it waits for
/// room, or for rows.
void node_worker::drop_younger() {
  std::uint64_t first_idle = ~std::uint64_t{0};
  for (const std::uint32_t index : queue_) {
    first_idle = std::min(first_idle, jobs_[index].order);
  }
  for (const std::uint32_t index : running_) {
    const auto is_its = [&](const chunk& c) { return c.job == index; };
    if (!jobs_[index].is_decoding && std::ranges::none_of(chunks_, is_its)) {
      first_idle = std::min(first_idle, jobs_[index].order);
    }
  }
  std::erase_if(chunks_, [&](const chunk& c) {
    return jobs_[c.job].order > first_idle && !ORIEL_MUTANT(sim_fills_demanded_steps);
  });
}

/// Gives the chunks of a step to the ranks of the node.
void node_worker::pack_ranks(bool is_demanding) {
  const auto key = [&](const chunk& c) {
    const job& j = jobs_[c.job];
    return std::pair(is_demanding ? 0.0 : scheduler_.order().rank(j.facts), j.order);
  };
  std::ranges::sort(chunks_, {}, key);
  rank_jobs_.clear();
  for (const chunk& c : chunks_) {
    const job& j = jobs_[c.job];
    const auto home = static_cast<std::uint32_t>(j.of.space->digest().low % options_.ranks);
    rank_jobs_.push_back({.computed = j.computed,
                          .missing = c.rows,
                          .rank = options_.sticky_ranks ? home : any_rank});
  }
  packed_.clear();
  for (const rank_chunk& r : packer_->pack(rank_jobs_)) {
    packed_.push_back({.job = chunks_[r.job].job, .rows = r.tokens, .rank = r.rank});
  }
  chunks_.swap(packed_);
}

/// The ranks wait for each other in every layer.
double node_worker::barrier_s() {
  const node_cost& cost = options_.node.cost;
  rank_work_.assign(options_.ranks, {});
  double heals_s = 0.0;
  for (const chunk& c : chunks_) {
    const double behind = jobs_[c.job].computed, rows = c.rows;
    rank_work_[c.rank].linear_s += cost.prefill.token_s * rows;
    rank_work_[c.rank].attention_s += cost.prefill.pair_s * rows * (behind + 0.5 * rows);
    heals_s += c.seconds - cost.chunk_s(behind, rows);
  }
  return cost.barrier_s(rank_work_) + heals_s;
}

/// Seconds that a step waits for pages from below.
double node_worker::stall(double step_s, double now_s) {
  double stall_s = 0.0;
  for (const chunk& c : chunks_) {
    stall_s = std::max(stall_s, stall_of(jobs_[c.job], step_s, now_s));
  }
  counters_.fetch_stalls += stall_s > 0.0;
  counters_.fetch_stall_s += stall_s;
  return stall_s;
}

/// It is served for the first time: the theorem is about this moment.
void node_worker::start(job& j, double now_s) {
  if (j.was_started) {
    return;
  }
  j.was_started = true;
  j.record.started_s = now_s;
  if (options_.guard) {
    j.record.guard_slack_s = guard_.promised_s(j.place) + j.excess_s + j.last_step_s - now_s;
  }
  listener_.on_started(j.of.user, j.record, now_s);
}

void node_worker::end_step(double now_s) {
  ORIEL_EXPECTS(is_stepping_);
  now_s_ = now_s;
  is_stepping_ = false;
  count_service(now_s - step_from_s_);
  for (std::size_t i = 0; i < chunks_.size(); ++i) {
    const std::uint32_t index = chunks_[i].job;
    job& j = jobs_[index];
    if (j.is_cancelled) {
      forget(index);
      continue;
    }
    publish(j, now_s);
    if (j.computed == j.of.input_tokens) {
      finish(index, now_s);
    }
  }
  chunks_.clear();
  decode(now_s);
}

/// What a step did for those that it served, and to those that wait.
void node_worker::count_service(double step_s) {
  double chunk_s = 0.0;
  std::uint64_t youngest = 0;
  for (const chunk& c : chunks_) {
    chunk_s += c.seconds;
    youngest = std::max(youngest, jobs_[c.job].order);
  }
  // What the step took beyond its chunks is the oldest one's.
  const double beyond_s = step_s - chunk_s;
  growth_.push_back({chunks_.empty() ? 0 : jobs_[chunks_.front().job].order, beyond_s});
  for (const chunk& c : chunks_) {
    job& j = jobs_[c.job];
    j.computed += c.rows;
    j.record.served_s += c.seconds + beyond_s / static_cast<double>(chunks_.size());
    growth_.push_back({j.order, c.seconds});
    set_remaining(j, estimate_s(j, j.computed));
    j.facts.cached_tokens = j.computed;
    j.facts.uncached_tokens = j.of.input_tokens - j.computed;
  }
  settle_growth();
  see_waiting();
  for (const std::uint32_t index : waiting_) {
    job& j = jobs_[index];
    j.last_step_s = j.order < youngest ? step_s : j.last_step_s;
  }
}

/// The decode rows of the steps that have ended.
void node_worker::decode(double now_s) {
  const double tokens =
      static_cast<double>(decode_steps_) * options_.node.cost.accepted.tokens_per_step();
  for (const std::uint32_t index : decoders_) {
    job& j = jobs_[index];
    j.decode_left -= tokens;
    if (j.is_cancelled) {
      forget(index);
    } else if (j.decode_left <= 0.0) {
      publish(j, now_s);
      const std::uint32_t user = j.of.user;
      forget(index);
      listener_.on_decoded(user, now_s);
    }
  }
  decoders_.clear();
}

/// A step that only decodes stands for many, until the first of them ends.
std::optional<double> node_worker::cut_short(double now_s) {
  if (!is_stepping_ || !chunks_.empty() || decode_steps_ <= 1) {
    return std::nullopt;
  }
  const double steps = std::max(1.0, std::ceil((now_s - step_from_s_) / decode_s_));
  if (steps >= static_cast<double>(decode_steps_)) {
    return std::nullopt;
  }
  decode_steps_ = static_cast<std::uint64_t>(steps);
  return std::max(now_s, step_from_s_ + steps * decode_s_);
}

}  // namespace oriel::sim
