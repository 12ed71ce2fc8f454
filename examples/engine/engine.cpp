// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/engine.hpp>
#include <engine/engine_pools.hpp>
#include <engine/error.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <iterator>
#include <numeric>
#include <utility>

namespace oriel::engine {
namespace {

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
  o.tier_moves.fetches_max = has_tiers ? o.tier_moves.fetches_max : 0;
  return o;
}

runner_limits limits_of(const engine_options& o) {
  const std::uint64_t tokens = std::uint64_t{o.sequences_max} * o.context_tokens;
  return {.rows_max = static_cast<std::uint32_t>(std::min<std::uint64_t>(o.chunk_tokens, tokens)),
          .logit_rows_max = o.sequences_max,
          .sequences_max = o.sequences_max,
          .context_tokens = o.context_tokens};
}

/// Full pages that a request may come to need. Its last token is given out, never computed on.
std::uint32_t longest_tokens(const request& r) noexcept {
  return static_cast<std::uint32_t>(r.prompt.size()) + r.max_new_tokens - 1;
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
      runner_(model,
              weights,
              layer_homes(pools_),
              options.page_tokens,
              kv_,
              limits_of(options),
              executor),
      sampler_(model.vocabulary, executor.concurrency(), weights.path),
      limits_{.vocabulary = model.vocabulary, .max_context_tokens = options.context_tokens} {
  if (options.prefix_cache) {
    cache_.emplace(
        pools_,
        model,
        options_,
        arithmetic_id(weights.path, weights.backend, weights.compute, kv_, options.page_tokens),
        std::move(tiers));
  }
  tables_.resize(options.sequences_max);
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
  return {};
}

std::optional<event> engine::cancel(request_id id) {
  const auto has_id = [id](const work& job) { return job.asked.id == id; };
  const auto last_event = [id](work& job) {
    return event{.id = id,
                 .token = {},
                 .text = std::string(job.stream.finish(finish_reason::cancelled)),
                 .finish = finish_reason::cancelled,
                 .usage = job.usage};
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
    cache_->publish(found->lease, found->kv, found->job.tokens, found->job.names, now_us_);
  }
  abandon_fetch(*found);
  found->job.was_fetched = false;
  found->job.whole_until_us = 0;
  queued_.push_front(std::move(found->job));  // The last that may throw.
  release(*found, {.ended = request_end::unknown, .expected_us = now_us_}, false);
  running_.erase(found);
  metrics_.requests_preempted.add();
  return true;
}

status engine::forget(std::string_view tenant,
                      std::optional<std::uint64_t> session,
                      std::uint64_t until_us) {
  if (!cache_) {
    return {};
  }
  const cache_namespace space = cache_->namespace_of(tenant);
  const auto is_of = [&](const work& job) {
    return job.space == space && (!session || job.asked.session == *session);
  };
  if (std::ranges::any_of(queued_, is_of) || std::ranges::any_of(running_, is_of, &sequence::job)) {
    return failure{errc::invalid_argument, 0, "a request of it is being served"};
  }
  cache_->tree().drop(space);
  if (cache_->tiers() == nullptr) {
    return {};
  }
  const page_owner owner{.tenant = space.tenant(), .session = session.value_or(0)};
  return wait_for_order(cache_->tiers()->begin_order(
                            session ? store_op::drop_session : store_op::drop_tenant, {}, owner),
                        until_us);
}

status engine::sync_tiers(std::uint64_t until_us) {
  if (!cache_ || cache_->tiers() == nullptr) {
    return {};
  }
  return wait_for_order(cache_->tiers()->begin_order(store_op::sync), until_us);
}

status engine::wait_for_order(std::uint32_t order, std::uint64_t until_us) {
  prefix_reuse::tiers_type& tiers = *cache_->tiers();
  for (;;) {
    tiers.turn();
    const order_result result = tiers.take_result(order).value();
    if (result.failed_tier != no_tier) {
      return failure{errc::io_failure, result.native, "a tier could not do it, see its last_fault"};
    }
    if (result.is_done()) {
      return {};
    }
    if (options_.now_us() >= until_us) {
      return failure{errc::io_failure, ETIMEDOUT, "a tier did not answer in time"};
    }
    tiers.wait(until_us);
  }
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
  compute();
  emit();
  if (cache_) {
    metrics_.stall_us.add(cache_->take_stall_us());
  }
  return events_;
}

/// Admits queued requests in order of arrival while the longest form of the next one fits. Only who
/// waits for a twin or for tiers is passed by others; who waits for tiers starts when the rest of
/// its pages comes in time for each layer.
void engine::admit() {
  end_fetches();
  for (auto next = queued_.begin();
       next != queued_.end() && running_.size() < options_.sequences_max;) {
    if (next->fetch) {
      next = should_join(*next) && start_joined(*next) ? queued_.erase(next) : std::next(next);
      continue;
    }
    const std::uint64_t pages = pools_.plan().pages_for(full_pool, longest_tokens(next->asked));
    if (promised_pages_ + late_pages() + pages > pools_.pool(full_pool).capacity()) {
      return;
    }
    if (next->wait && is_computing(*next->wait)) {
      ++next;
      continue;
    }
    reuse_decision decision;
    if (cache_) {
      decision = cache_->decide(next->space, next->tokens);
      if (waits_for_twin(*next, decision.length)) {
        metrics_.requests_waited.add();
        ++next;
        continue;
      }
      if (must_wait_for_fetch(*next, decision)) {
        ++next;
        continue;
      }
    }
    if (!start(*next, decision)) {
      if (!running_.empty()) {
        return;
      }
      // Nobody will give anything back: waiting would be for ever.
      events_.push_back({.id = next->asked.id,
                         .token = {},
                         .text = std::string(next->stream.finish(finish_reason::failed)),
                         .finish = finish_reason::failed,
                         .usage = next->usage});
      metrics_.requests_failed.add();
    }
    next = queued_.erase(next);
  }
}

/// What came for requests that wait is the cache's now, and their promises are free again.
void engine::end_fetches() {
  for (work& job : queued_) {
    if (job.fetch && !cache_->tiers()->is_fetching(*job.fetch)) {
      job.whole_until_us = cache_->tiers()->retry_until_us(*job.fetch);
      job.was_fetched = job.whole_until_us == 0;
      job.fetched = cache_->tiers()->end_fetch(*job.fetch);
      job.fetch.reset();
      promised_pages_ -= pools_.plan().pages_for(full_pool, longest_tokens(job.asked));
    }
  }
}

/// Full pages that a slow store still writes to, for nobody.
std::uint32_t engine::late_pages() const noexcept {
  return cache_ && cache_->tiers() != nullptr ? cache_->tiers()->late_pages(0) : 0;
}

/// A request asks the lower tiers once for what the device lacks of its prompt, and again for whole
/// pages if a layer failed; so does one for all who share the prefix. The wait ends: a fetch has a
/// deadline. @pre it does not fetch
bool engine::must_wait_for_fetch(work& job, const reuse_decision& decision) {
  prefix_reuse::tiers_type* tiers = cache_->tiers();
  if (tiers == nullptr || job.was_fetched) {
    return false;
  }
  const std::size_t whole = (job.tokens.size() - 1) / options_.page_tokens * options_.page_tokens;
  if (decision.length == whole && !decision.heal) {
    return false;  // The device has all that can be reused.
  }
  for (const work& other : queued_) {
    if (other.fetch && other.space == job.space) {
      const auto common = std::ranges::mismatch(job.tokens, other.tokens).in1 - job.tokens.begin();
      if (common / options_.page_tokens > decision.length / options_.page_tokens) {
        return true;
      }
    }
  }
  if (!tiers->can_fetch()) {
    return false;  // It computes in the meantime.
  }
  job.fetch = cache_->begin_fetch(job.space, job.tokens, job.names, rates_, job.whole_until_us);
  promised_pages_ += pools_.plan().pages_for(full_pool, longest_tokens(job.asked));
  return true;
}

/// Looks for the running sequence that is about to publish most of a request's prefix, and more
/// than is there. The wait ends: a running prompt gets rows in every step, and when it has computed
/// the prefix, or is gone, nothing is left to wait for. A request that came later waits for the
/// same twin where it shares as much, so none that passes by becomes the next one to wait for.
bool engine::waits_for_twin(work& job, std::uint32_t reusable) const {
  job.wait.reset();
  std::uint32_t best = reusable;
  for (const sequence& s : running_) {
    if ((!s.lease && !s.gate) || !(s.job.space == job.space)) {
      continue;
    }
    const auto known = std::span(s.job.tokens).first(s.known_tokens);
    const auto fork =
        std::ranges::mismatch(known, std::span(job.tokens).first(job.tokens.size() - 1));
    const auto common = static_cast<std::uint32_t>(fork.in1 - known.begin());
    const twin_wait wait{s.job.asked.id, common / options_.page_tokens * options_.page_tokens};
    if (wait.tokens > best && is_computing(s, wait) && s.lease.full_tokens() < wait.tokens) {
      best = wait.tokens;
      job.wait = wait;
    }
  }
  return job.wait.has_value();
}

bool engine::is_computing(const twin_wait& wait) const {
  return std::ranges::any_of(running_, [&](const sequence& s) { return is_computing(s, wait); });
}

/// Who starts on pages that still come has nothing to show before they are there.
bool engine::is_computing(const sequence& s, const twin_wait& wait) {
  return s.job.asked.id == wait.twin && (s.gate || s.kv.length() < wait.tokens);
}

/// The step would hardly wait for the pages that a request still waits for: starting later would
/// not end it sooner.
bool engine::should_join(const work& job) {
  constexpr double stall_share_max = 0.03;
  prefix_reuse::tiers_type& tiers = *cache_->tiers();
  if (!tiers.can_join(*job.fetch)) {
    return false;
  }
  const std::uint32_t first = tiers.length_of(*job.fetch);
  const std::uint64_t last =
      std::min<std::uint64_t>(job.tokens.size(), std::uint64_t{first} + options_.chunk_tokens);
  layer_seconds_.clear();
  for (std::size_t layer = 0; layer < model_.layers.size(); ++layer) {
    layer_seconds_.push_back(seconds_of(layer_flops(model_, layer, first, last), rates_));
  }
  const double step_s = std::accumulate(layer_seconds_.begin(), layer_seconds_.end(), 0.0);
  return tiers.predict_stall_s(*job.fetch, layer_seconds_) <= stall_share_max * step_s;
}

/// Makes a sequence of a request whose prefix still comes, layer by layer. False: the system has no
/// memory, and nothing changed.
bool engine::start_joined(work& job) {
  prefix_reuse::tiers_type& tiers = *cache_->tiers();
  const std::uint32_t longest = longest_tokens(job.asked);
  const borrowed_prefix lent = tiers.lend(*job.fetch);
  const admission wanted{.tokens_now = lent.length, .tokens_max = longest, .prefix = lent};
  const bool has_room = cache_->make_room(wanted, now_us_);
  ORIEL_EXPECTS(has_room);  // See make_pools.
  auto kv = pools_.try_admit(wanted);
  if (!kv) {
    return false;
  }
  job.tokens.reserve(std::size_t{longest} + 1);
  auto gate = tiers.join(*job.fetch);
  // The last that may throw. What was promised to the request that fetches is the sequence's now.
  sequence& s = running_.emplace_back(std::move(job),
                                      prefix_reuse::lease{},
                                      std::nullopt,
                                      std::move(*kv),
                                      pools_.plan().pages_for(full_pool, longest),
                                      now_us_);
  s.gate = gate;
  metrics_.requests_joined.add();
  return true;
}

/// All that a sequence started on has come.
void engine::end_join(sequence& s) {
  const std::uint64_t before_us = cache_->tiers()->waits().stall_us;
  s.lease = cache_->end_joined_fetch(
      *s.job.fetch, s.job.space, s.kv, s.job.tokens, s.job.names, now_us_, s.job.fetched);
  metrics_.stall_us.add(cache_->tiers()->waits().stall_us - before_us);
  s.gate.reset();
  s.job.fetch.reset();
  s.job.was_fetched = true;
  count_start(s, s.kv.lent_tokens());
}

/// A layer of what a sequence started on did not come: it never started. What came whole is the
/// cache's; the request asks again for the rest, if there is time, and else computes it.
void engine::cut_off(sequence& s) {
  prefix_reuse::tiers_type& tiers = *cache_->tiers();
  const std::uint64_t before_us = tiers.waits().stall_us;
  s.job.whole_until_us = tiers.retry_until_us(*s.job.fetch);
  s.job.was_fetched = s.job.whole_until_us == 0;
  s.job.fetched = tiers.end_fetch(*s.job.fetch);
  metrics_.stall_us.add(tiers.waits().stall_us - before_us);
  s.gate.reset();
  s.job.fetch.reset();
  s.kv.release();
  promised_pages_ -= s.promised_pages;
  queued_.push_front(std::move(s.job));
  s.has_left = true;
  metrics_.requests_cut_off.add();
}

/// Nobody waits any more for what a sequence started on.
void engine::abandon_fetch(sequence& s) noexcept {
  if (s.gate) {
    cache_->tiers()->cancel_fetch(*s.job.fetch);
    s.gate.reset();
    s.job.fetch.reset();
  }
}

/// Makes a sequence of a request, or, if it fails or throws, changes nothing but what the cache
/// evicted for it. The prefix is locked before anything is allocated. False: the system has no
/// memory.
bool engine::start(work& job, const reuse_decision& decision) {
  const std::uint32_t longest = longest_tokens(job.asked);
  prefix_reuse::lease lease;
  borrowed_prefix lent;
  if (cache_) {
    lease = cache_->pin(job.space, job.tokens, decision, now_us_);
    if (lease) {  // Else the tree is out of namespaces: the request goes without it.
      lent = cache_->lend(lease, decision);
    }
  }
  const admission wanted{.tokens_now = lent.length, .tokens_max = longest, .prefix = lent};
  const bool has_room = !cache_ || cache_->make_room(wanted, now_us_);
  ORIEL_EXPECTS(has_room);  // See make_pools.
  auto kv = pools_.try_admit(wanted);
  if (!kv) {
    return false;
  }
  if (cache_ && cache_->tiers() != nullptr && lent.length != 0) {
    cache_->on_hit(job.tokens, job.names, lent);
  }
  const std::uint64_t pages = pools_.plan().pages_for(full_pool, longest);
  job.tokens.reserve(std::size_t{longest} + 1);
  std::optional<heal_plan> heal = lent.heal ? decision.heal : std::nullopt;
  // The last that may throw: takes the parts when there is memory for the whole.
  sequence& s = running_.emplace_back(
      std::move(job), std::move(lease), std::move(heal), std::move(*kv), pages, now_us_);
  promised_pages_ += pages;
  count_start(s, lent.length);
  return true;
}

/// A sequence starts behind `length` cached tokens.
void engine::count_start(sequence& s, std::uint32_t length) {
  work& started = s.job;
  const std::uint32_t before = started.usage.cached_tokens + started.usage.computed_tokens;
  count_prompt(started, length, &request_usage::cached_tokens);
  std::uint32_t newly_cached = started.usage.cached_tokens + started.usage.computed_tokens - before;
  for (std::size_t role = tier_roles; role-- > 0;) {
    const std::uint32_t tokens = std::min(newly_cached, std::exchange(started.fetched[role], 0u));
    started.usage.fetched_tokens[role] += tokens;
    newly_cached -= tokens;
  }
  if (s.heal) {
    const std::uint32_t counted = started.usage.cached_tokens + started.usage.computed_tokens;
    const std::uint32_t healed = counted - std::min(counted, std::max(before, s.heal->safe_length));
    started.usage.healed_tokens += healed;
    metrics_.healed_tokens.add(healed);
  }
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

/// Running sequences that have their prompt decode first; prompts share what is left of the budget.
/// A chunk ends where a heal does: there the repaired windows are whole, and published.
void engine::choose_rows() {
  std::uint32_t budget = options_.chunk_tokens;
  const auto missing = [](const sequence& s) {
    return static_cast<std::uint32_t>(s.job.tokens.size()) - s.kv.length();
  };
  for (sequence& s : running_) {
    s.rows = missing(s) == 1 ? 1 : 0;
    budget -= s.rows;
  }
  for (sequence& s : running_) {
    if (s.rows == 0) {
      s.rows = std::min(missing(s), budget);
      if (s.kv.healing()) {
        s.rows = std::min(s.rows, s.kv.lent_tokens() - s.kv.length());
      }
      budget -= s.rows;
    }
  }
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
  logits_ = runner_.forward(rows_);
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
    if (s.heal != nullptr || s.gate) {
      return;  // Not all rows in all layers, or it may have waited.
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

/// Nothing can be computed: sleeps until a tier has something, but not for long.
void engine::wait_for_tiers() {
  if (std::ranges::none_of(queued_, [](const work& job) { return job.fetch.has_value(); })) {
    return;
  }
  constexpr std::uint64_t nap_us = 10'000;
  const std::uint64_t begin_us = options_.now_us();
  cache_->tiers()->wait(begin_us + nap_us);
  metrics_.stall_us.add(options_.now_us() - begin_us);
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
  rows_.push_back({.tokens = std::span(s.job.tokens).subspan(first, s.rows),
                   .first_position = first,
                   .tables = tables,
                   .logit_rows = first + s.rows == s.job.tokens.size() ? 1u : 0u,
                   .heal = s.heal ? &*s.heal : nullptr,
                   .gate = s.gate ? layer_gate_ref(*s.gate) : layer_gate_ref()});
  batch_.push_back(&s);
}

/// The cache gives up what a sequence of `tokens` tokens lacks.
void engine::make_room(const sequence& s, std::uint32_t tokens) {
  const bool has_room = !cache_ || cache_->make_room(s.kv, tokens, now_us_);
  ORIEL_EXPECTS(has_room);  // See make_pools.
}

/// Takes in the computed rows, samples the sequences that reached their end, tells what they said,
/// and gives the cache what it may have.
void engine::emit() {
  sampled_rows_.clear();
  for (std::size_t i = 0; i < batch_.size(); ++i) {
    sequence& s = *batch_[i];
    if (runner_.is_cut_off(i)) {
      if (rows_[i].logit_rows != 0) {  // Zeros, which keep their place.
        sampled_rows_.push_back({.options = &s.job.asked.sampling, .position = 0});
      }
      continue;
    }
    if (s.gate) {
      end_join(s);
    }
    const std::uint32_t healed_end = s.kv.healing() ? s.kv.lent_tokens() : 0;
    metrics_.heal_rows.add(std::min(s.rows, healed_end - std::min(healed_end, s.kv.length())));
    s.kv.accept(s.rows);
    count_prompt(s.job, s.kv.length(), &request_usage::computed_tokens);
    if (rows_[i].logit_rows != 0) {
      const std::size_t row = sampled_rows_.size(), position = s.job.tokens.size();
      sampled_rows_.push_back({.options = &s.job.asked.sampling, .position = position});
      if (options_.observer != nullptr) {
        options_.observer->on_logits(s.job.asked.id,
                                     static_cast<std::uint32_t>(position),
                                     logits_.subspan(row * model_.vocabulary, model_.vocabulary));
      }
    }
  }
  step_usage_ = usage();
  sampled_.resize(sampled_rows_.size());
  sampler_(logits_.data(), model_.vocabulary, sampled_rows_, sampled_, executor_);

  std::size_t next = 0;
  for (std::size_t i = 0; i < batch_.size(); ++i) {
    const std::size_t row = next;
    next += rows_[i].logit_rows;
    if (runner_.is_cut_off(i)) {
      cut_off(*batch_[i]);
      continue;
    }
    if (rows_[i].logit_rows != 0) {
      take_token(*batch_[i], sampled_[row]);
    }
    end_step(*batch_[i]);
  }
  std::erase_if(running_, [](const sequence& s) {
    return s.has_left || s.job.stream.finished() != finish_reason::none;
  });
}

/// Appends the event of a new token; without one (the logits held no number), that of a failure.
void engine::take_token(sequence& s, sampled_token sampled) {
  event happened{.id = s.job.asked.id, .token = {}, .text = {}, .usage = s.job.usage};
  if (sampled.probability > 0.0f) {
    s.job.tokens.push_back(sampled.id);
    happened.token = sampled.id;
    happened.text = s.job.stream.push(sampled.id, tokenizer_.bytes_of(sampled.id));
    metrics_.output_tokens.add();
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
    s.kv.give_back_spares(1);  // The prompt is done: a decode step appends one row.
  }
}

/// Takes the pages of a sequence that is about to go; the cache keeps them if it publishes them.
void engine::release(sequence& s, const lease_end& end, bool publishes) {
  abandon_fetch(s);
  if (s.lease) {
    if (publishes) {
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
