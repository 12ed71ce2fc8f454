// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What the operations of a scenario mean, and how a simulation ends. world.hpp includes this file.
#pragma once

#include "world.hpp"

namespace sim {

template <class Events>
world<Events>::world(const setup& sizes)
    : sizes_(sizes),
      model_{sizes.layers},
      pools_([&] {
        std::vector<oriel::kv_layer_shape> shapes;
        for (const std::uint32_t window : sizes.layers) {
          shapes.push_back(
              {.kv_heads = 1, .head_dim_qk = 2, .head_dim_vo = 2, .window_tokens = window});
        }
        auto plan = oriel::pool_plan::make(shapes,
                                           {.page_size = sizes.page_size,
                                            .step_tokens = sizes.step_tokens,
                                            .slack_pages = sizes.ring_slack});
        return *pools_type::make(*plan, {sizes.pages});
      }()),
      memory_(pools_),
      runner_(model_, pools_, memory_, sizes.writes_garbage),
      ledger_(sizes_),
      epochs_(sizes.tenants),
      tree_(pools_.all(),
            {.page_size = sizes.page_size,
             .windows = sizes.windows,
             .slack_pages = sizes.tree_slack,
             .leases_max = sizes.leases_max,
             .namespaces_max = sizes.namespaces_max,
             .tenant_shares = sizes.tenant_shares,
             .keeps_hash_chain = sizes.with_chain},
            retention(oriel::keep_every{sizes.keep_every},
                      oriel::keep_branch_points{sizes.branch_points},
                      oriel::keep_dense_head{sizes.dense_head}),
            Events{},
            [&](std::uint32_t runs) { return any_order(sizes.order, runs); }),
      sessions_(8),
      name_of_full_(sizes.pages[0]) {
  // Fields that run together to the same text: only their framing tells these tenants apart.
  const char* salts[] = {"org_1", "org_12", "org_123"};
  const char* models[] = {"2345", "345", "45"};
  for (std::uint32_t tenant = 0; tenant < sizes.tenants; ++tenant) {
    spaces_.emplace_back(
        oriel::namespace_fields{.tenant_salt = salts[tenant], .model = models[tenant]});
  }
  for (const std::uint32_t pages : sizes.pages) {
    had_content_.emplace_back(pages);
  }
}

template <class Events>
void world<Events>::apply(const operation& op) {
  switch (op.what) {
    case verb::start:
      start(op);
      break;
    case verb::say:
      for (std::uint32_t i = 0; i < op.d; ++i) {
        const word drawn = mixed(op.salt, i) % sizes_.alphabet;
        sessions_[op.a].tokens.push_back(oriel::token_id{static_cast<std::uint32_t>(drawn)});
      }
      break;
    case verb::edit:
      edit(op);
      break;
    case verb::branch:
      branch(op);
      break;
    case verb::submit:
      submit(op);
      break;
    case verb::resume:
      resume(op);
      break;
    case verb::evict_full:
      evict_full(op.a);
      break;
    case verb::evict_window:
      evict_window(op.a % kinds(), op.b);
      break;
    case verb::probe:
      probe(op);
      break;
    case verb::drop_space:
      drop_space(op.a % sizes_.tenants);
      break;
    case verb::clear:
      clear();
      break;
    default:
      apply_to_request(op);
  }
  note(static_cast<word>(op.what));
  check();
}

template <class Events>
void world<Events>::apply_to_request(const operation& op) {
  if (requests_.empty()) {
    return;
  }
  const std::size_t at = op.a % requests_.size();
  request& r = *requests_[at];
  switch (op.what) {
    case verb::step:
      for (std::uint32_t more = op.salt % 3 + 1; more > 0; --more) {
        step(r, op);
      }
      break;
    case verb::publish:
      reserve_pages(r);
      [[fallthrough]];
    case verb::commit:
      if (r.has_fresh) {
        commit_pages(r);
      }
      break;
    case verb::reserve:
      reserve_pages(r);
      break;
    case verb::abort:
      abort_pages(r);
      break;
    case verb::drop_windows:
      tree_.drop_windows(r.lease);
      break;
    case verb::trim:
      r.kv->give_back_spares(1);
      break;
    case verb::preempt:
      preempt(at);
      break;
    case verb::finish:
      finish(r, op);
      [[fallthrough]];
    case verb::cancel:
      requests_.erase(requests_.begin() + static_cast<std::ptrdiff_t>(at));
      break;
    default:
      break;
  }
}

/// A conversation begins: a prompt that many share, then tokens of its own.
template <class Events>
void world<Events>::start(const operation& op) {
  session& s = sessions_[op.a];
  s.tenant = op.b % sizes_.tenants;
  s.tokens.clear();
  const std::uint32_t shared = (op.c * 7 + sizes_.page_size * 3) % (sizes_.context / 2);
  for (std::uint32_t i = 0; i < shared + op.d; ++i) {
    const word drawn = i < shared ? mixed(op.c, i) : mixed(op.salt, i);
    s.tokens.push_back(oriel::token_id{static_cast<std::uint32_t>(drawn % sizes_.alphabet)});
  }
}

template <class Events>
void world<Events>::edit(const operation& op) {
  std::vector<oriel::token_id>& tokens = sessions_[op.a].tokens;
  if (!tokens.empty()) {
    oriel::token_id& token = tokens[tokens.size() * op.b / 1000];
    token = oriel::token_id{(to_index(token) + 1) % sizes_.alphabet};
  }
}

template <class Events>
void world<Events>::branch(const operation& op) {
  const session from = sessions_[op.b];
  sessions_[op.a] = from;
  sessions_[op.a].tokens.resize(from.tokens.size() * op.c / 1000);
}

template <class Events>
void world<Events>::submit(const operation& op) {
  session& s = sessions_[op.a];
  if (s.tokens.empty() || requests_.size() >= 6) {
    return;
  }
  const auto prompt = static_cast<std::uint32_t>(s.tokens.size());
  const std::uint32_t target = prompt + 1 + op.b;
  if (!pools_.can_ever_hold(target)) {  // Said at once, with nothing taken and nothing evicted.
    const auto refused = pools_.try_admit({.tokens_now = 0, .tokens_max = target});
    require(!refused && refused.error().code == oriel::errc::request_too_large,
            "a request that no pool can hold was not refused");
    ++tally_.refused_large;
    s.tokens.resize(prompt / 3);
    return;
  }
  request_pointer r(new request{op.a, s.tenant, s.tokens, target, cold_run(model_, s.tenant)});
  if (admit(*r, op)) {
    requests_.push_back(std::move(r));
  }
}

template <class Events>
void world<Events>::resume(const operation& op) {
  if (waiting_.empty() || requests_.size() >= 6) {
    return;
  }
  const std::size_t at = op.a % waiting_.size();
  if (admit(*waiting_[at], op)) {
    requests_.push_back(std::move(waiting_[at]));
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(at));
    ++tally_.resumed;
  }
}

/// The request ends; what it said goes on in its session.
template <class Events>
void world<Events>::finish(request& r, const operation& op) {
  const bool lets_go_first = (op.c & 2) != 0;
  if ((op.c & 1) == 0) {
    if (r.has_fresh) {
      commit_pages(r);
    }
    reserve_pages(r);
  }
  if (lets_go_first) {  // The publication has references of its own.
    r.kv.reset();
  }
  if (r.has_fresh) {
    commit_pages(r);
  }
  tree_.release(r.lease, {.ended = static_cast<oriel::request_end>(op.b % 4)}, ++now_);
  sessions_[r.session].tenant = r.tenant;
  sessions_[r.session].tokens = r.tokens;
}

template <class Events>
void world<Events>::preempt(std::size_t at) {
  request& r = *requests_[at];
  if (r.has_fresh) {
    commit_pages(r);
  }
  reserve_pages(r);
  if (r.has_fresh) {
    commit_pages(r);
  }
  r.kv.reset();
  r.heal.reset();
  tree_.release(r.lease, {}, ++now_);
  ++tally_.preempted;
  if (r.tokens.size() < r.target) {
    waiting_.push_back(std::move(requests_[at]));
  }
  requests_.erase(requests_.begin() + static_cast<std::ptrdiff_t>(at));
}

template <class Events>
void world<Events>::probe(const operation& op) {
  const session& s = sessions_[op.a];
  const std::size_t count = s.tokens.size() * op.c / 1000;
  if (count == 0) {
    return;
  }
  request r{op.a, op.b % sizes_.tenants, s.tokens, 0, cold_run(model_, 0)};
  r.tokens.resize(count);
  r.cold = cold_of(r.tenant, r.tokens);
  (void)match(r, op.salt % 2 == 0);
}

template <class Events>
void world<Events>::drop_space(std::uint32_t tenant) {
  tree_.drop(spaces_[tenant]);
  ++epochs_[tenant];
  may_vanish_ = true;
}

template <class Events>
void world<Events>::clear() {
  tree_.clear();
  for (std::uint32_t& epoch : epochs_) {
    ++epoch;
  }
  may_vanish_ = true;
}

template <class Events>
void world<Events>::close() {
  while (!requests_.empty()) {
    finish(*requests_.back(), {.what = verb::finish, .c = now_ % 2 == 0 ? 0u : 2u});
    requests_.pop_back();
    check();
  }
  require(tree_.leases() == 0, "leases are left");
  require(tree_.evictable_full_pages() == tree_.full_pages(), "locks are left");
  for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
    require(tree_.evictable_window_pages(kind) == tree_.window_pages(kind), "pins are left");
  }
  if (sizes_.plain) {
    require(tally_.evictions == 0 && tally_.refused_full == 0, "a roomy pool ran out of room");
  }
  check_liveness();
  clear();
  check();
  for (std::uint32_t i = 0; i < pools_.pools(); ++i) {
    require(pool(i).used() == 0, "an empty tree holds pages");
  }
  require(tree_.nodes() == 0, "an empty tree has nodes");
}

/// R10: alone, a request as large as the pools is served to its end, whatever is cached.
template <class Events>
void world<Events>::check_liveness() {
  std::uint32_t target = sizes_.context;
  while (target > 1 && !pools_.can_ever_hold(target)) {
    --target;
  }
  if (target < 2) {
    return;
  }
  sessions_[0].tokens.assign(target - 1, oriel::token_id{1});
  submit({.what = verb::submit, .d = 7});
  require(requests_.size() == 1, "R10: a request that fits was not admitted");
  check();
  while (requests_[0]->tokens.size() < target) {
    const std::uint64_t steps = tally_.steps;
    step(*requests_[0], {.what = verb::step, .b = sizes_.step_tokens});
    require(tally_.steps > steps, "R10: a request that fits does not get on");
    check();
  }
  finish(*requests_[0], {.what = verb::finish});
  requests_.clear();
  check();
}

}  // namespace sim
