// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Which addresses of the process a kernel may touch as global memory.
#include "memory_map.hpp"

namespace oriel::ptx_machine {

void memory_map::add(std::uint64_t address, std::size_t bytes) {
  const std::scoped_lock lock(mutex_);
  pieces_[address] = bytes;
}

void memory_map::remove(std::uint64_t address) {
  const std::scoped_lock lock(mutex_);
  pieces_.erase(address);
}

memory_map::piece memory_map::piece_of(std::uint64_t address) const {
  const std::scoped_lock lock(mutex_);
  auto found = pieces_.upper_bound(address);
  if (found == pieces_.begin()) {
    return {};
  }
  --found;
  return {found->first, found->second};
}

bool memory_map::contains(std::uint64_t address, std::size_t bytes) const {
  const piece found = piece_of(address);
  return bytes <= found.bytes && address - found.address <= found.bytes - bytes;
}

memory_map& memory_map::of_process() {
  static auto* const map =
      new memory_map;  // For ever: who frees at the end of the process asks it, too.
  return *map;
}

}  // namespace oriel::ptx_machine
