// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Memory of the host that the system does not always give (F23).
#pragma once

#include <oriel/kv/memory.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace sim {

/// Which calls fail; one object for a world.
struct slab_faults {
  std::int64_t reserves_left = -1;  ///< that succeed; below zero: all do
  std::int64_t commits_left = -1;
  std::uint64_t failed = 0;

  /// Whose calls those of `flaky_memory` are now.
  static inline thread_local slab_faults* now = nullptr;

  static bool strikes(std::int64_t slab_faults::*left) noexcept {
    if (now == nullptr || now->*left < 0 || (now->*left)-- != 0) {
      return false;
    }
    ++now->failed;
    return true;
  }
};

class flaky_memory {
 public:
  static constexpr bool stores_bytes = true;
  [[nodiscard]] static oriel::result<flaky_memory> reserve(std::size_t bytes) noexcept {
    if (slab_faults::strikes(&slab_faults::reserves_left)) {
      return oriel::failure{oriel::errc::out_of_memory, ENOMEM};
    }
    oriel::result<oriel::host_memory> memory = oriel::host_memory::reserve(bytes);
    if (!memory) {
      return memory.error();
    }
    flaky_memory flaky;
    flaky.memory_ = std::move(*memory);
    return flaky;
  }
  oriel::status commit(std::size_t bytes) noexcept {
    if (slab_faults::strikes(&slab_faults::commits_left)) {
      return oriel::failure{oriel::errc::out_of_memory, ENOMEM};
    }
    return memory_.commit(bytes);
  }
  [[nodiscard]] std::byte* base() const noexcept { return memory_.base(); }
  [[nodiscard]] std::size_t size_bytes() const noexcept { return memory_.size_bytes(); }
  [[nodiscard]] std::size_t committed_bytes() const noexcept { return memory_.committed_bytes(); }

 private:
  flaky_memory() = default;
  oriel::host_memory memory_;
};

static_assert(oriel::kv_memory<flaky_memory>);

}  // namespace sim
