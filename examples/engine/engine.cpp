// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/mutation.hpp>
#include <oriel/tier/staged_store.hpp>

#include <engine/engine.hpp>
#include <engine/engine_pools.hpp>
#include <engine/error.hpp>
#include <engine/model_runner.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace oriel::engine {
namespace {

void check_speculation(const speculation_options& s, const model_geometry& model) {
  std::size_t most = draft_tokens_max - 1;
  if (s.uses_mtp()) {
    most = model.mtp_layers.size();
    if (most == 0) {
      throw error(fmt::format("{} has no MTP blocks to draft with", model.name));
    }
  }
  if (s.drafter != drafter_kind::none && (s.drafts_max == 0 || s.drafts_max > most)) {
    throw error(fmt::format("{} drafts a step: 1 to {} are possible", s.drafts_max, most));
  }
}

engine_options checked(engine_options o, const model_geometry& model, bool has_tiers) {
  if (o.page_tokens == 0 || o.page_tokens % kv_tile_tokens != 0) {
    throw error(
        fmt::format("page size {} is not a multiple of {} tokens", o.page_tokens, kv_tile_tokens));
  }
  if (o.chunk_tokens == 0 || o.sequences_max == 0) {
    throw error("chunk and number of sequences must be at least 1");
  }
  if (o.chunk_tokens < o.sequences_max) {
    throw error(fmt::format(
        "a chunk of {} tokens cannot serve {} sequences a step", o.chunk_tokens, o.sequences_max));
  }
  if (o.context_tokens < 2 || o.context_tokens > model.context_tokens) {
    throw error(fmt::format("context of {} tokens: {} allows 2 to {}",
                            o.context_tokens,
                            model.name,
                            model.context_tokens));
  }
  if (o.retain.every_tokens % o.page_tokens != 0) {
    throw error(fmt::format("windows kept every {} tokens: not a multiple of the page size {}",
                            o.retain.every_tokens,
                            o.page_tokens));
  }
  check_speculation(o.speculation, model);
  o.tier_moves.fetches_max = has_tiers ? o.tier_moves.fetches_max : 0;
  return o;
}

std::unique_ptr<step_runner> make_runner(const model_geometry& model,
                                         const model_weights& weights,
                                         const host_pools& pools,
                                         const engine_options& o,
                                         dtype kv,
                                         std::size_t tiers,
                                         executor_ref executor) {
  const runner_limits limits = limits_of(o, model);
  if (o.make_runner) {
    return o.make_runner({.model = model,
                          .pools = pools,
                          .page_size = o.page_tokens,
                          .kv = kv,
                          .limits = limits,
                          .drafts_max = o.speculation.rows_max(),
                          .chains_hidden = o.speculation.chain == mtp_chain::previous_hidden,
                          .order_fixed = is_order_fixed(o),
                          .tiers = static_cast<std::uint32_t>(tiers)});
  }
  return std::make_unique<model_runner>(
      model, weights, layer_homes(pools), o.page_tokens, kv, limits, executor);
}

/// Tiers of pools whose bytes the host cannot touch. @throws engine::error, std::bad_alloc
std::vector<tier> staged(std::vector<tier> tiers, page_mover* mover) {
  if (!tiers.empty() && mover == nullptr) {
    throw error("the KV of this device cannot go to tiers: run without them");
  }
  const auto count = static_cast<std::uint32_t>(tiers.size());
  if (count != 0 && mover->stages() / count < mover->page_stages()) {
    throw error(
        fmt::format("{} tiers share the host memory that pages of this device move through, which "
                    "has room for {} pages each way: run with no more tiers than that",
                    count,
                    mover->stages() / mover->page_stages()));
  }
  for (tier& t : tiers) {
    t.store = any_store(std::make_unique<staged_store<any_store>>(
        std::move(t.store), *mover, mover->stages() / count));
  }
  return tiers;
}

/// What MTP blocks keep depends on what they were told: pages of another reading are not found. The
/// names of the usual one say nothing of it, so that pages serve runs with and without drafts.
const char* name_of_chain(const speculation_options& s) noexcept {
  return s.uses_mtp() && s.chain == mtp_chain::previous_hidden &&
                 !ORIEL_MUTANT(names_forget_the_chain)
             ? ", blocks told the block before"
             : "";
}

/// Where blocks are told the block before, all rows that waited look back a window.
void check_slack(const speculation_options& s, const pool_plan& plan) {
  const std::uint32_t slack = plan.options().slack_pages * plan.options().page_size;
  if (s.uses_mtp() && s.chain == mtp_chain::previous_hidden && slack < waiting_rows_max) {
    throw error(fmt::format(
        "MTP blocks that are told the block before need windows with {} tokens of slack, these "
        "have {}",
        waiting_rows_max,
        slack));
  }
}

/// When the prefix is wanted again, by how the answer ended.
request_end end_of(finish_reason finish) noexcept {
  switch (finish) {
    case finish_reason::stop:
      return request_end::end_of_turn;
    case finish_reason::cancelled:
    case finish_reason::failed:
      return request_end::aborted;
    case finish_reason::none:
    case finish_reason::length:
      return request_end::unknown;
  }
  return request_end::unknown;
}

}  // namespace

runner_limits limits_of(const engine_options& o, const model_geometry& model) {
  const std::uint64_t tokens = std::uint64_t{o.sequences_max} * o.context_tokens;
  const std::uint32_t drafts = o.speculation.rows_max();
  const bool uses_mtp = o.speculation.uses_mtp();
  const auto blocks = static_cast<std::uint32_t>(model.mtp_layers.size());
  return {.rows_max = static_cast<std::uint32_t>(std::min<std::uint64_t>(o.chunk_tokens, tokens)) +
                      o.sequences_max * (drafts + (uses_mtp ? blocks + waiting_rows_max : 0)),
          .logit_rows_max = o.sequences_max * (1 + drafts),
          .sequences_max = o.sequences_max,
          .context_tokens = o.context_tokens};
}

bool is_order_fixed(const engine_options& o) noexcept {
  return o.order_fixed.value_or(o.prefix_cache || o.speculation.drafter != drafter_kind::none);
}

std::uint64_t steady_now_us() {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(
                                        std::chrono::steady_clock::now().time_since_epoch())
                                        .count());
}

engine::engine(const model_geometry& model,
               const model_weights& weights,
               const tokenizer& tokens,
               const engine_options& options,
               executor_ref executor,
               std::vector<tier> tiers)
    : model_(model),
      tokenizer_(tokens),
      options_(checked(options, model, !tiers.empty())),
      kv_(options.kv.value_or(weights.compute)),
      executor_(executor),
      pools_(make_pools(model, options_, kv_)),
      runner_(make_runner(model, weights, pools_, options_, kv_, tiers.size(), executor)),
      sampler_(model.vocabulary, executor.concurrency(), weights.path),
      limits_{.vocabulary = model.vocabulary, .max_context_tokens = options.context_tokens},
      scheduler_({.budget_tokens = options.chunk_tokens,
                  .prefill_share = options.prefill_share,
                  .sequences_max = options.sequences_max},
                 chosen_order{options.order}),
      guard_(options.guard) {
  if (options.prefix_cache) {
    cache_.emplace(
        pools_,
        model,
        options_,
        runner_->arithmetic() +
            arithmetic_id(
                weights.path, weights.backend, weights.compute, kv_, options.page_tokens) +
            name_of_chain(options.speculation),
        options.make_runner ? staged(std::move(tiers), runner_->mover()) : std::move(tiers));
  }
  check_slack(options.speculation, pools_.plan());
  tables_.resize(options.sequences_max);
  chains_.resize(options.sequences_max);
  if (weights.mtp.size() < mtp_blocks_in_use()) {
    throw error(fmt::format("the weights of {} were loaded without its MTP blocks", model.name));
  }
  if (mtp_blocks_in_use() != 0) {
    mtp_.emplace(
        *runner_,
        sampler_,
        model_,
        mtp_options{.blocks = mtp_blocks_in_use(),
                    .chains_hidden = options.speculation.chain == mtp_chain::previous_hidden,
                    .draws = options.speculation.accept == accept_kind::rejection});
  }
  if (options.speculation.is_adaptive) {
    adaptive_.emplace(adaptive_options{.drafts_max = options.speculation.drafts_max});
  }
}

status engine::submit(request r) {
  if (status fits = check(r, limits_); !fits) {
    return fits;
  }
  const auto has_id = [&](const work& other) { return other.asked.id == r.id; };
  if (std::ranges::any_of(queued_, has_id) ||
      std::ranges::any_of(running_, has_id, &sequence::job)) {
    return failure{errc::invalid_argument, 0, "a request with this id is being served"};
  }
  cache_namespace space =
      cache_ ? cache_->namespace_of(r.tenant) : cache_namespace({.tenant_salt = r.tenant});
  token_stream stream{r.stop, r.max_new_tokens};
  std::vector<token_id> tokens = r.prompt;
  queued_.push_back({.asked = std::move(r),
                     .space = std::move(space),
                     .stream = std::move(stream),
                     .tokens = std::move(tokens)});
  if (cache_ && cache_->tiers() != nullptr) {
    work& job = queued_.back();
    job.names =
        cache_->names_of(job.space, {.tenant = job.space.tenant(), .session = job.asked.session});
  }
  work& job = queued_.back();
  if (has_penalties(job.asked.sampling)) {
    job.history.emplace().add_prompt(job.tokens);
  }
  estimate(job, cache_ ? cache_->decide(job.space, job.tokens) : reuse_decision{});
  return {};
}

std::optional<event> engine::cancel(request_id id) {
  const auto has_id = [id](const work& job) { return job.asked.id == id; };
  const auto last_event = [id](work& job) {
    return event{.id = id,
                 .token = {},
                 .text = std::string(job.stream.finish(finish_reason::cancelled)),
                 .finish = finish_reason::cancelled,
                 .usage = job.usage,
                 .drafts = job.drafts};
  };
  std::optional<event> last;
  const auto queued = std::ranges::find_if(queued_, has_id);
  const auto running = std::ranges::find_if(running_, has_id, &sequence::job);
  if (queued != queued_.end()) {
    last = last_event(*queued);
    if (queued->fetch) {
      cache_->tiers()->cancel_fetch(*queued->fetch);
      promised_pages_ -= pools_.plan().pages_for(full_pool, longest_tokens(queued->asked));
    }
    leave_guard(*queued);
    queued_.erase(queued);
  } else if (running != running_.end()) {
    last = last_event(running->job);
    now_us_ = options_.now_us();
    release(*running, {.ended = request_end::aborted}, true);
    running_.erase(running);
  }
  metrics_.requests_cancelled.add(last.has_value());
  return last;
}

bool engine::preempt(request_id id) {
  const auto found =
      std::ranges::find_if(running_, [id](const sequence& s) { return s.job.asked.id == id; });
  if (found == running_.end()) {
    return false;
  }
  now_us_ = options_.now_us();
  if (found->lease) {
    end_soft_rows(*found);
    cache_->publish(found->lease, found->kv, found->job.tokens, found->job.names, now_us_);
  }
  std::list<work> again;
  again.push_front(std::move(found->job));  // The last that may throw.
  found->job.place.reset();                 // It keeps its place in the queue.
  work& job = again.front();
  abandon_fetch(*found, job);
  job.was_fetched = false;
  job.whole_until_us = 0;
  queued_.splice(queued_.begin(), again);
  release(*found, {.ended = request_end::unknown, .expected_us = now_us_}, false);
  running_.erase(found);
  metrics_.requests_preempted.add();
  return true;
}

std::span<const event> engine::step() {
  events_.clear();
  now_us_ = options_.now_us();
  if (cache_ && cache_->tiers() != nullptr) {
    cache_->tiers()->turn();
  }
  admit();
  choose_rows();
  if (running_.empty()) {
    wait_for_tiers();
    return events_;
  }
  begin_us_ = options_.now_us();
  compute();
  emit();
  if (cache_) {
    metrics_.stall_us.add(cache_->take_stall_us());
  }
  return events_;
}

/// The first `end` prompt tokens have KV now: those that had none before come from `from`.
void engine::count_prompt(work& job, std::uint32_t end, std::uint32_t request_usage::*from) {
  const std::uint32_t counted = job.usage.cached_tokens + job.usage.computed_tokens;
  const auto prompt = static_cast<std::uint32_t>(job.asked.prompt.size());
  const std::uint32_t more = std::max(counted, std::min(end, prompt)) - counted;
  job.usage.*from += more;
  (from == &request_usage::cached_tokens ? metrics_.cached_tokens : metrics_.prompt_tokens)
      .add(more);
}

/// Reserves pages for the chosen rows and computes them. Healing sequences come last: in the layers
/// below their frontiers they have no rows, and nobody has to move up.
void engine::compute() {
  batch_.clear();
  rows_.clear();
  for (const bool healing : {false, true}) {
    for (sequence& s : running_) {
      if (s.rows != 0 && s.kv.healing() == healing) {
        add_to_batch(s);
      }
    }
  }
  if (rows_.empty()) {
    return;
  }
  const std::uint64_t begin_us = options_.now_us();
  logits_ = {};
  decoded_ = runner_->has_decode() && list_decoding() ? runner_->decode(decoding_, decoding_drafts_)
                                                      : std::nullopt;
  if (!decoded_) {
    logits_ = runner_->forward(rows_);
  }
  learn_rate(options_.now_us() - begin_us);
  std::uint64_t computed = 0;
  for (const step_rows& s : rows_) {
    computed += s.tokens.size();
  }
  metrics_.steps.add();
  metrics_.rows_per_step.add(computed);
}

/// Prefill steps tell what computing takes here, in seconds for each operation.
void engine::learn_rate(std::uint64_t took_us) {
  constexpr std::size_t enough_rows = 16;
  flop_count flops;
  std::size_t rows = 0;
  for (const step_rows& s : rows_) {
    if (s.heal != nullptr || s.gate || s.logit_rows > 1) {
      return;  // Not all rows in all layers, or it may have waited, or it is a decode.
    }
    const auto count = static_cast<std::uint32_t>(s.tokens.size());
    flops += recompute_flops(model_, s.first_position, s.first_position + count);
    rows += count;
  }
  if (rows >= enough_rows && took_us != 0) {
    const double rate =
        static_cast<double>(flops.linear + flops.attention) * 1e6 / static_cast<double>(took_us);
    rates_ = {rate, rate};
  }
}

void engine::add_to_batch(sequence& s) {
  make_room(s, s.kv.length() + s.rows);
  const status reserved = s.kv.reserve(s.rows);
  ORIEL_EXPECTS(static_cast<bool>(reserved));  // Promised at admission, and see make_pools.
  std::vector<block_table_view>& tables = tables_[batch_.size()];
  tables.clear();
  for (std::uint32_t pool = 0; pool < pools_.plan().pools(); ++pool) {
    tables.push_back(s.kv.table(pool_id{pool}));
  }
  const std::uint32_t first = s.kv.length();
  const auto drafts = static_cast<std::uint32_t>(s.drafts.size());
  const std::span<const token_id> known = std::span(s.job.tokens).subspan(first, s.rows - drafts);
  std::vector<token_id>& chain = chains_[batch_.size()];
  chain.clear();
  if (drafts != 0) {
    chain.assign(known.begin(), known.end());
    for (const drafted_token& draft : s.drafts) {
      chain.push_back(draft.id);
    }
  }
  rows_.push_back({.tokens = drafts != 0 ? std::span<const token_id>(chain) : known,
                   .first_position = first,
                   .tables = tables,
                   .logit_rows = first + known.size() == s.job.tokens.size() ? 1 + drafts : 0u,
                   .heal = s.heal ? &*s.heal : nullptr,
                   .gate = s.gate ? layer_gate_ref(*s.gate) : layer_gate_ref()});
  batch_.push_back(&s);
}

/// The cache gives up what a sequence of `tokens` tokens lacks.
void engine::make_room(const sequence& s, std::uint32_t tokens) {
  const bool has_room = !cache_ || cache_->make_room(s.kv, tokens, now_us_);
  ORIEL_EXPECTS(has_room);  // See make_pools.
}

/// The rows of a sequence that have logits. What penalties look at is the tokens before a row: the
/// drafts before it too.
void engine::list_rows(std::size_t member) {
  const sequence& s = *batch_[member];
  const token_history* used = s.job.history ? &*s.job.history : nullptr;
  for (std::size_t row = 0; row < rows_[member].logit_rows; ++row) {
    if (used != nullptr && row > 0 && !ORIEL_MUTANT(penalties_forget_the_drafts)) {
      if (histories_used_ == histories_.size()) {
        histories_.emplace_back();
      }
      token_history& behind = histories_[histories_used_++];
      behind = *used;
      behind.add_output(s.drafts[row - 1].id);
      used = &behind;
    }
    sampled_rows_.push_back(
        {.options = &s.job.asked.sampling, .position = s.job.tokens.size() + row, .history = used});
  }
}

/// Samples the rows that have logits, but for those that are judged by their distributions. Rows
/// that were decoded in one piece have their tokens.
void engine::choose_tokens() {
  sampled_rows_.clear();
  histories_used_ = 0;
  for (std::size_t i = 0; i < batch_.size(); ++i) {
    list_rows(i);  // Of who was cut off: zeros.
  }
  if (decoded_) {
    sampled_.assign(decoded_->sampled.begin(), decoded_->sampled.end());
    return;
  }
  sampled_.resize(sampled_rows_.size());
  std::size_t first = 0, next = 0;  // of the rows that are sampled together
  for (std::size_t i = 0; i <= batch_.size(); ++i) {
    const bool is_end = i == batch_.size();
    if ((is_end || has_drawn(*batch_[i])) && first != next) {
      sampler_(logits_.data() + first * model_.vocabulary,
               model_.vocabulary,
               std::span(sampled_rows_).subspan(first, next - first),
               std::span(sampled_).subspan(first, next - first),
               executor_);
    }
    next += is_end ? 0 : rows_[i].logit_rows;
    first = is_end || has_drawn(*batch_[i]) ? next : first;
  }
}

/// Samples the rows that have logits, takes in what is accepted, tells what was said, drafts what
/// may follow, and gives the cache what it may have.
void engine::emit() {
  choose_tokens();
  std::size_t next = 0;
  cut_off_.clear();
  for (std::size_t i = 0; i < batch_.size(); ++i) {
    cut_off_.push_back(runner_->is_cut_off(i));  // Drafting has batches of its own.
    if (!cut_off_[i]) {
      take_rows(i, next);
    }
    next += rows_[i].logit_rows;
  }
  step_usage_ = usage();
  measure_decode();
  draft();
  for (std::size_t i = 0; i < batch_.size(); ++i) {
    if (ORIEL_MUTANT(cut_off_is_asked_after_drafting) ? runner_->is_cut_off(i) : cut_off_[i]) {
      cut_off(*batch_[i]);
    } else {
      end_step(*batch_[i]);
    }
  }
  std::erase_if(running_, [](const sequence& s) {
    return s.has_left || s.job.stream.finished() != finish_reason::none;
  });
}

/// What a step computed for one sequence. @param row  the first of its sampled rows
void engine::take_rows(std::size_t member, std::size_t row) {
  sequence& s = *batch_[member];
  if (s.gate) {
    end_join(s);
  }
  const std::uint32_t healed_end = s.kv.healing() ? s.kv.lent_tokens() : 0;
  metrics_.heal_rows.add(std::min(s.rows, healed_end - std::min(healed_end, s.kv.length())));
  const std::uint32_t known = s.rows - static_cast<std::uint32_t>(s.drafts.size());
  count_prompt(s.job, s.kv.length() + known, &request_usage::computed_tokens);
  if (rows_[member].logit_rows != 0) {
    take_chain(s, row);
  } else {
    s.kv.accept(s.rows);
  }
  count_service(s);
}

/// Appends the event of a new token; without one (the logits held no number), that of a failure.
/// @param logits  the row it was sampled from
void engine::take_token(sequence& s, sampled_token sampled, std::span<const float> logits) {
  event happened{.id = s.job.asked.id, .token = {}, .text = {}, .usage = s.job.usage};
  if (sampled.probability > 0.0f) {
    s.job.tokens.push_back(sampled.id);
    happened.token = sampled.id;
    happened.text = s.job.stream.push(sampled.id, tokenizer_.bytes_of(sampled.id));
    metrics_.output_tokens.add();
    if (s.job.history) {
      s.job.history->add_output(sampled.id);
    }
    if (const auto top = s.job.asked.sampling.logprobs) {
      sampler_.logprobs(logits.data(), sampled.id, *top, happened.logprobs.emplace());
    }
  } else {
    happened.text = s.job.stream.finish(finish_reason::failed);
  }
  happened.finish = s.job.stream.finished();
  metrics_.requests_stopped.add(happened.finish == finish_reason::stop);
  metrics_.requests_cut.add(happened.finish == finish_reason::length);
  metrics_.requests_failed.add(happened.finish == finish_reason::failed);
  events_.push_back(std::move(happened));
}

/// Publishes what a chunk of a prompt, or the end of the answer, brought; only then windows slide.
/// A decoding sequence publishes nothing before its end, so that its window pages go round.
void engine::end_step(sequence& s) {
  const finish_reason finish = s.job.stream.finished();
  if (finish != finish_reason::none) {
    release(s, {.ended = end_of(finish)}, finish != finish_reason::failed);
    return;
  }
  if (s.lease && s.kv.length() <= s.known_tokens) {
    cache_->publish(s.lease, s.kv, s.job.tokens, s.job.names, now_us_, s.known_tokens);
  }
  s.kv.slide_out();
  if (s.rows > 1 && s.job.tokens.size() == s.kv.length() + std::size_t{1}) {
    // The prompt is done: a decode step appends one row, and drafts.
    s.kv.give_back_spares(1 + options_.speculation.rows_max());
  }
}

/// Takes the pages of a sequence that is about to go; the cache keeps them if it publishes them.
void engine::release(sequence& s, const lease_end& end, bool publishes) {
  leave_guard(s.job);
  abandon_fetch(s, s.job);
  if (s.lease) {
    if (publishes) {
      end_soft_rows(s);
      cache_->publish(s.lease, s.kv, s.job.tokens, s.job.names, now_us_);
    }
    lease_end how = end;
    how.duration_us = now_us_ - std::min(now_us_, s.started_us);
    cache_->release(s.lease, how, now_us_);
  }
  s.kv.release();
  promised_pages_ -= s.promised_pages;
}

kv_usage engine::usage() const noexcept {
  kv_usage usage{.pool_bytes = pools_.used_bytes()};
  std::uint64_t row_bytes = 0;  // of a row that every layer keeps
  for (const layer_geometry& layer : model_.layers) {
    row_bytes += kv_bytes_per_token(layer.attention, kv_);
  }
  for (std::uint32_t block = 0; block < mtp_blocks_in_use(); ++block) {
    row_bytes += kv_bytes_per_token(model_.mtp_layers[block].attention, kv_);
  }
  const pool_plan& plan = pools_.plan();
  for (const sequence& s : running_) {
    const std::uint64_t pages = plan.pages_for(full_pool, s.kv.length());
    usage.uniform_bytes += row_bytes * pages * options_.page_tokens;
    usage.bytes += s.kv.full_pages().size_pages() * plan.layout(full_pool).page_bytes();
    for (std::uint32_t kind = 0; kind < plan.window_kinds(); ++kind) {
      usage.bytes += s.kv.ring(kind).held_pages() * plan.layout(window_pool(kind)).page_bytes();
    }
  }
  return usage;
}

}  // namespace oriel::engine
