// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "register_lives.hpp"

#include <ptx_machine/program/index_bits.hpp>

#include <algorithm>
#include <queue>
#include <utility>

namespace oriel::ptx_machine {
namespace {

/// Instructions that follow each other whatever happens.
struct stretch {
  std::uint32_t begin = 0, end = 0;
  index_bits read_first, written;  ///< before a write in it; for all lanes
  index_bits live_in, live_out;
  std::uint32_t next[2] = {none, none};  ///< stretches
  static constexpr std::uint32_t none = 0xFFFFFFFF;
};

class life_finder {
 public:
  life_finder(const module& m, const kernel& k)
      : module_(m), kernel_(k), lives_(k.registers.size()), words_(k.registers.size() / 64 + 1) {}

  std::vector<register_life> run() && {
    if (kernel_.code.empty()) {
      return std::move(lives_);
    }
    cut();
    for (stretch& s : stretches_) {
      summarise(s);
    }
    spread();
    for (const stretch& s : stretches_) {
      extend(s.live_in, s.begin);
      extend(s.live_out, s.end - 1);
    }
    for (std::uint32_t r = 0; r < lives_.size(); ++r) {
      lives_[r].unwritten = has(stretches_.front().live_in, r);
    }
    return std::move(lives_);
  }

 private:
  [[nodiscard]] const std::string& opcode(const instruction& i) const {
    return module_.opcodes[i.opcode];
  }
  [[nodiscard]] bool leaves(const instruction& i) const {
    const std::string& name = opcode(i);
    return name.starts_with("bra") || name == "ret" || name == "exit";
  }

  /// `visit`(register, whether it is written): of each operand, destinations last.
  template <typename F>
  void for_registers(const instruction& i, F visit) const {
    if (i.guard != no_guard) {
      visit(i.guard, false);
    }
    const bool is_product = opcode(i).starts_with("wgmma");
    const bool writes = !is_product && !has_no_destination(opcode(i));
    const operand* const first = kernel_.operands.data() + i.first_operand;
    std::uint32_t destinations = 0;
    if (writes && i.operand_count != 0) {
      destinations = first->kind == operand_kind::vector ? 1 + first->index
                     : first->has_second                 ? 2
                                                         : 1;
    }
    for (std::uint32_t o = destinations; o < i.operand_count; ++o) {
      visit_operand(first[o], false, visit);
    }
    for (std::uint32_t o = 0; o < destinations; ++o) {
      visit_operand(first[o], true, visit);
    }
  }

  template <typename F>
  static void visit_operand(const operand& o, bool is_destination, F visit) {
    if (o.kind == operand_kind::reg) {
      visit(o.index, is_destination);
    } else if (o.kind == operand_kind::memory && o.base == address_base::from_register) {
      visit(o.index, false);
    }
  }

  [[nodiscard]] std::uint32_t target(const instruction& i) const {
    for (std::uint32_t o = 0; o < i.operand_count; ++o) {
      const operand& at = kernel_.operands[i.first_operand + o];
      if (at.kind == operand_kind::label) {
        return at.index;
      }
    }
    return stretch::none;
  }

  void cut() {
    const auto count = static_cast<std::uint32_t>(kernel_.code.size());
    std::vector<bool> begins(count + 1);
    begins[0] = begins[count] = true;
    for (std::uint32_t pc = 0; pc < count; ++pc) {
      if (leaves(kernel_.code[pc])) {
        begins[pc + 1] = true;
        if (const std::uint32_t to = target(kernel_.code[pc]); to < count) {
          begins[to] = true;
        }
      }
    }
    std::vector<std::uint32_t> stretch_at(count + 1, stretch::none);
    for (std::uint32_t pc = 0; pc < count;) {
      stretch s;
      s.begin = pc;
      stretch_at[pc] = static_cast<std::uint32_t>(stretches_.size());
      for (++pc; !begins[pc]; ++pc) {
      }
      s.end = pc;
      stretches_.push_back(std::move(s));
    }
    for (stretch& s : stretches_) {
      const instruction& last = kernel_.code[s.end - 1];
      if (!leaves(last) || last.guard != no_guard) {
        s.next[0] = stretch_at[s.end];
      }
      if (const std::uint32_t to = target(last); to < count) {
        s.next[1] = stretch_at[to];
      }
    }
  }

  void summarise(stretch& s) {
    s.read_first = s.written = s.live_in = s.live_out = index_bits(words_);
    for (std::uint32_t pc = s.begin; pc < s.end; ++pc) {
      const instruction& i = kernel_.code[pc];
      const bool is_product = opcode(i).starts_with("wgmma");
      for_registers(i, [&](std::uint32_t r, bool is_written) {
        note(r, pc);
        if (is_product) {
          note(r, 0);
          note(r, static_cast<std::uint32_t>(kernel_.code.size() - 1));
        }
        if (!is_written && !has(s.written, r)) {
          add(s.read_first, r);
        } else if (is_written && i.guard == no_guard) {
          add(s.written, r);
        }
      });
    }
    s.live_in = s.read_first;
  }

  /// Backwards, until nothing changes.
  void spread() {
    for (bool changes = true; changes;) {
      changes = false;
      for (auto s = stretches_.rbegin(); s != stretches_.rend(); ++s) {
        for (std::size_t w = 0; w < words_; ++w) {
          std::uint64_t out = 0;
          for (const std::uint32_t n : s->next) {
            out |= n == stretch::none ? 0 : stretches_[n].live_in[w];
          }
          const std::uint64_t in = s->read_first[w] | (out & ~s->written[w]);
          changes |= in != s->live_in[w];
          s->live_out[w] = out;
          s->live_in[w] = in;
        }
      }
    }
  }

  void note(std::uint32_t r, std::uint32_t pc) {
    lives_[r].first = std::min(lives_[r].first, pc);
    lives_[r].last = std::max(lives_[r].last, pc);
  }

  void extend(const index_bits& live, std::uint32_t pc) {
    for (std::uint32_t r = 0; r < lives_.size(); ++r) {
      if (has(live, r)) {
        note(r, pc);
      }
    }
  }

  const module& module_;
  const kernel& kernel_;
  std::vector<register_life> lives_;
  std::size_t words_;
  std::vector<stretch> stretches_;
};

}  // namespace

bool has_no_destination(std::string_view opcode) {
  for (const std::string_view start : {"st.", "bar", "bra", "cp.", "fence", "setmaxnreg", "ret"}) {
    if (opcode.starts_with(start)) {
      return true;
    }
  }
  return opcode.starts_with("mbarrier") && !opcode.starts_with("mbarrier.try_wait");
}

std::vector<register_life> register_lives(const module& m, const kernel& k) {
  return life_finder(m, k).run();
}

std::vector<std::uint32_t> place_lives(const kernel& k,
                                       const std::vector<register_life>& lives,
                                       std::uint32_t (&counts)[4]) {
  std::vector<std::uint32_t> order;
  for (std::uint32_t r = 0; r < lives.size(); ++r) {
    if (lives[r].exists()) {
      order.push_back(r);
    }
  }
  std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
    return lives[a].first < lives[b].first;
  });
  std::fill(std::begin(counts), std::end(counts), 0);
  std::vector<std::uint32_t> places(lives.size());
  using ending = std::pair<std::uint32_t, std::uint32_t>;  // The last instruction, the place.
  std::priority_queue<ending, std::vector<ending>, std::greater<>> taken[4];
  for (const std::uint32_t r : order) {
    const auto of = static_cast<std::size_t>(k.registers[r].width);
    // What an instruction reads and what it writes do not share a place.
    if (!taken[of].empty() && taken[of].top().first < lives[r].first) {
      places[r] = taken[of].top().second;
      taken[of].pop();
    } else {
      places[r] = counts[of]++;
    }
    taken[of].emplace(lives[r].last, places[r]);
  }
  return places;
}

}  // namespace oriel::ptx_machine
