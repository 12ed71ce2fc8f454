// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// redis_store: from replies to completions.
#include "redis_state.hpp"

#include <oriel/core/mutation.hpp>
#include <oriel/tier/store_clock.hpp>

#include <algorithm>
#include <cerrno>
#include <charconv>

namespace oriel {
namespace {

constexpr std::uint32_t redirects_max = 5;
constexpr std::uint64_t slots_again_us = 100'000;

struct error_meaning {
  std::string_view prefix;
  store_outcome outcome;
  int native;
};
constexpr error_meaning meanings[] = {
    {"OOM", store_outcome::refused, ENOMEM},
    {"MISCONF", store_outcome::refused, EROFS},
    {"READONLY", store_outcome::refused, EROFS},
    {"NOREPLICAS", store_outcome::refused, EROFS},
    {"LOADING", store_outcome::failed, EAGAIN},
    {"BUSY", store_outcome::failed, EAGAIN},
    {"TRYAGAIN", store_outcome::failed, EAGAIN},
    {"CLUSTERDOWN", store_outcome::failed, EAGAIN},
    {"MASTERDOWN", store_outcome::failed, EAGAIN},
    {"NOAUTH", store_outcome::failed, EACCES},
    {"NOPERM", store_outcome::failed, EACCES},
    {"MOVED", store_outcome::failed, ELOOP},
    {"ASK", store_outcome::failed, ELOOP},
    {"WRONGTYPE", store_outcome::corrupt, 0},
};

error_meaning meaning_of(std::string_view error) {
  for (const error_meaning& m : meanings) {
    if (error.starts_with(m.prefix)) {
      return m;
    }
  }
  return {.prefix = "", .outcome = store_outcome::failed, .native = EPROTO};
}

/// An epoch or a stamp; 0: there is none, or nothing that one of us wrote.
std::uint64_t nonce_in(const detail::resp_value& value) {
  std::uint64_t nonce = 0;
  const std::string_view text = value.text;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), nonce);
  return value.is_text() && error == std::errc() && end == text.data() + text.size() ? nonce : 0;
}

}  // namespace

void redis_store::state::take_replies(std::uint64_t now) {
  bool is_news = true;
  while (is_news) {  // What is heard may send more, which may be refused at once.
    is_news = false;
    for (std::size_t i = 0; i < nodes_.size(); ++i) {
      for (std::size_t l = 0; l < nodes_[i]->links.size(); ++l) {
        detail::redis_link& link = *nodes_[i]->links[l];
        const std::vector<command*> finished = std::move(link.finished());
        link.finished().clear();
        for (command* c : finished) {
          is_news = true;
          --commands_out_;
          bytes_out_ -= c->charged_bytes;
          hear(*c, link, now);
        }
      }
    }
  }
  settle();
}

void redis_store::state::hear(command& c, detail::redis_link& link, std::uint64_t now) {
  if (follow_redirect(c, link, now)) {
    return;
  }
  switch (c.purpose) {
    case purpose::stamp:
      hear_stamp(c);
      break;
    case purpose::epochs:
      hear_epochs(c);
      break;
    case purpose::slots:
      hear_slots(c, link, now);
      break;
    case purpose::make_epoch:
      if (c.has_reply && c.reply.is_error()) {
        make_error_ = c.reply.text;
      }
      [[fallthrough]];
    case purpose::asking:
    case purpose::discard:
      if (c.lost == 0 && !c.is_refused && c.reply.type != '+' && c.reply.type != ':' &&
          !c.reply.is_null() && !c.reply.is_error()) {
        link.break_off(now, "match replies");
      }
      break;
    default:
      if (c.entry != command::no_entry) {
        hear_item(c, link, now);
      }
      break;
  }
  unused_commands_.push_back(&c);
}

// A cluster says that a slot is elsewhere. @returns the command is on its way again
bool redis_store::state::follow_redirect(command& c, detail::redis_link& link, std::uint64_t now) {
  if (node_of_slot_.empty() || !c.has_reply || !c.reply.is_error() || c.is_abandoned) {
    return false;
  }
  const auto to = detail::parse_redis_redirect(c.reply.text);
  if (!to || ++c.redirects > redirects_max) {
    return false;
  }
  node* const there = node_at(to->host.empty() ? link.host() : to->host, to->port);
  if (there == nullptr) {
    return false;
  }
  // Until it is answered nothing else starts: what is submitted later must not overtake it.
  has_barrier_ = true;
  c.has_reply = false;
  c.reply = {};
  detail::redis_link& next = *there->links[c.slot % there->links.size()];
  if (to->is_ask) {
    command& asking = new_command(purpose::asking, command::no_entry);
    detail::append_command(asking.head, {"ASKING"});
    send(asking, next, now);
  } else {
    for (std::size_t i = 0; i < nodes_.size(); ++i) {
      if (nodes_[i].get() == there) {
        node_of_slot_[to->slot] = static_cast<std::uint16_t>(i);
      }
    }
    wants_slots_ = true;
  }
  if (c.purpose == purpose::stamp || c.purpose == purpose::epochs) {
    epochs_.forget();
  }
  send(c, next, now);
  return true;
}

void redis_store::state::hear_item(command& c, detail::redis_link& link, std::uint64_t now) {
  entry& e = entries_[c.entry];
  if (c.lost != 0 || c.is_refused) {
    (e.fence == &c ? e.fence : e.operation) = nullptr;
    return complete(c.entry, c.is_refused ? store_outcome::refused : store_outcome::failed, c.lost);
  }
  link.note_good();
  if (e.fence == &c) {
    return hear_fence(e, c, link, now);
  }
  e.operation = nullptr;
  if (c.has_reply && c.reply.is_error()) {
    return complete_error(e, c.reply.text);
  }
  switch (c.purpose) {
    case purpose::page:
    case purpose::page_range:
      return hear_page(e, c, link, now);
    case purpose::page_front:
      return hear_front(e, c, link, now);
    case purpose::head:
      return hear_head(e, c, link, now);
    default:
      return hear_write(e, c, link, now);
  }
}

void redis_store::state::complete_error(entry& e, std::string_view error) {
  const error_meaning m = meaning_of(error);
  const bool is_put = e.item.op == store_op::put;
  is_write_paused_ = is_write_paused_ || (is_put && m.outcome == store_outcome::refused);
  fault_ = {.operation = name_of(e.item.op),
            .where = std::string(error.substr(0, 64)),
            .native = m.native,
            .count = fault_.count + 1};
  complete(index_of(e), m.outcome, m.native);
}

void redis_store::state::hear_page(entry& e,
                                   command& c,
                                   detail::redis_link& link,
                                   std::uint64_t now) {
  if (c.has_reply) {
    if (c.reply.is_null()) {
      return complete(index_of(e), store_outcome::miss);
    }
    link.break_off(now, "match replies");
    return complete(index_of(e), store_outcome::failed, EPROTO);
  }
  if (c.verdict == verdict::page) {
    return verify(e, c.fixed);
  }
  hear_verdict(e, c.verdict, link, now);
}

void redis_store::state::hear_front(entry& e,
                                    command& c,
                                    detail::redis_link& link,
                                    std::uint64_t now) {
  if (c.reply.type != '$' || c.reply.text.size() > c.number) {
    link.break_off(now, "match replies");
    return complete(index_of(e), store_outcome::failed, EPROTO);
  }
  const auto text = std::as_bytes(std::span(c.reply.text));
  if (text.empty()) {
    return complete(index_of(e), store_outcome::miss);
  }
  const auto fixed = text.size() < detail::redis_fixed_bytes
                         ? std::nullopt
                         : detail::decode_redis_fixed(text.first<detail::redis_fixed_bytes>());
  if (!fixed) {
    return hear_verdict(e, verdict::damaged, link, now);
  }
  if (const verdict v = detail::judge_redis_fixed(*fixed, e.item.key); v != verdict::page) {
    return hear_verdict(e, v, link, now);
  }
  if (fixed->head_bytes > text.size()) {
    if (c.number >= fixed->head_bytes || fixed->head_bytes > detail::redis_head_bytes_max) {
      return hear_verdict(e, verdict::damaged, link, now);
    }
    command& again = new_command(purpose::page_front, index_of(e));
    const std::string key = key_of(e.item.key);
    again.number = fixed->head_bytes;
    detail::append_command(again.head,
                           {"GETRANGE", key, "0", std::to_string(fixed->head_bytes - 1)});
    again.item = e.item;
    again.slot = c.slot;
    e.operation = &again;
    return send(again, link_of(c.slot), now);
  }
  const verdict v = detail::judge_redis_head(
      *fixed, text.first(fixed->head_bytes), fixed->head_bytes + fixed->payload_bytes, e.item);
  if (v != verdict::page) {
    return hear_verdict(e, v, link, now);
  }
  c.fixed = *fixed;
  if (room_of(e.item) == 0) {
    return verify(e, *fixed);
  }
  start_range(index_of(e), c, now);
}

void redis_store::state::hear_head(entry& e,
                                   command& c,
                                   detail::redis_link& link,
                                   std::uint64_t now) {
  if (c.reply.type != '$' || c.reply.text.size() > detail::redis_fixed_bytes) {
    link.break_off(now, "match replies");
    return complete(index_of(e), store_outcome::failed, EPROTO);
  }
  const auto text = std::as_bytes(std::span(c.reply.text));
  if (text.empty()) {
    return complete(index_of(e), store_outcome::miss);
  }
  const auto fixed = text.size() < detail::redis_fixed_bytes
                         ? std::nullopt
                         : detail::decode_redis_fixed(text.first<detail::redis_fixed_bytes>());
  const verdict v = fixed ? detail::judge_redis_fixed(*fixed, e.item.key) : verdict::damaged;
  if (v != verdict::page) {
    return hear_verdict(e, v, link, now);
  }
  verify(e, *fixed);
}

// Not the page that was asked for.
void redis_store::state::hear_verdict(entry& e,
                                      verdict v,
                                      detail::redis_link& link,
                                      std::uint64_t now) {
  const std::uint32_t index = index_of(e);
  const page_key key = e.item.key;
  switch (v) {
    case verdict::damaged:
      complete(index, store_outcome::corrupt);
      return discard(key, now);
    case verdict::other_page:
      // The value of another key: replies and commands are out of step, or the server lies. Either
      // way the next reply is no better.
      ++counts_.misplaced;
      complete(index, store_outcome::miss);
      if (!ORIEL_MUTANT(redis_goes_on_out_of_step)) {
        link.break_off(now, "match replies");
      }
      return;
    case verdict::other_kind:
      ++counts_.misplaced;
      return complete(index, store_outcome::miss);
    default:
      return complete(index, store_outcome::miss);
  }
}

void redis_store::state::hear_write(entry& e,
                                    command& c,
                                    detail::redis_link& link,
                                    std::uint64_t now) {
  const bool is_fine = c.purpose == purpose::erase ? c.reply.type == ':'
                                                   : c.reply.type == '+' && c.reply.text == "OK";
  if (!is_fine) {
    const std::uint32_t index = index_of(e);
    link.break_off(now, "match replies");
    return complete(index, store_outcome::failed, EPROTO);
  }
  if (c.purpose == purpose::put) {
    is_write_paused_ = false;
    return complete(index_of(e), store_outcome::done);
  }
  e.is_answered = true;
  if (e.is_fenced) {
    complete(index_of(e), store_outcome::done);
  }
}

void redis_store::state::hear_fence(entry& e,
                                    command& c,
                                    detail::redis_link& link,
                                    std::uint64_t now) {
  e.fence = nullptr;
  if (!c.reply.is_text() || c.reply.text != "fence " + std::to_string(c.number)) {
    const std::uint32_t index = index_of(e);
    link.break_off(now, "match replies");
    return complete(index, store_outcome::failed, EPROTO);
  }
  e.is_fenced = true;
  if (e.is_answered) {
    complete(index_of(e), store_outcome::done);
  }
}

void redis_store::state::hear_stamp(command& c) {
  if (c.lost != 0 || c.is_refused) {
    wants_check_ = true;
    epochs_.forget();
    return;
  }
  if (c.reply.is_error() || !(c.reply.is_null() || c.reply.is_text())) {
    const error_meaning m = meaning_of(c.reply.text);
    return fail_checked(c.number, m.outcome, m.native);
  }
  epochs_.hear_stamp(nonce_in(c.reply));
  checks_done_ = std::max(checks_done_, c.number);
}

void redis_store::state::hear_epochs(command& c) {
  if (c.lost != 0 || c.is_refused) {
    return epochs_.give_up();
  }
  if (c.reply.type != '*' || c.reply.items.size() != epochs_.fetching().size()) {
    const error_meaning m = meaning_of(c.reply.text);
    epochs_.give_up();
    return fail_checked(checks_sent_, m.outcome, m.native);
  }
  std::vector<std::uint64_t> values;
  for (const detail::resp_value& value : c.reply.items) {
    values.push_back(nonce_in(value));
  }
  if (const auto unmade = epochs_.hear(values, c.number); !unmade.empty()) {
    refuse_puts(unmade);
  }
}

// Puts that wait for an epoch which the server does not make: asked again at once it would be asked
// without end, and all behind them would wait too.
void redis_store::state::refuse_puts(std::span<const detail::redis_epoch_name> unmade) {
  if (ORIEL_MUTANT(redis_epochs_are_asked_for_without_end)) {
    return;
  }
  // No error: something else is under its key, or a server without room has lost it again.
  const error_meaning m = meaning_of(make_error_);
  is_write_paused_ = is_write_paused_ || m.outcome == store_outcome::refused;
  fault_ = {.operation = "make an epoch",
            .where = make_error_.substr(0, 64),
            .native = m.native,
            .count = fault_.count + 1};
  const std::deque<std::uint32_t> waiting = waiting_;
  for (const std::uint32_t index : waiting) {
    const store_item& item = entries_[index].item;
    if (item.op != store_op::put) {
      continue;
    }
    const auto names = detail::redis_epoch_names(item.identity->name_space, item.owner);
    if (std::ranges::find_first_of(names, unmade) != names.end()) {
      complete(index, m.outcome, m.native);
    }
  }
}

void redis_store::state::hear_slots(command& c, detail::redis_link& link, std::uint64_t now) {
  is_fetching_slots_ = false;
  slots_retry_us_ = now + slots_again_us;
  if (c.lost != 0 || c.is_refused) {
    return;
  }
  const auto ranges = detail::parse_redis_slots(c.reply);
  if (!ranges) {
    fault_ = {.operation = "read the slots",
              .where = std::string(c.reply.text.substr(0, 64)),
              .native = EPROTO,
              .count = fault_.count + 1};
    return knows_slots_ ? void() : fail_waiting(store_outcome::failed, EPROTO);
  }
  std::size_t covered = 0;
  for (const detail::redis_slot_range& r : *ranges) {
    const node* const n = node_at(r.host.empty() ? link.host() : r.host, r.port);
    for (std::size_t i = 0; n != nullptr && i < nodes_.size(); ++i) {
      if (nodes_[i].get() == n) {
        std::fill(node_of_slot_.begin() + r.first,
                  node_of_slot_.begin() + r.last + 1,
                  static_cast<std::uint16_t>(i));
        covered += r.last - r.first + 1u;
      }
    }
  }
  knows_slots_ = knows_slots_ || covered > 0;
  wants_slots_ = covered < detail::redis_slots;  // Some have no master right now.
  if (!knows_slots_ && !ORIEL_MUTANT(redis_waits_for_slots_without_end)) {
    fault_ = {.operation = "read the slots",
              .where = "no node has any",
              .native = EAGAIN,
              .count = fault_.count + 1};
    fail_waiting(store_outcome::failed, EAGAIN);
  }
}

// The bytes are there; do they still count?
void redis_store::state::verify(entry& e, const detail::redis_record_fixed& fixed) {
  if (fixed.expires_wall_us != 0 && realtime_clock().now_us() >= fixed.expires_wall_us) {
    return complete(index_of(e), store_outcome::miss);
  }
  e.epochs = fixed.epochs;
  e.name_space = fixed.name_space;
  e.owner = fixed.owner;
  e.at = stage::verifying;
  verifying_.push_back(index_of(e));
}

void redis_store::state::settle() {
  for (std::size_t i = 0; i < verifying_.size();) {
    const std::uint32_t index = verifying_[i];
    if (!settle(index)) {
      ++i;
    } else if (i < verifying_.size() && verifying_[i] == index) {
      verifying_.erase(verifying_.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
}

// @returns complete?
bool redis_store::state::settle(std::uint32_t index) {
  entry& e = entries_[index];
  if (checks_done_ < e.check) {
    return false;
  }
  const auto names = detail::redis_epoch_names(e.name_space, e.owner);
  bool is_known = true, is_same = true;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const auto answer = epochs_.compare(names[i], e.epochs[i], e.check);
    is_known = is_known && answer != detail::redis_epochs::answer::unknown;
    is_same = is_same && answer != detail::redis_epochs::answer::other;
  }
  if (is_same && !is_known) {
    return false;
  }
  complete(index, is_same ? store_outcome::done : store_outcome::miss);
  return true;
}

// Whoever needs a check up to this one gets no answer.
void redis_store::state::fail_checked(std::uint64_t check, store_outcome outcome, int native) {
  if (pending == completions.size()) {
    return;
  }
  for (std::uint32_t i = 0; i < entries_.size(); ++i) {
    const entry& e = entries_[i];
    if (e.at != stage::unused && e.check != 0 && e.check <= check) {
      complete(i, outcome, native);
    }
  }
}

void redis_store::state::fail_waiting(store_outcome outcome, int native) {
  while (!waiting_.empty()) {
    complete(waiting_.front(), outcome, native);
  }
}

void redis_store::state::expire(std::uint64_t now) {
  if (now < earliest_us_) {
    return;
  }
  earliest_us_ = no_deadline;
  for (std::uint32_t i = 0; i < entries_.size(); ++i) {
    entry& e = entries_[i];
    if (e.at == stage::unused) {
      continue;
    }
    if (e.deadline_us > now) {
      earliest_us_ = std::min(earliest_us_, e.deadline_us);
      continue;
    }
    const command* const awaited = e.operation != nullptr ? e.operation : e.fence;
    const bool is_at_epochs = awaited == nullptr && checks_done_ < checks_sent_;
    detail::redis_link* const slow = awaited != nullptr ? awaited->link
                                     : is_at_epochs     ? &epoch_link()
                                                        : nullptr;
    complete(i, store_outcome::late);
    if (slow != nullptr) {
      slow->note_late(now);
    }
  }
}

void redis_store::state::complete(std::uint32_t index, store_outcome outcome, int native) {
  entry& e = entries_[index];
  std::uint64_t bytes = 0;
  if (e.at == stage::waiting) {
    if (const auto found = std::ranges::find(waiting_, index); found != waiting_.end()) {
      waiting_.erase(found);
    }
  } else {
    --active_;
  }
  if (e.at == stage::verifying) {
    if (const auto found = std::ranges::find(verifying_, index); found != verifying_.end()) {
      verifying_.erase(found);
    }
  }
  const bool is_drop = e.item.op >= store_op::drop_space && e.item.op <= store_op::drop_session;
  if (is_drop && e.at == stage::sent) {
    epochs_.forget();  // Not even its own stamp counts: another drop may have come before it.
  }
  for (command* c : {e.operation, e.fence}) {
    if (c != nullptr) {
      c->entry = command::no_entry;
      c->link->abandon(*c);
    }
  }
  const bool is_get = e.item.op == store_op::get, is_put = e.item.op == store_op::put;
  const bool is_done = outcome == store_outcome::done;
  if (is_done && (is_get || (is_put && e.at == stage::sent))) {
    bytes = room_of(e.item);
    (is_get ? counts_.bytes_read : counts_.bytes_written) += bytes;
  }
  puts_ -= is_put;
  two_steps_ -= e.has_two_steps;
  counts_.hits += is_get && is_done;
  counts_.puts_done += is_put && is_done;
  counts_.misses += is_get && outcome == store_outcome::miss;
  counts_.corrupt += outcome == store_outcome::corrupt;
  counts_.late += outcome == store_outcome::late;
  counts_.failed += outcome == store_outcome::failed;
  counts_.refused += outcome == store_outcome::refused;
  completions.push_back({.user = e.item.user,
                         .op = e.item.op,
                         .outcome = outcome,
                         .native = is_done ? 0 : native,
                         .bytes = bytes});
  e.at = stage::unused;
  unused_.push_back(index);
}

}  // namespace oriel
