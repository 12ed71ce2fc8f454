// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/ids.hpp>
#include <oriel/tier/detail/memory_layout.hpp>

namespace oriel::detail {

memory_layout::memory_layout(const memory_store_options& options)
    : pools_(options.slice_bytes.size()) {
  ORIEL_EXPECTS(options.page_size > 0 && !pools_.empty());
  ORIEL_EXPECTS(options.page_weights.empty() || options.page_weights.size() == pools_.size());
  const auto weight = [&](std::size_t p) {
    return options.page_weights.empty() ? 1.0 : options.page_weights[p];
  };
  double bytes_per_weight = 0;
  for (std::size_t p = 0; p < pools_.size(); ++p) {
    ORIEL_EXPECTS(!options.slice_bytes[p].empty() && weight(p) > 0);
    std::uint64_t bytes = 0;
    for (const std::uint64_t slice : options.slice_bytes[p]) {
      ORIEL_EXPECTS(slice > 0);
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
  for (std::size_t p = 0; p < pools_.size(); ++p) {
    pools_[p].slots = static_cast<std::uint64_t>(scale * weight(p));
    ORIEL_EXPECTS(pools_[p].slots > 0);
  }
}

std::vector<memory_index::pool_size> memory_layout::sizes() const {
  std::vector<memory_index::pool_size> sizes;
  for (const pool& p : pools_) {
    ORIEL_EXPECTS(p.slots < ~std::uint32_t{0});
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
