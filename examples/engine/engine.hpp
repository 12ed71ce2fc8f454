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
#include <oriel/output/token_history.hpp>
#include <oriel/output/token_stream.hpp>
#include <oriel/request/request.hpp>
#include <oriel/sched/step_scheduler.hpp>
#include <oriel/sched/wait_guard.hpp>
#include <oriel/spec/draft_length.hpp>
#include <oriel/spec/prompt_lookup.hpp>
#include <oriel/spec/verifier.hpp>

#include <engine/engine_options.hpp>
#include <engine/mtp_drafter.hpp>
#include <engine/prefix_reuse.hpp>
#include <engine/step_runner.hpp>
#include <engine/tokenizer/tokenizer.hpp>
#include <engine/weights.hpp>

#include <array>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace oriel::engine {

/// How a request's drafts fared, by their place in the chain. Those behind the end of an answer
/// count nowhere.
struct draft_counts {
  std::uint32_t decode_steps = 0;   ///< that it had
  std::uint32_t decode_tokens = 0;  ///< that they gave
  std::array<std::uint32_t, draft_tokens_max> drafted = {};
  std::array<std::uint32_t, draft_tokens_max> accepted = {};  ///< and given out

  friend bool operator==(const draft_counts&, const draft_counts&) = default;
};

/// Where the KV of a request's prompt came from. Once its first token is out,
/// cached_tokens + computed_tokens is the length of the prompt, whatever happened on the way: a
/// prompt token counts once, when it first has KV. What is run again after a preemption, the rows
/// of a heal, and the tokens of the answer count nowhere.
struct request_usage {
  std::uint32_t cached_tokens = 0;  ///< prompt tokens whose KV other requests had computed
  /// Of them, those behind the last boundary whose windows were cached: a heal repaired that.
  std::uint32_t healed_tokens = 0;
  std::uint32_t computed_tokens = 0;  ///< prompt tokens that every layer computed
  /// Of cached_tokens, those that lower tiers brought, by oriel::tier_role; the device had the
  /// rest.
  std::array<std::uint32_t, tier_roles> fetched_tokens = {};

  friend bool operator==(const request_usage&, const request_usage&) = default;
};

/// What one step brought about for one request.
struct event {
  request_id id;
  std::optional<token_id> token;                ///< the token that was chosen
  std::string text;                             ///< UTF-8 that is final now; may be empty
  finish_reason finish = finish_reason::none;   ///< not none: the last event of the request
  request_usage usage = {};                     ///< until now
  draft_counts drafts = {};                     ///< until now
  std::optional<token_logprobs> logprobs = {};  ///< of the token, if the request asked for them
};

/// KV memory, in whole pages.
struct kv_usage {
  /// What the running sequences hold; a page that several of them share counts for each.
  std::uint64_t bytes = 0;
  /// The same in a cache where every layer keeps every row.
  std::uint64_t uniform_bytes = 0;
  std::uint64_t pool_bytes = 0;  ///< what anybody holds, cached prefixes included
};

/// What the engine has done so far.
struct engine_metrics {
  counter steps;            ///< forward passes
  counter prompt_tokens;    ///< prompt tokens computed: sum of request_usage::computed_tokens
  counter cached_tokens;    ///< sum of request_usage::cached_tokens
  counter healed_tokens;    ///< sum of request_usage::healed_tokens
  counter heal_rows;        ///< rows run again, in some layers, to heal cached prefixes
  counter output_tokens;    ///< tokens chosen
  counter drafted_tokens;   ///< verified, but for those behind the end of an answer
  counter accepted_tokens;  ///< of them, given out
  /// Rows of windows that MTP blocks did without when a request started on a cached prefix:
  /// evicted, never written, or before a heal's end. They draft worse until the window has passed.
  counter missing_mtp_rows;
  counter requests_stopped;  ///< ended by a stop token or string
  counter requests_cut;      ///< ended by their number of tokens
  counter requests_cancelled;
  counter requests_failed;     ///< the logits held no number, or there was no memory
  counter requests_preempted;  ///< times that `preempt` took one back
  counter requests_waited;     ///< times that one waited for a twin to compute its prefix
  counter requests_joined;     ///< started while their prefix still came from lower tiers
  counter requests_cut_off;    ///< of them, those whose prefix did not come: started again
  counter guard_demands;       ///< plans in which the oldest came before the order
  counter stall_us;            ///< computing waited for pages that came from lower tiers
  histogram rows_per_step;
};

/// Running sequences decode first, the rest of the token budget goes to prompts in the order of
/// service (options.order, by default the least estimated seconds), in chunks; nobody waits longer
/// than the guard says (sched/wait_guard.hpp). A sequence is admitted when its longest form fits
/// beside what the running ones were promised, so none is preempted for want of pages, only for
/// somebody who waited too long. A page that several sequences share is promised to each of them:
/// sharing saves compute, not promised room.
///
/// Prefixes are shared inside a tenant. A request whose prefix a running sequence is just computing
/// waits for it, others may pass; a sequence publishes its pages after each chunk of its prompt and
/// when it ends.
///
/// Thread safety: none; one thread calls, the executor's threads help.
class engine {
 public:
  using pools = prefix_reuse::pools_type;

  /// @param tiers  below the pools, faster first: asked for prefixes and given copies. Their clock
  ///               is that of options.now_us. Only with options.prefix_cache
  /// @throws engine::error when the options contradict each other or the model, std::bad_alloc
  engine(const model_geometry& model,
         const model_weights& weights,
         const tokenizer& tokens,
         const engine_options& options,
         executor_ref executor,
         std::vector<tier> tiers = {});

  /// Queues a request. O(queued + running).
  /// @returns errc::request_too_large, errc::invalid_argument: see check(request, limits), or a
  ///          request with this id is being served
  status submit(request r);

  /// Ends a request, queued or running, and gives its last event; nobody but the prefix cache holds
  /// its pages any more. Nothing: there is no such request.
  std::optional<event> cancel(request_id id);

  /// Takes the pages from a running request and puts it back in front of the queue, with the tokens
  /// that it has. It goes on from what is cached then; its answer stays the same. False: no request
  /// with this id is running.
  bool preempt(request_id id);

  /// Forgets what the cache and its tiers keep of a tenant, or of one of its sessions, for good: no
  /// restart brings it back. Of a session the device forgets what its tenant shares as well. Blocks
  /// until the tiers have done it.
  /// @param until_us  of options().now_us: waits no longer
  /// @returns errc::invalid_argument: a request of the tenant, or of the session, is being served;
  ///          errc::io_failure: a tier failed or was too slow, and may have it yet: ask again
  status forget(std::string_view tenant,
                std::optional<std::uint64_t> session = {},
                std::uint64_t until_us = no_deadline);

  /// Blocks until what the tiers have acknowledged survives a loss of power, where a tier can say
  /// so: a Redis server cannot.
  /// @returns errc::io_failure as above
  status sync_tiers(std::uint64_t until_us = no_deadline);

  /// One step: admit, pages, compute, emit, publish. The events are valid until the next call.
  std::span<const event> step();

  /// Nothing queued, nothing running.
  [[nodiscard]] bool idle() const noexcept { return queued_.empty() && running_.empty(); }
  [[nodiscard]] std::size_t running() const noexcept { return running_.size(); }
  /// Held now.
  [[nodiscard]] kv_usage usage() const noexcept;
  /// Held in the last step, before the sequences that ended in it gave theirs back.
  [[nodiscard]] kv_usage step_usage() const noexcept { return step_usage_; }
  [[nodiscard]] const engine_metrics& metrics() const noexcept { return metrics_; }
  [[nodiscard]] const engine_options& options() const noexcept { return options_; }
  /// Rows that were computed, one for each layer.
  [[nodiscard]] const runner_counts& rows_computed() const noexcept { return runner_->counts(); }
  [[nodiscard]] const pools& kv_pools() const noexcept { return pools_; }
  /// Calls visit(pool_id, page_id) for each page that a running sequence holds, a shared one once
  /// for each holder. For accounts and tests. O(pages held).
  template <class Visit>
  void visit_pages(Visit&& visit) const;
  /// The prefix cache; null when it is off. Who evicts or clears does it between two steps.
  [[nodiscard]] prefix_reuse* cache() noexcept { return cache_ ? &*cache_ : nullptr; }

 private:
  /// A sequence that computes a prefix of ours, until it has `tokens` of it.
  struct twin_wait {
    request_id twin;
    std::uint32_t tokens = 0;
  };

  /// A request and its answer so far: what outlives a preemption.
  struct work {
    request asked;
    cache_namespace space;
    token_stream stream;
    std::vector<token_id> tokens;  // prompt, then output
    request_usage usage = {};
    draft_counts drafts = {};
    std::optional<twin_wait> wait = {};
    tier_names names = {};
    std::optional<std::uint32_t> fetch = {};  // its number, while pages come from lower tiers
    bool was_fetched = false;                 // since it was queued
    std::uint64_t whole_until_us = 0;  // not 0: it asks again, for whole pages (fetch_request)
    std::array<std::uint32_t, tier_roles> fetched = {};  // tokens, until it starts
    service_facts facts = {};                     // of its prompt, when it was looked at last
    std::uint64_t next_page = 0;                  // see queued_request
    std::optional<wait_guard::place> place = {};  // until its prompt is computed
    std::optional<token_history> history = {};    // of a request with penalties
  };

  struct sequence {
    sequence(work&& asked,
             prefix_reuse::lease&& locked,
             std::optional<heal_plan>&& repair,
             pools::sequence_type&& pages,
             std::uint64_t promised,
             std::uint64_t now_us) noexcept
        : job(std::move(asked)),
          lease(std::move(locked)),
          heal(std::move(repair)),
          kv(std::move(pages)),
          known_tokens(static_cast<std::uint32_t>(job.tokens.size())),
          promised_pages(promised),
          started_us(now_us) {}

    work job;
    prefix_reuse::lease lease;
    std::optional<heal_plan> heal;
    pools::sequence_type kv;
    std::uint32_t known_tokens;    // when it was admitted: from there on it decodes
    std::uint32_t rows = 0;        // rows of the running step
    std::uint32_t idle_steps = 0;  // since it had rows
    // Behind its last token, for the next step; its drafter has what they were drawn from.
    std::vector<drafted_token> drafts = {};
    std::optional<prompt_lookup> lookup = {};
    std::optional<mtp_drafter> mtp = {};
    acceptance_curve curve = {};
    std::optional<prefix_reuse::tiers_type::gate> gate = {};  // its prefix still comes, by layers
    bool has_left = false;                                    // for the queue again
    std::uint64_t promised_pages;                             // full pages of its longest form
    std::uint64_t started_us;
  };

  status wait_for_order(std::uint32_t order, std::uint64_t until_us);
  void admit();
  void admit(std::list<work>::iterator next);
  void join_fetches();
  void choose_candidates();
  step_state look(std::span<const std::list<work>::iterator> candidates);
  [[nodiscard]] running_sequence facts_of(const sequence& s, bool may_make_room) const noexcept;
  void estimate(work& job, const reuse_decision& decision);
  void leave_guard(work& job) noexcept;
  void count_service(sequence& s);
  bool waits_for_twin(work& job, std::uint32_t reusable) const;
  [[nodiscard]] bool is_computing(const twin_wait& wait) const;
  [[nodiscard]] static bool is_computing(const sequence& s, const twin_wait& wait);
  void end_fetches();
  [[nodiscard]] std::uint32_t late_pages() const noexcept;
  bool must_wait_for_fetch(work& job, const reuse_decision& decision);
  bool start(work& job, const reuse_decision& decision);
  [[nodiscard]] bool should_join(const work& job);
  bool start_joined(work& job);
  void end_join(sequence& s);
  void abandon_fetch(sequence& s, work& job) noexcept;
  void count_start(sequence& s, std::uint32_t length);
  void cut_off(sequence& s);
  void learn_rate(std::uint64_t took_us);
  void wait_for_tiers();
  void choose_rows();
  void compute();
  bool list_decoding();
  void add_to_batch(sequence& s);
  void make_room(const sequence& s, std::uint32_t tokens);
  void emit();
  void take_rows(std::size_t member, std::size_t row);
  void take_chain(sequence& s, std::size_t row);
  [[nodiscard]] verified judge(const sequence& s, std::size_t row, std::span<sampled_token> chosen);
  [[nodiscard]] bool has_drawn(const sequence& s) const noexcept;
  void count_drafts(sequence& s, std::uint32_t tokens, std::uint32_t accepted);
  void measure_decode();
  void take_token(sequence& s, sampled_token sampled, std::span<const float> logits);
  void choose_tokens();
  void list_rows(std::size_t member);
  void count_prompt(work& job, std::uint32_t end, std::uint32_t request_usage::*from);
  void end_step(sequence& s);
  void begin_drafts(sequence& s) noexcept;
  void add_draft_rows(sequence& s);
  [[nodiscard]] static std::uint32_t drafts_left(const sequence& s) noexcept;
  void plan_drafts();
  void draft();
  void take_made_drafts();
  template <drafter Drafter>
  void take_drafts(sequence& s, Drafter& from, std::uint32_t count);
  void edit_drafts(sequence& s);
  [[nodiscard]] prompt_lookup& lookup_of(sequence& s) const;
  [[nodiscard]] mtp_drafter& mtp_of(sequence& s);
  [[nodiscard]] bool decodes_next(const sequence& s) const noexcept;
  [[nodiscard]] std::uint32_t mtp_blocks_in_use() const noexcept {
    return options_.speculation.uses_mtp() ? static_cast<std::uint32_t>(model_.mtp_layers.size())
                                           : 0;
  }
  void add_mtp_rows(std::size_t member, std::uint32_t drafts);
  [[nodiscard]] std::span<const float> fresh_mtp_rows(std::size_t member);
  void end_soft_rows(sequence& s) noexcept;
  void release(sequence& s, const lease_end& end, bool publishes);

  const model_geometry& model_;
  const tokenizer& tokenizer_;
  engine_options options_;
  dtype kv_;
  executor_ref executor_;
  pools pools_;
  std::unique_ptr<step_runner> runner_;
  std::optional<prefix_reuse> cache_;  // its tiers go before the runner, whose mover they have
  sampler sampler_;
  request_limits limits_;

  step_scheduler<chosen_order> scheduler_;
  wait_guard guard_;
  std::list<work> queued_;
  std::list<sequence> running_;        // in order of arrival
  std::uint64_t promised_pages_ = 0;   // to running sequences, and to requests that fetch
  compute_rates rates_{5e10, 5e10};    // measured, for what it takes to compute instead of to fetch
  std::uint64_t now_us_ = 0;           // when the running step began
  std::vector<double> layer_seconds_;  // [layers], scratch
  // What the scheduler is shown; kept to reuse their memory.
  std::vector<std::list<work>::iterator> candidates_;
  std::vector<std::uint32_t> needs_;  // pages: [candidates, then running, then room][pools]
  std::vector<queued_request> queued_seen_;
  std::vector<running_sequence> sequences_seen_;
  std::vector<sequence*> running_seen_;
  std::vector<event> events_;
  engine_metrics metrics_;
  kv_usage step_usage_;

  // The running step, [sequences with rows]; kept to reuse their memory.
  std::vector<sequence*> batch_;
  std::vector<step_rows> rows_;
  std::vector<std::vector<block_table_view>> tables_;
  std::vector<sampler_row> sampled_rows_;
  std::vector<sampled_token> sampled_;
  std::deque<token_history> histories_;  // of rows behind drafts; addresses stay
  std::size_t histories_used_ = 0;
  std::span<const float> logits_;
  std::vector<bool> cut_off_;                  // [batch]
  std::vector<decoding_rows> decoding_;        // the batch, where it decodes in one piece
  bool decoding_drafts_ = false;               // with its MTP blocks
  std::optional<decoded_rows> decoded_;        // what came of that; logits stayed where they are
  std::vector<std::vector<token_id>> chains_;  // the last token and the drafts behind it

  // Drafting: how many tokens each may draft next, and the rows of MTP blocks.
  std::uint64_t begin_us_ = 0;     // of the step's computation
  std::uint64_t drafting_us_ = 0;  // that making the drafts took which this step verifies
  bool drafting_decoded_ = false;  // and that was for steps that only decode
  std::optional<adaptive_draft_length> adaptive_;
  acceptance_curve usual_;  // what new sequences begin with
  std::vector<sequence*> drafting_;
  std::vector<const acceptance_curve*> curves_;
  std::vector<std::uint32_t> draft_lengths_;  // [drafting_]
  std::optional<mtp_blocks> mtp_;
  std::vector<mtp_drafter*> mtp_running_;  // those whose rows run at the end of this step
  std::vector<std::size_t> mtp_members_;   // [mtp_running_] of the batch
  std::vector<sampled_token> made_;        // [blocks] what a step in one piece drafted for one
  std::vector<token_id> edited_;
};

/// Tokens whose KV a request may come to need. Its last token is given out, never computed on.
[[nodiscard]] inline std::uint32_t longest_tokens(const request& r) noexcept {
  return static_cast<std::uint32_t>(r.prompt.size()) + r.max_new_tokens - 1;
}

template <class Visit>
void engine::visit_pages(Visit&& visit) const {
  for (const sequence& s : running_) {
    for (const page_handle page : s.kv.full_pages().handles()) {
      visit(full_pool, page.id);
    }
    for (std::uint32_t kind = 0; kind < s.kv.window_kinds(); ++kind) {
      for (const std::uint32_t id : s.kv.ring_table(kind).pages) {
        if (page_id{id} != null_page) {
          visit(window_pool(kind), page_id{id});
        }
      }
    }
  }
}

}  // namespace oriel::engine
