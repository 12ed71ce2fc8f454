// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What MTP blocks run on: the rows of a sequence that are not final in some block, and one batch
/// of them.
///
/// Block s at row p is told token p + 1 + s, so that row is final once this token is accepted: the
/// last rows of a sequence stay open. Each step runs them again, from the first that is open in any
/// block; their hidden states are kept for that. A final row depends on tokens alone.
///
///     tokens   0 1 2 3 4 5 6         6 is the last that is known, 7 and 8 are drafted
///     rows     0 1 2 3 4 5           block 0 at row 5 is told 6, block 1: 7, block 2: 8
///                    ^ open: block 2 at row 4 is told 7
#pragma once

#include <oriel/core/ids.hpp>
#include <oriel/kernels/sample.hpp>
#include <oriel/kv/block_table.hpp>

#include <engine/model_runner.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace oriel::engine {

/// Rows that may wait for their KV in MTP blocks while nothing is drafted: run together, they take
/// next to nothing.
inline constexpr std::uint32_t waiting_rows_max = 16;

/// The end of one sequence, as its MTP blocks have it. Rows before `open` are final in every block.
struct mtp_tail {
  std::uint32_t open = 0;          ///< the first row that is not final; hidden[0] is of it
  std::uint32_t written = 0;       ///< rows before it have KV in every block
  std::vector<float> hidden = {};  ///< [rows from `open` on, hidden]

  /// Rows whose hidden states are kept.
  [[nodiscard]] std::uint32_t rows(std::uint32_t hidden_size) const noexcept {
    return static_cast<std::uint32_t>(hidden.size() / hidden_size);
  }
  /// Takes in new rows behind those that are kept, and lets go of rows before `first_open`.
  /// @throws std::bad_alloc
  void move_on(std::span<const float> rows, std::uint32_t first_open, std::uint32_t hidden_size);
};

/// The rows of some sequences for one run of all blocks. Kept to reuse its memory.
class mtp_batch {
 public:
  /// Rows of one sequence.
  struct member {
    std::uint32_t first_row = 0, rows = 0;
    std::uint32_t drafts = 0;  ///< wanted
    std::uint32_t first_key = 0;
    std::span<const float> kept = {}, fresh = {};  ///< hidden states of the rows, in this order
    std::span<const block_table_view> tables = {};
    std::vector<token_id>* out = nullptr;  ///< gets the drafts; null where none are wanted
  };

  void clear() noexcept { count_ = 0; }
  [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
  /// @param known  the sequence's tokens; what block s at the last row is told lies behind them if
  /// it
  ///               is not drafted: then it is the last of them, for want of a better guess
  /// @throws std::bad_alloc
  void add(const member& m, std::span<const token_id> known, std::uint32_t blocks);

  /// Runs every block over the rows; drafts go to the members' `out`. choose(logits, count) gives
  /// the first tokens of `count` rows; an id without probability ends the drafts of its member.
  template <class Choose>
  void run(model_runner& runner,
           std::uint32_t blocks,
           std::uint32_t hidden_size,
           bool chains_hidden,
           Choose&& choose) {
    told_.clear();
    for (std::uint32_t block = 0; block < blocks; ++block) {
      const auto entries = rows_of(block, hidden_size);
      const auto logits =
          runner.forward_mtp(block, entries, chains_hidden ? mtp_rows::all : mtp_rows::with_logits);
      if (chains_hidden) {
        keep_hidden(runner);
      }
      take_drafts(block, choose(logits));
    }
  }

 private:
  [[nodiscard]] std::span<const step_rows> rows_of(std::uint32_t block, std::uint32_t hidden_size);
  void take_drafts(std::uint32_t block, std::span<const sampled_token> chosen);
  void keep_hidden(const model_runner& runner);

  std::vector<member> members_;
  std::vector<std::vector<token_id>> ids_;  // [members] tokens from first_row + 1 on
  std::size_t count_ = 0;                   // of both
  std::vector<step_rows> entries_;
  std::vector<float> told_;  // hidden states of the block before, where they are chained
};

}  // namespace oriel::engine
