// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A `memory_driver` made of host memory that keeps books, breaks the test when it is used against
/// the driver's rules, and fails where it is told to.
#pragma once

#include <oriel/device/memory_driver.hpp>

#include <catch2/catch.hpp>
#include <sys/mman.h>

#include <cstdlib>
#include <map>
#include <set>
#include <string>

namespace oriel::test {

/// What the driver knows. One for the process: a table of functions has no place for more.
struct planted_driver {
  static constexpr std::size_t granule = std::size_t{2} << 20;
  static constexpr int device = 3;
  static constexpr std::size_t bytes_max = std::size_t{1} << 40;

  std::map<std::byte*, std::size_t> reserved, mapped, allocated, pinned;
  std::map<std::uint64_t, std::size_t> handles;  // not released
  std::set<std::byte*> accessible;
  std::uint64_t next_handle = 1;
  int calls = 0;          // since `fail_at` was set
  int fail_at = -1;       // this call fails, counted from 0
  int fail_with = 999;    // its code
  std::string failed_in;  // the call that did

  static planted_driver& now() {
    static planted_driver driver;
    return driver;
  }
  static const memory_driver& table() noexcept;

  void fail(int at, int with) {
    calls = 0;
    fail_at = at;
    fail_with = with;
    failed_in.clear();
  }
  /// Bytes that are mapped.
  [[nodiscard]] std::size_t mapped_bytes() const {
    std::size_t bytes = 0;
    for (const auto& [address, size] : mapped) {
      bytes += size;
    }
    return bytes;
  }
  /// Nobody holds anything.
  [[nodiscard]] bool is_idle() const {
    return reserved.empty() && mapped.empty() && allocated.empty() && pinned.empty() &&
           handles.empty() && accessible.empty();
  }

  [[nodiscard]] bool fails(const char* call) {
    if (calls++ != fail_at) {
      return false;
    }
    failed_in = call;
    return true;
  }
};

inline const memory_driver& planted_driver::table() noexcept {
  using driver = planted_driver;
  const auto take_bytes =
      [](std::map<std::byte*, std::size_t>& books, std::byte*& address, std::size_t bytes) {
        if (bytes > driver::bytes_max) {
          return driver_out_of_memory;
        }
        address = static_cast<std::byte*>(std::aligned_alloc(256, (bytes + 255) / 256 * 256));
        books[address] = bytes;
        return 0;
      };
  static const auto take = take_bytes;
  static const memory_driver calls{
      .current_device =
          [](int& device) noexcept {
            device = driver::device;
            return driver::now().fails("current_device") ? driver::now().fail_with : 0;
          },
      .allocate =
          [](std::byte*& address, std::size_t bytes) noexcept {
            return driver::now().fails("allocate") ? driver::now().fail_with
                                                   : take(driver::now().allocated, address, bytes);
          },
      .free =
          [](std::byte* address) noexcept {
            REQUIRE(driver::now().allocated.erase(address) == 1);
            std::free(address);
            return 0;
          },
      .allocate_pinned =
          [](std::byte*& address, std::size_t bytes) noexcept {
            return driver::now().fails("allocate_pinned")
                       ? driver::now().fail_with
                       : take(driver::now().pinned, address, bytes);
          },
      .free_pinned =
          [](std::byte* address) noexcept {
            REQUIRE(driver::now().pinned.erase(address) == 1);
            std::free(address);
            return 0;
          },
      .granularity =
          [](std::size_t& bytes, int device) noexcept {
            REQUIRE(device == driver::device);
            bytes = driver::granule;
            return driver::now().fails("granularity") ? driver::now().fail_with : 0;
          },
      .reserve =
          [](std::byte*& address, std::size_t bytes) noexcept {
            REQUIRE(bytes % driver::granule == 0);
            if (driver::now().fails("reserve")) {
              return driver::now().fail_with;
            }
            if (bytes > driver::bytes_max) {
              return driver_out_of_memory;
            }
            void* const at = ::mmap(
                nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            REQUIRE(at != MAP_FAILED);
            address = static_cast<std::byte*>(at);
            driver::now().reserved[address] = bytes;
            return 0;
          },
      .unreserve =
          [](std::byte* address, std::size_t bytes) noexcept {
            driver& d = driver::now();
            REQUIRE(d.reserved.at(address) == bytes);
            const auto next = d.mapped.lower_bound(address);
            REQUIRE((next == d.mapped.end() || next->first >= address + bytes));
            d.reserved.erase(address);
            ::munmap(address, bytes);
            return 0;
          },
      .create =
          [](std::uint64_t& handle, std::size_t bytes, int device) noexcept {
            driver& d = driver::now();
            REQUIRE((bytes % driver::granule == 0 && bytes != 0 && device == driver::device));
            if (d.fails("create")) {
              return d.fail_with;
            }
            handle = d.next_handle++;
            d.handles[handle] = bytes;
            return 0;
          },
      .release =
          [](std::uint64_t handle) noexcept {
            driver& d = driver::now();
            REQUIRE(d.handles.erase(handle) == 1);
            return d.fails("release") ? d.fail_with : 0;
          },
      .map =
          [](std::byte* address, std::size_t bytes, std::uint64_t handle) noexcept {
            driver& d = driver::now();
            REQUIRE(d.handles.at(handle) == bytes);
            auto range = d.reserved.upper_bound(address);
            REQUIRE(range != d.reserved.begin());
            --range;
            REQUIRE(address + bytes <= range->first + range->second);
            for (const auto& [at, size] : d.mapped) {
              REQUIRE((address + bytes <= at || at + size <= address));
            }
            if (d.fails("map")) {
              return d.fail_with;
            }
            d.mapped[address] = bytes;
            return 0;
          },
      .unmap =
          [](std::byte* address, std::size_t bytes) noexcept {
            driver& d = driver::now();
            REQUIRE(d.mapped.at(address) == bytes);
            if (d.fails("unmap")) {
              return d.fail_with;
            }
            d.mapped.erase(address);
            d.accessible.erase(address);
            ::mprotect(address, bytes, PROT_NONE);
            return 0;
          },
      .set_access =
          [](std::byte* address, std::size_t bytes, int device) noexcept {
            driver& d = driver::now();
            REQUIRE((d.mapped.at(address) == bytes && device == driver::device));
            if (d.fails("set_access")) {
              return d.fail_with;
            }
            d.accessible.insert(address);
            ::mprotect(address, bytes, PROT_READ | PROT_WRITE);
            return 0;
          }};
  return calls;
}

}  // namespace oriel::test
