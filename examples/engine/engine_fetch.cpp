// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The engine and the tiers below its pools: who fetches, who starts while pages come, who forgets.
#include <oriel/core/contract.hpp>

#include <engine/engine.hpp>

#include <algorithm>
#include <cerrno>
#include <numeric>
#include <utility>

namespace oriel::engine {

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
  if (std::ranges::any_of(running_,
                          [&](const sequence& s) { return s.gate && s.job.space == space; })) {
    return failure{errc::invalid_argument, 0, "a request of its tenant is about to start"};
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
      tiers.forget_order(order);
      return failure{errc::io_failure, result.native, "a tier could not do it, see its last_fault"};
    }
    if (result.is_done()) {
      return {};
    }
    if (options_.now_us() >= until_us) {
      tiers.forget_order(order);
      return failure{errc::io_failure, ETIMEDOUT, "a tier did not answer in time"};
    }
    tiers.wait(until_us);
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
  layer_seconds_.resize(pools_.plan().layers());  // MTP blocks take next to nothing of a prompt.
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
  begin_drafts(s);
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

/// Nobody waits any more for what a sequence started on. `job` is its own, or was.
void engine::abandon_fetch(sequence& s, work& job) noexcept {
  if (s.gate) {
    cache_->tiers()->cancel_fetch(*job.fetch);
    s.gate.reset();
    job.fetch.reset();
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

}  // namespace oriel::engine
