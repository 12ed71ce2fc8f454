// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What an engine is built for: sizes, and what it does with prefixes that it has seen before.
#pragma once

#include <oriel/core/dtype.hpp>
#include <oriel/core/ids.hpp>
#include <oriel/model/cost.hpp>
#include <oriel/sched/order.hpp>
#include <oriel/sched/wait_guard.hpp>
#include <oriel/tier/tier.hpp>

#include <engine/step_runner.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace oriel::engine {

/// Microseconds of a clock that never goes back: the default of engine_options::now_us.
[[nodiscard]] std::uint64_t steady_now_us();

/// Where the cache keeps windows besides the tail of each branch; what any of them keeps is kept.
/// By default: where prompts part. What parts elsewhere heals.
struct retention_choice {
  std::uint32_t every_tokens = 0;       ///< at each multiple; 0: not
  bool branch_points = true;            ///< where a prompt left another one
  std::uint32_t dense_head_tokens = 0;  ///< everywhere in the first so many tokens
};

/// Is shown the logits that each token is chosen from, as the model has them. For tests.
class logits_observer {
 public:
  /// @param position  of the token that will be chosen
  /// @param logits    [vocabulary], until the call returns
  virtual void on_logits(request_id id, std::uint32_t position, std::span<const float> logits) = 0;

 protected:
  ~logits_observer() = default;
};

/// Who guesses the next tokens of a sequence that decodes.
enum class drafter_kind : std::uint8_t {
  none,
  lookup,  ///< what followed the last time that the sequence ended like this (prompt_lookup)
  mtp      ///< the model's MTP blocks, one for each draft
};

/// What an MTP block is told of the model besides tokens.
enum class mtp_chain : std::uint8_t {
  main_hidden,     ///< the main model's residual stream, for each block
  previous_hidden  ///< that of the block before, for all but the first
};

/// How drafts of requests with a temperature are made and judged. Greedy requests do not notice.
enum class accept_kind : std::uint8_t {
  /// The likeliest tokens are drafted, and stay if they are what plain decoding draws: answers are
  /// plain decoding's, token for token.
  match,
  /// Drafts are drawn from what the blocks propose, and judged by rejection sampling: more of them
  /// stay, answers are distributed as plain decoding's, but other ones. Lookups draw nothing, and
  /// are matched.
  rejection
};

/// May change drafts before they are verified. For tests, and to measure at a given acceptance.
class draft_editor {
 public:
  /// @param known   the sequence's tokens
  /// @param drafts  what may follow; may be overwritten, and cut, but not made longer
  virtual void on_drafts(request_id id,
                         std::span<const token_id> known,
                         std::vector<token_id>& drafts) = 0;

 protected:
  ~draft_editor() = default;
};

/// Several tokens a step: some are drafted, one forward pass computes them all, and what it would
/// not have chosen itself is rolled back. Answers do not depend on any of this, but for `accept`.
struct speculation_options {
  drafter_kind drafter = drafter_kind::none;
  /// Of one step; mtp: at most the model's MTP blocks; lookup: at most draft_tokens_max - 1.
  std::uint32_t drafts_max = 3;
  bool is_adaptive = false;  ///< drafts as many as pays by what was measured, none where none does
  accept_kind accept = accept_kind::match;
  mtp_chain chain = mtp_chain::main_hidden;
  /// MTP blocks see prompts as well. False only to measure what that is worth.
  bool mtp_in_prefill = true;
  draft_editor* editor = nullptr;  ///< lives as long as the engine; null: nobody changes drafts

  [[nodiscard]] bool uses_mtp() const noexcept { return drafter == drafter_kind::mtp; }
  /// Rows beside the first one that a sequence may have in a decode step.
  [[nodiscard]] std::uint32_t rows_max() const noexcept {
    return drafter == drafter_kind::none ? 0 : drafts_max;
  }
};

/// Sizes of an engine; each is a bound that is checked before memory is taken.
struct engine_options {
  std::uint32_t page_tokens = 16;       ///< tokens per KV page; a multiple of 16
  std::uint32_t chunk_tokens = 512;     ///< tokens computed in one step (the token budget)
  std::uint32_t sequences_max = 1;      ///< sequences running at once
  std::uint32_t context_tokens = 4096;  ///< prompt and output of one sequence
  /// Tokens that the full pool holds for all sequences; 0: sequences_max * context_tokens.
  std::uint64_t kv_tokens = 0;
  std::optional<dtype> kv = {};  ///< storage of K and V; the weights' dtype if not given

  /// Requests share the KV of common prefixes. Answers do not depend on it, bit for bit.
  bool prefix_cache = true;
  bool heal = true;  ///< repair lost windows where that is less work than a recompute
  retention_choice retain = {};
  /// Tokens of room in the full pool beside kv_tokens, for prefixes that nobody uses just now; none
  /// given: as many as kv_tokens. What the running sequences leave free is used as well.
  std::optional<std::uint64_t> cache_tokens = {};
  /// Boundaries whose windows have room beside those of running sequences; none given: one in 512
  /// cache_tokens, but sequences_max at least.
  std::optional<std::uint32_t> cache_windows = {};
  /// Tenants that have a share of the cache each; the last share is that of all further ones.
  std::uint32_t tenant_shares = 1;
  /// What heals and recomputes are weighed with. The default assumes that products with weights and
  /// attention run at one rate: then only the counts of operations matter.
  compute_rates rates = {1.0, 1.0};
  /// Names config and weights, see checkpoint_digest: part of every key of the cache.
  std::string model_digest = {};
  /// How pages move between the pools and the tiers that the engine is given; its clock is ours.
  tier_limits tier_moves = {};

  std::uint64_t (*now_us)() = steady_now_us;  ///< the only clock that the engine and its cache know
  order_kind order = order_kind::least_seconds;  ///< of service among prompts
  double prefill_share = 0.25;  ///< of a step's tokens, for prompts, however many sequences decode
  guard_options guard = {};     ///< the bound on waiting, whatever the order
  speculation_options speculation = {};
  logits_observer* observer = nullptr;  ///< lives as long as the engine; null: nobody looks

  /// A device multiplies by one algorithm a matrix in all steps, so that what is cached, drafted or
  /// recomputed has the bits of a cold run; false: by the best for each number of rows. Not given:
  /// true where prefixes are reused or tokens drafted, for there answers would depend on it
  /// (docs/device.md). The host has but one order.
  std::optional<bool> order_fixed = {};

  /// Who computes the steps; empty: a model_runner, on the host. Another one has the KV in memory
  /// of its own, by the page ids of pools that only count; tiers below it need its page_mover.
  std::function<std::unique_ptr<step_runner>(const runner_setup&)> make_runner = {};
};

/// What the runner of such an engine has to serve. Drafts come on top of the token budget: a
/// prompt's chunk does not shrink for them. A pass of an MTP block also has the rows that waited.
[[nodiscard]] runner_limits limits_of(const engine_options& options, const model_geometry& model);

/// engine_options::order_fixed, decided: without reuse and drafts every token is computed once, and
/// nothing is held against another run.
[[nodiscard]] bool is_order_fixed(const engine_options& options) noexcept;

}  // namespace oriel::engine
