// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// One warp: which of its lanes run, and their instructions.
///
/// Of groups of lanes at different instructions the one that is furthest behind runs, so that the branches of
/// structured code meet again behind them. A group that waits for something steps back for one turn.
#include "warp.hpp"

#include <ptx_machine/block/async.hpp>

#include <algorithm>
#include <cstdio>

namespace oriel::ptx_machine {
namespace {

/// A message that has its place already.
class placed_error : public machine_error {
 public:
  using machine_error::machine_error;
};

std::string lanes_text(std::uint32_t lanes) {
  return "lanes " + hex(lanes);
}

void remove_other(warp& w, std::uint32_t i) {
  w.others[i] = w.others[--w.other_count];
}

/// Joins the groups that are where this one is, and gives way to one that is behind it.
void settle(warp& w) {
  std::uint32_t first = warp_lanes;
  for (std::uint32_t i = 0; i < w.other_count;) {
    const lane_group& other = w.others[i];
    if (other.pc == w.pc) {
      w.active |= other.lanes;
      remove_other(w, i);
      first = first == w.other_count ? warp_lanes : first;
      continue;
    }
    if (!other.gathering && other.pc < w.pc &&
        (first == warp_lanes || other.pc < w.others[first].pc)) {
      first = i;
    }
    ++i;
  }
  if (first != warp_lanes && !w.keep_group) {
    const lane_group now{w.pc, w.active, false};
    w.pc = w.others[first].pc;
    w.active = w.others[first].lanes;
    w.others[first] = now;
    settle(w);
  }
}

/// Lets another group run for a turn.
void step_back(warp& w) {
  std::uint32_t able = 0;
  for (std::uint32_t i = 0; i < w.other_count; ++i) {
    able += w.others[i].gathering ? 0U : 1U;
  }
  if (able == 0) {
    return;
  }
  auto chosen = static_cast<std::uint32_t>(w.owner->random() % able);
  for (std::uint32_t i = 0; i < w.other_count; ++i) {
    if (!w.others[i].gathering && chosen-- == 0) {
      const lane_group now{w.pc, w.active, false};
      w.pc = w.others[i].pc;
      w.active = w.others[i].lanes;
      w.others[i] = now;
      w.keep_group = true;
      return;
    }
  }
}

/// This group waits for others to come.
void gather(warp& w, const decoded& d) {
  w.others[w.other_count++] = {w.pc, w.active, true};
  const bool can_go_on = std::any_of(w.others.begin(),
                                     w.others.begin() + w.other_count,
                                     [](const lane_group& g) { return !g.gathering; });
  if (!can_go_on) {
    const std::uint32_t lanes = w.active;
    std::string text =
        "the warp has not converged here, and never will: " + lanes_text(lanes) + " are here";
    for (std::uint32_t i = 0; i + 1 < w.other_count; ++i) {
      text += "; " + lanes_text(w.others[i].lanes) + " at " +
              place_of(*w.owner->program, w.others[i].pc);
    }
    fail(w, d, warp_lanes, text);
  }
  w.keep_group = false;
  take_first_group(w);
}

/// Registers that products in flight use are not the warp's to touch.
void check_in_flight(const warp& w, const decoded& d) {
  const registers_in_flight* in_flight = w.home->async->products().in_flight(w.index);
  if (in_flight == nullptr || d.is_product) {
    return;
  }
  const auto has = [](const std::vector<std::uint64_t>& bits, std::uint32_t i) {
    return i / 64 < bits.size() && ((bits[i / 64] >> (i % 64)) & 1) != 0;
  };
  for (std::uint32_t s = 0; s < d.slot_count; ++s) {
    const std::uint32_t index = d.slots[s].register_index;
    if (index == no_register) {
      continue;
    }
    const bool writes = d.writes_first && s < d.first_count;
    if (has(in_flight->accumulators, index) || (writes && has(in_flight->operands, index))) {
      fail(w,
           d,
           warp_lanes,
           std::string("it ") + (writes ? "writes " : "reads ") +
               w.owner->program->source->registers[index].name +
               ", which a product in flight uses");
    }
  }
}

std::uint32_t guarded(const warp& w, const decoded& d) {
  if (d.guard_offset == no_guard) {
    return w.active;
  }
  std::uint32_t bits = 0;
  std::memcpy(&bits, w.bases[0] + d.guard_offset, 4);
  return w.active & (d.guard_negated ? ~bits : bits);
}

outcome run_placed(warp& w, std::uint32_t instructions) {
  const decoded_kernel& program = *w.owner->program;
  for (std::uint32_t n = 0; n < instructions; ++n) {
    if (w.other_count != 0) {
      settle(w);
    }
    const decoded& d = program.code[w.pc];
    const std::uint32_t lanes = guarded(w, d);
    if (lanes == 0) {
      ++w.pc;
      continue;
    }
    if (program.uses_products) {
      check_in_flight(w, d);
    }
    switch (d.run(w, d, lanes)) {
      case outcome::advance:
        ++w.pc;
        break;
      case outcome::moved:
        if (w.live == 0) {
          return outcome::moved;
        }
        break;
      case outcome::gathering:
        gather(w, d);
        break;
      case outcome::blocked:
        w.since_wait += n;
        step_back(w);
        return outcome::blocked;
      case outcome::yield:
        w.since_wait += n;
        ++w.pc;
        step_back(w);
        return outcome::yield;
    }
  }
  w.since_wait += instructions;
  w.keep_group = false;
  return outcome::advance;
}

}  // namespace

void take_first_group(warp& w) {
  std::uint32_t first = warp_lanes;
  for (std::uint32_t i = 0; i < w.other_count; ++i) {
    if (!w.others[i].gathering && (first == warp_lanes || w.others[i].pc < w.others[first].pc)) {
      first = i;
    }
  }
  w.pc = w.others[first].pc;
  w.active = w.others[first].lanes;
  remove_other(w, first);
}

outcome run_warp(warp& w, std::uint32_t instructions) {
  try {
    return run_placed(w, instructions);
  } catch (const placed_error&) {
    throw;
  } catch (const machine_error& e) {
    fail(w, w.owner->program->code[w.pc], warp_lanes, e.what());
  }
}

bool converged(const warp& w, const decoded& d, std::uint32_t lanes) {
  if (w.active != w.live) {
    return false;
  }
  if (lanes != w.live) {
    fail(w, d, warp_lanes, "its guard leaves out " + lanes_text(w.live & ~lanes) + " of the warp");
  }
  return true;
}

std::uint32_t pc_of(const warp& w, const decoded& d) {
  return static_cast<std::uint32_t>(&d - w.owner->program->code.data());
}

std::string hex(std::uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

std::string place_of(const decoded_kernel& k, std::uint32_t pc) {
  const instruction& i = *k.code[pc].source;
  const std::string& file =
      i.at.file < k.owner->files.size() ? k.owner->files[i.at.file] : std::string();
  std::string text = k.owner->opcodes[i.opcode];
  if (!file.empty()) {
    text += " at " + file + ":" + std::to_string(i.at.line);
  }
  return text + " (PTX line " + std::to_string(i.at.ptx_line) + ")";
}

void fail(const warp& w, const decoded& d, std::uint32_t lane, const std::string& text) {
  const decoded_kernel& k = *w.owner->program;
  const dimensions& at = w.home->at;
  std::string where = "kernel " + k.source->name + ", block (" + std::to_string(at.x) + ", " +
                      std::to_string(at.y) + ", " + std::to_string(at.z) + "), warp " +
                      std::to_string(w.index);
  where += lane < warp_lanes ? ", lane " + std::to_string(lane) : ", " + lanes_text(w.active);
  throw placed_error(where + ": " + place_of(k, pc_of(w, d)) + ": " + text);
}

}  // namespace oriel::ptx_machine
