// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `step_runner`: who computes the steps of a model. It knows layers and rows; requests, scheduling
/// and what becomes of tokens are the engine's. `model_runner` computes on the host,
/// `program_runner` has a device do it.
#pragma once

#include <oriel/core/ids.hpp>
#include <oriel/kernels/sample.hpp>
#include <oriel/kv/block_table.hpp>
#include <oriel/model/geometry.hpp>
#include <oriel/prefix/heal.hpp>
#include <oriel/request/sampling_options.hpp>
#include <oriel/tier/layer_gate.hpp>
#include <oriel/tier/page_mover.hpp>

#include <engine/host_pools.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace oriel::engine {

/// The rows of one sequence in one forward pass: token positions
/// [first_position, first_position + tokens.size()).
struct step_rows {
  std::span<const token_id> tokens;
  std::uint32_t first_position = 0;
  std::span<const block_table_view> tables;  ///< [pools]: by pool_id
  std::uint32_t logit_rows = 0;              ///< the last so many rows get logits
  /// The heal that these rows belong to, while first_position < heal->length; null for other rows,
  /// ignored once the heal is done. What comes of rows below a layer's frontier there is nothing.
  const heal_plan* heal = nullptr;
  /// Asked in each layer before KV in front of these rows is read, when others still bring it;
  /// layers as in `layers_kv`. What needs no cached KV (norm, projections, rope) is done by then.
  layer_gate_ref gate = {};
  /// For forward_mtp, [tokens.size(), hidden]: what each row is told of the model (see there).
  const float* hidden = nullptr;
  /// For forward_mtp: keys before this position were never written, and are not read.
  std::uint32_t first_key = 0;
};

/// The residual stream of a sequence's rows, of those that a pass ran through all its layers: of a
/// heal none before its end.
struct hidden_rows {
  std::uint32_t first_position = 0;
  std::span<const float> values = {};  ///< [rows, hidden]
};

/// Which rows a pass of an MTP block takes to its end. The others leave their KV.
enum class mtp_rows : std::uint8_t { with_logits, all };

/// Rows that a runner computed, one for each row and layer, since it was made. K and V alone, as
/// the window layers of a heal make them in front of their rows, do not count.
struct runner_counts {
  std::uint64_t layer_rows = 0;
  std::uint64_t heal_layer_rows = 0;  ///< those before `length` of a heal, among layer_rows
};

/// Sizes that a runner is built for. Memory follows from them: about rows_max * (hidden + widest
/// projection + 2 * intermediate) * 4 bytes, and logit_rows_max * vocabulary * 4.
struct runner_limits {
  std::uint32_t rows_max = 512;      ///< rows (tokens) of one forward pass
  std::uint32_t logit_rows_max = 8;  ///< rows with logits in one pass
  std::uint32_t sequences_max = 8;   ///< sequences in one pass, or parts of them
  std::uint32_t context_tokens = 0;  ///< positions that will be used
};

/// A sequence that decodes: its rows are the last known token and the drafts behind it, and each of
/// them has logits.
struct decoding_rows {
  step_rows rows;
  const sampling_options* sampling = nullptr;  ///< without penalties, biases and log-probabilities
  // For MTP blocks behind it: the rows in front of `rows` that are open in some block, at most one
  // less than there are blocks.
  std::span<const float> carried = {};   ///< [open rows, hidden] their hidden states
  std::span<const token_id> known = {};  ///< [open rows] the token behind each of them
  std::uint32_t first_draft_key = 0;     ///< as first_key, in the blocks
};

/// What came of a decoding step. Valid until the next call of the runner.
struct decoded_rows {
  std::span<const sampled_token> sampled;  ///< for each row, in the order of the batch
  /// [blocks, drafted_stride]: what each block drafted for each sequence; empty: no block ran.
  std::span<const sampled_token> drafted = {};
  std::size_t drafted_stride = 0;
};

/// What an engine tells whoever makes its runner.
struct runner_setup {
  const model_geometry& model;
  const host_pools& pools;  ///< whose pages are whose, and how they are laid out
  std::uint32_t page_size = 0;
  dtype kv = dtype::bf16;
  runner_limits limits;
  std::uint32_t drafts_max = 0;  ///< of one sequence and step
  bool chains_hidden = false;    ///< MTP blocks are told the output of the one before
  bool order_fixed = false;      ///< engine_options::order_fixed, decided
  std::uint32_t tiers = 0;       ///< below the pools: then a runner has a mover
};

/// Thread safety: none; one thread owns it.
class step_runner {
 public:
  virtual ~step_runner() = default;

  /// Computes the rows of `batch`, writes their KV, and returns the logits of the rows that asked
  /// for them: [sum of logit_rows, vocabulary], in the order of `batch`. Valid until the next call.
  ///
  /// A healing sequence (prefix/heal.hpp) runs in any chunks from heal->first_row() on. Full layers
  /// read what is cached before heal->length and write nothing there. Rows of other sequences in
  /// the batch notice nothing; they are best placed before healing ones, whose rows make room as
  /// they end.
  ///
  /// A sequence whose gate says no is cut off: none of its rows runs on, its logits are zeros, and
  /// nothing of the step may be committed for it. The others have the bits they always have.
  /// @pre rows, logit rows and sequences are within the limits; every page of the rows is reserved;
  ///      rows with logits do not lie before heal->length
  virtual std::span<const float> forward(std::span<const step_rows> batch) = 0;

  /// Runs MTP block `head`: the tokens of row p are those at position p + 1 + head, and its
  /// `hidden` is the residual stream before the final norm, of the main model at p (the paper's
  /// reading), or of the block before (DeepSeek's): docs/model.md#multi-token-prediction. Writes
  /// the block's KV at the same positions and returns logits as `forward` does: row p predicts the
  /// token at p + 2 + head. Rows without logits are worth their KV alone, unless another block
  /// wants their output. A sequence may have several entries, for rows whose hidden states lie
  /// apart.
  /// @pre head < the MTP blocks that layers_kv described; no heal, no gate
  virtual std::span<const float> forward_mtp(std::uint32_t head,
                                             std::span<const step_rows> batch,
                                             mtp_rows output = mtp_rows::with_logits) = 0;

  /// Of a sequence of the last `forward`: valid until the next one. @pre sequence < its batch
  [[nodiscard]] virtual hidden_rows hidden_of(std::size_t sequence) const noexcept = 0;
  /// Of an entry of the last `forward_mtp`, rows that ran to their end: valid until the next one.
  [[nodiscard]] virtual hidden_rows mtp_hidden_of(std::size_t entry) const noexcept = 0;

  /// The gate of this sequence of the last batch said no. @pre sequence < its batch
  [[nodiscard]] virtual bool is_cut_off(std::size_t sequence) const noexcept = 0;
  [[nodiscard]] virtual const runner_limits& limits() const noexcept = 0;
  [[nodiscard]] virtual const runner_counts& counts() const noexcept = 0;
  /// Names the arithmetic where it is not the weights' on the host: KV of one is nothing to the
  /// other. Lives as long as the runner.
  [[nodiscard]] virtual const char* arithmetic() const noexcept { return ""; }
  /// Bytes of activations and scratch.
  [[nodiscard]] virtual std::uint64_t workspace_bytes() const noexcept = 0;

  /// Moves pages between the tiers and KV that the host cannot touch. Null: the host's pools have
  /// the bytes, or there are no tiers, or this runner has no way.
  [[nodiscard]] virtual page_mover* mover() noexcept { return nullptr; }

  /// Computes a step of decoding sequences in one piece: forward, sampling, verification by match,
  /// and where `drafts_next` every MTP block over what was accepted, as forward_mtp would behind
  /// it. `hidden_of` tells of its rows. Nothing: this runner, or this batch, has no such step.
  virtual std::optional<decoded_rows> decode(std::span<const decoding_rows> batch,
                                             bool drafts_next);
  /// False: `decode` never gives anything, so nobody needs to ask it.
  [[nodiscard]] virtual bool has_decode() const noexcept { return false; }

 protected:
  step_runner() = default;
  step_runner(const step_runner&) = default;
  step_runner& operator=(const step_runner&) = default;
};

inline std::optional<decoded_rows> step_runner::decode(std::span<const decoding_rows>, bool) {
  return std::nullopt;
}

}  // namespace oriel::engine
