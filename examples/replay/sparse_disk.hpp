// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `sparse_disk`: a `segment_disk` in memory, for files that are nearly all zeros. A segment store
/// runs on it as on a real disk, with its segments, batches and reclaims, in little memory.
#pragma once

#include <oriel/tier/segment_disk.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace oriel::replay {

/// Of each block of 4 KiB it keeps what lies before the zeros at its end. Nothing takes time:
/// requests are carried out where they are submitted, and the clock is the caller's. It never
/// fails. *Memory* 16 bytes a block up to the last one written, and what is not zero.
class sparse_disk {
 public:
  /// @param clock  the one that all stores share
  explicit sparse_disk(std::uint64_t (*clock)()) : now_us_(clock) {}

  [[nodiscard]] result<std::vector<disk_file>> list() const;
  [[nodiscard]] status create(std::uint32_t file, std::uint64_t bytes);
  [[nodiscard]] status remove(std::uint32_t file);
  [[nodiscard]] status sync_names() const { return {}; }
  /// O(bytes). @pre offsets and parts are multiples of 4 KiB
  std::size_t submit(std::span<const disk_request> requests);
  std::size_t poll(std::span<disk_completion> done);
  bool wait(std::uint64_t) const noexcept { return !done_.empty(); }
  [[nodiscard]] std::size_t in_flight() const noexcept { return done_.size(); }
  [[nodiscard]] result<std::vector<std::byte>> read_small(const char* name) const;
  [[nodiscard]] status write_small(const char* name, std::span<const std::byte> bytes);
  [[nodiscard]] std::uint64_t now_us() const noexcept { return now_us_(); }
  [[nodiscard]] std::string where(std::uint32_t file) const;

  /// Of all files: what is kept of them.
  [[nodiscard]] std::uint64_t kept_bytes() const noexcept { return kept_bytes_; }

 private:
  struct block {
    std::unique_ptr<std::byte[]> bytes;
    std::size_t size = 0;
  };

  struct file_state {
    std::uint64_t blocks = 0;  // its size
    std::vector<block> kept;   // the first of them; what lies behind is zeros
  };

  int carry_out(const disk_request& r);
  void write(block& to, std::span<const std::byte> bytes);

  std::uint64_t (*now_us_)();
  std::map<std::uint32_t, file_state> files_;
  std::map<std::string, std::vector<std::byte>> small_;
  std::vector<disk_completion> done_;
  std::uint64_t kept_bytes_ = 0;
};

static_assert(segment_disk<sparse_disk>);

}  // namespace oriel::replay
