// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `store_on_disk`: a disk and the store on it, as one kv_store.
#pragma once

#include <oriel/tier/kv_store.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace oriel::engine {

/// @tparam Store  refers to a `Disk`
template <class Disk, kv_store Store>
class store_on_disk {
 public:
  /// @param make  make(Disk&) -> Store, which need not move
  template <class Make>
  store_on_disk(Disk&& disk, Make&& make)
      : disk_(std::move(disk)), store_(std::forward<Make>(make)(disk_)) {}

  std::size_t submit(std::span<const store_item> items, std::uint64_t deadline_us) {
    return store_.submit(items, deadline_us);
  }
  std::size_t poll(std::span<store_completion> done) { return store_.poll(done); }
  bool wait(std::uint64_t until_us) { return store_.wait(until_us); }
  [[nodiscard]] std::size_t pending() const { return store_.pending(); }
  [[nodiscard]] store_stats stats() const { return store_.stats(); }
  [[nodiscard]] store_fault last_fault() const { return store_.last_fault(); }

  [[nodiscard]] Disk& disk() noexcept { return disk_; }
  [[nodiscard]] Store& store() noexcept { return store_; }

 private:
  Disk disk_;
  Store store_;
};

}  // namespace oriel::engine
