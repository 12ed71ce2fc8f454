// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "mutant.hpp"

#include <algorithm>
#include <iterator>
#include <sstream>

namespace oriel::ptx_machine {
namespace {

std::uint32_t number_of(module& in, const std::string& opcode) {
  const auto found = std::find(in.opcodes.begin(), in.opcodes.end(), opcode);
  const auto number = static_cast<std::uint32_t>(found - in.opcodes.begin());
  if (found == in.opcodes.end()) {
    in.opcodes.push_back(opcode);
  }
  return number;
}

/// What jumps over instruction `at` goes on meaning the same when one is put there or taken away.
void move_labels(kernel& k, std::size_t at, std::int32_t by) {
  for (operand& o : k.operands) {
    if (o.kind == operand_kind::label && o.index > at) {
      o.index += static_cast<std::uint32_t>(by);
    }
  }
}

/// A copy of some operands, as they cannot grow where they stand.
std::uint32_t put_operands(kernel& k, std::initializer_list<operand> some) {
  const auto first = static_cast<std::uint32_t>(k.operands.size());
  k.operands.insert(k.operands.end(), some);
  return first;
}

operand immediate(std::uint64_t value) {
  operand o;
  o.kind = operand_kind::immediate;
  o.value = value;
  return o;
}

/// Its first operand is true from here on.
void make_true(module& in, kernel& k, instruction& i) {
  const operand predicate = k.operands[i.first_operand];
  i.opcode = number_of(in, "setp.eq.u32");
  i.first_operand = put_operands(k, {predicate, immediate(0), immediate(0)});
  i.operand_count = 3;
}

/// @returns how many instructions are put before instruction `at`
std::size_t flip(const mutant& bug, module& in, kernel& k, std::size_t at) {
  if (bug.operand >= k.code[at].operand_count) {
    throw machine_error("a mutant of an operand that '" + bug.opcode + "' has not");
  }
  operand& turned = k.operands[k.code[at].first_operand + bug.operand];
  if (turned.kind != operand_kind::reg) {
    turned.value ^= bug.bits;
    return 0;
  }
  const operand before = turned;
  const register_class width = k.registers[before.index].width;
  turned.index = static_cast<std::uint32_t>(k.registers.size());
  const operand after = turned;
  k.registers.push_back({"%turned" + std::to_string(after.index), width});
  instruction i;
  i.opcode = number_of(in, width == register_class::b64 ? "xor.b64" : "xor.b32");
  i.first_operand = put_operands(k, {after, before, immediate(bug.bits)});
  i.operand_count = 3;
  i.at = k.code[at].at;
  k.code.insert(k.code.begin() + static_cast<std::ptrdiff_t>(at), i);
  move_labels(k, at, 1);
  return 1;
}

std::size_t plant(const mutant& bug, module& in, kernel& k) {
  std::size_t edits = 0, met = 0;
  for (std::size_t i = 0; i < k.code.size(); ++i) {
    const std::string opcode = in.opcodes[k.code[i].opcode];
    if (!opcode.starts_with(bug.opcode) || (++met != bug.nth && bug.nth != 0)) {
      continue;
    }
    ++edits;
    switch (bug.what) {
      case mutant::kind::drop:
        k.code.erase(k.code.begin() + static_cast<std::ptrdiff_t>(i));
        move_labels(k, i, -1);
        --i;
        break;
      case mutant::kind::always:
        make_true(in, k, k.code[i]);
        break;
      case mutant::kind::replace:
        k.code[i].opcode = number_of(in, bug.other + opcode.substr(bug.opcode.size()));
        break;
      case mutant::kind::flip:
        i += flip(bug, in, k, i);
        break;
    }
  }
  return edits;
}

}  // namespace

mutant mutant_of(std::string_view text) {
  std::istringstream words{std::string(text)};
  std::string kind, word;
  mutant m;
  words >> kind >> m.opcode;
  bool is_right = !words.fail();
  if (kind == "drop" || kind == "true") {
    m.what = kind == "drop" ? mutant::kind::drop : mutant::kind::always;
  } else if (kind == "replace") {
    m.what = mutant::kind::replace;
    is_right = is_right && words >> word >> m.other && word == "by";
  } else if (kind == "flip") {
    m.what = mutant::kind::flip;
    is_right = is_right && words >> m.operand >> m.bits;
  } else {
    is_right = false;
  }
  while (is_right && words >> word) {
    is_right = (word == "in" && words >> m.kernel) || (word == "nth" && words >> m.nth);
  }
  if (!is_right) {
    throw machine_error("'" + std::string(text) + "' is no mutant");
  }
  return m;
}

std::size_t plant(const mutant& bug, module& in) {
  std::size_t edits = 0;
  for (kernel& k : in.kernels) {
    if (k.name.find(bug.kernel) != std::string::npos) {
      edits += plant(bug, in, k);
    }
  }
  return edits;
}

}  // namespace oriel::ptx_machine
