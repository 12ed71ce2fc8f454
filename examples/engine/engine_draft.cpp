// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Speculation: what a sequence drafts for its next step, and what becomes of it.
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>

#include <engine/engine.hpp>

#include <algorithm>
#include <array>
#include <utility>

namespace oriel::engine {

/// A sequence that starts, wherever in its tokens.
void engine::begin_drafts(sequence& s) noexcept {
  s.curve = acceptance_curve::like(usual_);
  if (mtp_blocks_in_use() != 0) {
    const auto lent = s.kv.soft_rows();
    const std::uint32_t window = pools_.plan().ring(*pools_.plan().soft_kind()).window_tokens;
    const std::uint32_t missing =
        std::min(lent.end, window - 1) - std::min(lent.end - lent.first, window - 1);
    metrics_.missing_mtp_rows.add(ORIEL_MUTANT(missing_rows_are_not_counted) ? 0 : missing);
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

/// Some of its drafts were drawn: they are judged by what they were drawn from.
bool engine::has_drawn(const sequence& s) const noexcept {
  return std::ranges::any_of(s.drafts, [](const drafted_token& d) { return !d.is_sure(); });
}

/// What the model says of a sequence's drafts. @param row  the first of its rows
verified engine::judge(const sequence& s, std::size_t row, std::span<sampled_token> chosen) {
  const token_place place{.seed = s.job.asked.sampling.seed, .position = s.job.tokens.size()};
  if (!has_drawn(s)) {
    return verifier<greedy_match>()(
        s.drafts, place, [&](std::uint32_t i) { return sampled_[row + i]; }, chosen);
  }
  return verifier<rejection_sampling>()(
      s.drafts,
      place,
      [&](std::uint32_t i) {
        const std::size_t used = row + (ORIEL_MUTANT(rejection_forgets_the_history) ? 0 : i);
        return sampler_.distribution(logits_.data() + (row + i) * model_.vocabulary,
                                     s.job.asked.sampling,
                                     sampled_rows_[used].history);
      },
      chosen);
}

/// Keeps the drafts that the model accepts, and its own token behind them; the rows of the others
/// are rolled back. The answer may end at any of the tokens.
void engine::take_chain(sequence& s, std::size_t row) {
  std::array<sampled_token, draft_tokens_max + 1> chosen;
  const auto count = static_cast<std::uint32_t>(s.drafts.size());
  const verified v = judge(s, row, chosen);
  const std::size_t first_event = events_.size(), known = s.job.tokens.size();
  const std::uint32_t ended = v.accept_length + (v.has_failed ? 1 : 0);
  std::uint32_t taken = 0;
  while (taken < ended && (s.job.stream.finished() == finish_reason::none ||
                           ORIEL_MUTANT(stop_does_not_end_a_chain))) {
    const std::span<const float> logits =
        decoded_ ? logits_ : logits_.subspan((row + taken) * model_.vocabulary, model_.vocabulary);
    if (options_.observer != nullptr) {
      options_.observer->on_logits(
          s.job.asked.id, static_cast<std::uint32_t>(s.job.tokens.size()), logits);
    }
    constexpr sampled_token none{.id = token_id{0}, .probability = 0.0f};
    take_token(s, taken < v.accept_length ? chosen[taken] : none, logits);
    ++taken;
  }
  const bool decoded = s.kv.length() >= s.known_tokens;
  s.kv.accept(s.rows - count - 1 + taken);
  const std::span<const token_id> said = std::span(s.job.tokens).subspan(known);
  if (s.lookup) {
    s.lookup->accept(said);
  }
  if (s.mtp) {
    s.mtp->accept(said);
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
/// which was done at the end of the step before. After a prompt's step that time is the blocks' for
/// the prompt: whoever counts it takes plain steps for slow, and drafts where it does not pay.
void engine::measure_decode() {
  if (!adaptive_ || batch_.empty()) {
    return;
  }
  const bool decodes = std::ranges::all_of(rows_, [](const step_rows& s) {
    return s.logit_rows == s.tokens.size() && !s.gate && s.heal == nullptr;
  });
  const bool knows_drafting =
      std::exchange(drafting_decoded_, decodes) || ORIEL_MUTANT(prompts_count_as_drafting);
  if (!decodes || !knows_drafting) {
    return;
  }
  const std::uint64_t took_us = options_.now_us() - begin_us_ + drafting_us_;
  adaptive_->on_step({.batch = static_cast<std::uint32_t>(rows_.size()),
                      .rows = static_cast<std::uint32_t>(sampled_rows_.size()),
                      .tokens = static_cast<std::uint32_t>(events_.size()),
                      .seconds = 1e-6 * static_cast<double>(std::max<std::uint64_t>(1, took_us))});
}

/// How many tokens each sequence drafts that decodes next.
void engine::plan_drafts() {
  drafting_.clear();
  curves_.clear();
  for (std::size_t i = 0; i < batch_.size(); ++i) {
    if (!runner_->is_cut_off(i) && decodes_next(*batch_[i])) {
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
  mtp_running_.clear();
  mtp_members_.clear();
  std::size_t next = 0;
  for (std::size_t i = 0; i < batch_.size() && mtp_; ++i) {
    const bool drafts = next < drafting_.size() && drafting_[next] == batch_[i];
    const std::uint32_t count = drafts ? draft_lengths_[next++] : 0;
    if (!runner_->is_cut_off(i)) {
      add_mtp_rows(i, count);
    }
  }
  if (decoded_ && !decoded_->drafted.empty()) {
    take_made_drafts();
  } else if (mtp_) {
    mtp_->run(mtp_running_);
  }
  for (std::size_t i = 0; i < drafting_.size(); ++i) {
    sequence& s = *drafting_[i];
    if (draft_lengths_[i] != 0) {
      mtp_ ? take_drafts(s, mtp_of(s), draft_lengths_[i])
           : take_drafts(s, lookup_of(s), draft_lengths_[i]);
      edit_drafts(s);
    }
  }
  drafting_us_ = options_.now_us() - begin_us;
}

/// The blocks ran with the step that the drafts follow.
void engine::take_made_drafts() {
  made_.resize(mtp_blocks_in_use());
  for (std::size_t i = 0; i < mtp_running_.size(); ++i) {
    for (std::size_t block = 0; block < made_.size(); ++block) {
      made_[block] = decoded_->drafted[block * decoded_->drafted_stride + mtp_members_[i]];
    }
    mtp_->take_made(*mtp_running_[i], made_);
  }
}

/// Is this a step of decoding sequences alone whose tokens are chosen by the model and a request's
/// filters? Then a device may do it in one piece.
bool engine::list_decoding() {
  decoding_.clear();
  decoding_drafts_ = mtp_.has_value();
  for (std::size_t i = 0; i < batch_.size(); ++i) {
    const sequence& s = *batch_[i];
    const sampling_options& o = s.job.asked.sampling;
    if (rows_[i].gate || rows_[i].logit_rows != rows_[i].tokens.size() || has_drawn(s) ||
        has_penalties(o) || !o.logit_bias.empty() || o.logprobs) {
      return false;
    }
    decoding_rows d{.rows = rows_[i], .sampling = &o};
    const bool has_open_rows =
        s.mtp && s.mtp->rows() < mtp_blocks_in_use() && s.mtp->known().size() == s.mtp->rows();
    if (has_open_rows && !(mtp_->options().draws && o.temperature > 0.0f)) {
      d.carried = s.mtp->hidden();
      d.known = s.mtp->known();
      d.first_draft_key = s.kv.soft_rows().first;
    } else {
      decoding_drafts_ = false;
    }
    decoding_.push_back(d);
  }
  return options_.observer == nullptr;
}

template <drafter Drafter>
void engine::take_drafts(sequence& s, Drafter& from, std::uint32_t count) {
  s.drafts.resize(count);
  s.drafts.resize(from.draft(s.drafts));
}

/// What an editor puts in place of a draft was not drawn.
void engine::edit_drafts(sequence& s) {
  if (options_.speculation.editor == nullptr || s.drafts.empty()) {
    return;
  }
  edited_.clear();
  for (const drafted_token& draft : s.drafts) {
    edited_.push_back(draft.id);
  }
  options_.speculation.editor->on_drafts(s.job.asked.id, s.job.tokens, edited_);
  ORIEL_EXPECTS(edited_.size() <= s.drafts.size());
  s.drafts.resize(edited_.size());
  for (std::size_t i = 0; i < edited_.size(); ++i) {
    if (s.drafts[i].id != edited_[i]) {
      s.drafts[i] = {.id = edited_[i]};
    }
  }
}

/// The drafter of a sequence; made when it is needed first, and told what is known.
prompt_lookup& engine::lookup_of(sequence& s) const {
  if (!s.lookup) {
    s.lookup.emplace(lookup_options{.drafts_max = options_.speculation.drafts_max});
    s.lookup->accept(s.job.tokens);
  }
  return *s.lookup;
}
mtp_drafter& engine::mtp_of(sequence& s) {
  if (!s.mtp) {
    s.mtp.emplace(*mtp_, s.kv, s.job.asked.sampling, s.job.history ? &*s.job.history : nullptr);
    s.mtp->accept(s.job.tokens);
  }
  return *s.mtp;
}

/// Hidden states of the rows that a step accepted of a sequence, those that MTP blocks have not
/// seen.
std::span<const float> engine::fresh_mtp_rows(std::size_t member) {
  sequence& s = *batch_[member];
  const hidden_rows made = runner_->hidden_of(member);
  const std::uint32_t end = s.kv.length(), first = made.first_position;
  std::span<const float> rows =
      made.values.first(std::size_t{end - std::min(end, first)} * model_.hidden);
  const bool skips_prompts =
      !options_.speculation.mtp_in_prefill || ORIEL_MUTANT(prompts_skip_the_blocks);
  if (skips_prompts && end <= s.known_tokens && !rows.empty()) {
    const bool is_done = decodes_next(s);  // The prompt's last row is what the first drafts follow.
    rows = rows.last(is_done ? model_.hidden : 0);
    mtp_of(s).begin_at(end - (is_done ? 1 : 0));
  }
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
  mtp_drafter& d = mtp_of(s);
  d.add_rows(fresh);
  const bool has_ended = s.job.stream.finished() != finish_reason::none;
  if (drafts != 0 || s.kv.length() <= s.known_tokens || d.rows() > waiting_rows_max ||
      (has_ended && s.lease)) {
    d.want(drafts);
    mtp_running_.push_back(&d);
    mtp_members_.push_back(member);
  }
}

/// Nobody writes rows of this sequence any more: those that are not final stay as they are.
void engine::end_soft_rows(sequence& s) noexcept {
  if (s.mtp && !s.kv.healing()) {
    s.kv.set_soft_rows({s.kv.soft_rows().first, std::max(s.mtp->written(), s.kv.soft_rows().end)});
  }
}

}  // namespace oriel::engine
