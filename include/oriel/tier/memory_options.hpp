// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a `memory_store` is asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace oriel {

enum class memory_order : std::uint8_t {
  lru,      ///< the page that was not used for longest
  s3_fifo,  ///< new pages are on probation: only what is used again reaches the main queue
};

/// What one tenant is sure of, and what it may not exceed.
struct tenant_share {
  std::uint64_t tenant = 0;
  std::uint64_t min_bytes = 0;                  ///< no other tenant's put takes it below
  std::uint64_t max_bytes = ~std::uint64_t{0};  ///< its own puts beyond evict its own pages
};

struct memory_store_options {
  std::uint32_t page_size = 0;                               ///< tokens
  std::vector<std::vector<std::uint64_t>> slice_bytes = {};  ///< [pools][layers], of `page_shape`
  std::uint64_t capacity_bytes = 0;  ///< pages with their records; the index comes on top
  /// How many pages of each pool beside how many of the others; empty: as many of each. [pools]
  std::vector<double> page_weights = {};
  memory_order order = memory_order::s3_fifo;
  std::vector<tenant_share> tenants = {};                    ///< sure of some room, or limited
  std::uint64_t other_tenant_bytes_max = ~std::uint64_t{0};  ///< of each tenant not named there
  std::uint64_t ttl_us = 0;  ///< of a put that names no expiry; 0: for ever
  std::size_t queue_items = 1'024;
  /// A poll that copied so much stops: what a call may cost, at some 10 GB/s.
  std::uint64_t copy_bytes_per_poll = std::uint64_t{4} << 20;
};

}  // namespace oriel
