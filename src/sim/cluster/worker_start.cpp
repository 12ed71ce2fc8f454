// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// How a request starts on a simulated node: what its caches have, what is fetched, what is healed;
// and what it leaves behind.
#include "worker_parts.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>

#include <algorithm>

namespace oriel::sim {

double node_worker::estimate_s(const job& j, std::uint32_t from_tokens) const noexcept {
  return options_.node.cost.seconds(
      from_tokens, j.of.input_tokens - from_tokens, options_.chunk_tokens);
}

/// Pages before a boundary that some kind of window needs.
std::uint32_t node_worker::window_span() const noexcept {
  std::uint32_t span = 0;
  for (const std::uint32_t window : model_.windows_in_pages) {
    span = std::max(span, window - 1);
  }
  return span;
}

/// What the caches have of a queued request, and what that leaves to compute.
void node_worker::look(job& j) {
  const auto prompt = j.of.pages.first(j.of.reusable + 1);
  j.found = device_->match(*j.of.space, prompt);
  j.epoch = device_->epoch();
  (void)has_changed(j);
  j.safe_pages = j.found.window_safe_tokens;
  std::uint32_t safe = j.safe_pages;
  j.on_host = {};
  if (host_ && safe < j.of.reusable) {
    j.on_host = host_->match(*j.of.space, prompt);
    safe = std::max(safe, j.on_host.window_safe_tokens);
  }
  if (model_.shared != nullptr && safe < j.of.reusable) {
    safe = std::max(safe, model_.shared->match(*j.of.space, prompt).window_safe_tokens);
  }
  const std::uint32_t tokens = safe * model_.page_tokens;
  j.facts.cached_tokens = tokens;
  j.facts.uncached_tokens = j.of.input_tokens - tokens;
  set_remaining(j, estimate_s(j, tokens));
}

/// The scheduler chose it: it fetches what is worth it, locks what it starts behind, or heals.
void node_worker::admit(std::uint32_t index, double now_s) {
  job& j = jobs_[index];
  std::erase(queue_, index);
  running_.push_back(index);
  j.state = job_state::running;
  promised_ += pages_of(j);
  const std::uint32_t page = model_.page_tokens;
  const auto prompt = j.of.pages.first(j.of.reusable + 1);
  refresh(j);
  const std::uint32_t device_full = std::min(j.found.full_tokens, j.of.reusable);
  const std::uint32_t on_device = j.found.window_safe_tokens;
  if (on_device < j.of.reusable && (host_ || model_.shared != nullptr)) {
    fetch(j, now_s);
  }
  const prefix_match& m = j.found;
  std::uint32_t length = m.window_safe_tokens;
  std::uint32_t first_whole = length - std::min(length, window_span());
  pin_extent extent = pin_extent::hit(m);
  if (options_.may_heal && m.heal_tokens > m.window_safe_tokens) {
    const heal_bounds bounds{.full_length = std::min(m.full_tokens, j.of.reusable) * page,
                             .prompt_tokens = j.of.input_tokens,
                             .safe_length = m.window_safe_tokens * page};
    const fetch_model& f = model_.fetch;
    if (choose_reuse(*f.model, f.healing, bounds, options_.node.rates).way == reuse_way::heal) {
      length = m.heal_tokens;
      extent = {length, 0};
      j.heal_s = seconds_of(heal_flops(*f.model, f.healing, bounds), options_.node.rates);
      first_whole = length;
      for (const std::uint32_t window : f.windows) {
        first_whole = std::min(first_whole, first_healed_page(f.healing, window, length * page));
      }
      ++counters_.heals;
      j.record.healed_tokens += (length - m.window_safe_tokens) * page;
    }
  }
  j.device = device_->pin(*j.of.space, prompt, m, extent, us(now_s));
  ORIEL_EXPECTS(j.device.full_tokens() == length || !j.device);
  j.computed = length * page;
  j.published = length;
  j.first_window = first_whole;
  j.is_cut = false;
  if (!j.was_started) {  // Counts of a request that was preempted stay those of its first start.
    const std::uint32_t local = std::min(length, std::max(device_full, on_device));
    j.record.hit_tokens[0] = local * page;
    std::uint32_t rest = (length - local) * page;
    const auto from_host =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(rest, j.fetch_full[0] * page));
    j.record.hit_tokens[1] = from_host;
    rest -= from_host;
    j.record.hit_tokens[2] = rest;
    j.record.local_miss_tokens = j.of.input_tokens - local * page - from_host;
    j.record.first_computed_page = length;
  }
  set_remaining(j, estimate_s(j, j.computed) + j.heal_s);
  j.facts.cached_tokens = j.computed;
  j.facts.uncached_tokens = j.of.input_tokens - j.computed;
}

/// Asks the tiers below for what the device lacks and brings it, if that is the quickest way.
void node_worker::fetch(job& j, double now_s) {
  const auto prompt = j.of.pages.first(j.of.reusable + 1);
  const std::uint32_t page = model_.page_tokens, usable = j.of.reusable;
  const prefix_match host = j.on_host;
  prefix_match shared;
  if (model_.shared != nullptr && host.window_safe_tokens < usable) {
    shared = model_.shared->match(*j.of.space, prompt);
  }
  const prefix_match& device = j.found;
  const bool has_more =
      std::max(host.window_safe_tokens, shared.window_safe_tokens) > device.window_safe_tokens ||
      std::max(host.heal_tokens, shared.heal_tokens) > device.heal_tokens;
  if (!has_more) {
    return;
  }
  coverage_.full.assign(usable, no_tier);
  coverage_.windows.resize(model_.windows_in_pages.size());
  const auto cover = [&](const prefix_match& has, std::uint8_t tier) {
    const std::uint32_t end = std::min(has.full_tokens, usable);
    for (std::uint32_t i = 0; i < end; ++i) {
      coverage_.full[i] = std::min(coverage_.full[i], tier);
    }
    for (std::size_t kind = 0; kind < coverage_.windows.size(); ++kind) {
      const std::uint32_t safe = has.window_safe_tokens;
      const std::uint32_t need = model_.windows_in_pages[kind] - 1;
      for (std::uint32_t i = safe - std::min(safe, need); i < safe; ++i) {
        coverage_.windows[kind][i] = std::min(coverage_.windows[kind][i], tier);
      }
    }
  };
  for (auto& windows : coverage_.windows) {
    windows.assign(usable, no_tier);
  }
  cover(host, 0);
  cover(shared, 1);
  const prefix_match seen{.full_tokens = std::min(device.full_tokens, usable) * page,
                          .window_safe_tokens = device.window_safe_tokens * page,
                          .heal_tokens = device.heal_tokens * page};
  const transfer_rates rates[2] = {options_.tiers.host, options_.tiers.shared};
  const fetch_plan way =
      plan_fetch(model_.fetch, options_.node.rates, seen, j.of.input_tokens, coverage_, rates);
  if (way.way == fetch_way::nothing) {
    return;
  }
  bring(j, way, now_s);
}

/// Takes pages for what comes and gives them to the tree; until they have come, the step that uses
/// them waits layer by layer (stall_of).
void node_worker::bring(job& j, const fetch_plan& way, double now_s) {
  const auto prompt = j.of.pages.first(j.of.reusable + 1);
  const std::uint32_t page = model_.page_tokens, end = way.length / page;
  const std::uint32_t held = std::min({j.found.heal_tokens, way.full.first, end});
  page_cache::lease lease = device_->pin(*j.of.space,
                                         prompt,
                                         j.found,
                                         {.full_tokens = held, .window_tokens = 0, .is_hit = false},
                                         us(now_s));
  std::uint32_t first_window = end;
  for (const page_range& range : way.windows) {
    first_window = range.first == range.end ? first_window : std::min(first_window, range.first);
  }
  const std::uint32_t came = device_->publish(lease, prompt, first_window, end, true, us(now_s));
  double from_s = now_s;
  for (std::uint8_t tier = 0; tier < 2; ++tier) {
    j.fetch_full[tier] = j.fetch_windows[tier] = 0;
    for (std::uint32_t i = way.full.first; i < std::min(way.full.end, came); ++i) {
      j.fetch_full[tier] += coverage_.full[i] == tier;
    }
    std::uint64_t bytes = j.fetch_full[tier] * model_.fetch.page_bytes[0];
    for (std::size_t kind = 0; kind < way.windows.size(); ++kind) {
      std::uint64_t windows = 0;
      for (std::uint32_t i = way.windows[kind].first; i < way.windows[kind].end; ++i) {
        windows += coverage_.windows[kind][i] == tier;
      }
      j.fetch_windows[tier] += windows;
      bytes += windows * model_.fetch.page_bytes[kind + 1];
    }
    if (bytes != 0) {
      const transfer_rates& rate = tier == 0 ? options_.tiers.host : options_.tiers.shared;
      const double begin_s = std::max(now_s, link_free_s_[tier]) + rate.latency_s;
      link_free_s_[tier] = begin_s + static_cast<double>(bytes) / rate.bytes_per_s;
      from_s = std::max(from_s, begin_s);
    }
  }
  j.fetch_from_s = from_s;
  ++counters_.fetches;
  j.record.fetched_tokens += (came - std::min(came, way.full.first)) * page;
  j.found = device_->match_beyond(lease, prompt);
  device_->release(lease, {}, us(now_s));
  j.epoch = device_->epoch();
  (void)has_changed(j);
  j.safe_pages = j.found.window_safe_tokens;
}

/// Seconds that a step waits for the pages of a fetch, layer by layer.
double node_worker::stall_of(job& j, double step_s, double now_s) {
  if (j.fetch_from_s <= 0.0) {
    return 0.0;
  }
  double stall_s = 0.0;
  const std::size_t layers = model_.layer_bytes.size();
  std::ranges::fill(layer_seconds_, step_s / static_cast<double>(layers));
  for (std::size_t tier = 0; tier < 2; ++tier) {
    if (j.fetch_full[tier] + j.fetch_windows[tier] == 0) {
      continue;
    }
    for (std::size_t layer = 0; layer < layers; ++layer) {
      const bool is_full = model_.fetch.layers[layer].pool == full_pool;
      arrival_bytes_[layer] =
          model_.layer_bytes[layer] * (is_full ? j.fetch_full[tier] : j.fetch_windows[tier]);
    }
    const transfer_rates& rate = tier == 0 ? options_.tiers.host : options_.tiers.shared;
    stall_s = std::max(stall_s,
                       predict_stall(arrival_bytes_,
                                     layer_seconds_,
                                     {.latency_s = std::max(0.0, j.fetch_from_s - now_s),
                                      .bytes_per_s = rate.bytes_per_s},
                                     0.0));
  }
  j.fetch_from_s = 0.0;
  return stall_s;
}

/// Others may have published more of its prompt since its last chunk.
void node_worker::skip_ahead(job& j, double now_s) {
  const std::uint32_t page = model_.page_tokens;
  if (j.is_decoding || j.epoch == device_->epoch() || j.computed / page >= j.of.reusable ||
      j.heal_s > 0.0) {
    return;
  }
  j.epoch = device_->epoch();
  if (!has_changed(j)) {
    return;
  }
  const auto prompt = j.of.pages.first(j.of.reusable + 1);
  const prefix_match m =
      j.device ? device_->match_beyond(j.device, prompt) : device_->match(*j.of.space, prompt);
  if (m.window_safe_tokens * page <= j.computed) {
    return;
  }
  page_cache::lease further = device_->pin(*j.of.space, prompt, m, pin_extent::hit(m), us(now_s));
  const std::uint32_t tokens = further.full_tokens() * page;
  if (tokens <= j.computed) {
    return;  // `further` lets go by itself.
  }
  device_->release(j.device, {}, us(now_s));
  j.device = std::move(further);
  j.record.hit_tokens[0] += tokens - j.computed;
  if (!ORIEL_MUTANT(sim_skipped_is_missed_too)) {
    j.record.local_miss_tokens -= std::min(j.record.local_miss_tokens, tokens - j.computed);
  }
  j.computed = tokens;
  j.published = tokens / page;
  j.first_window = j.published - std::min(j.published, window_span());
  set_remaining(j, estimate_s(j, tokens));
  j.facts.cached_tokens = tokens;
  j.facts.uncached_tokens = j.of.input_tokens - tokens;
}

void node_worker::preempt(std::uint32_t index, double now_s) {
  job& j = jobs_[index];
  ++counters_.preemptions;
  std::erase(running_, index);
  promised_ -= pages_of(j);
  j.state = job_state::queued;
  release(j, {}, now_s);
  j.heal_s = j.fetch_from_s = 0.0;
  j.computed = 0;
  const auto before = [&](std::uint32_t other) { return jobs_[other].order < j.order; };
  queue_.insert(std::ranges::find_if_not(queue_, before), index);
  look(j);
}

/// The whole pages of its chunk are the caches' now; with the prompt's end those of the answer too:
/// nobody can ask for them before it is complete.
void node_worker::publish(job& j, double now_s) {
  const bool is_whole = j.computed == j.of.input_tokens;
  auto all = static_cast<std::uint32_t>(j.of.pages.size()) - 1;
  if (options_.decode_in_steps && !j.is_decoding) {
    all = j.of.input_tokens / model_.page_tokens;
  }
  const std::uint32_t end = is_whole ? all : std::min(all, j.computed / model_.page_tokens);
  const std::uint32_t first = j.device.full_tokens();
  // The windows of a running sequence reach back so far.
  const std::uint32_t span = window_span() + model_.fetch.healing.slack_pages;
  const std::uint32_t first_window =
      std::max(j.first_window, j.published - std::min(j.published, span));
  if ((end > first || is_whole) && !j.is_cut) {
    j.is_cut = device_->publish(j.device, j.of.pages, first_window, end, is_whole, us(now_s)) < end;
    device_->tree().drop_windows(j.device);  // Else they keep room from the windows to come.
    j.published = end;
  }
  if (end > first || is_whole) {
    write_through(host_.get(), j.host, j, first_window, end, now_s);
    write_through(model_.shared, j.shared, j, first_window, end, now_s);
  }
}

/// A tier below gets the same; what it has no room for it does not keep.
void node_worker::write_through(page_cache* tier,
                                page_cache::lease& held,
                                const job& j,
                                std::uint32_t first_window,
                                std::uint32_t end,
                                double now_s) {
  if (tier == nullptr) {
    return;
  }
  if (!held) {
    const auto path = j.of.pages.first(end + 1);
    const prefix_match m = tier->match(*j.of.space, path);
    held = tier->pin(
        *j.of.space, path, m, {.full_tokens = m.heal_tokens, .window_tokens = 0}, us(now_s));
  }
  const bool is_whole = j.computed == j.of.input_tokens;
  tier->publish(held, j.of.pages, first_window, end, is_whole, us(now_s));
  tier->tree().drop_windows(held);
}

/// It lets go of what it holds on all tiers.
void node_worker::release(job& j, const lease_end& end, double now_s) noexcept {
  device_->release(j.device, end, us(now_s));
  if (host_) {
    host_->release(j.host, end, us(now_s));
  }
  if (model_.shared != nullptr) {
    model_.shared->release(j.shared, end, us(now_s));
  }
}

/// Its prompt is computed: it leaves.
void node_worker::finish(std::uint32_t index, double now_s) {
  job& j = jobs_[index];
  const std::uint32_t user = j.of.user;
  const prefill_record record = j.record;
  if (options_.decode_in_steps && j.of.output_tokens > 1) {
    growth_.push_back({j.order, -j.facts.remaining_s});
    guard_.leave(j.place);
    j.place = no_place;
    j.is_decoding = true;
    j.decode_left = j.of.output_tokens - 1.0;  // The first came with the prompt.
    ++decoding_;
    decode_tokens_ += j.of.input_tokens + j.of.output_tokens;
    listener_.on_prefilled(user, record, now_s);
    return;
  }
  const lease_end end{.ended = request_end::unknown, .duration_us = us(now_s - j.facts.arrived_s)};
  release(j, end, now_s);
  forget(index);
  listener_.on_prefilled(user, record, now_s);
  if (options_.decode_in_steps) {
    listener_.on_decoded(user, now_s);
  }
}

}  // namespace oriel::sim
