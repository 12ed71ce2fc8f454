// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The sizes and limits of a `segment_store`, and what it says of itself.
#pragma once

#include <cstdint>

namespace oriel {

/// Every queue and buffer of a segment store has its limit here.
struct segment_store_options {
  std::uint64_t capacity_bytes = std::uint64_t{1} << 30;  ///< of all segment files together
  std::uint64_t segment_bytes = std::uint64_t{64} << 20;  ///< of one file; a multiple of 4 KiB
  /// Index entries of 60 to 64 bytes, whose memory is committed as they are used. 0: one for each
  /// 8 KiB of capacity, the smallest record: 7.5 GiB of address space for 1 TiB.
  std::uint32_t pages_max = 0;
  double tenant_share_max = 1.0;  ///< of capacity_bytes, in (0, 1]

  std::uint32_t queue_items = 1024;                      ///< taken and not polled
  std::uint64_t bounce_bytes = std::uint64_t{16} << 20;  ///< headers and unaligned slices in flight
  std::uint64_t batch_bytes = std::uint64_t{4} << 20;    ///< of one write
  std::uint32_t batches_in_flight = 4;
  std::uint32_t reads_in_flight = 64;
  std::uint32_t carries_in_flight = 4;
  double carry_share_max = 0.5;  ///< of a segment: what a reclaim may carry over, in [0, 1)

  std::uint32_t scan_segments = 32;         ///< read at once when opening
  std::uint32_t scan_chunk_bytes = 65'536;  ///< of one such read

  std::uint32_t errors_max = 16;  ///< within error_window_us: then degraded
  std::uint64_t error_window_us = 60'000'000;
  std::uint64_t probe_interval_us = 1'000'000;  ///< between probes when paused or degraded

  std::uint64_t initial_generation = 0;  ///< at least; for tests of counters near their end
  bool saves_snapshot = true;            ///< when destroyed in good order
  bool trusts_the_disk = false;          ///< skips checksums of slices: to measure their cost
};

/// What a segment store says beyond store_stats.
struct segment_store_state {
  std::uint64_t segments = 0, segment_bytes = 0;  ///< files, and their sizes together
  std::uint64_t carried_pages = 0;                ///< survived the end of their segment
  std::uint64_t reclaimed_segments = 0;
  std::uint64_t read_retries = 0;
  std::uint64_t failed_syncs = 0;
  std::uint64_t recovered_pages = 0;
  std::uint64_t recovered_tombstones = 0;
  std::uint64_t damaged_blocks = 0;     ///< 4 KiB blocks that looked like a record and were none
  std::uint64_t unreadable_blocks = 0;  ///< lost to the scan, and with them all that is older
  bool used_snapshot = false;
};

}  // namespace oriel
