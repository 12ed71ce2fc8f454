// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>

#include <engine/mtp_rows.hpp>

#include <algorithm>

namespace oriel::engine {

void mtp_tail::move_on(std::span<const float> rows,
                       std::uint32_t first_open,
                       std::uint32_t hidden_size) {
  hidden.insert(hidden.end(), rows.begin(), rows.end());
  const std::size_t gone =
      std::min<std::size_t>(hidden.size(), std::size_t{first_open - open} * hidden_size);
  hidden.erase(hidden.begin(), hidden.begin() + static_cast<std::ptrdiff_t>(gone));
  open = first_open;
}

void mtp_batch::add(const member& m, std::span<const token_id> known, std::uint32_t blocks) {
  if (count_ == members_.size()) {
    members_.emplace_back();
    ids_.emplace_back();
  }
  members_[count_] = m;
  std::vector<token_id>& ids = ids_[count_++];
  const std::size_t first =
      std::size_t{m.first_row} + (ORIEL_MUTANT(blocks_are_told_the_row_itself) ? 0 : 1);
  const std::size_t end = first + m.rows + blocks - 1;
  const std::size_t last =
      ORIEL_MUTANT(chunks_end_with_a_guess) ? m.first_row + m.rows : known.size() - 1;
  ids.clear();
  for (std::size_t at = first; at < end; ++at) {
    ids.push_back(known[std::min(at, last)]);
  }
}

std::span<const step_rows> mtp_batch::rows_of(std::uint32_t block, std::uint32_t hidden_size) {
  entries_.clear();
  const float* told = told_.data();
  for (std::size_t i = 0; i < count_; ++i) {
    const member& m = members_[i];
    const std::span<const token_id> ids = std::span(ids_[i]).subspan(block, m.rows);
    std::uint32_t row = 0;
    for (const std::span<const float> part : {m.kept, m.fresh}) {
      const auto rows = static_cast<std::uint32_t>(part.size() / hidden_size);
      if (rows == 0) {
        continue;
      }
      const bool is_last = row + rows == m.rows;
      entries_.push_back({.tokens = ids.subspan(row, rows),
                          .first_position = m.first_row + row,
                          .tables = m.tables,
                          .logit_rows = is_last && block < m.drafts ? 1u : 0u,
                          .hidden = told_.empty() ? part.data() : told,
                          .first_key = m.first_key});
      row += rows;
      told += told_.empty() ? 0 : part.size();
    }
    ORIEL_ASSERT(row == m.rows);
  }
  return entries_;
}

void mtp_batch::take_drafts(std::uint32_t block, std::span<const sampled_token> chosen) {
  std::size_t next = 0;
  for (std::size_t i = 0; i < count_; ++i) {
    member& m = members_[i];
    if (block >= m.drafts) {
      continue;
    }
    const sampled_token& draft = chosen[next++];
    if (!(draft.probability > 0.0f)) {
      m.drafts = block;
      continue;
    }
    m.out->push_back(draft.id);
    for (std::size_t at = std::size_t{m.rows} + block; at < ids_[i].size(); ++at) {
      ids_[i][at] = draft.id;
    }
  }
}

void mtp_batch::keep_hidden(const model_runner& runner) {
  told_.clear();
  for (std::size_t entry = 0; entry < entries_.size(); ++entry) {
    const std::span<const float> rows = runner.mtp_hidden_of(entry).values;
    told_.insert(told_.end(), rows.begin(), rows.end());
  }
}

}  // namespace oriel::engine
