// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What operations mean, and what a request does: it fetches, starts, computes, publishes.
#include "tier_world.hpp"

#include <oriel/core/mutation.hpp>

#include <algorithm>
#include <utility>

namespace sim {

void tier_world::apply(const tier_operation& op) {
  if (p_->device.is_broken() && op.salt % 4 == 0) {  // F25: the engine is done for; another starts.
    end_process(ending::in_order);
    start_process();
  }
  switch (op.what) {
    case tier_verb::start:
      start(op);
      break;
    case tier_verb::say:
      for (std::uint32_t i = 0; i < op.d; ++i) {
        const word drawn = mixed(op.salt, i) % sizes_.device.alphabet;
        sessions_[op.a].tokens.push_back(oriel::token_id{static_cast<std::uint32_t>(drawn)});
      }
      break;
    case tier_verb::branch: {
      const session from = sessions_[op.b];
      sessions_[op.a] = from;
      sessions_[op.a].tokens.resize(from.tokens.size() * op.c / 1000);
      break;
    }
    case tier_verb::submit:
      submit(op);
      break;
    case tier_verb::herd:
      for (std::uint32_t i = 0; i < op.c; ++i) {
        submit(op);
      }
      ++tally_.faults[29];
      break;
    case tier_verb::step:
      if (!requests_.empty()) {
        advance(*requests_[op.a % requests_.size()], op.salt);
      }
      break;
    case tier_verb::run:
      for (std::uint32_t turns = 0; turns < op.a; ++turns) {
        for (std::size_t i = 0; i < requests_.size(); ++i) {
          advance(*requests_[i], op.salt + turns);
        }
        turn(1 + draw_.next_below(turn_us_max));
      }
      break;
    case tier_verb::evict_full:
    case tier_verb::evict_window:
      evict(op);
      break;
    case tier_verb::drop_session:
    case tier_verb::drop_tenant:
    case tier_verb::drop_space:
      drop(op);
      break;
    default:
      apply_to_process(op);
  }
  turn(draw_.next_below(turn_us_max));
  drop_finished();
  sink_blocked_ -= sink_blocked_ != 0;
  ++tally_.operations;
  note(static_cast<word>(op.what));
  check();
}

void tier_world::apply_to_process(const tier_operation& op) {
  switch (op.what) {
    case tier_verb::cancel:
      if (!requests_.empty()) {
        cancel(*requests_[op.a % requests_.size()]);
      }
      break;
    case tier_verb::preempt:
      if (!requests_.empty() && requests_[op.a % requests_.size()]->now == phase::running) {
        request& r = *requests_[op.a % requests_.size()];
        publish(r, true);
        requeue(r);
      }
      break;
    case tier_verb::wait:
      turn(op.b);
      break;
    case tier_verb::jump:
      clock_offset_us_ += std::uint64_t{op.b} * 1000;
      ++tally_.faults[19];
      break;
    case tier_verb::freeze:
      frozen_until_us_ = world_us_ + op.b;
      ++tally_.faults[19];
      break;
    case tier_verb::trouble:
      trouble(!is_troubled_);
      break;
    case tier_verb::restart:
      end_process(ending::in_order);
      start_process();
      break;
    case tier_verb::kill:
      end_process(op.b != 0 ? ending::power : ending::kill);
      start_process();
      break;
    case tier_verb::starve:
      allocations_left_ = op.b;
      is_starving_ = true;
      break;
    case tier_verb::break_device:
      p_->device.fail();
      ++tally_.faults[25];
      break;
    case tier_verb::block_sink:
      sink_blocked_ = op.b;
      break;
    default:
      break;
  }
}

/// A conversation begins: a prompt that many share, then tokens of its own.
void tier_world::start(const tier_operation& op) {
  session& s = sessions_[op.a];
  s.tenant = op.b % sizes_.device.tenants;
  s.tokens.clear();
  const std::uint32_t shared = (op.c * 7 + page_size() * 3) % (sizes_.device.context / 2);
  for (std::uint32_t i = 0; i < shared + op.d; ++i) {
    const word drawn = i < shared ? mixed(op.c, i) : mixed(op.salt, i);
    s.tokens.push_back(oriel::token_id{static_cast<std::uint32_t>(drawn % sizes_.device.alphabet)});
  }
}

void tier_world::submit(const tier_operation& op) {
  session& s = sessions_[op.a];
  if (s.tokens.empty() || requests_.size() >= 8) {
    return;
  }
  const auto prompt = static_cast<std::uint32_t>(s.tokens.size());
  if (!p_->pools.can_ever_hold(prompt + 1 + op.b)) {
    s.tokens.resize(prompt / 3);
    return;
  }
  request_pointer r(new request{.session = op.a,
                                .tenant = s.tenant,
                                .tokens = s.tokens,
                                .prompt = prompt,
                                .target = prompt + 1 + op.b,
                                .cold = cold_run(model_, s.tenant)});
  for (const oriel::token_id token : r->tokens) {
    r->cold.extend(token);
  }
  learn(*r);
  ++tally_.requests;
  requests_.push_back(std::move(r));
}

void tier_world::drop(const tier_operation& op) {
  const std::uint32_t of = op.a % 8;
  const std::uint32_t tenant =
      op.what == tier_verb::drop_session ? sessions_[of].tenant : op.a % sizes_.device.tenants;
  asked_drop d{.op = oriel::store_op::drop_space, .space = starts_[tenant], .owner = {}};
  d.owner = {tenant + 1u, of + 1u};
  if (op.what != tier_verb::drop_space) {
    d.op = op.what == tier_verb::drop_session ? oriel::store_op::drop_session
                                              : oriel::store_op::drop_tenant;
  }
  if (op.what != tier_verb::drop_session) {
    p_->tree.drop(spaces_[tenant]);
    ++epochs_[tenant];
  }
  ++disturbances_;
  drops_.push_back(d);
  order(drops_.back());
}

/// Asks all tiers; what came of it is looked at later.
void tier_world::order(asked_drop& d) {
  d.order.reset();
  if (guarded([&] { d.order = p_->tiers->begin_order(d.op, d.space, d.owner); })) {
    ++drops_asked_;
  }
}

/// A deletion that a tier could not carry out is the caller's to ask for again.
void tier_world::repeat_drops() {
  std::erase_if(drops_, [&](asked_drop& d) {
    const auto result = d.order ? p_->tiers->take_result(*d.order) : std::nullopt;
    if (result && (result->is_done() || result->unanswered != 0)) {
      return result->is_done();
    }
    order(d);
    ++tally_.drops_repeated;
    return false;
  });
}

void tier_world::evict(const tier_operation& op) {
  ++disturbances_;
  tally_.faults[27] += p_->tiers->copies_under_way() != 0 || p_->tiers->fetches() != 0;
  if (op.what == tier_verb::evict_full) {
    p_->tree.evict_full(op.a, now());
  } else {
    tally_.faults[28] += p_->tree.evict_window(op.a % kinds(), op.b).window != 0;
  }
}

/// What a request can do now, it does.
void tier_world::advance(request& r, std::uint32_t salt) {
  if (r.is_cancelled && r.now != phase::computing) {
    return;
  }
  switch (r.now) {
    case phase::queued:
      if (is_healed_ && requests_.front()->refusals != 0 && &r != requests_.front().get()) {
        if (r.fetch && !p_->tiers->is_fetching(*r.fetch)) {
          end_fetch(r);
        }
        break;  // The oldest comes first.
      }
      if (fetch(r, salt)) {
        look();
        admit(r);
      }
      break;
    case phase::running:
      launch(r);
      break;
    case phase::computing:
      if (p_->device.has_failed(r.ticket)) {  // F25: nothing of it counts.
        r.kv.reset();
        requeue(r);
      } else if (p_->device.is_done(r.ticket) || ORIEL_MUTANT(world_publishes_before_its_fence)) {
        complete(r);
      }
      break;
  }
}

oriel::reuse_options tier_world::reuse() const {
  return {.model = &geometry_,
          .healing = {.windows = model_.windows,
                      .page_size = page_size(),
                      .slack_pages = sizes_.device.heal_slack},
          .rates = rates_,
          .may_heal = sizes_.device.heals};
}

/// As the engine does it: a request asks the tiers once, or waits for who asks for the same.
/// Returns whether it may start.
bool tier_world::fetch(request& r, std::uint32_t salt) {
  if (r.fetch) {
    if (p_->tiers->is_fetching(*r.fetch)) {
      return false;
    }
    end_fetch(r);
  }
  if (r.was_fetched) {
    return true;
  }
  const auto decision = decide_reuse(p_->tree, spaces_[r.tenant], r.tokens, reuse());
  const auto whole = static_cast<std::uint32_t>((r.tokens.size() - 1) / page_size() * page_size());
  if (decision.length == whole && !decision.heal) {
    return true;
  }
  for (const request_pointer& other : requests_) {
    if (sizes_.shares_fetches && other->fetch && other->tenant == r.tenant) {
      const auto common = std::ranges::mismatch(r.tokens, other->tokens).in1 - r.tokens.begin();
      if (static_cast<std::uint32_t>(common) / page_size() > decision.length / page_size()) {
        ++tally_.waited;
        return false;
      }
    }
  }
  if (!p_->tiers->can_fetch()) {
    return salt % 4 == 0;
  }
  begin_fetch(r);
  return false;
}

void tier_world::begin_fetch(request& r) {
  r.fetch_safe_tokens = fetchable_tokens(r);
  r.fetch_begun_us = now();
  r.disturbances = disturbances_;
  r.epoch = epochs_[r.tenant];
  oriel::fetch_request wanted{.space = spaces_[r.tenant],
                              .start = starts_[r.tenant],
                              .tokens = r.tokens,
                              .links = r.links,
                              .owner = {r.tenant + 1u, r.session + 1u},
                              .rates = rates_};
  if (guarded([&] { r.fetch = p_->tiers->begin_fetch(std::move(wanted)); })) {
    ++tally_.fetches;
  } else {
    r.was_fetched = true;  // It computes.
  }
}

void tier_world::end_fetch(request& r) {
  const auto failed = [&] {
    const auto& pages = p_->tiers->counters().failed_reads;
    return pages[0] + pages[1] + pages[2];
  };
  const std::uint64_t before = failed();
  std::array<std::uint32_t, oriel::tier_roles> tokens = {};
  if (!guarded([&] { tokens = p_->tiers->end_fetch(*r.fetch); })) {
    p_->tiers->cancel_fetch(*r.fetch);
  }
  r.fetch.reset();
  r.was_fetched = true;
  const std::uint32_t came = tokens[0] + tokens[1] + tokens[2];
  note(came);
  tally_.faults[20] += before != 0 && came != 0;
  if (sizes_.is_plain() && !is_healed_ && r.disturbances == disturbances_) {
    const oriel::prefix_match m = p_->tree.match(spaces_[r.tenant], r.tokens);
    require((sizes_.device.heals ? m.heal_tokens : m.window_safe_tokens) >= r.fetch_safe_tokens,
            "R9: what tiers have acknowledged was not fetched");
  }
}

/// The deepest boundary that the tiers must be able to make resumable.
std::uint32_t tier_world::fetchable_tokens(const request& r) const {
  if (!drops_.empty()) {
    return 0;  // Deletions may be on their way.
  }
  const auto is_below = [&](std::uint32_t page, std::uint32_t pool) {
    return std::ranges::any_of(books_, [&](const std::shared_ptr<tier_book>& book) {
      return book->must_have({r.links[page], pool});
    });
  };
  std::uint32_t full = p_->tree.match(spaces_[r.tenant], r.tokens).full_tokens / page_size();
  const std::uint32_t usable = (static_cast<std::uint32_t>(r.tokens.size()) - 1) / page_size();
  while (full < usable && is_below(full, 0)) {
    ++full;
  }
  for (std::uint32_t boundary = std::min(full, usable); boundary > 0; --boundary) {
    bool is_safe = true;
    for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
      for (std::uint32_t page = ledger_.first_needed(kind, boundary);
           sizes_.device.windows[kind] > 1 && page < boundary;
           ++page) {
        is_safe = is_safe && is_below(page, kind + 1);
      }
    }
    if (is_safe) {
      return boundary * page_size();
    }
  }
  return 0;
}

void tier_world::admit(request& r) {
  check_match(r);
  const auto decision = decide_reuse(p_->tree, spaces_[r.tenant], r.tokens, reuse());
  r.lease = p_->tree.pin(spaces_[r.tenant], r.tokens, decision.found, decision.extent(), now());
  r.epoch = epochs_[r.tenant];
  r.heal = r.lease ? decision.heal : std::nullopt;
  oriel::borrowed_prefix lent;
  if (r.lease && r.lease.full_tokens() != 0) {
    require(r.lease.full_tokens() == decision.length, "I4: a lease of another length");
    lent = loan_.lend(p_->tree, r.lease, sizes_.device.windows, r.heal ? &*r.heal : nullptr);
    check_lent(r, lent);
  }
  const oriel::admission wanted{.tokens_now = r.prompt, .tokens_max = r.target, .prefix = lent};
  if (make_room(p_->tree, p_->pools, wanted, missing_, now(), p_->tiers->leaving())) {
    if (auto admitted = p_->pools.try_admit(wanted)) {
      r.kv.emplace(std::move(*admitted));
      r.now = phase::running;
      if (lent.length != 0) {  // Not sooner: copies that it starts could keep room from each try.
        const oriel::tiered_sequence whose = sequence_of(r);
        guarded([&] { p_->tiers->on_hit(whose, lent); });
      }
      tally_.hits += lent.length != 0 && !r.heal;
      tally_.heals += r.heal.has_value();
      resumed_tokens_ += lent.length;
      note(lent.length);
      return;
    }
  }
  p_->tree.release(r.lease, {}, now());
  r.lease = {};
  r.heal.reset();
  make_way(r);
}

/// I4, I9: every row that is lent is what a cold run computes.
void tier_world::check_lent(const request& r, const oriel::borrowed_prefix& lent) {
  const auto start = (lent.heal ? lent.heal->first_row : lent.length) / page_size();
  for (std::uint32_t l = 0; l < model_.layers(); ++l) {
    const oriel::layer_home home = plan_.home(l);
    const std::uint32_t pool = to_index(home.pool);
    if (pool != 0 && lent.windows.empty()) {
      continue;
    }
    const auto pages = pool == 0 ? lent.full : lent.windows[pool - 1];
    const auto first = pool == 0 ? 0 : start - static_cast<std::uint32_t>(pages.size());
    for (std::uint32_t i = 0; i < pages.size(); ++i) {
      for (std::uint32_t row = 0; row < page_size(); ++row) {
        require(p_->memory.at(pool, to_index(pages[i].id), home.slot, row) ==
                    r.cold.kv(l, (first + i) * page_size() + row),
                "I4: a lent row is not what a cold run computes");
      }
    }
  }
}

void tier_world::launch(request& r) {
  const std::uint32_t length = r.kv->length();
  const auto known = static_cast<std::uint32_t>(r.tokens.size());
  if (known == r.target) {
    finish(r);
    return;
  }
  const std::uint32_t rows = std::min(known - length, sizes_.device.step_tokens);
  if (!make_room(
          p_->tree, p_->pools, *r.kv, length + rows, missing_, now(), p_->tiers->leaving()) ||
      !r.kv->reserve(rows)) {
    p_->tree.drop_windows(r.lease);
    make_way(r);
    return;
  }
  std::vector<word> paths;
  for (std::uint32_t q = length; q < length + rows; ++q) {
    paths.push_back(r.cold.path_before(q + 1));
  }
  r.rows = p_->runner.begin(*r.kv, paths, r.heal ? &*r.heal : nullptr);
  std::vector<sim_device::task> tasks;
  for (std::uint32_t l = 0; l < model_.layers(); ++l) {
    tasks.emplace_back([this, l, to = &r] { p_->runner.run_layer(*to->kv, l, to->rows); });
  }
  r.ticket = p_->device.launch(std::move(tasks));
  r.now = phase::computing;
  r.refusals = 0;
  ++tally_.steps;
}

/// The fence of a step is behind us: its rows count.
void tier_world::complete(request& r) {
  const auto rows = static_cast<std::uint32_t>(r.rows.states.size());
  const std::uint32_t length = r.kv->length();
  for (std::uint32_t i = 0; i < rows && p_->device.is_done(r.ticket); ++i) {
    if (length + i >= r.kv->lent_tokens()) {
      require(r.rows.states[i] == r.cold.output(length + i), "I10: not the tokens of a cold run");
      note(r.rows.states[i]);
    }
  }
  r.kv->accept(rows);
  r.now = phase::running;
  if (r.is_cancelled) {  // Its pages were its own until here.
    requeue(r);
    return;
  }
  if (r.heal && r.kv->length() >= r.heal->length) {
    r.heal.reset();
  }
  if (r.kv->length() == r.tokens.size() && r.tokens.size() < r.target) {
    const word output = r.cold.output(r.kv->length() - 1);
    r.tokens.push_back(
        oriel::token_id{static_cast<std::uint32_t>(output % sizes_.device.alphabet)});
    r.cold.extend(r.tokens.back());
    learn(r);
  }
  publish(r, false);
  r.kv->slide_out();
}

void tier_world::publish(request& r, bool is_end) {
  const oriel::tiered_sequence whose = sequence_of(r);
  const auto scope = p_->tiers->publishing(whose);
  publish_sequence(p_->tree, r.lease, *r.kv, r.tokens, now(), is_end ? 0 : r.prompt);
}

/// Its whole pages may be anywhere from now on.
void tier_world::learn(request& r) {
  const auto known = static_cast<std::uint32_t>(r.links.size());
  extend_chain(starts_[r.tenant], r.tokens, page_size(), r.links);
  const auto whole = static_cast<std::uint32_t>(r.links.size());
  if (whole == known) {
    return;
  }
  ledger_.learn(r.cold, r.tokens, r.tenant, known);
  std::vector<oriel::chain_hash> chain(whole);
  oriel::hash_pages(spaces_[r.tenant].digest(),
                    std::span(std::as_const(r.tokens)).first(std::size_t{whole} * page_size()),
                    page_size(),
                    chain);
  for (std::uint32_t page = known; page < whole; ++page) {
    const word name = r.cold.path_before((page + 1) * page_size());
    by_hash_[{chain[page].low, chain[page].high}] = name;
    by_link_[r.links[page]] = name;
  }
}

void tier_world::finish(request& r) {
  publish(r, true);
  p_->tree.release(r.lease, {.ended = oriel::request_end::end_of_turn}, now());
  r.kv.reset();
  r.is_cancelled = true;  // Done with.
  r.now = phase::queued;
  sessions_[r.session] = {r.tenant, r.tokens};
  ++tally_.finished;
}

/// Lets go of everything, and waits again.
void tier_world::requeue(request& r) {
  if (r.fetch) {
    for (const std::shared_ptr<tier_book>& book : books_) {
      for (const oriel::page_digest& link : r.links) {
        book->let_go_of_reads(link);
      }
    }
    p_->tiers->cancel_fetch(*r.fetch);
    r.fetch.reset();
  }
  r.kv.reset();
  r.heal.reset();
  p_->tree.release(r.lease, {}, now());
  r.lease = {};
  r.now = phase::queued;
  r.was_fetched = false;
  r.refusals = 0;
  r.prompt = static_cast<std::uint32_t>(r.tokens.size());
}

/// Nobody waits for it any more, wherever it is (F21). What runs on the device runs to its fence.
void tier_world::cancel(request& r) {
  tally_.faults[21] += r.fetch.has_value() || r.now == phase::computing;
  r.is_cancelled = true;
  if (r.now != phase::computing) {
    requeue(r);
  }
}

/// There are no pages for it. Once all faults are over, the oldest gets those of the others.
void tier_world::make_way(request& r) {
  ++r.refusals;
  if (is_healed_ && &r == requests_.front().get()) {
    for (const request_pointer& other : requests_) {
      if (other.get() != &r && other->now == phase::running) {
        requeue(*other);
      }
    }
  } else if (r.now == phase::running && r.refusals > 3) {
    requeue(r);
  }
}

void tier_world::drop_finished() {
  std::erase_if(requests_, [](const request_pointer& r) {
    return r->is_cancelled && r->now != phase::computing;
  });
}

}  // namespace sim
