// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// From a parsed kernel to handlers and slots.
#include "register_lives.hpp"
#include "warp.hpp"

#include <map>

namespace oriel::ptx_machine {

const opcode_table& all_opcodes() {
  static const auto* const table = new const opcode_table([] {
    opcode_table made;
    add_integer_opcodes(made);
    add_float_opcodes(made);
    add_conversion_opcodes(made);
    add_comparison_opcodes(made);
    add_move_opcodes(made);
    add_memory_opcodes(made);
    add_control_opcodes(made);
    add_lane_opcodes(made);
    add_async_opcodes(made);
    add_matrix_opcodes(made);
    return made;
  }());
  return *table;
}

namespace {

std::uint8_t bytes_of(register_class width) {
  switch (width) {
    case register_class::predicate:
      return 0;
    case register_class::b16:
      return 2;
    case register_class::b32:
      return 4;
    default:
      return 8;
  }
}

outcome run_out(warp& w, const decoded& d, std::uint32_t) {
  fail(w, d, warp_lanes, "the code ends without a ret");
}

class decoder {
 public:
  decoder(const module& m, const kernel& k) : module_(m), kernel_(k) {
    made_.owner = &m;
    made_.source = &k;
  }

  decoded_kernel run() && {
    place_registers();
    for (const instruction& i : kernel_.code) {
      made_.code.push_back(one(i));
    }
    decoded last;
    last.run = &run_out;
    last.source = kernel_.code.empty() ? nullptr : &kernel_.code.back();
    made_.code.push_back(last);
    for (std::size_t i = 0; i < starts_.size(); ++i) {
      made_.code[i].slots = made_.slots.data() + starts_[i];
    }
    return std::move(made_);
  }

 private:
  void place_registers() {
    const std::vector<register_life> lives = register_lives(module_, kernel_);
    std::uint32_t counts[4];
    const std::vector<std::uint32_t> places = place_lives(kernel_, lives, counts);
    made_.register_offsets.resize(kernel_.registers.size());
    std::uint32_t offset = special_registers * 4 * warp_lanes;
    // Wide ones first, so that all are aligned to their vectors.
    for (const register_class width : {register_class::b64,
                                       register_class::b32,
                                       register_class::b16,
                                       register_class::predicate}) {
      const std::uint32_t bytes =
          width == register_class::predicate ? 4 : bytes_of(width) * warp_lanes;
      for (std::size_t r = 0; r < kernel_.registers.size(); ++r) {
        if (kernel_.registers[r].width == width && lives[r].exists()) {
          made_.register_offsets[r] = offset + places[r] * bytes;
          if (lives[r].unwritten) {
            made_.unwritten.push_back({made_.register_offsets[r], bytes});
          }
        }
      }
      offset += counts[static_cast<std::size_t>(width)] * bytes;
    }
    made_.register_bytes =
        (offset + register_alignment - 1) / register_alignment * register_alignment;
  }

  decoded one(const instruction& i) {
    const std::string& opcode = module_.opcodes[i.opcode];
    const auto found = all_opcodes().find(opcode);
    if (found == all_opcodes().end()) {
      refuse(i, "the machine does not know this instruction");
    }
    const opcode_entry& entry = found->second;
    decoded d;
    d.run = entry.run;
    d.detail = entry.detail;
    d.source = &i;
    if (i.guard != no_guard) {
      d.guard_offset = made_.register_offsets[i.guard];
      d.guard_negated = i.guard_negated;
    }
    starts_.push_back(made_.slots.size());
    const bool checked = !has_vector(i);
    std::uint32_t position = 0;
    for (std::uint32_t o = 0; o < i.operand_count; ++o, ++position) {
      const operand& from = kernel_.operands[i.first_operand + o];
      const std::uint8_t width =
          checked && position < entry.widths.size() ? entry.widths[position] : 0;
      d.has_second |= from.has_second;
      if (from.kind == operand_kind::label) {
        d.target = from.index;
      } else if (from.kind == operand_kind::vector) {
        for (std::uint32_t e = 0; e < from.index; ++e) {
          made_.slots.push_back(make_slot(i, kernel_.operands[i.first_operand + ++o], 0));
        }
      } else {
        made_.slots.push_back(make_slot(i, from, width));
        // A second destination has a width of its own, and takes no place.
        if (from.has_second) {
          made_.slots.push_back(make_slot(i, kernel_.operands[i.first_operand + ++o], 1));
        }
      }
      if (position == 0) {
        d.first_count = static_cast<std::uint8_t>(made_.slots.size() - starts_.back());
      }
    }
    d.writes_first = !has_no_destination(opcode);
    d.slot_count = static_cast<std::uint32_t>(made_.slots.size() - starts_.back());
    made_.uses_products |= opcode.starts_with("wgmma");
    d.is_product = opcode.starts_with("wgmma");
    return d;
  }

  [[nodiscard]] bool has_vector(const instruction& i) const {
    for (std::uint32_t o = 0; o < i.operand_count; ++o) {
      if (kernel_.operands[i.first_operand + o].kind == operand_kind::vector) {
        return true;
      }
    }
    return false;
  }

  slot make_slot(const instruction& i, const operand& from, std::uint8_t width) {
    slot s;
    switch (from.kind) {
      case operand_kind::none:
        s.none = true;
        break;
      case operand_kind::reg:
        s = of_register(from.index);
        s.negated = from.negated;
        check_width(i, from, s, width);
        break;
      case operand_kind::special:
        s.offset_bytes = static_cast<std::uint32_t>(from.special) * 4 * warp_lanes;
        s.bytes = 4;
        if (width != 0 && width != 4) {
          refuse(i, "a special register of 4 bytes where " + std::to_string(width) + " belong");
        }
        break;
      case operand_kind::immediate:
        s = constant(from.value, width);
        break;
      case operand_kind::parameter_address:
        s = constant(generic_parameter + from.value, width);
        break;
      case operand_kind::shared_address:
      case operand_kind::local_address:
        s = constant(from.value, width);
        break;
      case operand_kind::memory:
        s = memory(i, from);
        break;
      default:
        refuse(i, "an operand in the wrong place");
    }
    return s;
  }

  void check_width(const instruction& i, const operand& from, const slot& s, std::uint8_t width) {
    if (width != 0 && width != (s.bytes == 0 ? 1 : s.bytes)) {
      refuse(i, "the register " + kernel_.registers[from.index].name + " has the wrong width");
    }
  }

  slot memory(const instruction& i, const operand& from) {
    slot s;
    switch (from.base) {
      case address_base::from_register:
        s = of_register(from.index);
        s.displacement = from.value;
        if (s.bytes < 4) {
          refuse(i, "an address in a register of less than 4 bytes");
        }
        break;
      case address_base::parameter:
        s = constant(generic_parameter + from.value, 8);
        break;
      default:
        s = constant(from.value, 8);
    }
    return s;
  }

  slot of_register(std::uint32_t index) const {
    slot s;
    s.offset_bytes = made_.register_offsets[index];
    s.bytes = bytes_of(kernel_.registers[index].width);
    s.register_index = index;
    return s;
  }

  /// A predicate's is all lanes or none.
  slot constant(std::uint64_t value, std::uint8_t width) {
    slot s;
    s.base = 1;
    s.bytes = width == 0 ? 8 : width == 1 ? 0 : width;
    const auto [found, is_new] = constants_.try_emplace(
        {value, s.bytes}, static_cast<std::uint32_t>(made_.constants.size()));
    s.offset_bytes = found->second;
    if (is_new) {
      const std::uint64_t bits = s.bytes == 0 && value != 0 ? all_lanes : value;
      made_.constants.resize(made_.constants.size() + 8 * warp_lanes);
      std::byte* to = made_.constants.data() + s.offset_bytes;
      for (std::uint32_t lane = 0; lane < (s.bytes == 0 ? 1 : warp_lanes); ++lane) {
        const std::size_t bytes = s.bytes == 0 ? 4 : s.bytes;
        std::memcpy(to + lane * bytes, &bits, bytes);
      }
    }
    return s;
  }

  [[noreturn]] void refuse(const instruction& i, const std::string& text) const {
    throw machine_error("kernel " + kernel_.name + ": " + module_.opcodes[i.opcode] + " (line " +
                        std::to_string(i.at.ptx_line) + " of the PTX): " + text);
  }

  const module& module_;
  const kernel& kernel_;
  decoded_kernel made_;
  std::vector<std::size_t> starts_;
  std::map<std::pair<std::uint64_t, std::uint8_t>, std::uint32_t> constants_;
};

}  // namespace

decoded_kernel decode(const module& m, const kernel& k) {
  return decoder(m, k).run();
}

}  // namespace oriel::ptx_machine
