// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/device/paged_kv_view.cuh>
#include <oriel/kernels/kv_copy.hpp>
#include <oriel/kernels/reference/kv_element.hpp>

#include <cstring>

namespace oriel::reference {
namespace {

/// Where element (key, dim) of a tile lies, in elements.
std::size_t index_in_tile(
    kv_order order, dtype kv, bool is_k, std::uint32_t dims, std::uint32_t key, std::uint32_t dim) {
  if (order == kv_order::device) {
    return is_k ? device_index_in_k_tile(kv, dims, key, dim)
                : device_index_in_v_tile(kv, dims, key, dim);
  }
  return is_k ? index_in_k_tile(kv, key, dim) : index_in_v_tile(kv, dims, key, dim);
}

/// K or V of one layer in one page.
void copy_part(const kv_copy_shape& shape, bool is_k, const std::byte* from, std::byte* to) {
  const attention_shape& layer = shape.layer;
  const std::size_t element = size_bytes(layer.kv);
  const std::size_t tile_bytes =
      is_k ? k_bytes_per_page(kv_tile_tokens, 1, layer.head_dim_qk, layer.kv)
           : v_bytes_per_page(kv_tile_tokens, 1, layer.head_dim_vo, layer.kv);
  const auto dims = static_cast<std::uint32_t>(tile_bytes / (kv_tile_tokens * element));
  const std::size_t tiles = std::size_t{layer.kv_heads} * (layer.page_size / kv_tile_tokens);
  if (layer.kv == dtype::e4m3) {  // One order, scales included.
    std::memcpy(to, from, tiles * tile_bytes);
    return;
  }
  for (std::size_t tile = 0; tile < tiles; ++tile, from += tile_bytes, to += tile_bytes) {
    for (std::uint32_t key = 0; key < kv_tile_tokens; ++key) {
      for (std::uint32_t dim = 0; dim < dims; ++dim) {
        std::memcpy(to + index_in_tile(shape.to, layer.kv, is_k, dims, key, dim) * element,
                    from + index_in_tile(shape.from, layer.kv, is_k, dims, key, dim) * element,
                    element);
      }
    }
  }
}

}  // namespace

void kv_copy(const kv_copy_shape& shape, const kv_copy_args& args) {
  const std::size_t pages = args.page_count != nullptr && *args.page_count < args.pages.size()
                                ? *args.page_count
                                : args.pages.size();
  for (const kv_copy_layer& layer : args.layers) {
    for (const kv_page_pair page : args.pages.first(pages)) {
      const std::size_t from = page.from * layer.from.page_stride_bytes;
      const std::size_t to = page.to * layer.to.page_stride_bytes;
      copy_part(shape, true, layer.from.k + from, layer.to.k + to);
      copy_part(shape, false, layer.from.v + from, layer.to.v + to);
    }
  }
}

}  // namespace oriel::reference
