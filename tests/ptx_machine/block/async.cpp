// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "async.hpp"
#include "memory_map.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <utility>

namespace oriel::ptx_machine {
namespace {

/// The largest count of arrivals and of transactions.
constexpr std::int64_t count_max = (1 << 20) - 1;

std::byte* of_process(std::uint64_t address) {
  return reinterpret_cast<std::byte*>(static_cast<std::uintptr_t>(address));
}

void check_global(std::uint64_t address, std::uint32_t bytes, std::uint32_t alignment) {
  if (address % alignment != 0) {
    throw machine_error("global address " + std::to_string(address) + " is no multiple of " +
                        std::to_string(alignment));
  }
  if (!memory_map::of_process().contains(address, bytes)) {
    throw machine_error(std::to_string(bytes) + " bytes at global address " +
                        std::to_string(address) + " are not memory of the device");
  }
}

std::string mbarrier_text(std::uint32_t offset) {
  return "mbarrier at shared byte " + std::to_string(offset);
}

std::string sender_text(const sender& s) {
  return "an st.async of warp " + std::to_string(s.who.warp) + " of the cluster's block " +
         std::to_string(s.rank);
}

}  // namespace

block_async::block_async(const block_setup& setup)
    : shared_(setup.shared),
      warps_(setup.warps),
      random_state_(setup.seed * 2 + 1),
      watch_(static_cast<std::uint32_t>(setup.shared.size()),
             setup.warps,
             setup.watch_races,
             setup.place,
             setup.rank_in_cluster),
      products_(setup.shared, setup.warps, *setup.registers, watch_),
      pool_(setup.warps, setup.registers_per_thread),
      copy_groups_(std::size_t{setup.warps} * 32),
      store_groups_(std::size_t{setup.warps} * 32),
      stores_issued_(std::size_t{setup.warps} * 32),
      stores_read_(std::size_t{setup.warps} * 32),
      copy_clocks_(setup.warps),
      store_clocks_(setup.warps) {}

std::uint64_t block_async::random() {
  random_state_ ^= random_state_ << 13;
  random_state_ ^= random_state_ >> 7;
  random_state_ ^= random_state_ << 17;
  return random_state_ >> 11;
}

// Mbarriers.

/// What the eight bytes hold: opaque to a kernel, and different after each operation, so that a
/// write to them shows.
std::uint64_t block_async::state_of(const mbarrier& b) {
  const std::uint64_t counts = (std::uint64_t{b.expected} << 44) ^
                               (std::uint64_t{b.pending} << 24) ^ (std::uint64_t{b.phase} << 8) ^
                               static_cast<std::uint64_t>(b.transactions);
  return (counts + 0x5DEECE66D) * 0x9E3779B97F4A7C15;
}

void block_async::store_state(std::uint32_t offset, const mbarrier& b) {
  const std::uint64_t state = state_of(b);
  std::memcpy(shared_.data() + offset, &state, sizeof(state));
}

void block_async::check_shared(std::uint32_t offset,
                               std::uint32_t bytes,
                               std::uint32_t alignment) const {
  if (offset % alignment != 0) {
    throw machine_error("shared byte " + std::to_string(offset) + " is no multiple of " +
                        std::to_string(alignment));
  }
  if (std::size_t{offset} + bytes > shared_.size()) {
    throw machine_error(std::to_string(bytes) + " bytes at shared byte " + std::to_string(offset) +
                        " are outside the block's " + std::to_string(shared_.size()));
  }
}

void block_async::check_no_mbarrier(std::uint32_t offset, std::uint32_t bytes) const {
  const auto next = mbarriers_.lower_bound(offset < 7 ? 0 : offset - 7);
  if (next != mbarriers_.end() && next->first < offset + bytes) {
    throw machine_error("a write to the " + mbarrier_text(next->first));
  }
}

void block_async::note_write(const issuer& who, std::uint32_t offset) {
  const std::uint32_t offsets[32] = {offset};
  watch_.lanes(who, access::write, 1, offsets, 8);
}

block_async::mbarrier& block_async::at(std::uint32_t offset) {
  check_shared(offset, 8, 8);
  const auto found = mbarriers_.find(offset);
  if (found == mbarriers_.end()) {
    throw machine_error("no mbarrier has been initialised at shared byte " +
                        std::to_string(offset));
  }
  mbarrier& b = found->second;
  std::uint64_t state = 0;
  std::memcpy(&state, shared_.data() + offset, sizeof(state));
  if (state != state_of(b)) {
    throw machine_error(mbarrier_text(offset) + ": something has written over it");
  }
  return b;
}

void block_async::check_initialised(std::uint32_t offset,
                                    const mbarrier& b,
                                    const shared_watch::clocks& by) const {
  if (watch_.enabled() && !by.knows_init(b.initialiser.warp, b.initialised)) {
    throw machine_error(mbarrier_text(offset) + ": initialised by warp " +
                        std::to_string(b.initialiser.warp) +
                        ", and no barrier between that and this use");
  }
}

block_async::mbarrier& block_async::at(const issuer& who, std::uint32_t offset) {
  mbarrier& b = at(offset);
  check_initialised(offset, b, watch_.of_warp(who.warp));
  return b;
}

void block_async::init(const issuer& who, std::uint32_t offset, std::uint32_t count) {
  check_shared(offset, 8, 8);
  check_no_mbarrier(offset, 8);
  if (count == 0 || count > count_max) {
    throw machine_error(mbarrier_text(offset) + ": initialised with a count of " +
                        std::to_string(count));
  }
  note_write(who, offset);
  mbarrier b{.expected = count,
             .pending = count,
             .initialiser = who,
             .agent = watch_.add_mbarrier(offset)};
  b.initialised = watch_.of_warp(who.warp).known_of(who.warp);
  store_state(offset, b);
  mbarriers_.emplace(offset, std::move(b));
}

void block_async::invalidate(const issuer& who, std::uint32_t offset) {
  const mbarrier& b = at(who, offset);
  if (b.transactions != 0 || b.pending != b.expected) {
    throw machine_error(mbarrier_text(offset) + ": made invalid in the middle of a phase");
  }
  note_write(who, offset);
  mbarriers_.erase(offset);
}

void block_async::fence_mbarrier_init(const issuer& who) {
  for (auto& [offset, b] : mbarriers_) {
    b.seen_by_async_proxy |= b.initialiser.warp == who.warp;
  }
  watch_.fence_inits(who.warp);
}

void block_async::fence_proxy_async(const issuer& who) {
  for (auto& [offset, b] : mbarriers_) {
    b.seen_by_async_proxy |=
        !watch_.enabled() || watch_.of_warp(who.warp).knows_init(b.initialiser.warp, b.initialised);
  }
  watch_.fence_proxy_async(who.warp);
}

void block_async::count_arrivals(std::uint32_t offset, mbarrier& b, std::uint32_t count) {
  if (count == 0 || count > count_max) {
    throw machine_error(mbarrier_text(offset) + ": a count of " + std::to_string(count));
  }
  if (count > b.pending) {
    throw machine_error(mbarrier_text(offset) + ": more arrivals than the " +
                        std::to_string(b.expected) + " of a phase (phase " +
                        std::to_string(b.phase) + ")");
  }
  if (b.observed < b.phase) {
    throw machine_error(mbarrier_text(offset) + ": an arrival in phase " + std::to_string(b.phase) +
                        " before any wait has found the phase before complete");
  }
  b.pending -= count;
}

void block_async::change_transactions(std::uint32_t offset, mbarrier& b, std::int64_t by) {
  const std::int64_t now = b.transactions + by;
  if (now > count_max || now < -count_max) {
    throw machine_error(mbarrier_text(offset) +
                        ": the count of transactions overflows: " + std::to_string(now));
  }
  b.transactions = now;
}

void block_async::complete_if_due(std::uint32_t offset, mbarrier& b) {
  if (b.pending == 0 && b.transactions == 0) {
    ++b.phase;
    b.pending = b.expected;
    b.gathering.set(b.agent, b.phase);
    b.complete = b.gathering;
  }
  store_state(offset, b);
}

void block_async::arrive(const issuer& who, std::uint32_t offset, std::uint32_t count) {
  mbarrier& b = at(who, offset);
  count_arrivals(offset, b, count);
  watch_.release(who.warp, b.gathering);
  complete_if_due(offset, b);
}

void block_async::arrive_expect(const issuer& who,
                                std::uint32_t offset,
                                std::uint32_t bytes,
                                bool releases) {
  mbarrier& b = at(who, offset);
  change_transactions(offset, b, bytes);
  count_arrivals(offset, b, 1);
  if (releases) {
    watch_.release(who.warp, b.gathering);
  }
  complete_if_due(offset, b);
}

void block_async::expect(const issuer& who, std::uint32_t offset, std::uint32_t bytes) {
  mbarrier& b = at(who, offset);
  change_transactions(offset, b, bytes);
  store_state(offset, b);
}

bool block_async::try_wait(const issuer& who, std::uint32_t offset, std::uint32_t parity) {
  mbarrier& b = at(who, offset);
  if (parity > 1) {
    throw machine_error(mbarrier_text(offset) + ": a parity of " + std::to_string(parity));
  }
  // Whoever waits for a phase knows that the one before is complete, and holds up the one after.
  if (watch_.enabled() && b.phase >= watch_.of_warp(who.warp).known_of(b.agent) + 2) {
    throw machine_error(mbarrier_text(offset) + ": " + std::to_string(b.phase) +
                        " phases are complete, of which the " + "warp knows " +
                        std::to_string(watch_.of_warp(who.warp).known_of(b.agent)) +
                        ": a parity can not tell");
  }
  if ((b.phase & 1) == parity || (pending() && random() % 4 == 0)) {
    return false;
  }
  b.observed = b.phase;
  watch_.acquire(who.warp, b.complete);
  return true;
}

// Bulk copies.

void block_async::check_bulk(std::uint64_t global, std::uint32_t bytes) const {
  if (bytes % 16 != 0) {
    throw machine_error("a bulk copy of " + std::to_string(bytes) +
                        " bytes, which is no multiple of 16");
  }
  check_global(global, bytes, 16);
}

void block_async::bulk_load(const issuer& who,
                            std::uint32_t destination,
                            std::uint64_t source,
                            std::uint32_t bytes,
                            std::uint32_t mbarrier_offset) {
  mbarrier& b = at(who, mbarrier_offset);
  if (!b.seen_by_async_proxy) {
    throw machine_error(
        mbarrier_text(mbarrier_offset) +
        ": a bulk copy before a fence.mbarrier_init or fence.proxy.async after its init");
  }
  check_bulk(source, bytes);
  check_shared(destination, bytes, 16);
  check_no_mbarrier(destination, bytes);
  watch_.behind_back(
      who, access::write, b.agent, b.phase + 1, watch_.of_warp(who.warp), destination, bytes);
  b.loaded = b.phase + 1;
  std::memset(shared_.data() + destination, 0xFF, bytes);
  pending_.push_back({.what = kind::bulk_load,
                      .who = who,
                      .shared = destination,
                      .global = source,
                      .bytes = bytes,
                      .mbarrier = mbarrier_offset,
                      .phase = b.phase});
}

void block_async::store_async(const sender& from,
                              std::uint32_t offset,
                              std::span<const std::byte> value,
                              std::uint32_t mbarrier_offset) {
  if (ended_) {
    throw machine_error("the block has ended");
  }
  const auto bytes = static_cast<std::uint32_t>(value.size());
  check_shared(offset, bytes, bytes);
  mbarrier& b = at(mbarrier_offset);
  const shared_watch::clocks with = watch_.seen_here(*from.known);
  check_initialised(mbarrier_offset, b, with);
  if (!b.seen_by_async_proxy) {
    throw machine_error(mbarrier_text(mbarrier_offset) +
                        ": an st.async before a fence.mbarrier_init after its init");
  }
  if (watch_.enabled() && with.known_of(b.agent) < b.phase) {
    throw machine_error(mbarrier_text(mbarrier_offset) + ": " + std::to_string(b.phase) +
                        " phases are complete, of which the sender knows " +
                        std::to_string(with.known_of(b.agent)) +
                        ": its bytes could count for an earlier one");
  }
  check_no_mbarrier(offset, bytes);
  watch_.behind_back(from.who, access::write, b.agent, b.phase + 1, with, offset, bytes, true);
  b.loaded = b.phase + 1;
  std::memset(shared_.data() + offset, 0xFF, bytes);
  pending_.push_back({.what = kind::async_store,
                      .who = from.who,
                      .shared = offset,
                      .bytes = bytes,
                      .mbarrier = mbarrier_offset,
                      .phase = b.phase,
                      .captured = {value.begin(), value.end()},
                      .from = from});
}

void block_async::bulk_store(const issuer& who,
                             std::uint32_t lane,
                             std::uint64_t destination,
                             std::uint32_t source,
                             std::uint32_t bytes) {
  check_bulk(destination, bytes);
  check_shared(source, bytes, 16);
  const std::uint32_t clock = ++store_clocks_[who.warp];
  watch_.behind_back(who,
                     access::read,
                     watch_.stores_agent(who.warp),
                     clock,
                     watch_.of_warp(who.warp),
                     source,
                     bytes);
  stores_issued_[who.warp * 32 + lane] = clock;
  pending_.push_back({.what = kind::bulk_store,
                      .who = who,
                      .lanes = 1U << lane,
                      .shared = source,
                      .global = destination,
                      .bytes = bytes,
                      .clock = clock});
}

void block_async::bulk_commit(const issuer& who, std::uint32_t active) {
  for (std::uint32_t lane = 0; lane < 32; ++lane) {
    if ((active >> lane & 1) != 0) {
      store_groups_[who.warp * 32 + lane].push_back(store_clocks_[who.warp]);
    }
  }
}

void block_async::bulk_wait(const issuer& who,
                            std::uint32_t active,
                            std::uint32_t groups_pending_max,
                            bool read_only) {
  for (std::uint32_t lane = 0; lane < 32; ++lane) {
    const std::size_t index = std::size_t{who.warp} * 32 + lane;
    const lane_groups& groups = store_groups_[index];
    if ((active >> lane & 1) == 0 || groups.size() <= groups_pending_max) {
      continue;
    }
    const std::uint32_t up_to = groups[groups.size() - 1 - groups_pending_max];
    for (std::size_t i = 0; i < pending_.size();) {
      const operation& o = pending_[i];
      const bool covered = o.what == kind::bulk_store && o.who.warp == who.warp &&
                           (o.lanes >> lane & 1) != 0 && o.clock <= up_to &&
                           (!read_only || o.captured.empty());
      if (covered) {
        perform(i, read_only);
      }
      // What is performed wholly has left the list, and another is in its place.
      i += covered && !read_only ? 0 : 1;
    }
    if (stores_issued_[index] != 0) {
      stores_read_[index] = std::max(stores_read_[index], std::min(up_to, stores_issued_[index]));
      watch_.learn(who.warp, watch_.stores_agent(who.warp), stores_read_[index]);
    }
  }
}

// Copies of threads.

void block_async::copy(const issuer& who,
                       std::uint32_t active,
                       const std::uint32_t (&destination)[32],
                       const std::uint64_t (&source)[32],
                       std::uint32_t bytes,
                       const std::uint32_t (&source_bytes)[32]) {
  warp_copy c{
      .warp = who.warp, .active = active, .bytes = bytes, .clock = ++copy_clocks_[who.warp]};
  for (std::uint32_t lane = 0; lane < 32; ++lane) {
    c.destination[lane] = destination[lane];
    c.source[lane] = source[lane];
    c.source_bytes[lane] = source_bytes[lane];
    if ((active >> lane & 1) == 0) {
      continue;
    }
    if (source_bytes[lane] > bytes) {
      throw machine_error("cp.async of " + std::to_string(bytes) + " bytes from a source of " +
                          std::to_string(source_bytes[lane]));
    }
    check_shared(destination[lane], bytes, bytes);
    if (source_bytes[lane] != 0) {
      check_global(source[lane], source_bytes[lane], 1);
    }
    if (source[lane] % bytes != 0) {
      throw machine_error("cp.async from an address that is no multiple of " +
                          std::to_string(bytes));
    }
    check_no_mbarrier(destination[lane], bytes);
    watch_.behind_back(who,
                       access::write,
                       watch_.copies_agent(who.warp),
                       c.clock,
                       watch_.of_warp(who.warp),
                       destination[lane],
                       bytes);
    std::memset(shared_.data() + destination[lane], 0xFF, bytes);
  }
  pending_copies_.push_back(c);
}

void block_async::copy_commit(const issuer& who, std::uint32_t active) {
  for (std::uint32_t lane = 0; lane < 32; ++lane) {
    if ((active >> lane & 1) != 0) {
      copy_groups_[who.warp * 32 + lane].push_back(copy_clocks_[who.warp]);
    }
  }
}

void block_async::perform_copies(std::uint32_t warp, const std::uint32_t (&up_to)[32]) {
  for (std::size_t i = 0; i < pending_copies_.size();) {
    const warp_copy& c = pending_copies_[i];
    bool covered = false;
    for (std::uint32_t lane = 0; c.warp == warp && lane < 32; ++lane) {
      covered |= (c.active >> lane & 1) != 0 && c.clock <= up_to[lane];
    }
    if (covered) {
      perform_copy(i);
    } else {
      ++i;
    }
  }
}

void block_async::copy_wait(const issuer& who,
                            std::uint32_t active,
                            std::uint32_t groups_pending_max) {
  std::uint32_t up_to[32] = {};
  std::uint32_t by_all = 0xFFFFFFFF;
  for (std::uint32_t lane = 0; lane < 32; ++lane) {
    const lane_groups& groups = copy_groups_[who.warp * 32 + lane];
    if ((active >> lane & 1) != 0 && !groups.empty()) {
      up_to[lane] =
          groups.size() > groups_pending_max ? groups[groups.size() - 1 - groups_pending_max] : 0;
      by_all = std::min(by_all, up_to[lane]);
    }
  }
  perform_copies(who.warp, up_to);
  if (by_all != 0xFFFFFFFF) {
    watch_.learn(who.warp, watch_.copies_agent(who.warp), by_all);
  }
}

void block_async::copy_wait_all(const issuer& who, std::uint32_t active) {
  std::uint32_t up_to[32] = {};
  for (std::uint32_t lane = 0; lane < 32; ++lane) {
    up_to[lane] = (active >> lane & 1) != 0 ? copy_clocks_[who.warp] : 0;
  }
  perform_copies(who.warp, up_to);
  watch_.learn(who.warp, watch_.copies_agent(who.warp), copy_clocks_[who.warp]);
}

void block_async::copy_arrive(const issuer& who,
                              std::uint32_t lane,
                              std::uint32_t offset,
                              bool increment) {
  mbarrier& b = at(who, offset);
  if (increment) {
    ++b.pending;
    store_state(offset, b);
  }
  const std::uint32_t clock = copy_clocks_[who.warp];
  if (!pending_.empty()) {
    operation& last = pending_.back();
    if (last.what == kind::copy_arrival && last.who.warp == who.warp && last.clock == clock &&
        last.mbarrier == offset && last.who.instruction == who.instruction &&
        (last.lanes >> lane & 1) == 0) {
      last.lanes |= 1U << lane;
      return;
    }
  }
  pending_.push_back({.what = kind::copy_arrival,
                      .who = who,
                      .lanes = 1U << lane,
                      .mbarrier = offset,
                      .clock = clock});
}

// Time.

bool block_async::pending() const {
  return !pending_.empty() || !pending_copies_.empty() || products_.ready() != 0;
}

bool block_async::waits_for_copies(const operation& o) const {
  return o.what == kind::copy_arrival &&
         std::any_of(pending_copies_.begin(), pending_copies_.end(), [&o](const warp_copy& c) {
           return c.warp == o.who.warp && c.clock <= o.clock && (c.active & o.lanes) != 0;
         });
}

bool block_async::step() {
  const std::size_t all = pending_.size() + pending_copies_.size() + products_.ready();
  if (all == 0) {
    return false;
  }
  std::size_t nth = random() % all;
  if (nth < pending_.size() && waits_for_copies(pending_[nth])) {
    nth = pending_.size() + random() % pending_copies_.size();
  }
  if (nth < pending_.size()) {
    perform(nth, pending_[nth].captured.empty());
  } else if (nth -= pending_.size(); nth < pending_copies_.size()) {
    perform_copy(nth);
  } else {
    products_.perform(static_cast<std::uint32_t>(nth - pending_copies_.size()));
  }
  return true;
}

void block_async::perform_copy(std::size_t nth) {
  const warp_copy& c = pending_copies_[nth];
  for (std::uint32_t lane = 0; lane < 32; ++lane) {
    if ((c.active >> lane & 1) != 0) {
      std::byte* const to = shared_.data() + c.destination[lane];
      std::memset(to, 0, c.bytes);
      if (c.source_bytes[lane] != 0) {
        std::memcpy(to, of_process(c.source[lane]), c.source_bytes[lane]);
      }
    }
  }
  pending_copies_.erase(pending_copies_.begin() + static_cast<std::ptrdiff_t>(nth));
}

/// A bulk load or an st.async is in shared memory, and its bytes count.
void block_async::land(const operation& o, mbarrier& b) {
  if (b.phase != o.phase) {
    const std::string what = o.what == kind::bulk_load ? "a bulk copy" : sender_text(o.from);
    throw machine_error(mbarrier_text(o.mbarrier) + ": " + what + " of its phase " +
                        std::to_string(o.phase) + " ends in phase " + std::to_string(b.phase) +
                        ": nobody expected its bytes then");
  }
  if (o.what == kind::bulk_load) {
    std::memcpy(shared_.data() + o.shared, of_process(o.global), o.bytes);
  } else {
    std::memcpy(shared_.data() + o.shared, o.captured.data(), o.bytes);
    b.gathering.join(watch_.seen_here(*o.from.known));
  }
  change_transactions(o.mbarrier, b, -std::int64_t{o.bytes});
}

void block_async::perform(std::size_t nth, bool read_only) {
  operation& o = pending_[nth];
  if (o.what == kind::bulk_store) {
    if (o.captured.empty()) {
      o.captured.assign(shared_.data() + o.shared, shared_.data() + o.shared + o.bytes);
    }
    if (read_only) {
      return;
    }
    std::memcpy(of_process(o.global), o.captured.data(), o.bytes);
  } else {
    mbarrier& b = o.what == kind::async_store ? at(o.mbarrier) : at(o.who, o.mbarrier);
    if (o.what != kind::copy_arrival) {
      land(o, b);
    } else {
      b.gathering.set(watch_.copies_agent(o.who.warp), o.clock);
      count_arrivals(o.mbarrier, b, static_cast<std::uint32_t>(std::popcount(o.lanes)));
    }
    complete_if_due(o.mbarrier, b);
  }
  if (nth + 1 != pending_.size()) {
    pending_[nth] = std::move(pending_.back());
  }
  pending_.pop_back();
}

void block_async::end_warp(const issuer& who) {
  products_.end(who);
}

void block_async::end_block() {
  ended_ = true;
  for (const operation& o : pending_) {
    if (o.what == kind::async_store) {
      throw machine_error("the block ends while " + sender_text(o.from) + " to it is under way");
    }
  }
  for (const auto& [offset, b] : mbarriers_) {
    if (b.loaded > b.observed) {
      throw machine_error(mbarrier_text(offset) +
                          ": the block ends without a wait for the last bulk load or st.async");
    }
  }
  for (std::size_t i = 0; i < stores_issued_.size(); ++i) {
    if (stores_read_[i] < stores_issued_[i]) {
      throw machine_error("the block ends without a wait of warp " + std::to_string(i / 32) +
                          " until its bulk stores have read shared memory");
    }
  }
  pool_.end();
  while (step()) {
  }
}

}  // namespace oriel::ptx_machine
