// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What lanes of a warp do together: shuffles, votes, matches, reductions.
#include "lanes.hpp"

#include <ptx_machine/block/async.hpp>

namespace oriel::ptx_machine {

bool members_here(const warp& w, const decoded& d, std::uint32_t lanes, const slot& membermask) {
  const auto* const masks = w.at<std::uint32_t>(membermask);
  std::uint32_t members = 0;
  std::uint32_t strangers = 0;
  for (std::uint32_t i = 0; i < warp_lanes; ++i) {
    const std::uint32_t is_here = lanes >> i & 1;
    members |= is_here != 0 ? masks[i] : 0;
    strangers |= is_here & ~(masks[i] >> i);
  }
  if (strangers != 0) {
    for_lanes(lanes, [&](std::uint32_t i) {
      if (((masks[i] >> i) & 1) == 0) {
        fail(w, d, i, "the lane is not in its own membermask " + hex(masks[i]));
      }
    });
  }
  members &= w.live;
  if ((members & ~w.active) != 0) {
    return false;
  }
  if ((members & ~lanes) != 0) {
    fail(w,
         d,
         warp_lanes,
         "the guard leaves out lanes " + hex(members & ~lanes) + " of the membermask");
  }
  return true;
}

namespace {

enum class shuffle : std::uint32_t { up, down, bfly, idx };

struct source_lane {
  std::uint32_t lane = 0;
  bool in_range = false;
};

/// `b`: the distance or the lane; `c`: the clamp, and in bits 8..12 which bits of the lane name its segment.
inline source_lane shuffle_source(shuffle mode,
                                  std::uint32_t lane,
                                  std::uint32_t b,
                                  std::uint32_t c) {
  const std::uint32_t segment = (c >> 8) & 31;
  const std::uint32_t least = lane & segment;
  const std::uint32_t most = least | (c & 31 & ~segment);
  b &= 31;
  std::uint32_t from = 0;
  bool in_range = false;
  switch (mode) {
    case shuffle::up:
      in_range = static_cast<std::int32_t>(lane - b) >= static_cast<std::int32_t>(most);
      from = lane - b;
      break;
    case shuffle::down:
      from = lane + b;
      in_range = from <= most;
      break;
    case shuffle::bfly:
      from = lane ^ b;
      in_range = from <= most;
      break;
    case shuffle::idx:
      from = least | (b & ~segment);
      in_range = from <= most;
      break;
  }
  return {in_range ? from : lane, in_range};
}

/// shfl.sync d[|p], a, b, c, membermask.
template <shuffle Mode>
outcome shuffle_lanes(warp& w, const decoded& d, std::uint32_t lanes) {
  const slot* sources = d.slots + (d.has_second ? 2 : 1);
  if (!members_here(w, d, lanes, sources[3])) {
    return outcome::gathering;
  }
  const auto* const values = w.at<std::uint32_t>(sources[0]);
  const auto* const b = w.at<std::uint32_t>(sources[1]);
  const auto* const c = w.at<std::uint32_t>(sources[2]);
  const auto* const masks = w.at<std::uint32_t>(sources[3]);
  std::uint32_t from[warp_lanes];
  std::uint32_t result[warp_lanes];
  std::uint32_t in_range = 0;
  std::uint32_t absent = 0;  // Whose sources take no part.
  for (std::uint32_t i = 0; i < warp_lanes; ++i) {
    const source_lane source = shuffle_source(Mode, i, b[i], c[i]);
    from[i] = source.lane & 31;
    result[i] = values[from[i]];
    in_range |= std::uint32_t{source.in_range} << i;
    absent |= (~(masks[i] & lanes) >> from[i] & 1) << i;
  }
  if ((absent & lanes) != 0) {
    const auto lane = static_cast<std::uint32_t>(std::countr_zero(absent & lanes));
    fail(w, d, lane, "it reads lane " + std::to_string(from[lane]) + ", which takes no part");
  }
  if (!d.slots[0].none) {
    put_lanes(w.at<std::uint32_t>(d.slots[0]), result, lanes);
  }
  if (d.has_second) {
    w.set_predicate(d.slots[1], in_range, lanes);
  }
  return outcome::advance;
}

enum class vote : std::uint32_t { all, any, uni, ballot };

/// vote.sync d, p, membermask.
outcome vote_lanes(warp& w, const decoded& d, std::uint32_t lanes) {
  if (!members_here(w, d, lanes, d.slots[2])) {
    return outcome::gathering;
  }
  const std::uint32_t votes = w.predicate(d.slots[1]);
  std::uint32_t ballots[warp_lanes];
  std::uint32_t result = 0;
  for_lanes(lanes, [&](std::uint32_t i) {
    const std::uint32_t members = static_cast<std::uint32_t>(w.bits(d.slots[2], i)) & lanes;
    ballots[i] = votes & members;
    bool yes = false;
    switch (static_cast<vote>(d.detail)) {
      case vote::all:
        yes = ballots[i] == members;
        break;
      case vote::any:
        yes = ballots[i] != 0;
        break;
      case vote::uni:
        yes = ballots[i] == 0 || ballots[i] == members;
        break;
      case vote::ballot:
        break;
    }
    result |= std::uint32_t{yes} << i;
  });
  if (static_cast<vote>(d.detail) == vote::ballot) {
    put_lanes(w.at<std::uint32_t>(d.slots[0]), ballots, lanes);
  } else {
    w.set_predicate(d.slots[0], result, lanes);
  }
  return outcome::advance;
}

/// match.any.sync d, a, membermask: which members have the same value.
outcome match_any(warp& w, const decoded& d, std::uint32_t lanes) {
  if (!members_here(w, d, lanes, d.slots[2])) {
    return outcome::gathering;
  }
  std::uint32_t result[warp_lanes];
  for_lanes(lanes, [&](std::uint32_t i) {
    const std::uint32_t members = static_cast<std::uint32_t>(w.bits(d.slots[2], i)) & lanes;
    result[i] = 0;
    for_lanes(members, [&](std::uint32_t j) {
      result[i] |= std::uint32_t{w.bits(d.slots[1], i) == w.bits(d.slots[1], j)} << j;
    });
  });
  put_lanes(w.at<std::uint32_t>(d.slots[0]), result, lanes);
  return outcome::advance;
}

struct redux_add {
  template <typename T>
  T operator()(T a, T b) const {
    return a + b;
  }
};
struct redux_min {
  template <typename T>
  T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};
struct redux_max {
  template <typename T>
  T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};
struct redux_and {
  template <typename T>
  T operator()(T a, T b) const {
    return a & b;
  }
};
struct redux_or {
  template <typename T>
  T operator()(T a, T b) const {
    return a | b;
  }
};
struct redux_xor {
  template <typename T>
  T operator()(T a, T b) const {
    return a ^ b;
  }
};

/// redux.sync d, a, membermask.
template <typename T, typename Function>
outcome reduce_lanes(warp& w, const decoded& d, std::uint32_t lanes) {
  if (!members_here(w, d, lanes, d.slots[2])) {
    return outcome::gathering;
  }
  const T* a = w.at<T>(d.slots[1]);
  T result[warp_lanes];
  for_lanes(lanes, [&](std::uint32_t i) {
    const std::uint32_t members = static_cast<std::uint32_t>(w.bits(d.slots[2], i)) & lanes;
    T sum = a[i];
    for_lanes(members & ~(1U << i), [&](std::uint32_t j) { sum = Function{}(sum, a[j]); });
    result[i] = sum;
  });
  put_lanes(w.at<T>(d.slots[0]), result, lanes);
  return outcome::advance;
}

/// bar.warp.sync membermask.
outcome synchronise_lanes(warp& w, const decoded& d, std::uint32_t lanes) {
  if (!members_here(w, d, lanes, d.slots[0])) {
    return outcome::gathering;
  }
  w.home->async->watch().meet(w.index);
  return outcome::advance;
}

template <typename T, typename Function>
void add_reduction(opcode_table& table, const std::string& name) {
  table["redux.sync." + name] = {&reduce_lanes<T, Function>, 0, {4, 4, 4}};
}

}  // namespace

void add_lane_opcodes(opcode_table& table) {
  const std::pair<const char*, handler> shuffles[]{{"up", &shuffle_lanes<shuffle::up>},
                                                   {"down", &shuffle_lanes<shuffle::down>},
                                                   {"bfly", &shuffle_lanes<shuffle::bfly>},
                                                   {"idx", &shuffle_lanes<shuffle::idx>}};
  for (const auto& [name, run] : shuffles) {
    table[std::string("shfl.sync.") + name + ".b32"] = {run, 0, {4, 4, 4, 4, 4}};
  }
  table["vote.sync.all.pred"] = {&vote_lanes, static_cast<std::uint32_t>(vote::all), {1, 1, 4}};
  table["vote.sync.any.pred"] = {&vote_lanes, static_cast<std::uint32_t>(vote::any), {1, 1, 4}};
  table["vote.sync.uni.pred"] = {&vote_lanes, static_cast<std::uint32_t>(vote::uni), {1, 1, 4}};
  table["vote.sync.ballot.b32"] = {
      &vote_lanes, static_cast<std::uint32_t>(vote::ballot), {4, 1, 4}};
  table["match.any.sync.b32"] = {&match_any, 0, {4, 4, 4}};
  table["match.any.sync.b64"] = {&match_any, 0, {4, 8, 4}};
  add_reduction<std::uint32_t, redux_add>(table, "add.u32");
  add_reduction<std::uint32_t, redux_min>(table, "min.u32");
  add_reduction<std::uint32_t, redux_max>(table, "max.u32");
  add_reduction<std::int32_t, redux_min>(table, "min.s32");
  add_reduction<std::int32_t, redux_max>(table, "max.s32");
  add_reduction<std::uint32_t, redux_add>(table, "add.s32");
  add_reduction<std::uint32_t, redux_and>(table, "and.b32");
  add_reduction<std::uint32_t, redux_or>(table, "or.b32");
  add_reduction<std::uint32_t, redux_xor>(table, "xor.b32");
  table["bar.warp.sync"] = {&synchronise_lanes, 0, {4}};
}

}  // namespace oriel::ptx_machine
