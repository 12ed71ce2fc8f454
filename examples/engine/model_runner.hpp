// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `model_runner`: the forward pass of the MiMo-V2 family on the host, made of Oriel's kernels over
/// Oriel's pools. It knows layers and rows; requests, scheduling and sampling are the engine's.
#pragma once

#include <oriel/core/contract.hpp>
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

#include <engine/aligned_bytes.hpp>
#include <engine/step_runner.hpp>
#include <engine/weights.hpp>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace oriel::engine {

/// Runs forward passes on the host, with its kernels over its pools. Thread safety: none; one
/// thread owns it, the executor's threads help. Memory: everything is taken in the constructor.
class model_runner final : public step_runner {
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

  std::span<const float> forward(std::span<const step_rows> batch) override;
  std::span<const float> forward_mtp(std::uint32_t head,
                                     std::span<const step_rows> batch,
                                     mtp_rows output = mtp_rows::with_logits) override;
  [[nodiscard]] hidden_rows hidden_of(std::size_t sequence) const noexcept override {
    return hidden_of_[sequence];
  }
  [[nodiscard]] hidden_rows mtp_hidden_of(std::size_t entry) const noexcept override;
  [[nodiscard]] bool is_cut_off(std::size_t sequence) const noexcept override {
    ORIEL_EXPECTS(sequence < is_cut_off_.size());
    return is_cut_off_[sequence];
  }
  [[nodiscard]] const runner_limits& limits() const noexcept override { return limits_; }
  [[nodiscard]] const runner_counts& counts() const noexcept override { return counts_; }
  /// Bytes of activations and scratch.
  [[nodiscard]] std::uint64_t workspace_bytes() const noexcept override;

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
