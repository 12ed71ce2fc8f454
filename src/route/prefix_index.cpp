// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Streams of events: what is applied, when, and what becomes of it when some are lost.
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/route/prefix_index.hpp>

#include <algorithm>
#include <utility>

namespace oriel {
namespace {

const prefix_index_options& checked(const prefix_index_options& options) {
  ORIEL_EXPECTS(options.page_size > 0);
  ORIEL_EXPECTS(options.workers > 0);
  ORIEL_EXPECTS(options.capacity_pages > 0 && options.capacity_pages < detail::no_strand);
  ORIEL_EXPECTS(options.workers * page_tiers * (1 + options.windows.size()) < (1u << 16));
  return options;
}

/// Pages before a boundary that it needs, of each window kind.
std::vector<std::uint32_t> needed_pages(const prefix_index_options& options) {
  std::vector<std::uint32_t> pages;
  for (const std::uint32_t window : options.windows) {
    ORIEL_EXPECTS(window > 0);
    pages.push_back((window - 1) / options.page_size + ((window - 1) % options.page_size != 0));
  }
  return pages;
}

}  // namespace

prefix_index::prefix_index(prefix_index_options options)
    : options_(std::move(options)),
      strands_(checked(options_).workers, options_.capacity_pages, needed_pages(options_)),
      streams_(options_.workers) {}

event_outcome prefix_index::apply(const worker_event& event) {
  const event_outcome outcome = is_valid(event) ? take(event) : event_outcome::invalid;
  switch (outcome) {
    case event_outcome::applied:
      ++counters_.applied;
      break;
    case event_outcome::held:
      ++counters_.held;
      break;
    case event_outcome::duplicate:
      ++counters_.duplicate;
      break;
    case event_outcome::stale:
      ++counters_.stale;
      break;
    case event_outcome::lost:
      ++counters_.lost;
      break;
    case event_outcome::invalid:
      ++counters_.invalid;
      break;
  }
  return outcome;
}

bool prefix_index::is_valid(const worker_event& event) const noexcept {
  return to_index(event.worker) < options_.workers && event.tier < page_tiers &&
         event.kind <= worker_event_kind::replay_end &&
         (!event.is_replay || event.kind == worker_event_kind::stored) &&
         event.pool <= options_.windows.size() && event.first_page < detail::end_page &&
         event.links.size() <= detail::end_page - event.first_page;
}

event_outcome prefix_index::take(const worker_event& event) {
  const std::uint32_t worker = to_index(event.worker);
  stream& s = streams_[worker];
  const bool is_gone =
      s.was_removed && event.epoch == s.epoch && !ORIEL_MUTANT(removed_worker_is_heard);
  if (event.epoch < s.epoch || is_gone) {
    return event_outcome::stale;
  }
  if (event.epoch > s.epoch || s.state == worker_state::absent) {
    start(s, worker, event.epoch);
  }
  if (event.kind == worker_event_kind::replay_begin) {
    strands_.clear(worker);
    s.state = worker_state::replaying;
    s.replayed = 0;
    return event_outcome::applied;
  }
  if (event.kind == worker_event_kind::replay_end) {
    return end_replay(s, event);
  }
  if (event.is_replay) {
    if (s.state != worker_state::replaying) {
      return event_outcome::stale;
    }
    ++s.replayed;
    carry_out(event);
    return event_outcome::applied;
  }
  return take_in_order(s, event);
}

event_outcome prefix_index::take_in_order(stream& s, const worker_event& event) {
  if (event.sequence < s.next && !ORIEL_MUTANT(duplicates_are_applied)) {
    return event_outcome::duplicate;
  }
  if (s.state == worker_state::replaying || event.sequence != s.next) {
    return hold(s, event);
  }
  carry_out(event);
  ++s.next;
  carry_out_held(s);
  return event_outcome::applied;
}

/// The event waits for earlier ones, or for the end of a replay. Where there is no room, those that
/// are missing are given up.
event_outcome prefix_index::hold(stream& s, const worker_event& event) {
  const auto at = std::ranges::lower_bound(
      s.held, event.sequence, {}, [](const held_event& h) { return h.event.sequence; });
  if (at != s.held.end() && at->event.sequence == event.sequence) {
    return event_outcome::duplicate;
  }
  held_event copy{event, {event.links.begin(), event.links.end()}};
  copy.event.links = copy.links;  // A vector keeps its elements where they are when it is moved.
  s.held_links += copy.links.size();
  s.held.insert(at, std::move(copy));
  if (s.held.size() <= options_.held_events && s.held_links <= options_.held_links) {
    return event_outcome::held;
  }
  if (s.state == worker_state::replaying) {  // The oldest are likely in the replay.
    drop_held(s, 1);
    return event_outcome::held;
  }
  give_up_missing(s, to_index(event.worker));
  return event_outcome::lost;
}

/// A removal may be among what was lost, so nothing known before can be trusted.
void prefix_index::give_up_missing(stream& s, std::uint32_t worker) {
  if (!ORIEL_MUTANT(lost_events_are_forgiven)) {
    strands_.clear(worker);
  }
  s.state = worker_state::unsure;
  s.next = s.held.front().event.sequence;
  carry_out_held(s);
}

event_outcome prefix_index::end_replay(stream& s, const worker_event& event) {
  if (s.state != worker_state::replaying) {
    return event_outcome::stale;
  }
  const bool is_whole = event.replay_events == s.replayed || ORIEL_MUTANT(replay_is_not_counted);
  s.state = is_whole ? worker_state::sure : worker_state::unsure;
  s.next = event.sequence + 1;
  const auto behind =
      std::ranges::find_if(s.held, [&](const held_event& h) { return h.event.sequence >= s.next; });
  drop_held(s, static_cast<std::size_t>(behind - s.held.begin()));
  carry_out_held(s);
  counters_.replays += is_whole;
  return is_whole ? event_outcome::applied : event_outcome::lost;
}

void prefix_index::start(stream& s, std::uint32_t worker, std::uint64_t epoch) {
  if (!ORIEL_MUTANT(new_epoch_keeps_pages)) {
    strands_.clear(worker);
  }
  s = {.epoch = epoch, .state = worker_state::sure, .held = {}};
  ++counters_.epochs;
}

void prefix_index::remove(worker_id worker) {
  ORIEL_EXPECTS(to_index(worker) < options_.workers);
  strands_.clear(to_index(worker));
  stream& s = streams_[to_index(worker)];
  s = {.epoch = s.epoch,
       .was_removed = s.was_removed || s.state != worker_state::absent,
       .held = {}};
}

void prefix_index::carry_out(const worker_event& event) {
  const detail::worker_place place{to_index(event.worker), event.tier, event.pool};
  switch (event.kind) {
    case worker_event_kind::stored:
      counters_.refused_pages += strands_.store(place, event.first_page, event.parent, event.links);
      break;
    case worker_event_kind::removed:
      strands_.remove(place, event.first_page, event.links);
      break;
    case worker_event_kind::cleared:
      strands_.clear_tier(place.worker, event.tier);
      break;
    case worker_event_kind::replay_begin:
    case worker_event_kind::replay_end:
      break;
  }
}

void prefix_index::carry_out_held(stream& s) {
  std::size_t count = 0;
  while (!ORIEL_MUTANT(held_events_are_forgotten) && count < s.held.size() &&
         s.held[count].event.sequence == s.next) {
    carry_out(s.held[count].event);
    ++s.next;
    ++count;
  }
  drop_held(s, count);
}

void prefix_index::drop_held(stream& s, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    s.held_links -= s.held[i].links.size();
  }
  s.held.erase(s.held.begin(), s.held.begin() + static_cast<std::ptrdiff_t>(count));
  if (s.held.empty()) {
    std::vector<held_event>().swap(s.held);
  }
}

worker_state prefix_index::state(worker_id worker) const noexcept {
  ORIEL_EXPECTS(to_index(worker) < options_.workers);
  return streams_[to_index(worker)].state;
}

std::uint64_t prefix_index::sequence(worker_id worker) const noexcept {
  ORIEL_EXPECTS(to_index(worker) < options_.workers);
  return streams_[to_index(worker)].next - 1;
}

std::uint64_t prefix_index::epoch(worker_id worker) const noexcept {
  ORIEL_EXPECTS(to_index(worker) < options_.workers);
  return streams_[to_index(worker)].epoch;
}

prefix_index::sequence_range prefix_index::missing(worker_id worker) const noexcept {
  ORIEL_EXPECTS(to_index(worker) < options_.workers);
  const stream& s = streams_[to_index(worker)];
  if (s.held.empty() || s.state == worker_state::replaying) {
    return {};
  }
  return {s.next, s.held.front().event.sequence};
}

prefix_index_memory prefix_index::memory() const noexcept {
  const detail::strand_memory strands = strands_.memory();
  prefix_index_memory memory{.pages = strands_.pages(),
                             .strands = strands_.strands(),
                             .holders = strands.holders,
                             .fixed_bytes = strands.fixed_bytes,
                             .link_bytes = strands.link_bytes,
                             .holder_bytes = strands.holder_bytes};
  for (const stream& s : streams_) {
    memory.held_bytes += s.held.capacity() * sizeof(held_event) + s.held_links * sizeof(chain_hash);
  }
  return memory;
}

}  // namespace oriel
