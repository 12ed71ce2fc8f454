// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `model_runner`: the forward pass of the MiMo-V2 family on the host, made of Oriel's kernels over
/// Oriel's pools. It knows layers and rows; requests, scheduling and sampling are the engine's.
#pragma once

#include <oriel/core/executor.hpp>
#include <oriel/core/ids.hpp>
#include <oriel/kernels/attention.hpp>
#include <oriel/kernels/embed.hpp>
#include <oriel/kernels/gemm.hpp>
#include <oriel/kernels/kv_append.hpp>
#include <oriel/kernels/moe_gemm.hpp>
#include <oriel/kernels/moe_route.hpp>
#include <oriel/kernels/paged_kv.hpp>
#include <oriel/kernels/rms_norm.hpp>
#include <oriel/kernels/rope.hpp>
#include <oriel/kernels/swiglu.hpp>
#include <oriel/kv/block_table.hpp>
#include <oriel/kv/dual_pool.hpp>
#include <oriel/model/geometry.hpp>
#include <oriel/prefix/heal.hpp>
#include <oriel/tier/layer_gate.hpp>

#include <engine/aligned_bytes.hpp>
#include <engine/weights.hpp>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace oriel::engine {

/// The rows of one sequence in one forward pass: token positions
/// [first_position, first_position + tokens.size()).
struct step_rows {
  std::span<const token_id> tokens;
  std::uint32_t first_position = 0;
  std::span<const block_table_view> tables;  ///< [pools]: by pool_id
  std::uint32_t logit_rows = 0;              ///< the last so many rows get logits
  /// The heal that these rows belong to, while first_position < heal->length; null for other rows,
  /// ignored once the heal is done. Rows below a layer's frontier are not computed there.
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

/// Runs forward passes. Thread safety: none; one thread owns it, the executor's threads help.
/// Memory: everything is taken in the constructor.
class model_runner {
 public:
  /// @param layers_kv  one for each layer of the model, then one for each MTP layer in use
  /// @throws engine::error when a kernel does not fit the geometry, std::bad_alloc
  model_runner(const model_geometry& model,
               const model_weights& weights,
               std::span<const pool_layer> layers_kv,
               std::uint32_t page_size,
               dtype kv,
               const runner_limits& limits,
               executor_ref executor);

  /// Computes the rows of `batch`, writes their KV, and returns the logits of the rows that asked
  /// for them: [sum of logit_rows, vocabulary], in the order of `batch`. Valid until the next call.
  ///
  /// A healing sequence (prefix/heal.hpp) runs in any chunks from heal->first_row() on. In the
  /// layers below its frontier a row makes K and V at most; full layers read what is cached before
  /// heal->length and write nothing there. Rows of other sequences in the batch notice nothing;
  /// they are best placed before healing ones, whose rows make room as they end.
  ///
  /// A sequence whose gate says no is cut off: none of its rows runs on, its logits are zeros, and
  /// nothing of the step may be committed for it. The others have the bits they always have.
  /// @pre rows, logit rows and sequences are within the limits; every page of the rows is reserved;
  ///      rows with logits do not lie before heal->length
  std::span<const float> forward(std::span<const step_rows> batch);

  /// Runs MTP block `head`: the tokens of row p are those at position p + 1 + head, and its
  /// `hidden` is the residual stream before the final norm, of the main model at p (the paper's
  /// reading), or of the block before (DeepSeek's): docs/model.md#multi-token-prediction. Writes
  /// the block's KV at the same positions and returns logits as `forward` does: row p predicts the
  /// token at p + 2 + head. Rows without logits are worth their KV alone, unless another block
  /// wants their output. A sequence may have several entries, for rows whose hidden states lie
  /// apart.
  /// @pre head < the MTP blocks that layers_kv described; no heal, no gate
  std::span<const float> forward_mtp(std::uint32_t head,
                                     std::span<const step_rows> batch,
                                     mtp_rows output = mtp_rows::with_logits);

  /// Of a sequence of the last `forward`: valid until the next one. @pre sequence < its batch
  [[nodiscard]] hidden_rows hidden_of(std::size_t sequence) const noexcept {
    return hidden_of_[sequence];
  }
  /// Of an entry of the last `forward_mtp`, rows that ran to their end: valid until the next one.
  [[nodiscard]] hidden_rows mtp_hidden_of(std::size_t entry) const noexcept;

  /// The gate of this sequence of the last batch said no. @pre sequence < its batch
  [[nodiscard]] bool is_cut_off(std::size_t sequence) const noexcept {
    return is_cut_off_[sequence];
  }
  [[nodiscard]] const runner_limits& limits() const noexcept { return limits_; }
  [[nodiscard]] const runner_counts& counts() const noexcept { return counts_; }
  /// Bytes of activations and scratch.
  [[nodiscard]] std::uint64_t workspace_bytes() const noexcept;

 private:
  struct attention_plans {
    host::gemm_plan qkv, o;
    std::size_t rope;  // index in rope_
    host::attention_plan attention;
  };
  struct rope_kind {
    host::rope_plan plan;
    std::vector<float> table;  // of the running batch's positions
  };
  struct ffn_plans {
    host::gemm_plan gate_up, down;  // dense
    host::swiglu_plan swiglu;
    host::gemm_plan router;  // MoE
    host::moe_route_plan route;
    host::moe_gemm_plan experts;
    std::vector<const std::byte*> gate_up_of, down_of;  // [experts] packed
  };
  struct layer_plans {
    attention_plans attention;
    ffn_plans ffn;
  };

  void plan_layer(const layer_geometry& layer, const layer_weights& weights);
  std::size_t rope_index(const attention_geometry& a);
  void take_memory();
  void start_batch(std::span<const step_rows> batch);
  void note_hidden_rows();
  void run_layer(std::size_t index, const layer_weights& weights, float* x);
  void append_kv(std::size_t index, const float* k, const float* v, std::size_t stride);
  template <class Kept>
  void keep_rows(float* x, float* qkv, std::size_t qkv_width, Kept&& kept_of);
  void drop_rows_below_frontier(std::size_t layer, float* x, float* qkv, std::size_t qkv_width);
  void drop_rows_without_kv(std::size_t layer, float* x, float* qkv, std::size_t qkv_width);
  void drop_rows_without_logits(float* x, float* qkv, std::size_t qkv_width);
  void norm(const std::vector<float>& weight,
            const float* x,
            float* out,
            std::size_t out_stride,
            std::uint32_t rows);
  void run_attention_block(std::size_t index, const layer_weights& weights, float* x);
  void run_dense_ffn(const ffn_plans& plans, const dense_ffn_weights& weights, float* x);
  void run_moe_ffn(const ffn_plans& plans, const moe_weights& weights, float* x);
  void plan_ffn(const layer_geometry& layer, const layer_weights& weights, ffn_plans& plans);
  std::span<const float> run_head(std::span<const step_rows> batch,
                                  const float* x,
                                  const std::vector<float>& final_norm);
  void gemm(const host::gemm_plan& plan,
            const packed_matrix& weights,
            const float* x,
            float* out,
            std::uint32_t rows,
            bool accumulate);

  const model_geometry& model_;
  const model_weights& weights_;
  std::vector<pool_layer> layers_kv_;
  std::uint32_t page_size_;
  dtype kv_;
  runner_limits limits_;
  executor_ref executor_;

  std::vector<layer_geometry> layers_;  // the model's, then the MTP blocks in use
  std::vector<layer_plans> plans_;      // [layers_]
  std::vector<rope_kind> rope_;
  std::vector<host::gemm_plan> eh_proj_;  // [MTP blocks in use]
  host::embed_plan embed_{};
  host::rms_norm_plan norm_{};
  host::gemm_plan lm_head_{};

  // Activations, f32: hidden states (the residual stream), normed rows, and one projection each.
  aligned_bytes hidden_, normed_, qkv_, heads_, gate_up_, ffn_out_, router_, logits_, workspace_;
  aligned_bytes mtp_hidden_, mtp_input_;  // [rows, hidden], [rows, 2 * hidden]
  std::vector<std::uint32_t> expert_ids_;
  std::vector<float> expert_weights_;
  std::vector<std::vector<paged_sequence>> tables_;  // [table][sequence] of the running batch
  std::vector<token_id> tokens_;
  std::vector<std::uint32_t> positions_;
  std::vector<const heal_plan*> heals_;  // [sequence] of the running batch; null = does not heal
  bool healing_ = false;                 // one of them is not null
  std::vector<layer_gate_ref> gates_;    // [sequence] of the running batch
  std::vector<bool> is_cut_off_;         // [sequence]: its gate said no
  std::vector<std::uint32_t> outputs_;   // [entry] of an MTP pass: the last so many rows are wanted
  std::vector<hidden_rows> hidden_of_;   // [sequence] of the last main pass
  bool is_gated_ = false;                // one of them has a gate
  std::uint32_t rows_ = 0;               // in the layer that runs
  runner_counts counts_;
};

}  // namespace oriel::engine
