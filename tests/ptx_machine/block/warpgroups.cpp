// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "warpgroups.hpp"

#include <ptx_machine/program/program.hpp>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <string>

namespace oriel::ptx_machine {
namespace {

constexpr std::uint32_t garbage = 0xFFFFFFFF;
constexpr std::uint32_t all_four = 15;

}  // namespace

warpgroups::warpgroups(std::span<const std::byte> shared,
                       std::uint32_t warps,
                       warp_registers& registers,
                       shared_watch& watch)
    : shared_(shared), registers_(&registers), watch_(&watch), warps_(warps), groups_(warps / 4) {}

void warpgroups::fence(const issuer& who) {
  warp_state& s = warps_[who.warp];
  s.fenced = true;
  lanes_b32 values;
  for (auto& [index, seen] : s.seen) {
    if (!has(s.in_flight.accumulators, index)) {
      registers_->read(who.warp, index, values);
      seen.assign(std::begin(values), std::end(values));
    }
  }
}

void warpgroups::check_unwritten(std::uint32_t warp, std::uint32_t index, const char* what) {
  lanes_b32 values;
  registers_->read(warp, index, values);
  const auto [place, first] =
      warps_[warp].seen.try_emplace(index, std::begin(values), std::end(values));
  if (!first && !std::equal(std::begin(values), std::end(values), place->second.begin())) {
    throw machine_error(std::string(what) + " written after the last wgmma.fence");
  }
}

warpgroups::queued& warpgroups::queue_up(const issuer& who, const product& p) {
  group_state& g = groups_[who.warp / 4];
  const std::uint64_t place = warps_[who.warp].issued - g.performed;
  if (place == g.queue.size()) {
    queued q{.shape = p.shape,
             .accumulate = p.accumulate,
             .a_descriptor = p.a_descriptor,
             .b_descriptor = p.b_descriptor,
             .instruction = who.instruction};
    if (p.a.empty()) {
      q.a_chunks =
          operand_chunks(shared_.size(), p.a_descriptor, p.shape, p.shape.a_transposed, 64);
    }
    q.b_chunks =
        operand_chunks(shared_.size(), p.b_descriptor, p.shape, p.shape.b_transposed, p.shape.n);
    g.queue.push_back(std::move(q));
  }
  queued& q = g.queue[place];
  if (q.instruction != who.instruction || q.shape != p.shape || q.accumulate != p.accumulate ||
      q.a_descriptor != p.a_descriptor || q.b_descriptor != p.b_descriptor) {
    throw machine_error("the warps of a warpgroup differ in their product number " +
                        std::to_string(warps_[who.warp].issued) +
                        ", or in its descriptors or scale-d");
  }
  return q;
}

void warpgroups::take_accumulators(const issuer& who, const product& p) {
  warp_state& s = warps_[who.warp];
  for (accumulator& a : s.accumulators) {
    if (std::equal(a.registers.begin(), a.registers.end(), p.d.begin(), p.d.end())) {
      if (a.shape != p.shape) {
        throw machine_error("accumulators in flight of a product of another shape");
      }
      a.last_product = s.issued;
      return;
    }
  }
  accumulator a{.shape = p.shape, .registers{p.d.begin(), p.d.end()}, .last_product = s.issued};
  a.values.resize(p.d.size() * 32);
  for (std::size_t i = 0; i < p.d.size(); ++i) {
    const std::uint32_t index = p.d[i];
    if (has(s.in_flight.accumulators, index) || has(s.in_flight.operands, index)) {
      throw machine_error("accumulators some of which other products in flight use");
    }
    check_unwritten(who.warp, index, "accumulator");
  }
  for (std::size_t i = 0; i < p.d.size(); ++i) {
    const std::uint32_t index = p.d[i];
    lanes_b32 values;
    registers_->read(who.warp, index, values);
    std::memcpy(&a.values[i * 32], values, sizeof(values));
    std::fill(std::begin(values), std::end(values), garbage);
    registers_->write(who.warp, index, values);
    add(s.in_flight.accumulators, index);
  }
  s.accumulators.push_back(std::move(a));
}

void warpgroups::take_operands(const issuer& who, const product& p) {
  warp_state& s = warps_[who.warp];
  for (const std::uint32_t index : p.a) {
    if (has(s.in_flight.accumulators, index)) {
      throw machine_error("A from registers that a product in flight writes");
    }
    check_unwritten(who.warp, index, "A in registers");
    add(s.in_flight.operands, index);
  }
  if (!p.a.empty()) {
    s.operands.push_back({.product = s.issued, .registers{p.a.begin(), p.a.end()}});
  }
}

void warpgroups::multiply(const issuer& who, const product& p) {
  if (who.warp / 4 >= groups_.size()) {
    throw machine_error("a product in a warpgroup of fewer than four warps");
  }
  if (p.shape.n == 0 || p.shape.n % 8 != 0 || p.shape.n > product_columns_max ||
      p.d.size() != p.shape.n / 2 || (!p.a.empty() && (p.a.size() != 4 || p.shape.a_transposed)) ||
      (p.shape.element == matrix_element::e4m3 && (p.shape.a_transposed || p.shape.b_transposed))) {
    throw machine_error("a product of a shape that there is not");
  }
  warp_state& s = warps_[who.warp];
  if (!s.fenced) {
    throw machine_error("no wgmma.fence before the warp's first wgmma.mma_async");
  }
  queued& q = queue_up(who, p);
  take_operands(who, p);
  take_accumulators(who, p);
  const std::uint32_t warp = who.warp % 4;
  q.first_d[warp] = p.d[0];
  q.a[warp].assign(p.a.begin(), p.a.end());
  q.with[warp] = watch_->of_warp(who.warp);
  q.issued |= 1U << warp;
  ++s.issued;
  if (q.issued == all_four) {
    watch_reads(who.warp / 4, q, s.issued);
  }
}

void warpgroups::watch_reads(std::uint32_t group, const queued& q, std::uint64_t number) {
  if (!watch_->enabled()) {
    return;
  }
  const std::uint32_t agent = watch_->products_agent(group);
  const auto clock = static_cast<std::uint32_t>(number);
  const issuer who{.warp = group * 4, .instruction = q.instruction};
  shared_watch::clocks common = q.with[0];
  for (std::uint32_t w = 1; w < 4; ++w) {
    common.meet(q.with[w]);
  }
  for (const std::uint32_t chunk : q.b_chunks) {
    watch_->behind_back(who, access::read, agent, clock, common, chunk, 16);
  }
  // A warp multiplies 16 rows of A: of those it has to know, and its wait is for those alone.
  // (Transposed, the rows lie side by side.)
  for (std::size_t i = 0; i < q.a_chunks.size(); ++i) {
    const shared_watch::clocks& with = q.shape.a_transposed ? common : q.with[i / 32];
    const std::uint32_t rows =
        q.shape.a_transposed ? agent
                             : watch_->rows_agent(group * 4 + static_cast<std::uint32_t>(i) / 32);
    watch_->behind_back(who, access::read, rows, clock, with, q.a_chunks[i], 16);
  }
}

void warpgroups::commit(const issuer& who) {
  warp_state& s = warps_[who.warp];
  s.group_ends.push_back(s.issued);
}

bool warpgroups::try_wait(const issuer& who, std::uint32_t groups_pending_max) {
  warp_state& s = warps_[who.warp];
  if (groups_pending_max >= s.group_ends.size()) {
    return true;
  }
  const std::uint64_t covered = s.group_ends[s.group_ends.size() - 1 - groups_pending_max];
  if (covered == 0) {
    return true;
  }
  group_state& g = groups_[who.warp / 4];
  for (std::uint64_t number = g.performed; number < covered; ++number) {
    if (g.queue[number - g.performed].issued != all_four) {
      return false;
    }
  }
  while (g.performed < covered) {
    perform_first(who.warp / 4);
  }
  finish(who.warp, covered);
  return true;
}

void warpgroups::finish(std::uint32_t warp, std::uint64_t products) {
  warp_state& s = warps_[warp];
  watch_->learn(warp, watch_->products_agent(warp / 4), static_cast<std::uint32_t>(products));
  watch_->learn(warp, watch_->rows_agent(warp), static_cast<std::uint32_t>(products));
  for (const accumulator& a : s.accumulators) {
    for (std::size_t i = 0; a.last_product < products && i < a.registers.size(); ++i) {
      lanes_b32 values;
      std::memcpy(values, &a.values[i * 32], sizeof(values));
      registers_->write(warp, a.registers[i], values);
      s.seen[a.registers[i]].assign(std::begin(values), std::end(values));
    }
  }
  std::erase_if(s.accumulators,
                [products](const accumulator& a) { return a.last_product < products; });
  std::erase_if(s.operands,
                [products](const operand_in_flight& o) { return o.product < products; });
  s.in_flight.accumulators.clear();
  s.in_flight.operands.clear();
  for (const accumulator& a : s.accumulators) {
    for (const std::uint32_t index : a.registers) {
      add(s.in_flight.accumulators, index);
    }
  }
  for (const operand_in_flight& o : s.operands) {
    for (const std::uint32_t index : o.registers) {
      add(s.in_flight.operands, index);
    }
  }
}

const registers_in_flight* warpgroups::in_flight(std::uint32_t warp) const {
  const warp_state& s = warps_[warp];
  return s.accumulators.empty() && s.operands.empty() ? nullptr : &s.in_flight;
}

std::uint32_t warpgroups::ready() const {
  std::uint32_t count = 0;
  for (const group_state& g : groups_) {
    count += !g.queue.empty() && g.queue.front().issued == all_four ? 1u : 0u;
  }
  return count;
}

void warpgroups::perform(std::uint32_t nth) {
  for (std::uint32_t group = 0; group < groups_.size(); ++group) {
    const group_state& g = groups_[group];
    if (!g.queue.empty() && g.queue.front().issued == all_four && nth-- == 0) {
      perform_first(group);
      return;
    }
  }
}

void warpgroups::perform_first(std::uint32_t group) {
  group_state& g = groups_[group];
  const queued& q = g.queue.front();
  const std::size_t k = q.shape.k();
  b_values_.resize(k * q.shape.n);
  gather_operand(shared_, q.b_chunks, q.shape, q.shape.b_transposed, q.shape.n, b_values_.data());
  const bool a_is_shared = !q.a_chunks.empty();
  a_values_.resize(k * 64);
  if (a_is_shared) {
    gather_operand(shared_, q.a_chunks, q.shape, q.shape.a_transposed, 64, a_values_.data());
  }
  for (std::uint32_t w = 0; w < 4; ++w) {
    const std::uint32_t warp = group * 4 + w;
    if (!a_is_shared) {
      lanes_b32 a[4];
      for (std::size_t i = 0; i < 4; ++i) {
        registers_->read(warp, q.a[w][i], a[i]);
      }
      gather_a_registers(&a[0][0], q.shape.element, a_values_.data());
    }
    std::vector<accumulator>& all = warps_[warp].accumulators;
    const auto d = std::find_if(all.begin(), all.end(), [&](const accumulator& a) {
      return a.registers[0] == q.first_d[w];
    });
    multiply_warp(q.shape,
                  a_values_.data() + (a_is_shared ? 16 * w : 0),
                  a_is_shared ? 64 : 16,
                  b_values_.data(),
                  q.accumulate,
                  d->values.data());
  }
  g.queue.pop_front();
  ++g.performed;
}

void warpgroups::end(const issuer& who) const {
  if (in_flight(who.warp) != nullptr) {
    throw machine_error("the warp ends with products that it has not waited for");
  }
}

register_pool::register_pool(std::uint32_t warps, std::uint32_t registers_per_thread)
    : now_(warps, registers_per_thread), done_(warps), changes_((warps + 3) / 4) {}

bool register_pool::try_increase(const issuer& who, std::uint32_t registers) {
  std::uint32_t& now = now_[who.warp];
  if (registers < now) {
    throw machine_error("setmaxnreg.inc from " + std::to_string(now) + " down to " +
                        std::to_string(registers));
  }
  if (registers - now > pool_) {
    return false;
  }
  note(who, registers, true);
  pool_ -= registers - now;
  now = registers;
  return true;
}

void register_pool::decrease(const issuer& who, std::uint32_t registers) {
  std::uint32_t& now = now_[who.warp];
  if (registers > now) {
    throw machine_error("setmaxnreg.dec from " + std::to_string(now) + " up to " +
                        std::to_string(registers));
  }
  note(who, registers, false);
  pool_ += now - registers;
  now = registers;
}

void register_pool::note(const issuer& who, std::uint32_t registers, bool increase) {
  if (registers < 24 || registers > 256 || registers % 8 != 0) {
    throw machine_error("setmaxnreg to " + std::to_string(registers) +
                        ": not one of 24, 32, ... 256");
  }
  std::vector<change>& changes = changes_[who.warp / 4];
  const std::size_t place = done_[who.warp]++;
  if (place == changes.size()) {
    changes.push_back({.registers = registers, .increase = increase});
  }
  change& c = changes[place];
  if (c.registers != registers || c.increase != increase) {
    throw machine_error("the warps of a warpgroup differ in their setmaxnreg");
  }
  ++c.warps;
}

void register_pool::end() const {
  for (const std::vector<change>& changes : changes_) {
    for (const change& c : changes) {
      if (c.warps != 4) {
        throw machine_error("setmaxnreg by " + std::to_string(c.warps) +
                            " warps of a warpgroup's four");
      }
    }
  }
}

std::uint32_t registers_at_launch(std::uint32_t threads,
                                  std::uint32_t blocks_per_multiprocessor_min) {
  const std::uint32_t blocks = std::max(blocks_per_multiprocessor_min, 1U);
  return std::min(65536 / blocks / threads / 8 * 8, 256U);
}

}  // namespace oriel::ptx_machine
