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

/// A place never reached is taken for good, lightly, but for no better than the one before it: it
/// will be tried, and a few failures tell.
constexpr double prior_acceptance = 0.6;
constexpr double prior_trials = 1.0;
/// A mean over about so many of the last steps.
constexpr double samples_max = 16.0;
/// Of so many first steps of a length the fastest counts: what disturbs a step makes it slower.
constexpr double young_samples = 2.0;
/// How far from its estimate a measured step is believed.
constexpr double outlier = 2.0;
/// What is tried before anything is known: as much as so many steps allow.
constexpr double first_steps = 100.0;
/// Long quiet does not save up for a long storm, and one dear try does not end all tries: credit
/// stays within so many plain steps.
constexpr double credit_steps = 4.0;

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
  double estimate = prior_acceptance;
  for (std::uint32_t i = 0; i <= place; ++i) {
    const double prior = ORIEL_MUTANT(places_are_strangers) ? prior_acceptance
                                                            : std::min(estimate, prior_acceptance);
    estimate = (hits_[i] + prior * prior_trials) / (trials_[i] + prior_trials);
  }
  return estimate;
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
  const double expected_loss_s = seconds_at(row, drafts) - tokens / best_tokens_per_s_;
  // A length that seems to cost more than can be saved up is tried, too: rarely.
  const double loss_s = ORIEL_MUTANT(dear_lengths_are_given_up)
                            ? expected_loss_s
                            : std::min(expected_loss_s, credit_steps * seconds_at(row, 0u));
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
  if (row[0].samples < young_samples && !ORIEL_MUTANT(one_plain_step_is_enough)) {
    std::fill(lengths.begin(), lengths.end(), 0u);  // All else is compared with plain steps.
    return;
  }
  list_next_drafts(curves);
  best_tokens_per_s_ = choose_best(batch, row, lengths);
  if (best_tokens_per_s_ > 0.0 && !ORIEL_MUTANT(nothing_is_tried_again)) {
    try_another(curves, row, lengths);
  }
}

/// What is believed of a step's seconds. Of the first of a length, no more than that each drafted
/// row took as long as a plain step, and twice what the other lengths say. @pre m.batch > 0
double adaptive_draft_length::believed_s(const cost_row& row,
                                         const cost_cell& cell,
                                         double drafts,
                                         const step_measure& m) noexcept {
  const double expected_s = seconds_at(row, drafts);
  if (expected_s == 0.0 || (ORIEL_MUTANT(first_step_is_believed) && cell.samples == 0.0)) {
    return m.seconds;
  }
  if (cell.samples == 0.0) {
    const double rows_s = (1.0 + m.rows - m.batch) * seconds_at(row, 0u);
    const bool knows_drafts =
        std::any_of(row.begin() + 1, row.end(), [](const cost_cell& c) { return c.samples > 0.0; });
    return std::min({m.seconds, rows_s, knows_drafts ? outlier * expected_s : rows_s});
  }
  return cell.samples < young_samples
             ? std::min(m.seconds, expected_s)
             : std::clamp(m.seconds, expected_s / outlier, expected_s * outlier);
}

/// Moves a cell by its part of an error. A mean, in the end of the last steps.
void adaptive_draft_length::learn(cost_cell& cell, double error_s, double weight) noexcept {
  const bool is_young = cell.samples < young_samples;
  cell.samples = std::min(cell.samples + weight, samples_max);
  cell.seconds += error_s * weight / (is_young ? 1.0 : cell.samples);
}

/// More rows never take less time. Where two lengths say so, the one measured less is wrong.
void adaptive_draft_length::keep_order(cost_row& row, std::uint32_t changed) noexcept {
  for (std::uint32_t i = 0; i <= draft_tokens_max && !ORIEL_MUTANT(rows_may_cost_less); ++i) {
    cost_cell& shorter = row[std::min(i, changed)];
    cost_cell& longer = row[std::max(i, changed)];
    if (row[i].samples > 0.0 && shorter.seconds > longer.seconds) {
      const bool longer_is_wrong = longer.samples < shorter.samples;
      (longer_is_wrong ? longer : shorter).seconds =
          longer_is_wrong ? shorter.seconds : longer.seconds;
    }
  }
}

/// Takes a step's seconds into the cells of the lengths around its mean one. @returns what is
/// believed of them
double adaptive_draft_length::measure(cost_row& row,
                                      double drafts,
                                      const step_measure& m) noexcept {
  const auto below = static_cast<std::uint32_t>(drafts);
  const double part = drafts - below;
  double least_s = m.seconds;
  for (const std::uint32_t i : {below, below + 1}) {
    const double weight = i == below ? 1.0 - part : part;
    if (weight > 0.0) {
      cost_cell& cell = row[i];
      const double believed = believed_s(row, cell, drafts, m);
      if (cell.samples == 0.0) {
        cell = {.seconds = believed, .samples = weight};
      } else {
        learn(cell, believed - seconds_at(row, drafts), weight);
      }
      cell.measured_at = step_;
      keep_order(row, i);
      least_s = std::min(least_s, believed);
    }
  }
  return least_s;
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
  const double step_s = measure(row, drafts, m);
  credit_s_ += options_.probe_share * m.seconds;
  last_try_gained_ = false;
  // Where the drafter had nothing to draft, nothing was tried.
  if (is_trying_ &&
      (m.rows > m.batch || tried_drafts_ == 0 || ORIEL_MUTANT(empty_tries_are_charged))) {
    const double loss_s = step_s - m.tokens / best_tokens_per_s_;
    credit_s_ -= loss_s;
    last_try_gained_ = loss_s < 0.0;
  }
  is_trying_ = false;
  const double bound_s = credit_steps * longest_plain_s();
  credit_s_ = std::clamp(credit_s_, -bound_s, bound_s);
}

/// Of all batches.
double adaptive_draft_length::longest_plain_s() const noexcept {
  double longest = 0.0;
  for (const cost_row& row : costs_) {
    longest = std::max(longest, seconds_at(row, 0u));
  }
  return longest;
}

}  // namespace oriel
