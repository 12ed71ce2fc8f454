// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Where in its kernel a register holds something that may be read, so that others may have its place elsewhere.
#pragma once

#include <ptx_machine/program/program.hpp>

#include <cstdint>
#include <string_view>
#include <vector>

namespace oriel::ptx_machine {

/// Of one register.
struct register_life {
  std::uint32_t first = 0xFFFFFFFF, last = 0;  ///< instructions; first > last: nobody names it
  bool unwritten = false;  ///< a way leads from the kernel's begin to a read of it, with no write
  [[nodiscard]] bool exists() const { return first <= last; }
};

/// By kernel::registers' index. What a product of warpgroups uses lives as long as the kernel: it is read and written
/// behind the instructions' backs.
[[nodiscard]] std::vector<register_life> register_lives(const module& m, const kernel& k);

/// Does the instruction only read its operands?
[[nodiscard]] bool has_no_destination(std::string_view opcode);

/// For each register a place, from 0 on, among those of its class: no two share one that live at the same time.
/// @param[out] counts  places by class
[[nodiscard]] std::vector<std::uint32_t> place_lives(const kernel& k,
                                                     const std::vector<register_life>& lives,
                                                     std::uint32_t (&counts)[4]);

}  // namespace oriel::ptx_machine
