// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Memory policies (kv/memory.hpp) of a CUDA device, for pools and workspaces:
///
///     policy                 after reserve(n)             commit(m)           for
///     cuda::device_memory    n bytes on the device        nothing to do       weights, workspaces
///     cuda::pinned_memory    n bytes of locked host       nothing to do       what copy engines
///                            memory                                           read and write
///     cuda::growing_memory   n addresses, no bytes        the first m bytes   KV pools
///
/// Bytes are on the calling thread's device. The host reads and writes those of pinned_memory
/// alone: what lies on a device is copied, or touched by kernels.
///
/// Refusals: errc::out_of_memory when the driver says so, else errc::device_failure; `native` has
/// the driver's code and `detail` the call. Nothing is kept then, and nothing stays mapped.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/result.hpp>
#include <oriel/device/memory_driver.hpp>
#include <oriel/kv/memory.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>

namespace oriel::detail {

enum class driver_memory_kind : std::uint8_t { device, pinned, growing };

/// Owns bytes or addresses of a driver; gives them back in the destructor.
///
/// Growing: addresses are reserved once, for good. Memory is created and mapped in steps of
/// `step_bytes_` from the front, one handle each, which is released at once, so that a step's
/// memory goes with its mapping.
class driver_range {
 public:
  driver_range() noexcept = default;
  driver_range(driver_range&& other) noexcept { swap(other); }
  driver_range& operator=(driver_range&& other) noexcept {
    driver_range old(static_cast<driver_range&&>(other));
    swap(old);
    return *this;
  }
  ~driver_range();

  /// First byte; null when size_bytes() is 0.
  [[nodiscard]] std::byte* base() const noexcept { return address_; }
  [[nodiscard]] std::size_t size_bytes() const noexcept { return size_bytes_; }
  [[nodiscard]] std::size_t committed_bytes() const noexcept {
    return mapped_bytes_ < size_bytes_ ? mapped_bytes_ : size_bytes_;
  }
  /// Physical bytes: a growing range is rounded up to whole steps of the driver.
  [[nodiscard]] std::size_t physical_bytes() const noexcept { return mapped_bytes_; }

  [[nodiscard]] static result<driver_range> take(const memory_driver& driver,
                                                 driver_memory_kind kind,
                                                 std::size_t bytes) noexcept;
  /// Maps what is missing of the first `bytes`, or changes nothing. @pre bytes <= size_bytes()
  status grow(std::size_t bytes) noexcept;

 private:
  status take_bytes(std::size_t bytes) noexcept;
  status take_addresses(std::size_t bytes) noexcept;
  status map_step(std::size_t offset, std::size_t bytes) noexcept;
  [[nodiscard]] bool unmap_from(std::size_t offset) noexcept;
  [[nodiscard]] std::size_t step_at(std::size_t offset) const noexcept;
  void swap(driver_range& other) noexcept;

  const memory_driver* driver_ = nullptr;
  std::byte* address_ = nullptr;
  std::size_t size_bytes_ = 0;      // as asked for
  std::size_t reserved_bytes_ = 0;  // of addresses: size_bytes_, in whole granules
  std::size_t mapped_bytes_ = 0;    // from the front
  std::size_t step_bytes_ = 0;      // growing ranges: of one handle
  int device_ = 0;
  driver_memory_kind kind_ = driver_memory_kind::device;
};

}  // namespace oriel::detail

namespace oriel {

/// The policies above, over any driver. `Driver::table()` is a `const memory_driver&` that outlives
/// the memory. A model of kv_memory.
template <class Driver, detail::driver_memory_kind Kind>
class driver_memory : public detail::driver_range {
 public:
  static constexpr bool stores_bytes = true;

  [[nodiscard]] static result<driver_memory> reserve(std::size_t bytes) noexcept {
    result<driver_range> range = take(Driver::table(), Kind, bytes);
    if (!range) {
      return range.error();
    }
    return driver_memory(std::move(*range));
  }

  /// Growing memory: the base does not move, so addresses in captured graphs stay good. A refusal
  /// changes nothing, and may be followed by another try. @pre bytes <= size_bytes()
  status commit(std::size_t bytes) noexcept {
    ORIEL_EXPECTS(bytes <= size_bytes());
    return grow(bytes);
  }

 private:
  explicit driver_memory(driver_range&& range) noexcept : driver_range(std::move(range)) {}
};

template <class Driver>
using basic_device_memory = driver_memory<Driver, detail::driver_memory_kind::device>;
template <class Driver>
using basic_pinned_memory = driver_memory<Driver, detail::driver_memory_kind::pinned>;
template <class Driver>
using basic_growing_memory = driver_memory<Driver, detail::driver_memory_kind::growing>;

namespace cuda {

using device_memory = basic_device_memory<process_driver>;
using pinned_memory = basic_pinned_memory<process_driver>;
/// It never shrinks: a pool's free pages lie anywhere, and who holds one may be in a graph.
using growing_memory = basic_growing_memory<process_driver>;

static_assert(kv_memory<device_memory>);
static_assert(kv_memory<pinned_memory>);
static_assert(kv_memory<growing_memory>);

}  // namespace cuda
}  // namespace oriel
