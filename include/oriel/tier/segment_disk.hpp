// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `segment_disk`: what a `segment_store` asks of the place where its files are. The real ones are
/// a directory behind io_uring or behind threads; tests bring one that lies, tears and loses power.
#pragma once

#include <oriel/core/result.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace oriel {

/// Addresses, lengths and offsets of reads and writes are multiples of this (O_DIRECT).
inline constexpr std::size_t disk_alignment_bytes = 4096;

/// Whether a disk reads into and writes from here without a copy.
inline bool is_disk_aligned(const std::byte* at) noexcept {
  return reinterpret_cast<std::uintptr_t>(at) % disk_alignment_bytes == 0;
}

enum class disk_op : std::uint8_t { read, write, sync };

/// One asynchronous operation on one file.
struct disk_request {
  disk_op op = disk_op::read;
  std::uint32_t file = 0;
  std::uint64_t offset = 0;                          ///< in the file
  std::span<const std::span<std::byte>> parts = {};  ///< read into, or written from, in order; it
                                                     ///< and its bytes stay until completion
  std::uint64_t user = 0;
};

struct disk_completion {
  std::uint64_t user = 0;
  int error = 0;  ///< errno; 0: all bytes were moved
};

struct disk_file {
  std::uint32_t file = 0;
  std::uint64_t bytes = 0;  ///< its size
  /// From here on reads give nothing but zeros, whatever the size; more than the size: not known.
  std::uint64_t written_bytes = ~std::uint64_t{0};
};

/// Files named by number, in one place that has one owner.
///
///  - `list()` tells what is there, in ascending order. `create(file, bytes)` makes a file that,
///    where nothing was written, reads as zeros or as an end of file, and whose name survives a
///    loss of power once a later sync of it completed. `remove(file)` deletes one, for good once
///    `sync_names()` returned. @pre nothing is in flight on it
///  - `create` of a file that is there fails (EEXIST), `remove` of a missing one too (ENOENT); a
///    request on one completes with ENOENT. No room (ENOSPC) may show at `create` or at a write.
///  - `submit` takes requests in order as far as there is room and returns how many. Requests in
///    flight together may happen in any order. Short transfers are continued inside; a read beyond
///    the end of a file fails with ENODATA.
///  - A write that completed survives the end of the process; a loss of power only after a sync of
///    its file that was submitted later and completed with 0. After a failed sync nothing that it
///    covered may be trusted, and every later sync of the file fails until it is removed.
///  - `poll`, `wait`: as in kv_store.hpp. `in_flight()` requests have not been polled.
///  - `read_small` / `write_small`: whole small files by name (the snapshot), synchronous, replaced
///    atomically; for opening and closing.
///  - `where(file)` is a path for messages.
///
/// Models: `uring_disk`, `thread_disk`; `sim_disk` of the tests.
// clang-format off
template <class D>
concept segment_disk =
    requires(D& d, const D& cd, std::uint32_t file, std::uint64_t bytes,
             std::span<const disk_request> requests, std::span<disk_completion> done,
             std::uint64_t until_us, const char* name, std::span<const std::byte> data) {
      { d.list() } -> std::same_as<result<std::vector<disk_file>>>;
      { d.create(file, bytes) } -> std::same_as<status>;
      { d.remove(file) } -> std::same_as<status>;
      { d.sync_names() } -> std::same_as<status>;
      { d.submit(requests) } -> std::same_as<std::size_t>;
      { d.poll(done) } -> std::same_as<std::size_t>;
      { d.wait(until_us) } -> std::same_as<bool>;
      { cd.in_flight() } -> std::same_as<std::size_t>;
      { d.read_small(name) } -> std::same_as<result<std::vector<std::byte>>>;
      { d.write_small(name, data) } -> std::same_as<status>;
      { cd.now_us() } -> std::same_as<std::uint64_t>;
      { cd.where(file) } -> std::same_as<std::string>;
    };
// clang-format on

}  // namespace oriel
