// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a node takes for its work, fitted to what Xiaomi publishes of MiMo-V2.5-Pro on nodes of 8
/// H200: docs/simulator.md has the table of errors.
#pragma once

#include <oriel/model/geometry.hpp>
#include <oriel/sched/rank_packer.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel::sim {

/// Tokens that one decode step yields: the token itself and, with speculative decoding, the
/// accepted drafts.
struct acceptance {
  std::vector<double> share = {1.0};  ///< of steps that yield i + 1 tokens; they sum to 1

  /// Each of `drafts` is accepted with that probability, if the one before it is.
  /// @pre rate in [0, 1] @throws std::bad_alloc
  [[nodiscard]] static acceptance of_drafts(double rate, std::uint32_t drafts);
  /// The mean. O(drafts).
  [[nodiscard]] double tokens_per_step() const noexcept;
  /// Of one step, for a uniform draw in [0, 1). O(drafts).
  [[nodiscard]] std::uint32_t tokens_of(double uniform) const noexcept;
};

/// Of one rank in a step: the chunks that it computes.
struct rank_work {
  double linear_s = 0.0;     ///< token_s * tokens
  double attention_s = 0.0;  ///< pair_s * tokens * (behind + tokens / 2)
};

/// A node computes as one: 8 GPUs, the model spread over them.
struct node_cost {
  double step_s = 0.005;  ///< t0, of each step of prefill; assumed, the published rates do not tell
  chunk_cost prefill = {};  ///< seconds of a token, and of a pair of tokens
  double mtp_share = 0.0;   ///< of prefill, more where the MTP blocks run in it: about 0.05

  /// Seconds of `tokens` behind `behind` others, of t0 nothing. O(1).
  [[nodiscard]] double chunk_s(double behind, double tokens) const noexcept {
    return (1.0 + mtp_share) * prefill.seconds(behind, tokens);
  }
  /// The same in steps of at most chunk_tokens, each with its t0; 0 tokens take nothing. O(1).
  /// @pre chunk_tokens > 0
  [[nodiscard]] double seconds(double behind, double tokens, double chunk_tokens) const noexcept;

  // The layer barrier: data-parallel attention, expert parallelism. Every layer ends with the
  // slowest rank's attention and projections; the experts' work is everybody's.
  double expert_share = 0.5;     ///< of the linear part, that is pooled
  double expert_balance = 0.85;  ///< mean rank / slowest rank of the experts' tokens, measured
  /// Seconds of a step of all ranks, of which each is 1 / ranks of the node:
  ///   t0 + max over ranks of ranks * (attention + (1 - expert_share) * linear)
  ///      + expert_share * sum of linear / expert_balance
  /// O(ranks). @pre !ranks.empty()
  [[nodiscard]] double barrier_s(std::span<const rank_work> ranks) const noexcept;
  /// What a rank does by itself, for rank_packer: seconds of that rank, which is 1 / ranks of the
  /// node.
  [[nodiscard]] chunk_cost own_cost(std::uint32_t ranks) const noexcept;

  // Decode: bytes read / bandwidth.
  double bytes_per_s = 8 * 4.8e12;    ///< of the node's memory
  double weight_bytes_dense = 0.0;    ///< read in every step
  double expert_bytes = 0.0;          ///< of all routed experts of all layers
  double experts = 1.0, top_k = 1.0;  ///< of a layer
  double kv_bytes_token = 0.0;        ///< full layers, of each resident token
  double kv_bytes_window = 0.0;       ///< window layers, of each sequence
  acceptance accepted = {};
  /// Seconds of one decode step: of the experts those are read that one of the sequences chooses,
  /// 1 - (1 - top_k / experts)^sequences of them. O(1).
  [[nodiscard]] double decode_step_s(double sequences, double resident_tokens) const noexcept;
};

/// One point of the published curve: whole prompts, nothing cached.
struct prefill_point {
  double tokens = 0.0;
  double published_tokens_per_s = 0.0;
  double predicted_tokens_per_s = 0.0;
  double error = 0.0;  ///< predicted / published - 1
  bool is_held_out = false;
};

struct calibration_options {
  double step_s = 0.005;
  std::uint32_t chunk_tokens = 16'384;
  double mtp_share = 0.0;
};

struct calibration {
  double linear_flops_token = 0.0;     ///< 84.63 G
  double attention_flops_pair = 0.0;   ///< 0.8192 M
  double linear_flops_per_s = 0.0;     ///< F_lin of a node
  double attention_flops_per_s = 0.0;  ///< F_att
  node_cost cost = {};
  std::vector<prefill_point> points;
  double worst_held_out = 0.0;  ///< |error|
  /// Rate of a chunk of 16 K behind 1 M of that of one behind nothing; the paper: about 0.12.
  double chunk_rate_at_1m = 0.0;
};

/// Prompt tokens and tokens/s of a node, as published: 4 K to 1 M, in tokens of 1,024.
[[nodiscard]] std::span<const prefill_point> published_prefill() noexcept;

/// Fits the two rates to the points that are not held out, by least squares of relative errors of
/// the seconds. Operations come from the model's geometry.
/// @pre step_s >= 0 and less than the seconds of the shortest prompt
[[nodiscard]] calibration calibrate(const model_geometry& model,
                                    const calibration_options& options = {});

/// The same of mimo-v2.5-pro, decode in fp8 as it is served.
[[nodiscard]] calibration calibrate_mimo_pro(const calibration_options& options = {});

}  // namespace oriel::sim
