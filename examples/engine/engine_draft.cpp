// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Speculation: what a sequence drafts for its next step, and what becomes of it.
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/spec/verifier.hpp>

#include <engine/engine.hpp>

#include <algorithm>
#include <array>
#include <utility>

namespace oriel::engine {
namespace {

constexpr sampling_options greedy{.temperature = 0.0f};

}  // namespace

/// A sequence that starts, wherever in its tokens.
void engine::begin_drafts(sequence& s) noexcept {
  s.curve = acceptance_curve::like(usual_);
  if (mtp_blocks() != 0) {
    const auto lent = s.kv.soft_rows();
    s.mtp.open = s.mtp.written = lent.end;
    const std::uint32_t window = pools_.plan().ring(*pools_.plan().soft_kind()).window_tokens;
    metrics_.missing_mtp_rows.add(std::min(lent.end, window - 1) -
                                  std::min(lent.end - lent.first, window - 1));
  }
}

/// The next step needs one row of it, and may have more.
bool engine::decodes_next(const sequence& s) const noexcept {
  return s.job.stream.finished() == finish_reason::none && !s.gate && !s.kv.healing() &&
         s.job.tokens.size() == s.kv.length() + std::size_t{1};
}

/// Drafts that could still be given out: the last token of an answer needs none behind it.
std::uint32_t engine::drafts_left(const sequence& s) noexcept {
  const std::uint32_t left = s.job.asked.max_new_tokens - s.job.stream.token_count();
  return left - (ORIEL_MUTANT(last_token_has_drafts) ? 0 : std::min(left, 1u));
}

/// Drafts are verified on top of the step's budget.
void engine::add_draft_rows(sequence& s) {
  if (s.rows != 0) {
    ORIEL_EXPECTS(s.drafts.empty() || (s.rows == 1 && s.drafts.size() <= drafts_left(s)));
    s.rows += static_cast<std::uint32_t>(s.drafts.size());
  }
}

/// Keeps the drafts that the model would have chosen itself, and its own token behind them; the
/// rows of the others are rolled back. The answer may end at any of the tokens.
void engine::take_chain(sequence& s, std::size_t row) {
  std::array<drafted_token, draft_tokens_max> drafts;
  std::array<sampled_token, draft_tokens_max + 1> chosen;
  const auto count = static_cast<std::uint32_t>(s.drafts.size());
  for (std::uint32_t i = 0; i < count; ++i) {
    drafts[i] = {.id = s.drafts[i]};
  }
  const verified v = verifier<greedy_match>()(
      std::span(drafts).first(count),
      {.seed = s.job.asked.sampling.seed, .position = s.job.tokens.size()},
      [&](std::uint32_t i) { return sampled_[row + i]; },
      chosen);
  const std::size_t first_event = events_.size(), known = s.job.tokens.size();
  const std::uint32_t ended = v.accept_length + (v.has_failed ? 1 : 0);
  std::uint32_t taken = 0;
  while (taken < ended && (s.job.stream.finished() == finish_reason::none ||
                           ORIEL_MUTANT(stop_does_not_end_a_chain))) {
    const std::span<const float> logits =
        logits_.subspan((row + taken) * model_.vocabulary, model_.vocabulary);
    if (options_.observer != nullptr) {
      options_.observer->on_logits(
          s.job.asked.id, static_cast<std::uint32_t>(s.job.tokens.size()), logits);
    }
    take_token(s, taken < v.accept_length ? chosen[taken] : sampled_[row + taken], logits);
    ++taken;
  }
  const bool decoded = s.kv.length() >= s.known_tokens;
  s.kv.accept(s.rows - count - 1 + taken);
  if (s.lookup) {
    s.lookup->accept(std::span(s.job.tokens).subspan(known));
  }
  if (decoded) {
    count_drafts(s, taken, v.accepted_drafts);
  }
  s.drafts.clear();
  for (std::size_t i = first_event; i < events_.size(); ++i) {
    events_[i].drafts = s.job.drafts;
  }
}

/// Drafts behind the end of an answer were nobody's to give out: they count as neither.
void engine::count_drafts(sequence& s, std::uint32_t tokens, std::uint32_t accepted) {
  draft_counts& counts = s.job.drafts;
  const auto drafted = static_cast<std::uint32_t>(s.drafts.size());
  const std::uint32_t given = std::min(tokens, accepted);
  const bool is_cut = tokens <= accepted && !ORIEL_MUTANT(cut_drafts_count_as_rejected);
  const std::uint32_t counted = is_cut ? given : drafted;
  counts.decode_steps += 1;
  counts.decode_tokens += tokens;
  for (std::uint32_t i = 0; i < counted; ++i) {
    counts.drafted[i] += 1;
    counts.accepted[i] += i < given ? 1 : 0;
  }
  metrics_.drafted_tokens.add(counted);
  metrics_.accepted_tokens.add(given);
  s.curve.on_verified(drafted, accepted);
  usual_.on_verified(drafted, accepted);
}

/// Steps that only decode tell what drafts cost: the step, and making the drafts that it verified,
/// which was done at the end of the step before.
void engine::measure_decode() {
  if (!adaptive_ || batch_.empty()) {
    return;
  }
  step_measure measure{.batch = 0, .rows = 0, .tokens = 0, .seconds = 0};
  for (const step_rows& s : rows_) {
    if (s.logit_rows != s.tokens.size() || s.gate || s.heal != nullptr) {
      return;
    }
    measure.batch += 1;
    measure.rows += s.logit_rows;
  }
  measure.tokens = static_cast<std::uint32_t>(events_.size());
  measure.seconds = 1e-6 * static_cast<double>(std::max<std::uint64_t>(
                               1, options_.now_us() - begin_us_ + drafting_us_));
  adaptive_->on_step(measure);
}

/// How many tokens each sequence drafts that decodes next.
void engine::plan_drafts() {
  drafting_.clear();
  curves_.clear();
  for (std::size_t i = 0; i < batch_.size(); ++i) {
    if (!runner_.is_cut_off(i) && decodes_next(*batch_[i])) {
      drafting_.push_back(batch_[i]);
      curves_.push_back(&batch_[i]->curve);
    }
  }
  draft_lengths_.assign(drafting_.size(), options_.speculation.drafts_max);
  if (adaptive_) {
    adaptive_->plan(curves_, draft_lengths_);
  }
  for (std::size_t i = 0; i < drafting_.size(); ++i) {
    draft_lengths_[i] = std::min(draft_lengths_[i], drafts_left(*drafting_[i]));
  }
}

/// The computed rows become what the next step's drafts need, and those are made.
void engine::draft() {
  const speculation_options& o = options_.speculation;
  if (o.drafter == drafter_kind::none) {
    return;
  }
  const std::uint64_t begin_us = options_.now_us();
  plan_drafts();
  mtp_.clear();
  mtp_members_.clear();
  std::size_t next = 0;
  for (std::size_t i = 0; i < batch_.size(); ++i) {
    sequence& s = *batch_[i];
    const bool drafts = next < drafting_.size() && drafting_[next] == &s;
    const std::uint32_t count = drafts ? draft_lengths_[next++] : 0;
    if (runner_.is_cut_off(i)) {
      continue;
    }
    if (o.uses_mtp()) {
      add_mtp_rows(i, count);
    } else {
      draft_by_lookup(s, count);
    }
  }
  run_mtp();
  for (sequence* s : drafting_) {
    const std::size_t most = s->drafts.size();
    if (o.editor != nullptr && most != 0) {
      o.editor->on_drafts(s->job.asked.id, s->job.tokens, s->drafts);
      ORIEL_EXPECTS(s->drafts.size() <= most);
    }
  }
  drafting_us_ = options_.now_us() - begin_us;
}

void engine::draft_by_lookup(sequence& s, std::uint32_t count) {
  if (count == 0) {
    return;
  }
  if (!s.lookup) {
    s.lookup.emplace(lookup_options{.drafts_max = options_.speculation.drafts_max});
    s.lookup->accept(s.job.tokens);
  }
  std::array<drafted_token, draft_tokens_max> drafts;
  const std::size_t found = s.lookup->draft(std::span(drafts).first(count));
  for (std::size_t i = 0; i < found; ++i) {
    s.drafts.push_back(drafts[i].id);
  }
}

/// Hidden states of the rows that a step accepted of a sequence, those that MTP blocks have not
/// seen.
std::span<const float> engine::fresh_mtp_rows(std::size_t member) {
  sequence& s = *batch_[member];
  const hidden_rows made = runner_.hidden_of(member);
  const std::uint32_t end = s.kv.length(), first = made.first_position;
  std::span<const float> rows =
      made.values.first(std::size_t{end - std::min(end, first)} * model_.hidden);
  if (!options_.speculation.mtp_in_prefill && end <= s.known_tokens && !rows.empty()) {
    const bool is_done = decodes_next(s);  // The prompt's last row is what the first drafts follow.
    const std::uint32_t seen = end - (is_done ? 1 : 0);
    rows = rows.last(is_done ? model_.hidden : 0);
    s.mtp = {.open = seen, .written = seen};
    s.kv.set_soft_rows({seen, seen});
  }
  ORIEL_ASSERT(rows.empty() ||
               s.mtp.open + s.mtp.rows(model_.hidden) == end - rows.size() / model_.hidden);
  return rows;
}

/// Has the MTP blocks run over the open rows of a sequence. Where nothing is drafted they may wait,
/// but not beyond the end of an answer that the cache is given.
void engine::add_mtp_rows(std::size_t member, std::uint32_t drafts) {
  sequence& s = *batch_[member];
  const std::span<const float> fresh = fresh_mtp_rows(member);
  if (fresh.empty()) {
    return;  // Of a heal, these rows have no hidden state.
  }
  const std::uint32_t rows =
      s.mtp.rows(model_.hidden) + static_cast<std::uint32_t>(fresh.size() / model_.hidden);
  const bool has_ended = s.job.stream.finished() != finish_reason::none;
  if (drafts == 0 && s.kv.length() > s.known_tokens && rows <= waiting_rows_max &&
      !(has_ended && s.lease)) {
    s.mtp.move_on(fresh, s.mtp.open, model_.hidden);
    return;
  }
  mtp_.add({.first_row = s.mtp.open,
            .rows = rows,
            .drafts = drafts,
            .first_key = ORIEL_MUTANT(unwritten_rows_are_read) ? 0 : s.kv.soft_rows().first,
            .kept = s.mtp.hidden,
            .fresh = fresh,
            .tables = tables_[member],
            .out = &s.drafts},
           s.job.tokens,
           mtp_blocks());
  mtp_members_.push_back(member);
}

void engine::run_mtp() {
  if (mtp_.empty()) {
    return;
  }
  const auto choose = [&](std::span<const float> logits) {
    const std::size_t rows = logits.size() / model_.vocabulary;
    draft_rows_.assign(rows, {.options = &greedy, .position = 0});
    drafted_.resize(rows);
    sampler_(logits.data(), model_.vocabulary, draft_rows_, drafted_, executor_);
    return std::span<const sampled_token>(drafted_);
  };
  mtp_.run(runner_,
           mtp_blocks(),
           model_.hidden,
           options_.speculation.chain == mtp_chain::previous_hidden,
           choose);
  for (const std::size_t member : mtp_members_) {
    sequence& s = *batch_[member];
    const hidden_rows made = runner_.hidden_of(member);
    const std::uint32_t end = s.kv.length();
    const std::uint32_t kept = s.mtp.open + s.mtp.rows(model_.hidden);
    const auto tokens = static_cast<std::uint32_t>(s.job.tokens.size());
    const std::uint32_t known = tokens - std::min(tokens, mtp_blocks());
    s.mtp.move_on(made.values.subspan(std::size_t{kept - made.first_position} * model_.hidden,
                                      std::size_t{end - kept} * model_.hidden),
                  ORIEL_MUTANT(open_rows_count_as_final) ? end : std::clamp(known, s.mtp.open, end),
                  model_.hidden);
    s.mtp.written = end;
    s.kv.set_soft_rows(
        {s.kv.soft_rows().first, ORIEL_MUTANT(open_rows_are_published) ? end : s.mtp.open});
  }
}

/// Nobody writes rows of this sequence any more: those that are not final stay as they are.
void engine::end_soft_rows(sequence& s) noexcept {
  if (mtp_blocks() != 0 && !s.kv.healing()) {
    s.kv.set_soft_rows({s.kv.soft_rows().first, std::max(s.mtp.written, s.kv.soft_rows().end)});
  }
}

}  // namespace oriel::engine
