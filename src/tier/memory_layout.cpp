// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/ids.hpp>
#include <oriel/tier/detail/memory_layout.hpp>

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace oriel::detail {

namespace {

constexpr std::size_t pools_max = 15;  // What an index can name.
constexpr double slots_max = (std::uint64_t{1} << 31) - 1;

void require(bool is_so, const char* what) {
  if (!is_so) {
    throw std::invalid_argument(what);
  }
}

/// Whoever runs a store chooses its sizes: what cannot work is told to him, and is no broken
/// contract.
const memory_store_options& checked(const memory_store_options& o) {
  require(o.page_size > 0, "memory_store: page_size is 0");
  require(!o.slice_bytes.empty() && o.slice_bytes.size() <= pools_max,
          "memory_store: slice_bytes must be of 1 to 15 pools");
  for (const auto& slices : o.slice_bytes) {
    require(!slices.empty() && std::ranges::find(slices, 0u) == slices.end(),
            "memory_store: slice_bytes has a page or a slice of nothing");
  }
  require(o.page_weights.empty() || o.page_weights.size() == o.slice_bytes.size(),
          "memory_store: page_weights must have one for each pool, or none");
  for (const double weight : o.page_weights) {
    require(weight > 0 && std::isfinite(weight), "memory_store: page_weights must be above 0");
  }
  require(o.tenants.size() < 0xFFFF, "memory_store: more than 65,534 tenants");
  require(o.queue_items > 0 && o.copy_bytes_per_poll > 0,
          "memory_store: a queue or a poll of nothing");
  return o;
}

}  // namespace

memory_layout::memory_layout(const memory_store_options& options)
    : pools_(checked(options).slice_bytes.size()) {
  const auto weight = [&](std::size_t p) {
    return options.page_weights.empty() ? 1.0 : options.page_weights[p];
  };
  double bytes_per_weight = 0;
  for (std::size_t p = 0; p < pools_.size(); ++p) {
    std::uint64_t bytes = 0;
    for (const std::uint64_t slice : options.slice_bytes[p]) {
      pools_[p].offsets.push_back(bytes);
      bytes += slice;
    }
    pools_[p].offsets.push_back(bytes);
    pools_[p].slot_bytes = (bytes + 63) / 64 * 64;
    pools_[p].page_bytes = pools_[p].slot_bytes + sizeof(memory_record) +
                           std::uint64_t{options.page_size} * sizeof(token_id);
    bytes_per_weight += weight(p) * static_cast<double>(pools_[p].page_bytes);
  }
  // A hair more, so that a capacity of n whole pages gives n.
  const double scale = static_cast<double>(options.capacity_bytes) / bytes_per_weight * (1 + 1e-12);
  double slots = 0;
  for (std::size_t p = 0; p < pools_.size(); ++p) {
    const double of_pool = std::floor(scale * weight(p));
    slots += of_pool;
    require(of_pool >= 1, "memory_store: capacity_bytes must hold a page of each pool");
    require(slots <= slots_max, "memory_store: capacity_bytes holds more than 2^31 - 1 pages");
    pools_[p].slots = static_cast<std::uint64_t>(of_pool);
  }
}

std::vector<memory_index::pool_size> memory_layout::sizes() const {
  std::vector<memory_index::pool_size> sizes;
  for (const pool& p : pools_) {
    sizes.push_back({.slots = static_cast<std::uint32_t>(p.slots), .page_bytes = p.page_bytes});
  }
  return sizes;
}

std::uint64_t memory_layout::capacity_bytes() const noexcept {
  std::uint64_t bytes = 0;
  for (const pool& p : pools_) {
    bytes += p.slots * p.page_bytes;
  }
  return bytes;
}

bool memory_layout::has_layers(const store_item& item) const noexcept {
  const std::vector<std::uint64_t>& offsets = pools_[item.key.pool].offsets;
  if (item.first_slice + item.slices.size() >= offsets.size()) {
    return false;
  }
  for (std::size_t i = 0; i < item.slices.size(); ++i) {
    const std::size_t layer = item.first_slice + i;
    if (item.slices[i].size() != offsets[layer + 1] - offsets[layer]) {
      return false;
    }
  }
  return true;
}

bool memory_layout::is_whole(const store_item& item) const noexcept {
  return item.key.pool < pools_.size() && item.first_slice == 0 &&
         item.slices.size() + 1 == pools_[item.key.pool].offsets.size() && has_layers(item);
}

}  // namespace oriel::detail
