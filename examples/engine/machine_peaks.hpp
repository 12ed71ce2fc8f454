// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What this machine can do at best: read memory, and multiply-add in registers. Ratios to these
/// figures say more than times. Measure them beside the thing itself, turn by turn: on a shared
/// machine they change from second to second.
#pragma once

#include <oriel/core/executor.hpp>
#include <oriel/kernels/isa.hpp>
#include <oriel/kv/memory.hpp>

#include <cstddef>

namespace oriel::engine {

/// Reads a buffer larger than the caches, as fast as the machine lets it.
/// *Memory* the buffer, committed, in huge pages where the system offers them.
class read_bandwidth_probe {
 public:
  static constexpr std::size_t default_bytes = std::size_t{1} << 30;

  /// @throws std::bad_alloc
  explicit read_bandwidth_probe(std::size_t buffer_bytes = default_bytes);

  /// Reads the next part of the buffer, on all workers, once; for those who bring a clock of their
  /// own. Parts follow each other round the buffer, so a part is cold again when its turn comes.
  /// @param fraction of the buffer, in (0, 1]
  /// @returns the bytes read
  std::size_t read_once(executor_ref executor, double fraction = 1.0) noexcept;

  /// Bytes per second of one read_once, by the wall clock.
  [[nodiscard]] double measure(executor_ref executor, double fraction = 1.0) noexcept;

 private:
  huge_page_memory buffer_;
  std::size_t position_ = 0;
};

/// Which multiply-adds to count.
enum class multiply_kind { f32, bf16 };

/// Independent multiply-adds on registers, for some milliseconds on the calling thread. bf16 on a
/// path without a dot product of its own is widened, so it counts f32 multiply-adds.
/// @returns the floating-point operations done (two for each multiply-add)
/// @pre is_supported(path)
double multiply_once(multiply_kind kind, isa path) noexcept;

/// Floating-point operations per second of one multiply_once, by the wall clock.
[[nodiscard]] double measure_multiply_rate(multiply_kind kind, isa path) noexcept;

}  // namespace oriel::engine
