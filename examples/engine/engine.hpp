// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `engine`: continuous batching over one model. Requests go in, events with text come out; one
/// call of `step` is one forward pass.
///
///     engine e{config, weights, tokens, options, threads};
///     e.submit(request);
///     while (!e.idle()) {
///       for (const event& happened : e.step()) { ... }
///     }
#pragma once

#include <oriel/core/executor.hpp>
#include <oriel/kv/dual_pool.hpp>
#include <oriel/metrics/counter.hpp>
#include <oriel/metrics/histogram.hpp>
#include <oriel/model/geometry.hpp>
#include <oriel/output/sampler.hpp>
#include <oriel/output/token_stream.hpp>
#include <oriel/request/request.hpp>

#include <engine/model_runner.hpp>
#include <engine/tokenizer/tokenizer.hpp>
#include <engine/weights.hpp>

#include <cstdint>
#include <deque>
#include <list>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace oriel::engine {

/// Sizes of an engine; each is a bound that is checked before memory is taken.
struct engine_options {
  std::uint32_t page_tokens = 16;       ///< tokens per KV page; a multiple of 16
  std::uint32_t chunk_tokens = 512;     ///< tokens computed in one step (the token budget)
  std::uint32_t sequences_max = 1;      ///< sequences running at once
  std::uint32_t context_tokens = 4096;  ///< prompt and output of one sequence
  /// Tokens that the full pool holds for all sequences; 0: sequences_max * context_tokens.
  std::uint64_t kv_tokens = 0;
  std::optional<dtype> kv = {};  ///< storage of K and V; the weights' dtype if not given
};

/// What one step brought about for one request.
struct event {
  request_id id;
  std::optional<token_id> token;               ///< the token that was chosen
  std::string text;                            ///< UTF-8 that is final now; may be empty
  finish_reason finish = finish_reason::none;  ///< not none: the last event of the request
};

/// KV memory that sequences hold, in whole pages on both sides.
struct kv_usage {
  std::uint64_t bytes = 0;          ///< in all pools
  std::uint64_t uniform_bytes = 0;  ///< in a cache where every layer keeps every row
};

/// What the engine has done so far.
struct engine_metrics {
  counter steps;             ///< forward passes
  counter prompt_tokens;     ///< rows computed for prompts
  counter output_tokens;     ///< tokens chosen
  counter requests_stopped;  ///< ended by a stop token or string
  counter requests_cut;      ///< ended by their number of tokens
  counter requests_cancelled;
  counter requests_failed;  ///< the logits held no number, or there was no memory
  histogram rows_per_step;
};

/// First come, first served: running sequences decode first, the rest of the token budget goes to
/// prompts in their order of arrival, in chunks. A sequence is admitted when its longest form fits
/// beside what the running ones were promised, so none is ever preempted.
///
/// Thread safety: none; one thread calls, the executor's threads help.
class engine {
 public:
  /// @throws engine::error when the options contradict each other or the model, std::bad_alloc
  engine(const model_geometry& model,
         const model_weights& weights,
         const tokenizer& tokens,
         const engine_options& options,
         executor_ref executor);

  /// Queues a request. O(queued + running).
  /// @returns errc::request_too_large, errc::invalid_argument: see check(request, limits); also
  /// when
  ///          a request with this id is being served
  status submit(request r);

  /// Ends a request, queued or running, and gives its last event; its pages are free at once.
  /// Nothing: there is no such request.
  std::optional<event> cancel(request_id id);

  /// One step: admit, pages, compute, emit. The events are valid until the next call.
  std::span<const event> step();

  /// Nothing queued, nothing running.
  [[nodiscard]] bool idle() const noexcept { return queued_.empty() && running_.empty(); }
  /// Held now.
  [[nodiscard]] kv_usage usage() const noexcept;
  /// Held in the last step, before the sequences that ended in it gave theirs back.
  [[nodiscard]] kv_usage step_usage() const noexcept { return step_usage_; }
  [[nodiscard]] const engine_metrics& metrics() const noexcept { return metrics_; }
  [[nodiscard]] const engine_options& options() const noexcept { return options_; }

 private:
  using pools = dual_pool<>;

  struct sequence {
    request asked;
    pools::sequence_type kv;
    token_stream stream;
    std::vector<token_id> tokens;      // prompt, then output
    std::uint32_t rows = 0;            // rows of the running step
    std::uint64_t promised_pages = 0;  // full pages of its longest form
  };

  void admit();
  void choose_rows();
  void compute();
  void emit();
  void take_token(sequence& s, sampled_token sampled);

  const model_geometry& model_;
  const tokenizer& tokenizer_;
  engine_options options_;
  dtype kv_;
  executor_ref executor_;
  pools pools_;
  model_runner runner_;
  sampler sampler_;
  request_limits limits_;

  std::deque<request> queued_;
  std::list<sequence> running_;  // in order of arrival
  std::uint64_t promised_pages_ = 0;
  std::vector<event> events_;
  engine_metrics metrics_;
  kv_usage step_usage_;

  // The running step, [sequences with rows]; kept to reuse their memory.
  std::vector<sequence*> batch_;
  std::vector<step_rows> rows_;
  std::vector<std::vector<block_table_view>> tables_;
  std::vector<sampler_row> sampled_rows_;
  std::vector<sampled_token> sampled_;
  std::span<const float> logits_;
};

}  // namespace oriel::engine
