// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `host_pools`: where an engine has its KV, or counts it.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/result.hpp>
#include <oriel/kv/dual_pool.hpp>
#include <oriel/kv/memory.hpp>

#include <cstddef>
#include <utility>

namespace oriel::engine {

/// KV in huge pages of host memory, or, where it lies on a device, addresses that name its pages
/// and can never be touched: then it may be larger than the host's memory, and takes none of it.
///
/// Huge pages not for the kernels' sake alone: a disk that reads straight into a page fills a few
/// large pieces more than twice as fast as many small ones (docs/measurements/disk.md).
class engine_memory {
 public:
  static constexpr bool stores_bytes = true;

  /// Bytes. @returns errc::out_of_memory, with errno
  [[nodiscard]] static result<engine_memory> reserve(std::size_t bytes) noexcept {
    return made(huge_page_memory::reserve(bytes), &engine_memory::bytes_);
  }
  /// Addresses alone. @returns errc::out_of_memory, with errno
  [[nodiscard]] static result<engine_memory> reserve_addresses(std::size_t bytes) noexcept {
    return made(address_only_memory::reserve(bytes), &engine_memory::addresses_);
  }

  /// @pre bytes <= size_bytes()
  status commit(std::size_t bytes) noexcept {
    ORIEL_EXPECTS(bytes <= size_bytes());
    return {};
  }
  [[nodiscard]] std::byte* base() const noexcept {
    return bytes_.base() != nullptr ? bytes_.base() : addresses_.base();
  }
  [[nodiscard]] std::size_t size_bytes() const noexcept {
    return bytes_.size_bytes() + addresses_.size_bytes();
  }
  /// 0 of addresses alone.
  [[nodiscard]] std::size_t committed_bytes() const noexcept { return bytes_.committed_bytes(); }

 private:
  template <class Memory>
  static result<engine_memory> made(result<Memory> range, Memory engine_memory::*of) noexcept {
    if (!range) {
      return range.error();
    }
    engine_memory memory;
    memory.*of = std::move(*range);
    return memory;
  }

  huge_page_memory bytes_;  // one of the two
  address_only_memory addresses_;
};
static_assert(kv_memory<engine_memory>);

using host_pools = dual_pool<engine_memory>;

}  // namespace oriel::engine
