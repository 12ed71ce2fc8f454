// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `mtp_drafter`: drafts one sequence with the model's MTP blocks. `mtp_blocks`: runs the blocks
/// for many sequences at once.
///
/// Block s at row p is told token p + 1 + s, so that row is final once this token is accepted: the
/// last rows of a sequence stay open. Each run takes them again, from the first that is open in any
/// block; their hidden states are kept for that. A final row depends on tokens alone.
///
///     tokens   0 1 2 3 4 5 6         6 is the last that is known, 7 and 8 are drafted
///     rows     0 1 2 3 4 5           block 0 at row 5 is told 6, block 1: 7, block 2: 8
///                    ^ open: block 2 at row 4 is told 7
#pragma once

#include <oriel/core/ids.hpp>
#include <oriel/kv/block_table.hpp>
#include <oriel/output/sampler.hpp>
#include <oriel/output/token_history.hpp>
#include <oriel/request/sampling_options.hpp>
#include <oriel/spec/draft_chain.hpp>
#include <oriel/spec/drafter.hpp>

#include <engine/host_pools.hpp>
#include <engine/step_runner.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel::engine {

/// Rows that may wait for their KV in MTP blocks while nothing is drafted: run together, they take
/// next to nothing.
inline constexpr std::uint32_t waiting_rows_max = 16;

class mtp_drafter;

/// How the blocks are run.
struct mtp_options {
  std::uint32_t blocks = 0;
  bool chains_hidden = false;  ///< a block is told the output of the one before (mtp_chain)
  bool draws = false;  ///< drafts of requests with a temperature are drawn; else the likeliest
};

/// The MTP blocks of a model: one pass of a block serves the drafters of all sequences, so that its
/// weights are read once. Borrows the runner and the sampler.
class mtp_blocks {
 public:
  mtp_blocks(step_runner& runner,
             sampler& choose,
             const model_geometry& model,
             const mtp_options& options) noexcept
      : runner_(runner),
        choose_(choose),
        hidden_(model.hidden),
        vocabulary_(model.vocabulary),
        options_(options) {}

  /// Runs every block over the rows that wait in these drafters; then each has the drafts that it
  /// wants. Afterwards the runner's logits are the blocks'. @throws std::bad_alloc
  void run(std::span<mtp_drafter* const> drafters);

  /// As run(), where the blocks ran for this drafter already, over its rows and with its tokens.
  /// @param made  [blocks] what each block found likeliest
  void take_made(mtp_drafter& drafter, std::span<const sampled_token> made);

  [[nodiscard]] const mtp_options& options() const noexcept { return options_; }
  [[nodiscard]] std::uint32_t hidden() const noexcept { return hidden_; }

 private:
  void list_rows(std::uint32_t block, std::span<mtp_drafter* const> drafters);

  step_runner& runner_;
  sampler& choose_;
  std::uint32_t hidden_, vocabulary_;
  mtp_options options_;
  std::vector<step_rows> entries_;
  std::vector<float> told_;  // hidden states of the block before, where they are chained
};

/// A model of oriel::drafter whose drafts come from the hidden states of the main model: who runs
/// that hands over each row's (`add_rows`). A draft is the token that a block finds likeliest after
/// the request's penalties and biases, or is drawn with the request's options (mtp_options::draws).
///
///     d.accept(prompt);
///     ...the model computes rows...  d.add_rows(hidden);
///     d.want(3); blocks.run(drafters);  // many sequences at once; or leave it to draft()
///     d.draft(out);
///
/// Rows may wait, waiting_rows_max of them: they must have run before the sequence's windows slide
/// past them. Borrows its sequence's KV, options and history.
class mtp_drafter {
 public:
  using sequence_type = host_pools::sequence_type;

  /// @param kv    of the sequence: its soft rows are what the blocks have, and follow the drafter
  /// @param used  the tokens told, where the options have penalties
  mtp_drafter(mtp_blocks& blocks,
              sequence_type& kv,
              const sampling_options& options,
              const token_history* used = nullptr) noexcept
      : blocks_(&blocks),
        kv_(&kv),
        options_(&options),
        used_(used),
        open_(kv.soft_rows().end),
        written_(open_) {}

  [[nodiscard]] std::uint32_t max_draft_tokens() const noexcept {
    return blocks_->options().blocks;
  }
  /// From the sequence's first token on, wherever its blocks begin. @throws std::bad_alloc
  void accept(std::span<const token_id> tokens);
  /// Runs the blocks for this sequence alone if its drafts are not made yet. Nothing, while the
  /// row of the last token but one is not there. @throws std::bad_alloc
  std::size_t draft(std::span<drafted_token> out);

  /// Hidden states of the rows behind those that it has. @throws std::bad_alloc
  void add_rows(std::span<const float> hidden);
  /// Rows that the next run takes.
  [[nodiscard]] std::uint32_t rows() const noexcept {
    return static_cast<std::uint32_t>(hidden_.size() / blocks_->hidden());
  }
  /// Their hidden states.
  [[nodiscard]] std::span<const float> hidden() const noexcept { return hidden_; }
  /// The tokens that were told from behind the first of these rows on.
  [[nodiscard]] std::span<const token_id> known() const noexcept { return tokens_; }
  /// How many drafts the next run makes.
  void want(std::uint32_t drafts) noexcept;
  /// Blocks have seen nothing before this row, and shall not; rows that wait are given up.
  void begin_at(std::uint32_t row) noexcept;
  /// Rows before it have KV in every block.
  [[nodiscard]] std::uint32_t written() const noexcept { return written_; }

 private:
  friend mtp_blocks;

  void begin_run();
  [[nodiscard]] step_rows rows_of(std::uint32_t block) const noexcept;
  void take(std::uint32_t block, std::span<const float> logits, sampler& choose);
  void take_likeliest(std::uint32_t block, sampled_token first);
  void push(std::uint32_t block, token_id id);
  void end_run();
  [[nodiscard]] bool has_last_row() const noexcept {
    return rows() != 0 && open_ + rows() + 1 == told_;
  }
  void forget_before(std::uint32_t row);

  mtp_blocks* blocks_;
  sequence_type* kv_;
  const sampling_options* options_;
  const token_history* used_;
  std::vector<token_id> tokens_;  // those told from open_ + 1 on
  std::uint32_t told_ = 0;        // tokens
  std::uint32_t open_;            // the first row that is not final in every block
  std::uint32_t written_;
  std::vector<float> hidden_;  // [rows from open_ on, hidden]
  draft_chain chain_;
  std::uint32_t made_ = 0, wanted_ = 0;  // drafts: behind the tokens told, and of the next run
  // Of a run.
  std::vector<token_id> ids_;  // from open_ + 1 on, drafts included
  std::vector<block_table_view> tables_;
  token_history behind_;
};

static_assert(drafter<mtp_drafter>);

}  // namespace oriel::engine
