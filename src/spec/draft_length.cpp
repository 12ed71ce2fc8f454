// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/spec/draft_length.hpp>

#include <algorithm>
#include <bit>
#include <cmath>

namespace oriel {
namespace {

/// A place never reached is taken for good, lightly: it will be tried, and a few failures tell.
constexpr double prior_acceptance = 0.6;
constexpr double prior_trials = 1.0;
/// A mean over about so many of the last steps.
constexpr double samples_max = 16.0;
/// How far from its estimate a measured step is believed, once there are a few.
constexpr double outlier = 2.0;
/// What is tried before anything is known: as much as so many steps allow.
constexpr double first_steps = 100.0;

std::uint32_t row_of(std::uint32_t batch) noexcept {
  return static_cast<std::uint32_t>(std::bit_width(batch - 1));
}

}  // namespace

acceptance_curve acceptance_curve::like(const acceptance_curve& other) noexcept {
  acceptance_curve curve;
  for (std::uint32_t i = 0; i < draft_tokens_max; ++i) {
    const double scale = other.trials_[i] > 4.0 ? 4.0 / other.trials_[i] : 1.0;
    curve.trials_[i] = scale * other.trials_[i];
    curve.hits_[i] = scale * other.hits_[i];
  }
  return curve;
}

void acceptance_curve::on_verified(std::uint32_t drafted, std::uint32_t accepted) noexcept {
  ORIEL_EXPECTS(accepted <= drafted && drafted <= draft_tokens_max);
  static const double fade = std::exp2(-1.0 / half_life);
  // Behind the first rejected draft nothing was judged.
  const std::uint32_t judged =
      ORIEL_MUTANT(unjudged_drafts_count_as_rejected) ? drafted : std::min(accepted + 1, drafted);
  for (std::uint32_t i = 0; i < judged; ++i) {
    trials_[i] = fade * trials_[i] + 1.0;
    hits_[i] = fade * hits_[i] + (i < accepted ? 1.0 : 0.0);
  }
}

double acceptance_curve::acceptance(std::uint32_t place) const noexcept {
  return (hits_[place] + prior_acceptance * prior_trials) / (trials_[place] + prior_trials);
}

double acceptance_curve::expected_tokens(std::uint32_t drafts) const noexcept {
  double tokens = 1.0, all_accepted = 1.0;
  for (std::uint32_t i = 0; i < drafts; ++i) {
    all_accepted *= acceptance(i);
    tokens += all_accepted;
  }
  return tokens;
}

fixed_draft_length::fixed_draft_length(std::uint32_t drafts) : drafts_(drafts) {
  ORIEL_EXPECTS(drafts <= draft_tokens_max);
}

void fixed_draft_length::plan(std::span<const acceptance_curve* const> curves,
                              std::span<std::uint32_t> lengths) const noexcept {
  ORIEL_EXPECTS(curves.size() == lengths.size());
  std::fill(lengths.begin(), lengths.end(), drafts_);
}

adaptive_draft_length::adaptive_draft_length(const adaptive_options& options) : options_(options) {
  ORIEL_EXPECTS(options.drafts_max > 0 && options.drafts_max <= draft_tokens_max);
  ORIEL_EXPECTS(options.gain_min >= 1.0 && options.probe_share >= 0.0);
}

/// A length that was never measured lies on the line of its neighbours. Where only plain steps are
/// known, a further row is taken to cost as much as a whole step: no more is possible, nearly.
double adaptive_draft_length::seconds_at(const cost_row& row, std::uint32_t drafts) noexcept {
  std::uint32_t below = drafts, above = drafts;
  while (below > 0 && row[below].samples == 0.0) {
    --below;
  }
  while (above < draft_tokens_max && row[above].samples == 0.0) {
    ++above;
  }
  const bool has_below = row[below].samples > 0.0, has_above = row[above].samples > 0.0;
  if (!has_below || !has_above) {
    if (!has_below) {
      return has_above ? row[above].seconds : 0.0;
    }
    const double each = below == 0 ? row[0].seconds
                        : row[0].samples > 0.0
                            ? std::max(0.0, row[below].seconds - row[0].seconds) / below
                            : 0.0;
    return row[below].seconds + each * (drafts - below);
  }
  return below == above ? row[drafts].seconds
                        : row[below].seconds + (row[above].seconds - row[below].seconds) *
                                                   (drafts - below) / (above - below);
}

double adaptive_draft_length::seconds_at(const cost_row& row, double drafts) noexcept {
  const auto below = static_cast<std::uint32_t>(drafts);
  const double part = drafts - below;
  const double seconds = seconds_at(row, below);
  return part == 0.0 ? seconds : seconds + part * (seconds_at(row, below + 1) - seconds);
}

double adaptive_draft_length::step_seconds(std::uint32_t batch, double drafts) const noexcept {
  return seconds_at(costs_[row_of(batch)], drafts);
}

void adaptive_draft_length::list_next_drafts(std::span<const acceptance_curve* const> curves) {
  next_drafts_.clear();
  for (std::uint32_t s = 0; s < curves.size(); ++s) {
    double probability = 1.0;
    for (std::uint32_t i = 0; i < options_.drafts_max; ++i) {
      probability *= curves[s]->acceptance(i);
      next_drafts_.push_back({.probability = probability, .sequence = s});
    }
  }
  // A chain's probabilities fall, so the first n of all are beginnings of chains.
  std::stable_sort(
      next_drafts_.begin(), next_drafts_.end(), [](const next_draft& a, const next_draft& b) {
        return a.probability > b.probability;
      });
}

/// Takes the most likely drafts, as many as give the best rate. @returns their tokens per second,
/// or 0 when no step was measured yet
double adaptive_draft_length::choose_best(std::uint32_t batch,
                                          const cost_row& row,
                                          std::span<std::uint32_t> lengths) {
  const double plain_s = seconds_at(row, 0u);
  const double plain_rate = plain_s > 0.0 ? batch / plain_s : 0.0;
  // What was never measured is tried first, and only then chosen.
  std::size_t known = options_.drafts_max;
  while (known > 0 && row[known].samples == 0.0) {
    --known;
  }
  double tokens = batch, best_rate = plain_rate;
  std::size_t best = 0;
  for (std::size_t n = 1; n <= std::min(known * batch, next_drafts_.size()); ++n) {
    tokens += next_drafts_[n - 1].probability;
    const double rate = tokens / seconds_at(row, static_cast<double>(n) / batch);
    const bool pays = ORIEL_MUTANT(any_acceptance_pays) || rate >= options_.gain_min * plain_rate;
    if (rate > best_rate && pays) {
      best_rate = rate;
      best = n;
    }
  }
  std::fill(lengths.begin(), lengths.end(), 0u);
  for (std::size_t n = 0; n < best; ++n) {
    ++lengths[next_drafts_[n].sequence];
  }
  return plain_s > 0.0 ? best_rate : 0.0;
}

/// Gives all sequences the length that was not measured for longest, if that is long ago and what
/// it is expected to lose is there to be lost.
void adaptive_draft_length::try_another(std::span<const acceptance_curve* const> curves,
                                        const cost_row& row,
                                        std::span<std::uint32_t> lengths) {
  std::uint32_t drafts = 0;
  for (std::uint32_t i = 1; i <= options_.drafts_max; ++i) {
    drafts = row[i].measured_at < row[drafts].measured_at ? i : drafts;
  }
  const std::uint32_t shortest = *std::min_element(lengths.begin(), lengths.end());
  if (last_try_gained_ && shortest < tried_drafts_) {
    drafts = tried_drafts_;
  } else if (row[drafts].samples > 0.0 && row[drafts].measured_at + options_.stale_steps > step_) {
    return;
  }
  double tokens = 0.0;
  for (const acceptance_curve* curve : curves) {
    tokens += curve->expected_tokens(drafts);
  }
  const double loss_s = seconds_at(row, drafts) - tokens / best_tokens_per_s_;
  if (ORIEL_MUTANT(tries_are_free) || loss_s <= credit_s_) {
    std::fill(lengths.begin(), lengths.end(), drafts);
    is_trying_ = true;
    tried_drafts_ = drafts;
  }
}

void adaptive_draft_length::plan(std::span<const acceptance_curve* const> curves,
                                 std::span<std::uint32_t> lengths) {
  ORIEL_EXPECTS(curves.size() == lengths.size());
  is_trying_ = false;
  if (curves.empty()) {
    return;
  }
  const auto batch = static_cast<std::uint32_t>(curves.size());
  const cost_row& row = costs_[row_of(batch)];
  list_next_drafts(curves);
  best_tokens_per_s_ = choose_best(batch, row, lengths);
  if (best_tokens_per_s_ > 0.0 && !ORIEL_MUTANT(nothing_is_tried_again)) {
    try_another(curves, row, lengths);
  }
}

/// Moves a cell by its part of an error. A mean at first, then one of the last steps.
void adaptive_draft_length::learn(cost_cell& cell, double error_s, double weight) noexcept {
  cell.samples = std::min(cell.samples + weight, samples_max);
  cell.seconds += error_s * weight / std::max(cell.samples, 1.0);
}

void adaptive_draft_length::on_step(const step_measure& m) noexcept {
  ORIEL_EXPECTS(m.batch > 0 && m.rows >= m.batch && m.seconds > 0.0);
  ++step_;
  cost_row& row = costs_[row_of(m.batch)];
  if (std::none_of(row.begin(), row.end(), [](const cost_cell& c) { return c.samples > 0.0; })) {
    credit_s_ += first_steps * options_.probe_share * m.seconds;
  }
  const double drafts = std::min(static_cast<double>(m.rows - m.batch) / m.batch,
                                 static_cast<double>(draft_tokens_max));
  const auto below = static_cast<std::uint32_t>(drafts);
  const double part = drafts - below;
  for (const std::uint32_t i : {below, below + 1}) {
    const double weight = i == below ? 1.0 - part : part;
    if (weight > 0.0) {
      cost_cell& cell = row[i];
      if (cell.samples == 0.0) {
        cell = {.seconds = m.seconds, .samples = weight, .measured_at = step_};
        continue;
      }
      const double expected_s = seconds_at(row, drafts);
      const double low = cell.samples > 4.0 ? expected_s / outlier : 0.0;
      const double high = cell.samples > 4.0 ? expected_s * outlier : m.seconds;
      learn(cell, std::clamp(m.seconds, low, std::max(low, high)) - expected_s, weight);
      cell.measured_at = step_;
    }
  }
  credit_s_ += options_.probe_share * m.seconds;
  last_try_gained_ = false;
  if (is_trying_) {
    const double loss_s = m.seconds - m.tokens / best_tokens_per_s_;
    credit_s_ -= loss_s;
    last_try_gained_ = loss_s < 0.0;
    is_trying_ = false;
  }
  // Long quiet does not save up for a long storm, and one stalled step does not end all tries.
  const double bound_s = 4.0 * seconds_at(row, drafts);
  credit_s_ = std::clamp(credit_s_, -bound_s, bound_s);
}

}  // namespace oriel
