// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// One layer's pages in the order of a device and in that of the host.
#pragma once

#include <oriel/device/paged_kv_view.cuh>

#include <cstring>

namespace oriel::test {

/// Copies one tile, element by element, from one order to the other.
inline void reorder_tile(
    const attention_shape& s, bool is_k, bool to_device, const std::byte* from, std::byte* to) {
  const std::uint32_t stored = paged_kv_view<dtype::bf16>::stored_dims(s.head_dim_qk);
  const std::uint32_t k_dims = s.kv == dtype::bf16 ? stored : s.head_dim_qk;
  const std::size_t element = size_bytes(s.kv);
  for (std::uint32_t key = 0; key < kv_tile_tokens; ++key) {
    for (std::uint32_t d = 0; d < (is_k ? k_dims : s.head_dim_vo); ++d) {
      const std::size_t host = is_k ? reference::index_in_k_tile(s.kv, key, d)
                                    : reference::index_in_v_tile(s.kv, s.head_dim_vo, key, d);
      const std::size_t device = is_k ? device_index_in_k_tile(s.kv, k_dims, key, d)
                                      : device_index_in_v_tile(s.kv, s.head_dim_vo, key, d);
      std::memcpy(to + (to_device ? device : host) * element,
                  from + (to_device ? host : device) * element,
                  element);
    }
  }
}

/// Reorders K and V of pages 0 to `pages` - 1. What lies between them is left alone.
inline void reorder_pages(const attention_shape& s,
                          std::uint32_t pages,
                          bool to_device,
                          const kv_layer_view& from,
                          const kv_layer_view& to) {
  const std::size_t tiles = std::size_t{s.page_size} / kv_tile_tokens * s.kv_heads;
  const std::size_t k_bytes = k_bytes_per_page(kv_tile_tokens, 1, s.head_dim_qk, s.kv);
  const std::size_t v_bytes = v_bytes_per_page(kv_tile_tokens, 1, s.head_dim_vo, s.kv);
  for (std::uint32_t page = 0; page < pages; ++page) {
    const std::size_t begin = page * from.page_stride_bytes;
    for (std::size_t tile = 0; tile < tiles; ++tile) {
      const std::size_t k = begin + tile * k_bytes, v = begin + tile * v_bytes;
      if (s.kv == dtype::e4m3) {  // One order, scales included.
        std::memcpy(to.k + k, from.k + k, k_bytes);
        std::memcpy(to.v + v, from.v + v, v_bytes);
        continue;
      }
      reorder_tile(s, true, to_device, from.k + k, to.k + k);
      reorder_tile(s, false, to_device, from.v + v, to.v + v);
    }
  }
}

}  // namespace oriel::test
