// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `memory_layout`: how a `memory_store` divides its capacity into slots, and a slot into slices.
#pragma once

#include <oriel/tier/detail/memory_index.hpp>
#include <oriel/tier/kv_store.hpp>
#include <oriel/tier/memory_options.hpp>

#include <cstdint>
#include <vector>

namespace oriel::detail {

class memory_layout {
 public:
  struct pool {
    std::vector<std::uint64_t> offsets;  ///< [layers + 1], in a slot; the last is where it ends
    std::uint64_t slot_bytes = 0;        ///< a multiple of 64
    std::uint64_t page_bytes = 0;        ///< with record and token ids: what a tenant pays
    std::uint64_t slots = 0;
  };

  /// @throws std::invalid_argument for options that cannot work
  explicit memory_layout(const memory_store_options& options);

  [[nodiscard]] const std::vector<pool>& pools() const noexcept { return pools_; }
  [[nodiscard]] std::vector<memory_index::pool_size> sizes() const;
  [[nodiscard]] std::uint64_t capacity_bytes() const noexcept;
  /// Are the slices those of the pool's layers from first_slice on? O(slices).
  /// @pre the pool is there
  [[nodiscard]] bool has_layers(const store_item& item) const noexcept;
  /// Are they all, of a pool that is there?
  [[nodiscard]] bool is_whole(const store_item& item) const noexcept;

 private:
  std::vector<pool> pools_;
};

}  // namespace oriel::detail
