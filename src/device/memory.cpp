// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/device/memory.hpp>

#include <limits>

namespace oriel::detail {
namespace {

/// Few calls for a growing pool, and little over at its end.
constexpr std::size_t step_bytes_least = std::size_t{16} << 20;

failure refused(int code, const char* call) noexcept {
  return {code == driver_out_of_memory ? errc::out_of_memory : errc::device_failure, code, call};
}

constexpr std::size_t round_up(std::size_t bytes, std::size_t step) noexcept {
  return (bytes + step - 1) / step * step;
}

}  // namespace

result<driver_range> driver_range::take(const memory_driver& driver,
                                        driver_memory_kind kind,
                                        std::size_t bytes) noexcept {
  driver_range range;
  if (bytes == 0) {
    return range;
  }
  range.driver_ = &driver;
  range.kind_ = kind;
  if (const int code = driver.current_device(range.device_); code != 0) {
    return refused(code, "the device is not usable (cudaGetDevice)");
  }
  const status taken =
      kind == driver_memory_kind::growing ? range.take_addresses(bytes) : range.take_bytes(bytes);
  if (!taken) {
    return taken.error();
  }
  return range;
}

status driver_range::take_bytes(std::size_t bytes) noexcept {
  const bool is_pinned = kind_ == driver_memory_kind::pinned;
  std::byte* address = nullptr;
  const int code =
      is_pinned ? driver_->allocate_pinned(address, bytes) : driver_->allocate(address, bytes);
  if (code != 0) {
    return refused(code,
                   is_pinned ? "pinned host memory (cudaHostAlloc)" : "device memory (cudaMalloc)");
  }
  address_ = address;
  size_bytes_ = reserved_bytes_ = mapped_bytes_ = bytes;
  return {};
}

status driver_range::take_addresses(std::size_t bytes) noexcept {
  std::size_t granule = 0;
  if (const int code = driver_->granularity(granule, device_); code != 0) {
    return refused(code, "granules of device memory (cuMemGetAllocationGranularity)");
  }
  if (granule == 0 || bytes > std::numeric_limits<std::size_t>::max() - granule) {
    return refused(driver_out_of_memory, "more addresses than there are (cuMemAddressReserve)");
  }
  const std::size_t reserved = round_up(bytes, granule);
  std::byte* address = nullptr;
  if (const int code = driver_->reserve(address, reserved); code != 0) {
    return refused(code, "device addresses (cuMemAddressReserve)");
  }
  address_ = address;
  size_bytes_ = bytes;
  reserved_bytes_ = reserved;
  step_bytes_ = round_up(step_bytes_least, granule);
  return {};
}

/// Bytes of the step that begins at `offset`. The last one may be shorter.
std::size_t driver_range::step_at(std::size_t offset) const noexcept {
  const std::size_t left = reserved_bytes_ - offset;
  return left < step_bytes_ ? left : step_bytes_;
}

status driver_range::grow(std::size_t bytes) noexcept {
  const std::size_t before = mapped_bytes_;
  while (mapped_bytes_ < bytes) {
    const std::size_t step = step_at(mapped_bytes_);
    if (const status mapped = map_step(mapped_bytes_, step); !mapped) {
      // What cannot be unmapped stays committed: it is usable, and no later step meets it.
      static_cast<void>(unmap_from(before));
      return mapped;
    }
    mapped_bytes_ += step;
  }
  return {};
}

status driver_range::map_step(std::size_t offset, std::size_t bytes) noexcept {
  std::byte* const address = address_ + offset;
  std::uint64_t handle = 0;
  if (const int code = driver_->create(handle, bytes, device_); code != 0) {
    return refused(code, "memory for a growing range (cuMemCreate)");
  }
  const int map_code = driver_->map(address, bytes, handle);
  const int release_code = driver_->release(handle);
  if (map_code != 0) {
    return refused(map_code, "mapping memory of a growing range (cuMemMap)");
  }
  const int access_code = release_code != 0 ? 0 : driver_->set_access(address, bytes, device_);
  if (release_code != 0 || access_code != 0) {
    driver_->unmap(address, bytes);
    return release_code != 0 ? refused(release_code, "letting go of a handle (cuMemRelease)")
                             : refused(access_code, "access to a growing range (cuMemSetAccess)");
  }
  return {};
}

/// Unmaps the steps behind `offset`, from the last on. False: the driver refused one.
/// @pre offset is the beginning of a step, or the end
bool driver_range::unmap_from(std::size_t offset) noexcept {
  while (mapped_bytes_ > offset) {
    const std::size_t begin = (mapped_bytes_ - 1) / step_bytes_ * step_bytes_;
    if (driver_->unmap(address_ + begin, mapped_bytes_ - begin) != 0) {
      return false;
    }
    mapped_bytes_ = begin;
  }
  return true;
}

driver_range::~driver_range() {
  if (address_ == nullptr) {
    return;
  }
  switch (kind_) {
    case driver_memory_kind::device:
      driver_->free(address_);
      return;
    case driver_memory_kind::pinned:
      driver_->free_pinned(address_);
      return;
    case driver_memory_kind::growing:
      if (unmap_from(0)) {  // Addresses that are still mapped cannot be given back.
        driver_->unreserve(address_, reserved_bytes_);
      }
      return;
  }
}

void driver_range::swap(driver_range& other) noexcept {
  std::swap(driver_, other.driver_);
  std::swap(address_, other.address_);
  std::swap(size_bytes_, other.size_bytes_);
  std::swap(reserved_bytes_, other.reserved_bytes_);
  std::swap(mapped_bytes_, other.mapped_bytes_);
  std::swap(step_bytes_, other.step_bytes_);
  std::swap(device_, other.device_);
  std::swap(kind_, other.kind_);
}

}  // namespace oriel::detail
