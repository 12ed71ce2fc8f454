// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Branches, exits and the barriers of blocks and clusters.
#include "warp.hpp"

#include <ptx_machine/block/async.hpp>

#include <utility>

namespace oriel::ptx_machine {

std::uint64_t uniform_bits(const warp& w, const decoded& d, std::uint32_t lanes, const slot& s) {
  const std::uint64_t value = w.bits(s, static_cast<std::uint32_t>(std::countr_zero(lanes)));
  if (s.base == 1) {
    return value;  // A constant.
  }
  for_lanes(lanes, [&](std::uint32_t i) {
    if (w.bits(s, i) != value) {
      fail(w, d, i, "lanes have different values, " + hex(value) + " and " + hex(w.bits(s, i)));
    }
  });
  return value;
}

namespace {

/// Its lanes that do not go along stay behind as a group.
outcome branch(warp& w, const decoded& d, std::uint32_t lanes) {
  const std::uint32_t staying = w.active & ~lanes;
  if (staying != 0) {
    if (d.detail != 0) {
      fail(w, d, warp_lanes, "a bra.uni that lanes " + hex(staying) + " do not take");
    }
    w.others[w.other_count++] = {w.pc + 1, staying, false};
  }
  w.active = lanes;
  w.pc = d.target;
  return outcome::moved;
}

outcome exit_lanes(warp& w, const decoded&, std::uint32_t lanes) {
  w.live &= ~lanes;
  w.active &= ~lanes;
  // Whoever waits for lanes no longer waits for these.
  for (std::uint32_t i = 0; i < w.other_count; ++i) {
    w.others[i].gathering = false;
  }
  ++w.pc;
  if (w.active == 0 && w.other_count != 0) {
    take_first_group(w);
  }
  return outcome::moved;
}

std::uint32_t bits_of(const std::vector<warp*>& warps) {
  std::uint32_t bits = 0;
  for (const warp* w : warps) {
    bits |= 1U << w->index;
  }
  return bits;
}

void release(std::vector<warp*>& waiting, const warp* but) {
  for (warp* w : waiting) {
    if (w != but) {
      ++w->pc;
      w->waits = false;
      w->owner->ready.push_back(w);
    }
  }
  waiting.clear();
}

void complete(block& home, named_barrier& barrier, const warp* last) {
  const std::uint32_t waiting = bits_of(barrier.waiting);
  home.async->watch().barrier(waiting | barrier.gone_on, waiting);
  release(barrier.waiting, last);
  barrier.arrived = barrier.gone_on = 0;
}

std::uint32_t expected(const block& home, const named_barrier& barrier) {
  return barrier.threads != 0 ? barrier.threads : home.live_warps * warp_lanes;
}

/// bar.sync a[, b]. Whole warps arrive, whatever their lanes; without b the block's warps that have not exited.
/// bar.arrive a, b (`detail`: 1) does not wait.
outcome synchronise(warp& w, const decoded& d, std::uint32_t lanes) {
  if (!converged(w, d, lanes)) {
    return outcome::gathering;
  }
  block& home = *w.home;
  const std::uint64_t name = uniform_bits(w, d, lanes, d.slots[0]);
  const std::uint64_t threads = d.slot_count > 1 ? uniform_bits(w, d, lanes, d.slots[1]) : 0;
  if (name >= home.barriers.size()) {
    fail(w, d, warp_lanes, "there is no barrier " + std::to_string(name));
  }
  if (d.slot_count > 1 &&
      (threads % warp_lanes != 0 || threads == 0 || threads > home.warps.size() * warp_lanes)) {
    fail(w, d, warp_lanes, "a barrier of " + std::to_string(threads) + " threads");
  }
  named_barrier& barrier = home.barriers[name];
  if (barrier.arrived != 0 && barrier.threads != threads) {
    fail(w,
         d,
         warp_lanes,
         "barrier " + std::to_string(name) + " of " + std::to_string(threads) +
             " threads, at which others wait for " + std::to_string(barrier.threads) +
             " (0: all of the block)");
  }
  const std::uint32_t own = 1U << w.index;
  if ((barrier.gone_on & own) != 0) {
    fail(w,
         d,
         warp_lanes,
         "it has arrived at barrier " + std::to_string(name) +
             " before, which is not complete since");
  }
  barrier.threads = static_cast<std::uint32_t>(threads);
  barrier.arrived += warp_lanes;
  const bool waits = d.detail == 0;
  if (waits) {
    barrier.waiting.push_back(&w);
  } else {
    barrier.gone_on |= own;
  }
  ++w.owner->events;
  if (barrier.arrived >= expected(home, barrier)) {
    complete(home, barrier, &w);
    return outcome::advance;
  }
  if (!waits) {
    return outcome::advance;
  }
  w.waits = true;
  return outcome::blocked;
}

std::uint32_t live_warps(const cluster& c) {
  std::uint32_t count = 0;
  for (const block* b : c.blocks) {
    count += b->live_warps;
  }
  return count;
}

/// What the warp has done so far is before what others do behind the cluster's barrier.
void release_to_cluster(warp& w) {
  shared_watch::join(w.home->group->gathering, w.home->async->watch().release_to_cluster(w.index));
}

void acquire_from_cluster(warp& w) {
  shared_watch& watch = w.home->async->watch();
  watch.acquire(w.index, watch.seen_here(w.home->group->complete));
}

void complete(cluster& c) {
  c.complete = std::exchange(c.gathering, {});
  for (block* b : c.blocks) {
    for (warp& w : b->warps) {
      w.cluster_complete = w.cluster_arrived;
    }
  }
  for (warp* w : c.waiting) {
    acquire_from_cluster(*w);
    w->cluster_arrived = w->cluster_complete = false;
  }
  release(c.waiting, nullptr);
  c.arrived_warps = 0;
}

/// `detail`: 1 for .relaxed.
outcome arrive_at_cluster(warp& w, const decoded& d, std::uint32_t lanes) {
  if (!converged(w, d, lanes)) {
    return outcome::gathering;
  }
  if (w.cluster_arrived) {
    fail(w, d, warp_lanes, "it has arrived before, and not waited since");
  }
  w.cluster_arrived = true;
  if (d.detail == 0) {
    release_to_cluster(w);
  } else {
    shared_watch::join(w.home->group->gathering,
                       w.home->async->watch().released_by_fences(w.index));
  }
  ++w.owner->events;
  if (++w.home->group->arrived_warps == live_warps(*w.home->group)) {
    complete(*w.home->group);
  }
  return outcome::advance;
}

outcome wait_for_cluster(warp& w, const decoded& d, std::uint32_t lanes) {
  if (!converged(w, d, lanes)) {
    return outcome::gathering;
  }
  if (!w.cluster_arrived) {
    fail(w, d, warp_lanes, "it has not arrived at the cluster's barrier");
  }
  if (w.cluster_complete) {
    acquire_from_cluster(w);
    w.cluster_arrived = w.cluster_complete = false;
    return outcome::advance;
  }
  w.home->group->waiting.push_back(&w);
  w.waits = true;
  return outcome::blocked;
}

}  // namespace

void warp_exited(warp& w) {
  block& home = *w.home;
  --home.live_warps;
  for (named_barrier& barrier : home.barriers) {
    if (!barrier.waiting.empty() && barrier.arrived >= expected(home, barrier)) {
      complete(home, barrier, nullptr);
    }
  }
  cluster& c = *home.group;
  release_to_cluster(w);
  // It counts no more; had it arrived, not for this either.
  if (w.cluster_arrived && !w.cluster_complete) {
    --c.arrived_warps;
  }
  if (c.arrived_warps != 0 && c.arrived_warps == live_warps(c)) {
    complete(c);
  }
  ++w.owner->events;
}

void add_control_opcodes(opcode_table& table) {
  table["bra"] = {&branch, 0, {}};
  table["bra.uni"] = {&branch, 1, {}};
  table["ret"] = {&exit_lanes, 0, {}};
  table["exit"] = {&exit_lanes, 0, {}};
  table["bar.sync"] = table["barrier.sync.aligned"] = {&synchronise, 0, {4, 4}};
  table["bar.arrive"] = table["barrier.arrive.aligned"] = {&synchronise, 1, {4, 4}};
  for (const std::string order : {"", ".release"}) {
    table["barrier.cluster.arrive" + order + ".aligned"] = {&arrive_at_cluster, 0, {}};
  }
  table["barrier.cluster.arrive.relaxed.aligned"] = {&arrive_at_cluster, 1, {}};
  for (const std::string order : {"", ".acquire"}) {
    table["barrier.cluster.wait" + order + ".aligned"] = {&wait_for_cluster, 0, {}};
  }
}

}  // namespace oriel::ptx_machine
