// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The life of requests in a simulated fleet.
#include "cluster_run.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>

#include <algorithm>
#include <cmath>
#include <string>

namespace oriel::sim {
namespace {

constexpr std::uint32_t slot_bits = 24;  // of an id: the rest is a serial number

}  // namespace

cluster_run::cluster_run(const workload_view& view,
                         const cluster_options& options,
                         progress_report progress)
    : view_(view),
      base_(view.base()),
      options_(options),
      progress_(progress),
      model_(options, base_.page_tokens),
      end_s_(view.measure_end_s()) {
  ORIEL_EXPECTS(options.workers > 0 && options.routers > 0);
  const std::uint32_t clones = view.options().clones;
  pages_.reserve(base_.pages.size() + 1);
  for (const std::uint32_t page : base_.pages) {
    pages_.push_back(token_id{page});
  }
  pages_.push_back(token_id{~0u});  // Behind the last path: a token that is computed.
  holders_.start(clones, base_.distinct_pages);
  const std::uint32_t spaces = clones * base_.name_spaces;
  spaces_.reserve(spaces);
  for (std::uint32_t space = 0; space < spaces; ++space) {
    const std::string salt = std::to_string(space);
    spaces_.emplace_back(namespace_fields{.tenant_salt = salt});
    holders_.name_clone(spaces_.back().digest().low, space / base_.name_spaces);
  }
  waits_left_.reserve(std::size_t{clones} * base_.requests.size());
  for (std::uint32_t clone = 0; clone < clones; ++clone) {
    for (const workload_request& r : base_.requests) {
      waits_left_.push_back(options.is_open ? 0 : r.waits);
    }
  }
  if (options.tiers.shared_tokens != 0) {
    shared_ = std::make_unique<page_cache>(model_.cache_of(options.tiers.shared_tokens));
    model_.shared = shared_.get();
  }
  out_.router = name_of(options.router);
  out_.order = oriel::name_of(options.order);
  out_.seed = view.options().seed;
  out_.is_open = options.is_open;
  out_.measure_begin_s = view.measure_begin_s();
  out_.measure_end_s = end_s_;
  out_.gpu_s.assign(options.workers, 0.0);
  out_.busy.assign(options.workers, {});
}

void cluster_run::handle(const occasion& e) {
  switch (e.what) {
    case happens::arrival:
      return on_arrival(e.a, static_cast<std::uint32_t>(e.b));
    case happens::step_end: {
      node& n = nodes_[e.a];
      if (n.life == e.b && !n.is_down) {
        add_busy(e.a, n.busy_from_s, loop_.now_s());
        n.worker->end_step(loop_.now_s());
        flush(e.a);
        step(e.a);
      }
      return;
    }
    case happens::decode_end:
      return on_decode_end(e.a);
    case happens::report:
      report_loads();
      loop_.after(options_.stale.report_every_s, {happens::report});
      return;
    case happens::delivery: {
      const letter l = letters_.take(e.a);
      return deliver(l.router, l.opened());
    }
    case happens::told_load: {
      const late_load l = late_loads_.take(e.a);
      if (auto& r = routers_[l.router].router; r) {
        r->report(l.load, loop_.now_s());
      }
      return;
    }
    case happens::gossip: {
      const late_gossip g = late_gossip_.take(e.a);
      if (auto& r = routers_[g.router].router; r) {
        r->note_placed(g.worker, g.seconds, g.at_s);
      }
      return;
    }
    case happens::tick:
      for (std::uint32_t r = 0; r < routers_.size(); ++r) {
        turn(r);
      }
      loop_.after(tick_s, {happens::tick});
      return;
    case happens::cancel:
      if (live_[e.a].id == e.b && live_[e.a].at != stage::free) {
        if (fleet_router* r = router_of(live_[e.a]); r != nullptr) {
          r->cancel(live_[e.a].id, loop_.now_s());
        }
        abandon(e.a);
        end(e.a, request_end_kind::cancelled);
      }
      return;
    case happens::outage:
      return change(e.a, e.b);
    case happens::mend:
      return mend(static_cast<std::uint32_t>(e.b), e.a);
  }
}

std::uint32_t cluster_run::pick_router(std::uint64_t session) const {
  const auto count = static_cast<std::uint32_t>(routers_.size());
  for (std::uint32_t i = 0; i < count; ++i) {
    const auto r = static_cast<std::uint32_t>((session + i) % count);
    if (routers_[r].router) {
      return r;
    }
  }
  return count;
}

fleet_router* cluster_run::router_of(const live& l) {
  seat& s = routers_[l.router];
  return s.life == l.router_life ? s.router.get() : nullptr;
}

std::span<const chain_hash> cluster_run::links_of(const live& l) {
  const auto links = base_.links_of(base_.requests[l.request]);
  if (l.clone == 0) {
    return links;
  }
  links_.resize(std::max(links_.size(), links.size()));
  const auto salted = std::span(links_).first(links.size());
  salt_links(links, l.clone, salted);
  return salted;
}

void cluster_run::on_arrival(std::uint64_t session, std::uint32_t request) {
  if (free_live_.empty()) {
    live_.emplace_back();
    free_live_.push_back(static_cast<std::uint32_t>(live_.size() - 1));
  }
  const std::uint32_t index = free_live_.back();
  free_live_.pop_back();
  const workload_request& r = base_.requests[request];
  const double now_s = loop_.now_s();
  live& l = live_[index];
  l = {};
  l.id = ++last_id_ << slot_bits | index;
  l.request = request;
  l.clone = view_.clone_of(session);
  l.session = session;
  l.at = stage::routing;
  l.router = pick_router(session);
  l.out = {.request = request,
           .clone = l.clone,
           .session = static_cast<std::uint32_t>(session),
           .arrived_s = now_s,
           .input_tokens = r.input_tokens,
           .output_tokens = r.output_tokens,
           .attempts = 0};
  ++in_flight_;
  ++out_.counters.arrived;
  if (options_.cancel_share > 0.0) {
    const random_stream draws = stream_for(options_.seed, draw_purpose::faults);
    if (draws.uniform(2 * last_id_) < options_.cancel_share) {
      const double after_s = -std::log1p(-static_cast<double>(draws.uniform(2 * last_id_ + 1))) *
                             options_.cancel_mean_s;
      loop_.after(after_s, {happens::cancel, index, l.id});
    }
  }
  if (l.router == routers_.size()) {
    return end(index, request_end_kind::failed);  // There is no router at all.
  }
  l.router_life = routers_[l.router].life;
  route(index);
}

/// Asks its router; again where it said so.
void cluster_run::route(std::uint32_t index) {
  live& l = live_[index];
  const workload_request& r = base_.requests[l.request];
  fleet_router* router = router_of(l);
  if (router == nullptr) {
    return;
  }
  const length_buckets& buckets = options_.buckets ? *options_.buckets : one_bucket_;
  const route_request asked{.id = l.id,
                            .session = oriel::detail::mix64(l.session + (options_.seed << 40)) | 1,
                            .deadline_s = l.out.arrived_s + options_.deadline_s,
                            .prompt_tokens = r.input_tokens,
                            .needs = std::uint64_t{1} << buckets.of(r.input_tokens),
                            .links = links_of(l)};
  const double now_s = loop_.now_s();
  const std::uint64_t from_ns = options_.wall_ns == nullptr ? 0 : options_.wall_ns();
  const route_answer answer = router->route(asked, now_s);
  if (options_.wall_ns != nullptr) {
    out_.decision_ns.add(options_.wall_ns() - from_ns);
  }
  out_.counters.degraded_decisions += is_store_away_;
  switch (answer.kind) {
    case route_kind::placed:
      return place(index, answer);
    case route_kind::refused:
      return end(index,
                 answer.reason == refusal::deadline ? request_end_kind::timed_out
                 : answer.reason == refusal::nobody ? request_end_kind::failed
                                                    : request_end_kind::rejected);
    case route_kind::waits:
      return;
    case route_kind::ended:
      ORIEL_EXPECTS(answer.kind != route_kind::ended);  // Ids are not used twice.
  }
}

void cluster_run::place(std::uint32_t index, const route_answer& answer) {
  live& l = live_[index];
  const workload_request& r = base_.requests[l.request];
  const double now_s = loop_.now_s();
  const std::uint32_t w = to_index(answer.decision.worker);
  out_.counters.retried += l.out.attempts != 0;
  ++l.out.attempts;
  l.attempt = answer.attempt;
  l.worker = w;
  l.out.worker = w;
  l.believed_tokens = answer.decision.prefix.safe_pages[1] * base_.page_tokens;
  gossip(l.router, answer.decision.worker, answer.decision.estimate_s);
  if (nodes_[w].is_down) {  // Nobody listens there.
    return fail_attempt(index);
  }
  l.at = stage::prefill;
  l.was_started = false;
  l.out.first_token_s = 0.0;  // Of an attempt that failed: it is not what the client got.
  const worker_job job{.user = index,
                       .space = &spaces_[view_.name_space(r, l.clone)],
                       .pages = std::span(pages_).subspan(r.first_page, r.pages + std::size_t{1}),
                       .clone = l.clone,
                       .reusable = base_.reusable_pages(r),
                       .input_tokens = r.input_tokens,
                       .output_tokens = r.output_tokens};
  if (!nodes_[w].worker->arrive(job, now_s)) {
    if (fleet_router* router = router_of(l); router != nullptr) {
      router->cancel(l.id, now_s);
    }
    return end(index, request_end_kind::rejected);
  }
  if (const auto end_s = nodes_[w].worker->cut_short(now_s)) {
    loop_.cancel(nodes_[w].step_end);
    nodes_[w].step_end = loop_.at(*end_s, {happens::step_end, w, nodes_[w].life});
  }
  step(w);
}

/// A worker that has nothing under way begins its next step.
void cluster_run::step(std::uint32_t worker) {
  node& n = nodes_[worker];
  if (n.is_down || n.worker->is_busy()) {
    return;
  }
  const auto end_s = n.worker->begin_step(loop_.now_s());
  flush(worker);
  if (end_s) {
    n.busy_from_s = loop_.now_s();
    n.step_end = loop_.at(*end_s, {happens::step_end, worker, n.life});
  }
}

void cluster_run::on_started(std::uint32_t user, const prefill_record& so_far, double now_s) {
  live& l = live_[user];
  l.was_started = true;
  l.out.started_s = now_s;
  take_record(l, so_far);
  if (fleet_router* router = router_of(l); router != nullptr) {
    router->started(l.id, l.attempt, now_s);
  }
  const workload_request& r = base_.requests[l.request];
  std::uint32_t duplicated = 0;
  for (std::uint32_t page = so_far.first_computed_page; page < base_.reusable_pages(r); ++page) {
    duplicated += holders_.has(l.clone, base_.pages[r.first_page + page]);
  }
  l.out.duplicated_tokens += duplicated * base_.page_tokens;
  const std::uint32_t local = so_far.hit_tokens[0] + so_far.hit_tokens[1];
  out_.counters.stale_decisions += l.believed_tokens > local;
}

void cluster_run::take_record(live& l, const prefill_record& record) {
  l.out.estimated_s = record.estimated_s;
  l.out.ahead_s = record.ahead_s;
  l.out.guard_slack_s = std::min(l.out.guard_slack_s, record.guard_slack_s);
  l.out.hit_tokens = record.hit_tokens;
  l.out.local_miss_tokens = record.local_miss_tokens;
  l.out.fetched_tokens = record.fetched_tokens;
  l.out.healed_tokens = record.healed_tokens;
}

void cluster_run::on_prefilled(std::uint32_t user, const prefill_record& record, double now_s) {
  live& l = live_[user];
  take_record(l, record);
  l.out.served_s += record.served_s;
  l.out.first_token_s = now_s;
  l.at = stage::decode;
  if (fleet_router* router = router_of(l); router != nullptr) {
    router->prefilled(l.id, l.attempt, record.served_s, now_s);
  }
  if (!options_.decode_in_steps) {
    const std::uint32_t resident = l.out.input_tokens + l.out.output_tokens;
    // The first token came with the prompt.
    const std::uint32_t left = l.out.output_tokens - std::min(l.out.output_tokens, 1u);
    const double seconds = nodes_[l.worker].worker->begin_decode(user, left, resident);
    l.decode_end = loop_.after(seconds, {happens::decode_end, user});
  }
}

void cluster_run::on_decoded(std::uint32_t user, double now_s) {
  live_[user].decode_end = loop_.at(now_s, {happens::decode_end, user});
}

void cluster_run::on_decode_end(std::uint32_t index) {
  live& l = live_[index];
  if (!options_.decode_in_steps) {
    nodes_[l.worker].worker->end_decode(l.out.input_tokens + l.out.output_tokens);
  }
  if (fleet_router* router = router_of(l); router != nullptr) {
    router->finished(l.id, l.attempt, loop_.now_s());
  }
  l.out.completed_s = loop_.now_s();
  end(index, request_end_kind::completed);
}

/// Whatever is under way for it at a worker is dropped.
void cluster_run::abandon(std::uint32_t index) {
  live& l = live_[index];
  if (l.at == stage::prefill) {
    nodes_[l.worker].worker->cancel(index, loop_.now_s());
    flush(l.worker);
  } else if (l.at == stage::decode) {
    if (options_.decode_in_steps && !loop_.is_planned(l.decode_end)) {
      nodes_[l.worker].worker->cancel(index, loop_.now_s());
    } else if (loop_.cancel(l.decode_end) && !options_.decode_in_steps) {
      nodes_[l.worker].worker->end_decode(l.out.input_tokens + l.out.output_tokens);
    }
  }
  l.at = stage::routing;
}

/// Its worker is gone, or never was there: the router says what now.
void cluster_run::fail_attempt(std::uint32_t index) {
  live& l = live_[index];
  l.at = stage::routing;
  if (fleet_router* router = router_of(l); router != nullptr) {
    router->failed(l.id, l.attempt, loop_.now_s());
    return;  // `again` or `ended` comes with its next turn.
  }
  // The router that knew it is gone: another one takes it as new.
  l.router = pick_router(l.session);
  if (l.router == routers_.size() || l.out.attempts >= options_.attempts_max) {
    return end(index, request_end_kind::failed);
  }
  l.router_life = routers_[l.router].life;
  route(index);
}

/// What a router wants done.
void cluster_run::turn(std::uint32_t router) {
  if (!routers_[router].router) {
    return;
  }
  actions_.clear();
  routers_[router].router->tick(loop_.now_s(), actions_);
  const std::vector<route_action> actions = actions_;
  for (const route_action& a : actions) {
    const auto index = static_cast<std::uint32_t>(a.id & ((1u << slot_bits) - 1));
    if (live_[index].id != a.id || live_[index].at == stage::free) {
      continue;  // It ended: the router only says so too.
    }
    switch (a.kind) {
      case action_kind::again:
        route(index);
        break;
      case action_kind::abandon:
        if (live_[index].attempt == a.attempt) {
          abandon(index);
        }
        break;
      case action_kind::ended:
        abandon(index);
        end(index,
            a.end == route_end::timed_out   ? request_end_kind::timed_out
            : a.end == route_end::cancelled ? request_end_kind::cancelled
                                            : request_end_kind::failed);
        break;
    }
  }
}

/// The one end of a request. Who waited for it goes on, however it ended.
void cluster_run::end(std::uint32_t index, request_end_kind how) {
  live& l = live_[index];
  ORIEL_EXPECTS(l.at != stage::free);
  const double now_s = loop_.now_s();
  l.out.end = how;
  if (how != request_end_kind::completed) {
    l.out.completed_s = now_s;
    l.out.first_token_s = l.out.first_token_s == 0.0 ? now_s : l.out.first_token_s;
    l.out.started_s = l.was_started ? l.out.started_s : now_s;
  }
  run_counters& c = out_.counters;
  std::uint64_t* const counts[] = {
      &c.completed, &c.rejected, &c.cancelled, &c.timed_out, &c.failed};
  ++*counts[static_cast<std::size_t>(how)];
  out_.guard_slack_ms = std::min(out_.guard_slack_ms, 1e3 * l.out.guard_slack_s);
  if (l.out.arrived_s >= out_.measure_begin_s && l.out.arrived_s < end_s_) {
    out_.requests.push_back(l.out);
  }
  const std::uint32_t clone = l.clone;
  const std::uint64_t session = l.session;
  const workload_request& r = base_.requests[l.request];
  l.at = stage::free;
  free_live_.push_back(index);
  --in_flight_;
  if (options_.is_open) {
    return;
  }
  for (const std::uint32_t follower : base_.followers_of(r)) {
    std::uint32_t& left = waits_left_[std::size_t{clone} * base_.requests.size() + follower];
    if (--left == 0) {
      const double due_s = now_s + base_.requests[follower].gap_s;
      if (due_s < end_s_) {
        loop_.at(due_s, {happens::arrival, static_cast<std::uint32_t>(session), follower});
      }
    }
  }
}

}  // namespace oriel::sim
