// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Runs a kernel's PTX on the host: every warp of every block, instruction by instruction.
#pragma once

#include <ptx_machine/program/program.hpp>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace oriel::ptx_machine {

struct dimensions {
  std::uint32_t x = 1, y = 1, z = 1;
};

struct launch_config {
  dimensions grid, block;
  std::uint32_t dynamic_shared_bytes = 0;
  /// Warps take turns, copies end and products are done in an order that it decides: any order is one that a device
  /// may take.
  std::uint64_t seed = 0;
  std::uint32_t multiprocessors = 4;  ///< so many blocks at a time
};

/// So many clusters at a time: a block a multiprocessor, and one cluster whatever it has.
inline std::uint64_t resident_clusters(std::uint32_t multiprocessors, std::uint64_t blocks) {
  return std::max<std::uint64_t>(1, multiprocessors / blocks);
}

struct decoded_kernel;

/// A kernel made ready for launches, which takes a thousandth of a second. The module has to outlive it.
class ready_kernel {
 public:
  /// @throws machine_error at an opcode or an operand that the machine does not know
  ready_kernel(const module& m, const kernel& k);

  /// Runs a launch to its end. `parameters`: kernel::parameter_bytes, laid out as parameter_info says.
  /// @throws machine_error  what a device would end with an error, hang at, or leave undefined: an address outside the
  ///         memory map or shared memory, a misaligned access, a barrier nobody completes, a warp not converged where
  ///         an instruction demands it, ... The message has the kernel, block, warp, lanes, the instruction and its line.
  void run(const launch_config& config, std::span<const std::byte> parameters) const;

 private:
  std::shared_ptr<const decoded_kernel> decoded_;
};

/// Once.
inline void run(const module& m,
                const kernel& k,
                const launch_config& config,
                std::span<const std::byte> parameters) {
  ready_kernel(m, k).run(config, parameters);
}

}  // namespace oriel::ptx_machine
