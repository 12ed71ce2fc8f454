// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>

#include <engine/mtp_drafter.hpp>

#include <algorithm>

namespace oriel::engine {

void mtp_drafter::accept(std::span<const token_id> tokens) {
  const auto count = static_cast<std::uint32_t>(tokens.size());
  const std::uint32_t before = open_ + 1 - std::min(open_ + 1, told_);  // that nobody needs
  const std::span<const token_id> needed = tokens.subspan(std::min(before, count));
  tokens_.insert(tokens_.end(), needed.begin(), needed.end());
  told_ += count;
  if (count != 0) {
    chain_.clear();
    made_ = 0;
  }
}

std::size_t mtp_drafter::draft(std::span<drafted_token> out) {
  const std::size_t most = std::min<std::size_t>(out.size(), max_draft_tokens());
  if (made_ < most && has_last_row()) {
    want(static_cast<std::uint32_t>(most));
    mtp_drafter* const self = this;
    blocks_->run({&self, 1});
  }
  const std::span<const drafted_token> drafts = chain_.drafts();
  return static_cast<std::size_t>(
      std::ranges::copy(drafts.first(std::min(most, drafts.size())), out.begin()).out -
      out.begin());
}

void mtp_drafter::add_rows(std::span<const float> hidden) {
  hidden_.insert(hidden_.end(), hidden.begin(), hidden.end());
}

void mtp_drafter::want(std::uint32_t drafts) noexcept {
  wanted_ = std::min(drafts, max_draft_tokens());
}

void mtp_drafter::begin_at(std::uint32_t row) noexcept {
  hidden_.clear();
  forget_before(row);
  written_ = row;
  kv_->set_soft_rows({row, row});
}

/// Lets go of what is only known for rows before `row`.
void mtp_drafter::forget_before(std::uint32_t row) {
  const std::uint32_t rows_gone = std::min(rows(), row - open_);
  const std::size_t tokens_gone = std::min<std::size_t>(tokens_.size(), row - open_);
  const auto rest = hidden_.begin() + static_cast<std::ptrdiff_t>(rows_gone) * blocks_->hidden();
  if (rows_gone > waiting_rows_max) {
    hidden_ = std::vector<float>(rest, hidden_.end());  // The memory of a prompt's chunk, too.
  } else {
    hidden_.erase(hidden_.begin(), rest);
  }
  tokens_.erase(tokens_.begin(), tokens_.begin() + static_cast<std::ptrdiff_t>(tokens_gone));
  open_ = row;
}

/// What block s at the last row is told lies behind the known tokens if it is not drafted: then it
/// is the last of them, for want of a better guess.
void mtp_drafter::begin_run() {
  const std::uint32_t blocks = max_draft_tokens();
  const std::size_t end = std::size_t{rows()} + blocks - 1;
  const std::size_t last =
      ORIEL_MUTANT(chunks_end_with_a_guess) ? rows() - std::size_t{1} : tokens_.size() - 1;
  ORIEL_EXPECTS(rows() != 0 && tokens_.size() >= rows());
  ids_.clear();
  for (std::size_t at = 0; at < end; ++at) {
    const std::size_t told = at - (at != 0 && ORIEL_MUTANT(blocks_are_told_the_row_itself) ? 1 : 0);
    ids_.push_back(tokens_[std::min(told, last)]);
  }
  tables_.clear();
  for (std::uint32_t pool = 0; pool <= kv_->window_kinds(); ++pool) {
    tables_.push_back(kv_->table(pool_id{pool}));
  }
  chain_.clear();
  wanted_ = has_last_row() ? wanted_ : 0;
  made_ = wanted_;
  if (used_ != nullptr && wanted_ != 0) {
    behind_ = *used_;
  }
}

step_rows mtp_drafter::rows_of(std::uint32_t block) const noexcept {
  return {.tokens = std::span(ids_).subspan(block, rows()),
          .first_position = open_ + (ORIEL_MUTANT(positions_move_with_the_block) ? block : 0),
          .tables = tables_,
          .logit_rows = block < wanted_ ? 1u : 0u,
          .hidden = hidden_.data(),
          .first_key = ORIEL_MUTANT(unwritten_rows_are_read) ? 0 : kv_->soft_rows().first};
}

/// A row without any number ends the chain: nothing was drawn for it.
void mtp_drafter::take(std::uint32_t block, std::span<const float> logits, sampler& choose) {
  const token_history* const used = used_ != nullptr ? &behind_ : nullptr;
  if (blocks_->options().draws && options_->temperature > 0.0f) {
    const token_distribution proposal = choose.distribution(logits.data(), *options_, used);
    if (proposal.total == 0) {
      wanted_ = block;
      return;
    }
    const token_id id =
        chain_.draw(proposal, {.seed = options_->seed, .position = std::uint64_t{told_} + block});
    push(block, id);
  } else {
    take_likeliest(block, choose.greedy(logits.data(), *options_, used));
  }
}

void mtp_drafter::take_likeliest(std::uint32_t block, sampled_token first) {
  if (!(first.probability > 0.0f)) {
    wanted_ = block;
    return;
  }
  chain_.push_sure(first.id);
  push(block, first.id);
}

/// The blocks behind `block` are told its draft.
void mtp_drafter::push(std::uint32_t block, token_id id) {
  if (used_ != nullptr) {
    behind_.add_output(id);
  }
  std::fill(ids_.begin() + rows() + block, ids_.end(), id);
}

void mtp_drafter::end_run() {
  const std::uint32_t end = open_ + rows(), known = told_ - std::min(told_, max_draft_tokens());
  written_ = end;
  forget_before(ORIEL_MUTANT(open_rows_count_as_final) ? end : std::clamp(known, open_, end));
  kv_->set_soft_rows({kv_->soft_rows().first, ORIEL_MUTANT(open_rows_are_published) ? end : open_});
  wanted_ = 0;
}

void mtp_blocks::list_rows(std::uint32_t block, std::span<mtp_drafter* const> drafters) {
  entries_.clear();
  const float* told = told_.data();
  for (const mtp_drafter* const d : drafters) {
    entries_.push_back(d->rows_of(block));
    if (!told_.empty()) {
      entries_.back().hidden = told;
      told += d->hidden_.size();
    }
  }
}

void mtp_blocks::take_made(mtp_drafter& drafter, std::span<const sampled_token> made) {
  ORIEL_EXPECTS(made.size() == options_.blocks);
  drafter.begin_run();
  for (std::uint32_t block = 0; block < drafter.wanted_; ++block) {
    drafter.take_likeliest(block, made[block]);
  }
  drafter.end_run();
}

void mtp_blocks::run(std::span<mtp_drafter* const> drafters) {
  if (drafters.empty()) {
    return;
  }
  for (mtp_drafter* const d : drafters) {
    d->begin_run();
  }
  told_.clear();
  for (std::uint32_t block = 0; block < options_.blocks; ++block) {
    list_rows(block, drafters);
    const std::span<const float> logits = runner_.forward_mtp(
        block, entries_, options_.chains_hidden ? mtp_rows::all : mtp_rows::with_logits);
    told_.clear();
    for (std::size_t entry = 0; options_.chains_hidden && entry < entries_.size(); ++entry) {
      const std::span<const float> rows = runner_.mtp_hidden_of(entry).values;
      told_.insert(told_.end(), rows.begin(), rows.end());
    }
    std::size_t row = 0;
    for (std::size_t i = 0; i < drafters.size(); ++i) {
      if (entries_[i].logit_rows != 0) {
        drafters[i]->take(block, logits.subspan(row * vocabulary_, vocabulary_), choose_);
        ++row;
      }
    }
  }
  for (mtp_drafter* const d : drafters) {
    d->end_run();
  }
}

}  // namespace oriel::engine
