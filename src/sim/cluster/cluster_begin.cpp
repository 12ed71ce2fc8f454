// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// How a run of a simulated fleet begins, and what is counted when it is over.
#include "cluster_run.hpp"

#include <oriel/core/contract.hpp>

#include <algorithm>
#include <span>
#include <string>

namespace oriel::sim {
namespace {

constexpr double minute_s = 60.0;

}  // namespace

run_outcome cluster_run::run() {
  const std::uint64_t from_ns = options_.wall_ns == nullptr ? 0 : options_.wall_ns();
  begin();
  std::uint64_t seen = 0;
  while (const auto e = loop_.next()) {
    handle(*e);
    if (progress_.tell != nullptr && (++seen & 0xFFF) == 0) {
      progress_.tell(progress_.to, loop_.now_s(), end_s_);
    }
    if (loop_.now_s() >= end_s_ && in_flight_ == 0) {
      break;
    }
  }
  finish();
  if (options_.wall_ns != nullptr) {
    out_.wall_s = 1e-9 * static_cast<double>(options_.wall_ns() - from_ns);
  }
  return std::move(out_);
}

cluster_run::~cluster_run() {
  if (shared_) {
    shared_->tell(nullptr);
  }
}

void cluster_run::begin() {
  const length_buckets& buckets = options_.buckets ? *options_.buckets : one_bucket_;
  bucket_of_worker_.assign(options_.workers, 0);
  if (buckets.size() > 1) {
    // As many workers for each bucket as its share of the seconds asks for.
    length_load lengths;
    for (const workload_request& r : base_.requests) {
      lengths.add(r.input_tokens,
                  options_.node.cost.seconds(0.0, r.input_tokens, options_.chunk_tokens));
    }
    const std::vector<std::uint32_t> share = lengths.workers_of(buckets, options_.workers);
    std::uint32_t worker = 0;
    for (std::uint32_t bucket = 0; bucket < share.size(); ++bucket) {
      for (std::uint32_t i = 0; i < share[bucket]; ++i) {
        bucket_of_worker_[worker++] = bucket;
      }
    }
  }
  nodes_.resize(options_.workers);
  for (std::uint32_t w = 0; w < options_.workers; ++w) {
    nodes_[w].worker =
        std::make_unique<node_worker>(w, model_, static_cast<worker_listener&>(*this));
    nodes_[w].batch = std::make_unique<event_batch>(worker_id{w}, nodes_[w].life);
  }
  if (shared_) {
    const std::uint32_t store = options_.workers;
    node& n = nodes_.emplace_back();
    n.batch = std::make_unique<event_batch>(worker_id{store}, n.life);
    on_shared_ =
        std::make_unique<tier_listener>(static_cast<worker_listener&>(*this), store, store_tier);
    shared_->tell(on_shared_.get());
  }
  routers_.resize(options_.routers);
  for (std::uint32_t r = 0; r < options_.routers; ++r) {
    start_router(r);
  }
  for (std::uint64_t session = 0; session < view_.sessions(); ++session) {
    const workload_session& s = view_.session(session);
    const double start_s = view_.start_s(session);
    for (std::uint32_t i = 0; i < s.requests; ++i) {
      const std::uint32_t request = s.first_request + i;
      const workload_request& r = base_.requests[request];
      if (options_.is_open || r.waits == 0) {
        const double due_s = start_s + (options_.is_open ? r.arrival_s : r.gap_s);
        if (due_s < end_s_) {
          loop_.at(due_s, {happens::arrival, static_cast<std::uint32_t>(session), request});
        }
      }
    }
  }
  loop_.at(0.0, {happens::report});
  loop_.at(tick_s, {happens::tick});
  const auto plan = [&](const std::vector<outage>& outages, std::uint32_t kind) {
    for (std::size_t i = 0; i < outages.size(); ++i) {
      loop_.at(outages[i].from_s, {happens::outage, kind, 2 * i});
      if (outages[i].until_s != std::numeric_limits<double>::infinity()) {
        loop_.at(outages[i].until_s, {happens::outage, kind, 2 * i + 1});
      }
    }
  };
  plan(options_.worker_outages, 0);
  plan(options_.router_outages, 1);
  plan(options_.store_outages, 2);
}

void cluster_run::add_busy(std::uint32_t worker, double from_s, double until_s) {
  out_.gpu_s[worker] +=
      std::max(0.0, std::min(until_s, end_s_) - std::max(from_s, out_.measure_begin_s));
  std::vector<float>& bins = out_.busy[worker];
  for (auto bin = static_cast<std::size_t>(from_s / minute_s);
       static_cast<double>(bin) * minute_s < until_s;
       ++bin) {
    bins.resize(std::max(bins.size(), bin + 1));
    const double begin_s = static_cast<double>(bin) * minute_s;
    bins[bin] += static_cast<float>(
        (std::min(until_s, begin_s + minute_s) - std::max(from_s, begin_s)) / minute_s);
  }
}

void cluster_run::finish() {
  run_counters& c = out_.counters;
  for (node& n : std::span(nodes_).first(options_.workers)) {
    const worker_counters& w = n.worker->counters();
    c.heals += w.heals;
    c.twin_waits += w.twin_waits;
    c.guard_demands += w.guard_demands;
    c.preemptions += w.preemptions;
    c.fetches += w.fetches;
    c.fetch_stalls += w.fetch_stalls;
    c.fetch_stall_s += w.fetch_stall_s;
    c.prefill_tokens += w.prefill_tokens;
    c.heal_s += w.heal_s;
    c.steps += w.steps;
    c.evicted_pages += n.worker->device().tree().counters().evicted_full_pages;
    c.evicted_window_pages += n.worker->device().tree().counters().evicted_window_pages;
    out_.left_requests += n.worker->requests();
    out_.left_leases += n.worker->leases();
  }
  out_.left_leases += shared_ ? shared_->tree().leases() : 0;
  for (std::uint32_t r = 0; r < routers_.size(); ++r) {
    turn(r);
    out_.left_requests += routers_[r].router ? routers_[r].router->in_flight() : 0;
  }
  out_.left_requests += in_flight_;
  const double hours_s = end_s_ - out_.measure_begin_s;
  double busy_s = 0.0, tokens = 0.0;
  for (const double s : out_.gpu_s) {
    busy_s += s;
  }
  for (const request_outcome& r : out_.requests) {
    tokens += r.input_tokens;
  }
  out_.utilisation = busy_s / (hours_s * options_.workers);
  out_.offered_load = tokens / (hours_s * options_.workers);
  out_.simulated_requests = c.arrived;
}

run_outcome run_cluster(const workload_view& view,
                        const cluster_options& options,
                        progress_report progress) {
  return cluster_run(view, options, progress).run();
}

}  // namespace oriel::sim
