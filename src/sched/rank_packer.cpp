// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/sched/rank_packer.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

namespace oriel {

std::uint32_t chunk_cost::tokens_in(double seconds, double behind) const noexcept {
  if (seconds <= 0.0) {
    return 0;
  }
  // pair_s / 2 * u^2 + (token_s + pair_s * c) * u = seconds, in the form that loses no digits.
  const double b = token_s + pair_s * behind;
  const double u = 2.0 * seconds / (b + std::sqrt(b * b + 2.0 * pair_s * seconds));
  constexpr double most = std::numeric_limits<std::uint32_t>::max();
  return static_cast<std::uint32_t>(std::min(u * (1.0 + 1e-12), most));
}

rank_packer::rank_packer(const rank_options& options)
    : options_(options), load_s_(options.ranks), queues_(options.ranks) {
  ORIEL_EXPECTS(options.ranks > 0 && options.least_tokens > 0);
  ORIEL_EXPECTS(options.chunk_tokens >= options.least_tokens);
  ORIEL_EXPECTS(options.cost.token_s > 0.0 && options.cost.pair_s >= 0.0);
}

std::span<const rank_chunk> rank_packer::pack(std::span<const rank_job> jobs) {
  assign(jobs);
  cut(jobs, length_of_step(jobs));
  return chunks_;
}

/// Those with a rank of their own first, since nobody can choose for them; then the most work
/// first.
void rank_packer::assign(std::span<const rank_job> jobs) {
  order_.clear();
  for (std::uint32_t i = 0; i < jobs.size(); ++i) {
    if (jobs[i].missing != 0) {
      order_.push_back({options_.cost.seconds(jobs[i].computed, jobs[i].missing), i});
    }
  }
  std::ranges::sort(order_, {}, [&](const ranked_job& r) {
    return std::tuple(jobs[r.job].rank == any_rank, -r.seconds, r.job);
  });
  std::ranges::fill(load_s_, 0.0);
  for (auto& queue : queues_) {
    queue.clear();
  }
  for (const ranked_job& r : order_) {
    std::uint32_t rank = jobs[r.job].rank;
    if (rank == any_rank) {
      rank = static_cast<std::uint32_t>(std::ranges::min_element(load_s_) - load_s_.begin());
    }
    ORIEL_EXPECTS(rank < options_.ranks);
    load_s_[rank] += r.seconds;
    queues_[rank].push_back(r.job);
  }
  for (auto& queue : queues_) {
    if (!ORIEL_MUTANT(ranks_take_the_longest_first)) {
      std::ranges::sort(queue);
    }
  }
}

/// Until the first rank has used its tokens; if all of them run out of work before, until the last.
double rank_packer::length_of_step(std::span<const rank_job> jobs) const noexcept {
  double least_s = std::numeric_limits<double>::infinity(), most_s = 0.0;
  for (const auto& queue : queues_) {
    std::uint32_t left = options_.chunk_tokens;
    double seconds = 0.0;
    for (const std::uint32_t job : queue) {
      const std::uint32_t tokens = std::min(left, jobs[job].missing);
      seconds += options_.cost.seconds(jobs[job].computed, tokens);
      left -= tokens;
    }
    most_s = std::max(most_s, seconds);
    if (left == 0) {
      least_s = std::min(least_s, seconds);
    }
  }
  return ORIEL_MUTANT(ranks_take_equal_tokens) ? most_s : std::min(least_s, most_s);
}

void rank_packer::cut(std::span<const rank_job> jobs, double seconds) {
  chunks_.clear();
  step_s_ = 0.0;
  for (std::uint32_t rank = 0; rank < options_.ranks; ++rank) {
    std::uint32_t left = options_.chunk_tokens;
    double left_s = seconds, used_s = 0.0;
    for (const std::uint32_t job : queues_[rank]) {
      const rank_job& j = jobs[job];
      std::uint32_t tokens =
          std::min({left, j.missing, options_.cost.tokens_in(left_s, j.computed)});
      if (tokens < j.missing) {
        tokens -= tokens % options_.least_tokens;
        if (tokens == 0 && used_s == 0.0) {  // A rank that has work does not stand still.
          tokens = std::min(j.missing, options_.least_tokens);
        }
      }
      if (tokens == 0) {
        break;
      }
      const double took_s = options_.cost.seconds(j.computed, tokens);
      left_s -= took_s;
      used_s += took_s;
      left -= tokens;
      chunks_.push_back({job, rank, tokens});
    }
    step_s_ = std::max(step_s_, used_s);
  }
}

}  // namespace oriel
