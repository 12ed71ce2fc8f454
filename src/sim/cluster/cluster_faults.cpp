// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What the routers of a simulated fleet hear, how late, and what breaks.
#include "cluster_run.hpp"

#include <oriel/core/mutation.hpp>

#include <algorithm>

namespace oriel::sim {

void cluster_run::start_router(std::uint32_t r) {
  const node_cost& cost = options_.node.cost;
  const double scale = 1.0 + cost.mtp_share;
  const double token_bytes = static_cast<double>(model_.fetch.page_bytes[0]) / base_.page_tokens;
  router_options made;
  made.index = {.page_size = base_.page_tokens,
                .windows = model_.fetch.windows,
                .workers = static_cast<std::uint32_t>(nodes_.size()),
                .capacity_pages = 1u << 20,
                .held_events = 4096,
                .held_links = 1u << 20};
  const tier_sizes& tiers = options_.tiers;
  const std::uint64_t tokens =
      (tiers.device_tokens + tiers.host_tokens) * options_.workers + tiers.shared_tokens;
  const std::uint64_t pages = tokens / base_.page_tokens;
  made.index.capacity_pages =
      static_cast<std::uint32_t>(std::clamp<std::uint64_t>(pages, 1u << 16, (1u << 24) - 2));
  made.work = {.token_s = scale * cost.prefill.token_s,
               .pair_s = scale * cost.prefill.pair_s,
               .request_s = cost.step_s};
  made.work.fetch_token_s[1] = token_bytes / options_.tiers.host.bytes_per_s;
  made.work.fetch_begin_s[1] = options_.tiers.host.latency_s;
  if (shared_) {
    made.shared = worker_id{options_.workers};
    made.work.fetch_token_s[store_tier] = token_bytes / tiers.shared.bytes_per_s;
    made.work.fetch_begin_s[store_tier] = tiers.shared.latency_s;
  }
  if (options_.may_heal) {
    const heal_bounds deep{.full_length = 4096 * base_.page_tokens,
                           .prompt_tokens = 4096 * base_.page_tokens + 1,
                           .safe_length = 0};
    made.work.heal_s = seconds_of(heal_flops(*model_.fetch.model, model_.fetch.healing, deep),
                                  options_.node.rates);
  }
  made.life.attempts_max = options_.attempts_max;
  made.life.ahead_max_s = options_.ahead_max_s;
  made.life.retries_after_first_token = true;
  made.health.eject_after_s =
      std::max(5.0, 5.0 * options_.stale.report_every_s + options_.stale.report_delay_s);
  made.router = r;
  seat& s = routers_[r];
  s.router = make_router(options_.router, made);
  ++s.life;
  s.is_replaying.assign(nodes_.size(), false);
  s.router->set_degraded(is_store_away_);
  for (std::uint32_t w = 0; w < options_.workers; ++w) {
    const bool has_buckets = options_.buckets && options_.buckets->size() > 1;
    s.router->join(
        worker_id{w},
        {.has = has_buckets ? std::uint64_t{1} << bucket_of_worker_[w] : ~std::uint64_t{0}},
        loop_.now_s());
  }
}

/// The simulator's own books, and then what routers are told: with links of the workload.
void cluster_run::on_cache(std::uint32_t worker, std::uint8_t tier, const page_id_event& event) {
  cache_event told{.kind = event.kind, .tier = tier, .pool = event.pool, .page = event.position};
  if (event.kind != cache_event_kind::cleared) {
    const std::uint32_t clone = holders_.clone_of(event.space);
    if (event.pool == 0 && worker < options_.workers) {
      holders_.add(clone, event.id, event.kind == cache_event_kind::stored ? 1 : -1);
    }
    told.hash = link_of(event.id, clone);
    told.parent = event.position == 0 ? chain_hash{} : link_of(event.parent, clone);
  }
  if (!nodes_[worker].is_down) {
    nodes_[worker].batch->take(told, [&](const worker_event& e) { send(worker, e); });
  }
}

void cluster_run::on_cache(std::uint32_t worker, std::uint8_t tier, const page_id_stretch& pages) {
  const std::uint32_t clone = holders_.clone_of(pages.space);
  const bool is_stored = pages.kind == cache_event_kind::stored;
  if (worker < options_.workers) {
    holders_.add(clone, pages.ids, is_stored ? 1 : -1);
  }
  if (nodes_[worker].is_down) {
    return;
  }
  told_.resize(std::max(told_.size(), pages.ids.size()));
  const auto links = std::span(told_).first(pages.ids.size());
  links_of_pages(pages.ids, clone, links);
  nodes_[worker].batch->take_pages(
      {.kind = pages.kind,
       .tier = tier,
       .page = pages.position,
       .parent = pages.position == 0 ? chain_hash{} : link_of(pages.parent, clone)},
      links,
      !is_stored,
      [&](const worker_event& e) { send(worker, e); });
}

void cluster_run::flush(std::uint32_t worker) {
  nodes_[worker].batch->flush([&](const worker_event& e) { send(worker, e); });
  if (const std::uint32_t store = options_.workers; shared_ && worker != store) {
    flush(store);
  }
}

template <class Visit>
void cluster_run::visit_pages(std::uint32_t worker, Visit&& visit) const {
  if (worker < options_.workers) {
    return nodes_[worker].worker->visit_pages(visit);
  }
  shared_->visit_pages([&](const page_id_event& page) { visit(store_tier, page); });
}

void cluster_run::send(std::uint32_t worker, const worker_event& event) {
  const staleness& s = options_.stale;
  if (s.event_loss > 0.0) {
    nodes_[worker].said.push_back(event);
  }
  const random_stream draws = stream_for(options_.seed, draw_purpose::event_loss);
  for (std::uint32_t r = 0; r < routers_.size(); ++r) {
    if (!routers_[r].router) {
      continue;
    }
    const bool is_lost = s.event_loss > 0.0 && draws.uniform(lost_drawn_++) < s.event_loss;
    if (is_lost || is_store_away_) {
      ++out_.counters.lost_events;
      continue;
    }
    if (s.event_delay_s == 0.0) {
      deliver(r, event);
    } else {
      loop_.after(s.event_delay_s, {happens::delivery, letters_.keep({r, event}), 0});
    }
  }
}

void cluster_run::deliver(std::uint32_t r, const worker_event& event) {
  seat& s = routers_[r];
  if (!s.router) {
    return;
  }
  s.router->apply(event);
  if (options_.stale.event_loss > 0.0 || !options_.store_outages.empty() ||
      !options_.router_outages.empty()) {
    see_gaps(r, to_index(event.worker));
  }
}

/// An event did not come: the worker says it again; or, if too many did not, all that it has.
void cluster_run::see_gaps(std::uint32_t r, std::uint32_t worker) {
  seat& s = routers_[r];
  const worker_state state = s.router->index().state(worker_id{worker});
  const auto missing = s.router->index().missing(worker_id{worker});
  const bool is_behind = state == worker_state::unsure || missing.first != missing.end;
  if (is_behind && !s.is_replaying[worker] && !ORIEL_MUTANT(sim_gaps_are_not_mended)) {
    s.is_replaying[worker] = true;
    loop_.after(options_.stale.replay_delay_s, {happens::mend, worker, r});
  }
}

void cluster_run::mend(std::uint32_t r, std::uint32_t worker) {
  seat& s = routers_[r];
  node& n = nodes_[worker];
  if (!s.router) {
    return;
  }
  s.is_replaying[worker] = false;
  if (n.is_down || is_store_away_) {
    return;
  }
  ++out_.counters.replays;
  const auto missing = s.router->index().missing(worker_id{worker});
  if (s.router->index().state(worker_id{worker}) == worker_state::sure &&
      n.said.has(missing.first, missing.end)) {
    n.said.repeat(missing.first, missing.end, [&](const worker_event& e) { s.router->apply(e); });
    return;
  }
  replay(r, worker);
}

void cluster_run::replay(std::uint32_t r, std::uint32_t worker) {
  seat& s = routers_[r];
  node& n = nodes_[worker];
  flush(worker);
  struct page {
    std::uint32_t tier, pool, at;
    chain_hash link, parent;
  };
  std::vector<page> pages;
  visit_pages(worker, [&](std::uint8_t tier, const page_id_event& p) {
    const std::uint32_t clone = holders_.clone_of(p.space);
    pages.push_back({tier, p.pool, p.position, link_of(p.id, clone), link_of(p.parent, clone)});
  });
  // Consecutive pages of a path in one event, the first ones of paths first.
  std::ranges::stable_sort(pages, {}, [](const page& p) { return p.tier << 8 | p.pool; });
  struct stretch {
    std::size_t first, end;
  };
  std::vector<stretch> stretches;
  for (std::size_t i = 0; i < pages.size(); ++i) {
    const bool goes_on = i != 0 && pages[i].tier == pages[i - 1].tier &&
                         pages[i].pool == pages[i - 1].pool && pages[i].at == pages[i - 1].at + 1 &&
                         pages[i].parent == pages[i - 1].link;
    if (goes_on) {
      stretches.back().end = i + 1;
    } else {
      stretches.push_back({i, i + 1});
    }
  }
  std::ranges::stable_sort(stretches, {}, [&](const stretch& t) { return pages[t.first].at; });
  worker_event e{.worker = worker_id{worker},
                 .kind = worker_event_kind::replay_begin,
                 .is_replay = true,
                 .epoch = n.life};
  s.router->apply(e);
  e.kind = worker_event_kind::stored;
  std::vector<chain_hash> said;
  for (const stretch& t : stretches) {
    const page& first = pages[t.first];
    said.clear();
    for (std::size_t i = t.first; i < t.end; ++i) {
      said.push_back(pages[i].link);
    }
    e.tier = static_cast<std::uint8_t>(first.tier);
    e.pool = first.pool;
    e.first_page = first.at;
    e.parent = first.parent;
    e.links = said;
    s.router->apply(e);
  }
  e = {.worker = worker_id{worker},
       .kind = worker_event_kind::replay_end,
       .is_replay = true,
       .epoch = n.life,
       .sequence = n.batch->sequence(),
       .replay_events = stretches.size()};
  s.router->apply(e);
}

void cluster_run::report_loads() {
  if (is_store_away_) {
    return;
  }
  const staleness& s = options_.stale;
  for (std::uint32_t w = 0; w < options_.workers; ++w) {
    if (nodes_[w].is_down) {
      continue;
    }
    const load_report load = nodes_[w].worker->load(loop_.now_s());
    for (std::uint32_t r = 0; r < routers_.size(); ++r) {
      if (!routers_[r].router) {
        continue;
      }
      if (s.report_delay_s == 0.0) {
        routers_[r].router->report(load, loop_.now_s());
      } else {
        loop_.after(s.report_delay_s, {happens::told_load, late_loads_.keep({load, r}), 0});
      }
    }
  }
}

void cluster_run::gossip(std::uint32_t from, worker_id worker, double seconds) {
  for (std::uint32_t r = 0; r < routers_.size(); ++r) {
    if (r == from || !routers_[r].router || is_store_away_) {
      continue;
    }
    if (options_.stale.gossip_delay_s == 0.0) {
      routers_[r].router->note_placed(worker, seconds, loop_.now_s());
    } else {
      loop_.after(options_.stale.gossip_delay_s,
                  {happens::gossip, late_gossip_.keep({worker, seconds, loop_.now_s(), r}), 0});
    }
  }
}

/// @param number  2 * outage, + 1 where it ends
void cluster_run::change(std::uint32_t kind, std::uint64_t number) {
  const bool is_over = number % 2 == 1;
  if (kind == 0) {
    const std::uint32_t w = options_.worker_outages[number / 2].who;
    return is_over ? start_worker(w) : kill_worker(w);
  }
  const auto replay_all = [&](std::uint32_t r) {
    for (std::uint32_t w = 0; w < nodes_.size(); ++w) {
      routers_[r].is_replaying[w] = true;
      loop_.after(options_.stale.replay_delay_s, {happens::mend, w, r});
    }
  };
  if (kind == 1) {
    const std::uint32_t r = options_.router_outages[number / 2].who;
    if (is_over) {
      start_router(r);
      replay_all(r);
      return;
    }
    routers_[r].router.reset();
    ++routers_[r].life;
    // What was at workers goes on. What waited for an answer of it asks another one.
    for (std::uint32_t index = 0; index < live_.size(); ++index) {
      live& l = live_[index];
      if (l.at == stage::routing && l.router == r) {
        fail_attempt(index);
      }
    }
    return;
  }
  is_store_away_ = !is_over;
  for (std::uint32_t r = 0; r < routers_.size(); ++r) {
    if (routers_[r].router) {
      routers_[r].router->set_degraded(is_store_away_);
      if (is_over) {
        replay_all(r);
      }
    }
  }
}

void cluster_run::kill_worker(std::uint32_t w) {
  node& n = nodes_[w];
  if (n.is_down) {
    return;
  }
  if (n.worker->is_busy()) {
    add_busy(w, n.busy_from_s, loop_.now_s());
  }
  flush(w);
  n.is_down = true;  // It tells nobody.
  n.worker->visit_pages([&](std::uint8_t, const page_id_event& p) {
    if (p.pool == 0) {
      holders_.add(holders_.clone_of(p.space), p.id, -1);
    }
  });
  lost_.clear();
  n.worker->kill(lost_, loop_.now_s());
  for (std::uint32_t index = 0; index < live_.size(); ++index) {
    if (live_[index].at == stage::decode && live_[index].worker == w) {
      if (!ORIEL_MUTANT(sim_dead_worker_answers)) {
        loop_.cancel(live_[index].decode_end);
      }
      lost_.push_back(index);
    }
  }
  const std::vector<std::uint32_t> lost = lost_;
  for (const std::uint32_t index : lost) {
    fail_attempt(index);
  }
}

void cluster_run::start_worker(std::uint32_t w) {
  node& n = nodes_[w];
  if (!n.is_down) {
    return;
  }
  n.is_down = false;
  ++n.life;
  n.batch = std::make_unique<event_batch>(worker_id{w}, n.life);
  n.said.clear();
  const bool has_buckets = options_.buckets && options_.buckets->size() > 1;
  for (seat& s : routers_) {
    if (s.router) {
      s.router->join(
          worker_id{w},
          {.has = has_buckets ? std::uint64_t{1} << bucket_of_worker_[w] : ~std::uint64_t{0}},
          loop_.now_s());
    }
  }
  // Its first event: there is nothing.
  n.batch->take({.kind = cache_event_kind::cleared}, [&](const worker_event& e) { send(w, e); });
}

}  // namespace oriel::sim
