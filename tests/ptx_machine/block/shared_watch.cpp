// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "shared_watch.hpp"

#include <ptx_machine/program/program.hpp>

#include <algorithm>
#include <utility>

namespace oriel::ptx_machine {
namespace {

void join_into(std::vector<std::uint32_t>& to, const std::vector<std::uint32_t>& from) {
  if (to.size() < from.size()) {
    to.resize(from.size());
  }
  for (std::size_t i = 0; i < from.size(); ++i) {
    to[i] = std::max(to[i], from[i]);
  }
}

void meet_into(std::vector<std::uint32_t>& to, const std::vector<std::uint32_t>& from) {
  to.resize(std::min(to.size(), from.size()));
  for (std::size_t i = 0; i < to.size(); ++i) {
    to[i] = std::min(to[i], from[i]);
  }
}

const char* name(access kind) {
  return kind == access::read ? "read" : kind == access::write ? "write" : "atomic";
}

constexpr std::uint8_t whole_word = 15;

}  // namespace

void shared_watch::clocks::join(const clocks& other) {
  join_into(known, other.known);
  join_into(fenced, other.fenced);
}

void shared_watch::clocks::meet(const clocks& other) {
  meet_into(known, other.known);
  meet_into(fenced, other.fenced);
}

void shared_watch::clocks::set(std::uint32_t agent, std::uint32_t clock) {
  if (known.size() <= agent) {
    known.resize(agent + 1);
  }
  known[agent] = std::max(known[agent], clock);
}

shared_watch::shared_watch(std::uint32_t shared_bytes,
                           std::uint32_t warps,
                           bool enabled,
                           place_name name)
    : enabled_(enabled),
      warp_count_(warps),
      warps_(warps),
      meetings_(warps),
      many_readers_(1),
      name_(std::move(name)) {
  if (!enabled) {
    return;
  }
  words_.resize((shared_bytes + 3) / 4);
  for (std::uint32_t w = 0; w < warps; ++w) {
    warps_[w].set(w, 1);
  }
}

void shared_watch::lanes(const issuer& who,
                         access kind,
                         std::uint32_t active,
                         const std::uint32_t (&offsets)[32],
                         std::uint32_t bytes) {
  if (!enabled_) {
    return;
  }
  const clocks& with = warps_[who.warp];
  event now{.clock = with.known[who.warp],
            .instruction = who.instruction,
            .meeting = meetings_[who.warp],
            .agent = static_cast<std::uint16_t>(who.warp),
            .atomic = kind == access::atomic};
  for (std::uint32_t lane = 0; lane < 32; ++lane) {
    if ((active >> lane & 1) == 0) {
      continue;
    }
    const std::uint32_t first = offsets[lane];
    now.lane = static_cast<std::uint8_t>(lane);
    if (bytes < 4) {
      now.bytes = static_cast<std::uint8_t>(((1U << bytes) - 1) << (first % 4));
      touch(words_[first / 4], now, kind, false, with, first);
      continue;
    }
    now.bytes = whole_word;
    for (std::uint32_t byte = first; byte < first + bytes; byte += 4) {
      touch(words_[byte / 4], now, kind, false, with, byte);
    }
  }
}

void shared_watch::barrier(std::uint32_t arrived, std::uint32_t waiting) {
  if (!enabled_) {
    return;
  }
  clocks all;
  for (std::uint32_t w = 0; w < warp_count_; ++w) {
    if ((arrived >> w & 1) != 0) {
      release(w, all);
    }
  }
  for (std::uint32_t w = 0; w < warp_count_; ++w) {
    if ((waiting >> w & 1) != 0) {
      acquire(w, all);
    }
  }
}

void shared_watch::fence_proxy_async(std::uint32_t warp) {
  if (!enabled_) {
    return;
  }
  clocks& c = warps_[warp];
  join_into(c.fenced, c.known);
  // What the warp writes from now on is another time, not fenced.
  ++c.known[warp];
}

void shared_watch::acquire(std::uint32_t warp, const clocks& from) {
  if (enabled_) {
    warps_[warp].join(from);
    meet(warp);
  }
}

void shared_watch::release(std::uint32_t warp, clocks& to) {
  if (enabled_) {
    to.join(warps_[warp]);
    ++warps_[warp].known[warp];
  }
}

void shared_watch::learn(std::uint32_t warp, std::uint32_t agent, std::uint32_t clock) {
  if (enabled_) {
    warps_[warp].set(agent, clock);
  }
}

std::uint32_t shared_watch::add_mbarrier(std::uint32_t offset) {
  mbarriers_.push_back(offset);
  return 4 * warp_count_ + (warp_count_ + 3) / 4 + static_cast<std::uint32_t>(mbarriers_.size()) -
         1;
}

bool shared_watch::through_async_proxy(std::uint32_t agent) const {
  return agent >= 2 * warp_count_;
}

void shared_watch::behind_back(const issuer& who,
                               access kind,
                               std::uint32_t agent,
                               std::uint32_t clock,
                               const clocks& with,
                               std::uint32_t offset,
                               std::uint32_t bytes) {
  if (!enabled_) {
    return;
  }
  const event now{.clock = clock,
                  .instruction = who.instruction,
                  .agent = static_cast<std::uint16_t>(agent),
                  .bytes = whole_word};
  for (std::uint32_t byte = offset; byte < offset + bytes; byte += 4) {
    touch(words_[byte / 4], now, kind, through_async_proxy(agent), with, byte);
  }
}

void shared_watch::touch(word& w,
                         const event& now,
                         access kind,
                         bool async_proxy,
                         const clocks& with,
                         std::uint32_t offset) {
  if (w.write.clock != 0) {
    check(w.write, now, w.write.atomic ? access::atomic : access::write, kind, with, offset);
    if (async_proxy && !through_async_proxy(w.write.agent)) {
      check_fenced(w.write, now, kind, with, offset);
    }
  }
  if (kind == access::read) {
    add_reader(w, now, with);
    return;
  }
  if (w.readers != 0) {
    for (const event& before : many_readers_[w.readers]) {
      check(before, now, access::read, kind, with, offset);
    }
  } else if (w.read.clock != 0) {
    check(w.read, now, access::read, kind, with, offset);
  }
  w.write = merged(w.write, now);
  if (now.bytes == whole_word) {
    forget_readers(w);
  }
}

void shared_watch::check(const event& before,
                         const event& now,
                         access before_kind,
                         access kind,
                         const clocks& with,
                         std::uint32_t offset) const {
  check_lanes(before, now, before_kind, kind, offset);
  if (before.clock <= with.known_of(before.agent) || (before.bytes & now.bytes) == 0 ||
      (before.atomic && now.atomic)) {
    return;
  }
  throw machine_error("race: shared byte " + std::to_string(offset) + ": " +
                      text(before, before_kind) + ", and " + text(now, kind) +
                      ", with nothing that orders them");
}

void shared_watch::check_lanes(const event& before,
                               const event& now,
                               access before_kind,
                               access kind,
                               std::uint32_t offset) const {
  if (before_kind == access::read || before.agent != now.agent || before.meeting != now.meeting ||
      now.agent >= warp_count_ || before.lane == now.lane ||
      before.instruction == now.instruction || (before.atomic && now.atomic) ||
      before.bytes != whole_word || now.bytes != whole_word) {
    return;
  }
  throw machine_error("race: shared byte " + std::to_string(offset) + ": " +
                      text(before, before_kind) + ", and " + text(now, kind) +
                      " by another lane of it, with no bar.warp.sync between");
}

/// What is known of an agent's accesses at the same time, or else of its last one.
shared_watch::event shared_watch::merged(const event& before, const event& now) {
  event e = now;
  if (before.agent == now.agent && before.clock == now.clock && before.meeting == now.meeting &&
      before.atomic == now.atomic) {
    e.bytes = before.bytes | now.bytes;
    e.lane = before.lane == now.lane ? now.lane : several_lanes;
  }
  return e;
}

void shared_watch::check_fenced(const event& before,
                                const event& now,
                                access kind,
                                const clocks& with,
                                std::uint32_t offset) const {
  const std::uint32_t fenced = before.agent < with.fenced.size() ? with.fenced[before.agent] : 0;
  if (before.clock <= fenced) {
    return;
  }
  throw machine_error("no fence.proxy.async: shared byte " + std::to_string(offset) + ": " +
                      text(before, access::write) + ", and then " + text(now, kind) +
                      " through the async proxy");
}

void shared_watch::add_reader(word& w, const event& now, const clocks& with) {
  if (w.readers == 0) {
    if (w.read.clock == 0 || w.read.clock <= with.known_of(w.read.agent)) {
      w.read = merged(w.read, now);
      return;
    }
    if (free_readers_.empty()) {
      free_readers_.push_back(static_cast<std::uint32_t>(many_readers_.size()));
      many_readers_.emplace_back();
    }
    w.readers = free_readers_.back();
    free_readers_.pop_back();
    many_readers_[w.readers] = {w.read};
  }
  for (event& before : many_readers_[w.readers]) {
    if (before.agent == now.agent) {
      before = merged(before, now);
      return;
    }
  }
  many_readers_[w.readers].push_back(now);
}

void shared_watch::forget_readers(word& w) {
  if (w.readers != 0) {
    free_readers_.push_back(w.readers);
    w.readers = 0;
  }
  w.read = {};
}

std::string shared_watch::text(const event& e, access kind) const {
  const std::uint32_t agent = e.agent;
  const std::uint32_t warps = warp_count_;
  std::string who;
  if (agent < warps) {
    who = "warp " + std::to_string(agent);
  } else if (agent < 2 * warps) {
    who = "cp.async of warp " + std::to_string(agent - warps);
  } else if (agent < 3 * warps) {
    who = "a bulk store of warp " + std::to_string(agent - 2 * warps);
  } else if (agent < 4 * warps) {
    who = "a product's rows of warp " + std::to_string(agent - 3 * warps);
  } else if (agent < 4 * warps + (warps + 3) / 4) {
    who = "a product of warpgroup " + std::to_string(agent - 4 * warps);
  } else {
    who = "a bulk load for the mbarrier at byte " +
          std::to_string(mbarriers_[agent - 4 * warps - (warps + 3) / 4]);
  }
  return std::string(name(kind)) + " by " + who + " at " +
         (name_ ? name_(e.instruction) : std::to_string(e.instruction));
}

}  // namespace oriel::ptx_machine
