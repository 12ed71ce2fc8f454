// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Which addresses of the process a kernel may touch as global memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

namespace oriel::ptx_machine {

/// Device memory is memory of the process, at the same address. Thread-safe.
class memory_map {
 public:
  void add(std::uint64_t address, std::size_t bytes);
  void remove(std::uint64_t address);
  struct piece {
    std::uint64_t address = 0;
    std::size_t bytes = 0;
  };
  /// The last piece that begins at or before the address; no bytes where there is none.
  [[nodiscard]] piece piece_of(std::uint64_t address) const;
  /// Do all these bytes lie in one piece that was added?
  [[nodiscard]] bool contains(std::uint64_t address, std::size_t bytes) const;

  /// The process's.
  [[nodiscard]] static memory_map& of_process();

 private:
  mutable std::mutex mutex_;
  std::map<std::uint64_t, std::size_t> pieces_;  ///< bytes by first address
};

}  // namespace oriel::ptx_machine
