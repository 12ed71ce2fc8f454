// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "shared_watch.hpp"

#include <ptx_machine/program/program.hpp>

#include <algorithm>
#include <array>
#include <bit>
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

struct shared_watch::word_pages {
  static constexpr std::size_t page_words = 64;
  struct page {
    std::uint32_t block = 0;  ///< that has cleared it
    std::array<word, page_words> words;
  };
  std::vector<page> pages;
  std::uint32_t block = 0;
  /// [0] is nobody's.
  std::vector<std::vector<event>> many_readers = std::vector<std::vector<event>>(1);
  std::uint32_t readers_begun = 1;  ///< of many_readers, by this block
  std::vector<std::uint32_t> free_readers;

  /// Those that a block of this thread has left, or new ones.
  static std::unique_ptr<word_pages> take(std::size_t words);
  static std::vector<std::unique_ptr<word_pages>>& left() {
    static thread_local auto* const all = new std::vector<std::unique_ptr<word_pages>>;
    return *all;
  }
};

std::unique_ptr<shared_watch::word_pages> shared_watch::word_pages::take(std::size_t words) {
  std::unique_ptr<word_pages> taken;
  if (left().empty()) {
    taken = std::make_unique<word_pages>();
  } else {
    taken = std::move(left().back());
    left().pop_back();
  }
  const std::size_t count = (words + page_words - 1) / page_words;
  if (taken->pages.size() < count) {
    taken->pages.resize(count);
  }
  taken->free_readers.clear();
  taken->readers_begun = 1;
  if (++taken->block == 0) {  // Once in four billions of blocks their numbers begin again.
    taken->pages.assign(taken->pages.size(), {});
    taken->block = 1;
  }
  return taken;
}

// ---- Hot: once for each word that is touched ----

inline shared_watch::word& shared_watch::word_at(std::uint32_t offset) {
  const std::size_t i = offset / 4;
  word_pages::page& p = words_->pages[i / word_pages::page_words];
  if (p.block != words_->block) {
    p.words.fill({});
    p.block = words_->block;
  }
  return p.words[i % word_pages::page_words];
}

/// What is known of an agent's accesses at the same time, or else of its last one.
inline shared_watch::event shared_watch::merged(const event& before, const event& now) {
  event e = now;
  if (before.agent == now.agent && before.clock == now.clock && before.meeting == now.meeting &&
      before.atomic == now.atomic) {
    e.bytes = before.bytes | now.bytes;
    e.lane = before.lane == now.lane ? now.lane : several_lanes;
  }
  return e;
}

inline bool shared_watch::suspicious(const event& before, const event& now, const clocks& with) {
  return before.clock > with.known_of(before.agent) ||
         (before.agent == now.agent && before.meeting == now.meeting && before.lane != now.lane);
}

inline void shared_watch::touch(word& w,
                                const event& now,
                                access kind,
                                bool async_proxy,
                                const clocks& with,
                                std::uint32_t offset) {
  if (w.write.clock != 0) {
    if (suspicious(w.write, now, with)) {
      check(w.write, now, w.write.atomic ? access::atomic : access::write, kind, with, offset);
    }
    if (async_proxy && !through_async_proxy(w.write.agent)) {
      check_fenced(w.write, now, kind, with, offset);
    }
  }
  if (kind == access::read) {
    if (w.readers == 0 && (w.read.clock == 0 || w.read.clock <= with.known_of(w.read.agent))) {
      w.read = merged(w.read, now);
    } else {
      add_reader(w, now);
    }
    return;
  }
  if (w.readers != 0) {
    for (const event& before : words_->many_readers[w.readers]) {
      check(before, now, access::read, kind, with, offset);
    }
  } else if (w.read.clock != 0 && suspicious(w.read, now, with)) {
    check(w.read, now, access::read, kind, with, offset);
  }
  w.write = merged(w.write, now);
  if (now.bytes == whole_word) {
    forget_readers(w);
  }
}

// ---- The rest ----

shared_watch::~shared_watch() {
  if (words_) {
    word_pages::left().push_back(std::move(words_));
  }
}

void shared_watch::block_clocks::join(const block_clocks& other) {
  join_into(known, other.known);
  join_into(fenced, other.fenced);
  join_into(inits, other.inits);
}

void shared_watch::join(cluster_clocks& to, const cluster_clocks& from) {
  if (to.size() < from.size()) {
    to.resize(from.size());
  }
  for (std::size_t i = 0; i < from.size(); ++i) {
    to[i].join(from[i]);
  }
}

void shared_watch::clocks::join(const clocks& other) {
  block_clocks::join(other);
  shared_watch::join(others, other.others);
}

void shared_watch::clocks::meet(const clocks& other) {
  meet_into(known, other.known);
  meet_into(fenced, other.fenced);
  meet_into(inits, other.inits);
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
                           place_name name,
                           std::uint32_t rank)
    : enabled_(enabled),
      warp_count_(warps),
      rank_(rank),
      warps_(warps),
      released_(warps),
      meetings_(warps),
      name_(std::move(name)) {
  if (!enabled) {
    return;
  }
  words_ = word_pages::take((shared_bytes + 3) / 4);
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
  if (bytes >= 4) {
    now.bytes = whole_word;
  }
  std::uint32_t read_before = ~0U;  // By the lane before, and written by none of this warp.
  for (; active != 0; active &= active - 1) {
    const auto lane = static_cast<std::uint32_t>(std::countr_zero(active));
    const std::uint32_t first = offsets[lane];
    if (first == read_before) {
      continue;
    }
    now.lane = static_cast<std::uint8_t>(lane);
    if (bytes < 4) {
      now.bytes = static_cast<std::uint8_t>(((1U << bytes) - 1) << (first % 4));
    }
    bool is_own = kind != access::read;
    for (std::uint32_t byte = first; byte < first + bytes; byte += 4) {
      word& w = word_at(byte);
      touch(w, now, kind, false, with, byte);
      is_own |= w.write.clock != 0 && w.write.agent == who.warp;
    }
    read_before = is_own ? ~0U : first;
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

shared_watch::cluster_clocks shared_watch::release_to_cluster(std::uint32_t warp) {
  if (!enabled_) {
    return {};
  }
  clocks& c = warps_[warp];
  cluster_clocks all = c.others;
  all.resize(std::max<std::size_t>(all.size(), rank_ + 1));
  all[rank_] = c;
  ++c.known[warp];
  return all;
}

void shared_watch::fence(std::uint32_t warp) {
  if (enabled_) {
    released_[warp] = release_to_cluster(warp);
  }
}

void shared_watch::fence_inits(std::uint32_t warp) {
  if (!enabled_) {
    return;
  }
  cluster_clocks& all = released_[warp];
  all.resize(std::max<std::size_t>(all.size(), rank_ + 1));
  std::vector<std::uint32_t>& inits = all[rank_].inits;
  inits.resize(std::max<std::size_t>(inits.size(), warp + 1));
  // What the warp initialises from now on is another time, not fenced.
  inits[warp] = warps_[warp].known[warp]++;
}

shared_watch::clocks shared_watch::seen_here(const cluster_clocks& all) const {
  clocks c;
  c.others = all;
  if (rank_ < all.size()) {
    static_cast<block_clocks&>(c) = std::exchange(c.others[rank_], {});
  }
  return c;
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
                               std::uint32_t bytes,
                               bool generic) {
  if (!enabled_) {
    return;
  }
  const event now{.clock = clock,
                  .instruction = who.instruction,
                  .agent = static_cast<std::uint16_t>(agent),
                  .bytes = whole_word};
  for (std::uint32_t byte = offset; byte < offset + bytes; byte += 4) {
    touch(word_at(byte), now, kind, !generic && through_async_proxy(agent), with, byte);
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

void shared_watch::add_reader(word& w, const event& now) {
  if (w.readers == 0) {
    std::vector<std::uint32_t>& unused = words_->free_readers;
    if (unused.empty()) {
      w.readers = words_->readers_begun++;
      words_->many_readers.resize(
          std::max<std::size_t>(words_->many_readers.size(), words_->readers_begun));
    } else {
      w.readers = unused.back();
      unused.pop_back();
    }
    words_->many_readers[w.readers].assign(1, w.read);
  }
  std::vector<event>& all = words_->many_readers[w.readers];
  for (event& before : all) {
    if (before.agent == now.agent) {
      before = merged(before, now);
      return;
    }
  }
  all.push_back(now);
}

void shared_watch::forget_readers(word& w) {
  if (w.readers != 0) {
    words_->free_readers.push_back(w.readers);
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
    who = "what completes on the mbarrier at byte " +
          std::to_string(mbarriers_[agent - 4 * warps - (warps + 3) / 4]);
  }
  return std::string(name(kind)) + " by " + who + " at " +
         (name_ ? name_(e.instruction) : std::to_string(e.instruction));
}

}  // namespace oriel::ptx_machine
