// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A set of small numbers, as bits: registers of a kernel.
#pragma once

#include <cstdint>
#include <vector>

namespace oriel::ptx_machine {

using index_bits = std::vector<std::uint64_t>;

[[nodiscard]] inline bool has(const index_bits& bits, std::uint32_t index) {
  return index / 64 < bits.size() && (bits[index / 64] >> (index % 64) & 1) != 0;
}

inline void add(index_bits& bits, std::uint32_t index) {
  if (bits.size() <= index / 64) {
    bits.resize(index / 64 + 1);
  }
  bits[index / 64] |= std::uint64_t{1} << (index % 64);
}

}  // namespace oriel::ptx_machine
