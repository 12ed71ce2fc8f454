// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `memory_driver`: the few calls of a device's driver that memory policies make, as a table of
/// functions. CUDA's own is filled at run time, so nothing links the driver's library; tests plant
/// another.
#pragma once

#include <cstddef>
#include <cstdint>

namespace oriel {

/// Each call gives 0, or the driver's code (CUresult and cudaError_t have the same numbers where it
/// matters: 2 is "out of memory"). What a call gives goes to its first argument.
struct memory_driver {
  /// The calling thread's device, ready for the calls below.
  int (*current_device)(int& device) noexcept;

  // Memory that is there at once.
  int (*allocate)(std::byte*& address, std::size_t bytes) noexcept;  ///< cudaMalloc
  int (*free)(std::byte* address) noexcept;
  int (*allocate_pinned)(std::byte*& address, std::size_t bytes) noexcept;  ///< cudaHostAlloc
  int (*free_pinned)(std::byte* address) noexcept;

  // Virtual memory: addresses and what is behind them, apart (cuMem*).
  /// Sizes and addresses below are multiples of this.
  int (*granularity)(std::size_t& bytes, int device) noexcept;
  int (*reserve)(std::byte*& address, std::size_t bytes) noexcept;
  int (*unreserve)(std::byte* address, std::size_t bytes) noexcept;
  int (*create)(std::uint64_t& handle, std::size_t bytes, int device) noexcept;
  /// Gives up the handle. The memory goes with its last mapping.
  int (*release)(std::uint64_t handle) noexcept;
  int (*map)(std::byte* address, std::size_t bytes, std::uint64_t handle) noexcept;
  /// What one `map` mapped, no part of it and no more.
  int (*unmap)(std::byte* address, std::size_t bytes) noexcept;
  /// Lets the device read and write.
  int (*set_access)(std::byte* address, std::size_t bytes, int device) noexcept;
};

/// The driver's code for "out of memory".
inline constexpr int driver_out_of_memory = 2;

namespace cuda {

/// CUDA's driver, as the process has it (in oriel::cuda). Without one every call gives the code
/// that the runtime gives: 35 where there is no driver.
struct process_driver {
  [[nodiscard]] static const memory_driver& table() noexcept;
};

}  // namespace cuda
}  // namespace oriel
