// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Planted bugs: edits of a module's instructions that a text tells, so that none needs a compiler.
#pragma once

#include "program.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace oriel::ptx_machine {

/// "drop OPCODE", "true OPCODE", "replace OPCODE by OPCODE" or "flip OPCODE OPERAND BITS"; behind it, where
/// wanted, "in KERNEL" and "nth N".
struct mutant {
  enum class kind : std::uint8_t {
    drop,     ///< it is no instruction
    always,   ///< "true": its predicate is true, and it does nothing else
    replace,  ///< another opcode with its operands
    flip      ///< an operand's value (of an address: its offset) with these bits turned over
  };
  kind what = kind::drop;
  std::string opcode;  ///< how it begins
  std::string other;   ///< of `replace`: what stands there instead of `opcode`
  std::uint32_t operand = 0;
  std::uint64_t bits = 0;
  std::string kernel;     ///< a part of the mangled name; empty: all kernels
  std::uint32_t nth = 0;  ///< of each kernel's instructions with the opcode, from 1; 0: all
};

/// @throws machine_error where the text is no mutant
[[nodiscard]] mutant mutant_of(std::string_view text);

/// @returns how many instructions are edited
std::size_t plant(const mutant& bug, module& in);

}  // namespace oriel::ptx_machine
