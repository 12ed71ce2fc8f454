// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Where one element of K or V lies: the page layout of paged_kv.hpp, one element at a time. For
/// reference kernels, tests and tools; fast kernels walk tiles.
#pragma once

#include <oriel/kernels/attention.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace oriel::reference {

/// Index of element (key, dim) in a K tile, in elements.
[[nodiscard]] constexpr std::size_t index_in_k_tile(dtype kv,
                                                    std::uint32_t key,
                                                    std::uint32_t dim) noexcept {
  if (kv == dtype::bf16) {
    return (std::size_t{dim / 2} * kv_tile_tokens + key) * 2 + dim % 2;
  }
  return std::size_t{dim} * kv_tile_tokens + key;
}

/// Index of element (key, dim) in a V tile, in elements.
[[nodiscard]] constexpr std::size_t index_in_v_tile(dtype kv,
                                                    std::uint32_t head_dim_vo,
                                                    std::uint32_t key,
                                                    std::uint32_t dim) noexcept {
  if (kv == dtype::bf16) {
    return (std::size_t{key / 2} * head_dim_vo + dim) * 2 + key % 2;
  }
  return std::size_t{key} * head_dim_vo + dim;
}

/// The tile of token `position` and head `kv_head`, `tile_bytes` long, in the part of a page that
/// begins at `part` (K or V) in the first page.
[[nodiscard]] inline std::byte* tile_of(const attention_shape& shape,
                                        const kv_layer_view& kv,
                                        const paged_sequence& sequence,
                                        std::uint32_t position,
                                        std::uint32_t kv_head,
                                        std::byte* part,
                                        std::size_t tile_bytes) noexcept {
  const std::size_t page = page_at(sequence, position / shape.page_size);
  const std::size_t tile = position % shape.page_size / kv_tile_tokens;
  const std::size_t tiles = shape.page_size / kv_tile_tokens;  // of one head in a page
  return part + page * kv.page_stride_bytes + (kv_head * tiles + tile) * tile_bytes;
}

/// K of token `position`, head `kv_head`, dim `dim`.
[[nodiscard]] inline std::byte* k_element(const attention_shape& shape,
                                          const kv_layer_view& kv,
                                          const paged_sequence& sequence,
                                          std::uint32_t position,
                                          std::uint32_t kv_head,
                                          std::uint32_t dim) noexcept {
  const std::size_t tile_bytes = k_bytes_per_page(kv_tile_tokens, 1, shape.head_dim_qk, shape.kv);
  const std::size_t index = index_in_k_tile(shape.kv, position % kv_tile_tokens, dim);
  return tile_of(shape, kv, sequence, position, kv_head, kv.k, tile_bytes) +
         index * size_bytes(shape.kv);
}

/// V of token `position`, head `kv_head`, dim `dim`.
[[nodiscard]] inline std::byte* v_element(const attention_shape& shape,
                                          const kv_layer_view& kv,
                                          const paged_sequence& sequence,
                                          std::uint32_t position,
                                          std::uint32_t kv_head,
                                          std::uint32_t dim) noexcept {
  const std::size_t tile_bytes = v_bytes_per_page(kv_tile_tokens, 1, shape.head_dim_vo, shape.kv);
  const std::size_t index =
      index_in_v_tile(shape.kv, shape.head_dim_vo, position % kv_tile_tokens, dim);
  return tile_of(shape, kv, sequence, position, kv_head, kv.v, tile_bytes) +
         index * size_bytes(shape.kv);
}

/// Reads one stored element. @pre kv is f32 or bf16
[[nodiscard]] inline float load_kv(dtype kv, const std::byte* element) noexcept {
  if (kv == dtype::bf16) {
    bf16 x;
    std::memcpy(&x, element, sizeof x);
    return to_float(x);
  }
  float x;
  std::memcpy(&x, element, sizeof x);
  return x;
}

/// Rounds `value` to the storage type and writes it. @pre kv is f32 or bf16
inline void store_kv(dtype kv, std::byte* element, float value) noexcept {
  if (kv == dtype::bf16) {
    const bf16 x = to_bf16(value);
    std::memcpy(element, &x, sizeof x);
  } else {
    std::memcpy(element, &value, sizeof value);
  }
}

}  // namespace oriel::reference
