// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The memory of the device and what of the host it may touch. Every allocation lies alone between
/// pages that nobody may touch, begins as bytes 0xFF, and its addresses come back late.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>

namespace oriel::ptx_machine {

enum class place : std::uint8_t {
  pageable,  ///< memory of the host that the device knows nothing of
  pinned,
  device,
  outside  ///< begins in memory of ours and goes beyond it, or what was there is free
};

/// Thread-safe.
class device_memory {
 public:
  static constexpr std::size_t granularity_bytes = std::size_t{2}
                                                   << 20;  ///< of memory that is mapped

  explicit device_memory(std::size_t capacity_bytes) : capacity_(capacity_bytes) {}

  /// @returns null where there is no more
  [[nodiscard]] void* allocate(std::size_t bytes, place where);
  /// @returns false where nothing of this kind begins
  bool release(void* at, place where);
  [[nodiscard]] place where(const void* at, std::size_t bytes) const;
  [[nodiscard]] std::size_t free_bytes() const;
  [[nodiscard]] std::size_t capacity_bytes() const { return capacity_; }

  // Addresses apart from memory, as the driver's cuMem* have it. Sizes are multiples of the
  // granularity; false, or 0, where a call does not fit what is there.
  [[nodiscard]] std::uint64_t reserve(std::size_t bytes, std::size_t alignment);
  bool unreserve(std::uint64_t at, std::size_t bytes);
  [[nodiscard]] std::uint64_t create(std::size_t bytes);
  bool release_handle(std::uint64_t handle);
  bool map(std::uint64_t at, std::size_t bytes, std::uint64_t handle);
  bool unmap(std::uint64_t at, std::size_t bytes);
  bool set_access(std::uint64_t at, std::size_t bytes);

 private:
  struct piece {
    std::size_t bytes;
    place where;
    std::uint64_t mapping;  ///< 0: memory that is mapped
    std::size_t mapping_bytes;
  };
  struct physical {
    int file;
    std::size_t bytes;
    std::uint32_t uses;  ///< its handle, and where it is mapped
    bool has_handle;
  };
  struct mapped {
    std::size_t bytes;
    std::uint64_t handle;
    bool is_accessible;
  };
  [[nodiscard]] bool is_mapped_whole(std::uint64_t at, std::size_t bytes) const;
  void update_runs();
  void drop_use(std::map<std::uint64_t, physical>::iterator p);
  void retire(std::uint64_t mapping, std::size_t bytes);

  mutable std::mutex mutex_;
  std::size_t capacity_, used_ = 0, retired_bytes_ = 0;
  std::map<std::uint64_t, piece> pieces_;           ///< by first address
  std::map<std::uint64_t, std::size_t> addresses_;  ///< all that are ours, guards too
  std::map<std::uint64_t, std::size_t> reserved_;   ///< of these, by reserve()
  std::map<std::uint64_t, mapped> mapped_;
  std::map<std::uint64_t, physical> physical_;  ///< by handle
  std::deque<std::uint64_t> retired_;
  std::uint64_t next_handle_ = 1;
};

}  // namespace oriel::ptx_machine
