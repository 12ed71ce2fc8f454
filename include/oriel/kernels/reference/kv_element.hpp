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

/// Index of element (key, dim) in a K tile of 8 keys x 8 dims side by side, in elements: bf16 on a
/// device, and e4m3 but for the order of four. `stored_dims`: of a head.
[[nodiscard]] constexpr std::size_t index_in_grouped_k_tile(std::uint32_t stored_dims,
                                                            std::uint32_t key,
                                                            std::uint32_t dim) noexcept {
  constexpr std::uint32_t side = 8;
  const std::uint32_t chunk = dim / side * side, left = stored_dims - chunk;
  const std::uint32_t width = left < side ? left : side;
  return std::size_t{key / kv_group_tokens} * kv_group_tokens * stored_dims +
         chunk * kv_group_tokens + key % kv_group_tokens * width + (dim - chunk);
}

/// As index_in_grouped_k_tile, of V: 8 keys of a dim side by side.
[[nodiscard]] constexpr std::size_t index_in_grouped_v_tile(std::uint32_t stored_dims,
                                                            std::uint32_t key,
                                                            std::uint32_t dim) noexcept {
  return (std::size_t{key / kv_group_tokens} * stored_dims + dim) * kv_group_tokens +
         key % kv_group_tokens;
}

/// Index of element (key, dim) in a K tile, in elements. @pre kv is f32 or bf16
[[nodiscard]] constexpr std::size_t index_in_k_tile(dtype kv,
                                                    std::uint32_t key,
                                                    std::uint32_t dim) noexcept {
  if (kv == dtype::bf16) {
    return (std::size_t{dim / 2} * kv_tile_tokens + key) * 2 + dim % 2;
  }
  return std::size_t{dim} * kv_tile_tokens + key;
}

/// Index of element (key, dim) in a V tile, in elements. @pre kv is f32 or bf16
[[nodiscard]] constexpr std::size_t index_in_v_tile(dtype kv,
                                                    std::uint32_t head_dim_vo,
                                                    std::uint32_t key,
                                                    std::uint32_t dim) noexcept {
  if (kv == dtype::bf16) {
    return (std::size_t{key / 2} * head_dim_vo + dim) * 2 + key % 2;
  }
  return std::size_t{key} * head_dim_vo + dim;
}

/// Index of element (key, dim) in an e4m3 K tile.
[[nodiscard]] constexpr std::size_t index_in_e4m3_k_tile(std::uint32_t head_dim_qk,
                                                         std::uint32_t key,
                                                         std::uint32_t dim) noexcept {
  return index_in_grouped_k_tile(stored_head_dims(head_dim_qk, dtype::e4m3), key, e4m3_place(dim));
}

/// Index of element (key, dim) in an e4m3 V tile.
[[nodiscard]] constexpr std::size_t index_in_e4m3_v_tile(std::uint32_t head_dim_vo,
                                                         std::uint32_t key,
                                                         std::uint32_t dim) noexcept {
  return index_in_grouped_v_tile(stored_head_dims(head_dim_vo, dtype::e4m3), e4m3_place(key), dim);
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
  const std::uint32_t key = position % kv_tile_tokens;
  const std::size_t index = shape.kv == dtype::e4m3
                                ? index_in_e4m3_k_tile(shape.head_dim_qk, key, dim)
                                : index_in_k_tile(shape.kv, key, dim);
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
  const std::uint32_t key = position % kv_tile_tokens;
  const std::size_t index = shape.kv == dtype::e4m3
                                ? index_in_e4m3_v_tile(shape.head_dim_vo, key, dim)
                                : index_in_v_tile(shape.kv, shape.head_dim_vo, key, dim);
  return tile_of(shape, kv, sequence, position, kv_head, kv.v, tile_bytes) +
         index * size_bytes(shape.kv);
}

/// The scale of K of token `position`, head `kv_head`: behind the tile's numbers. @pre kv is e4m3
[[nodiscard]] inline std::byte* k_scale(const attention_shape& shape,
                                        const kv_layer_view& kv,
                                        const paged_sequence& sequence,
                                        std::uint32_t position,
                                        std::uint32_t kv_head) noexcept {
  const std::size_t tile_bytes = k_bytes_per_page(kv_tile_tokens, 1, shape.head_dim_qk, shape.kv);
  return tile_of(shape, kv, sequence, position, kv_head, kv.k, tile_bytes) + tile_bytes -
         (kv_tile_tokens - position % kv_tile_tokens) * sizeof(float);
}

/// As k_scale, of V.
[[nodiscard]] inline std::byte* v_scale(const attention_shape& shape,
                                        const kv_layer_view& kv,
                                        const paged_sequence& sequence,
                                        std::uint32_t position,
                                        std::uint32_t kv_head) noexcept {
  const std::size_t tile_bytes = v_bytes_per_page(kv_tile_tokens, 1, shape.head_dim_vo, shape.kv);
  return tile_of(shape, kv, sequence, position, kv_head, kv.v, tile_bytes) + tile_bytes -
         (kv_tile_tokens - position % kv_tile_tokens) * sizeof(float);
}

/// Reads one stored element; of e4m3 without its scale.
[[nodiscard]] inline float load_kv(dtype kv, const std::byte* element) noexcept {
  if (kv == dtype::bf16) {
    bf16 x;
    std::memcpy(&x, element, sizeof x);
    return to_float(x);
  }
  if (kv == dtype::e4m3) {
    return to_float(static_cast<e4m3>(*element));
  }
  float x;
  std::memcpy(&x, element, sizeof x);
  return x;
}

enum class kv_part : std::uint8_t { k, v };

/// The number that K or V of token `position`, head `kv_head`, dim `dim` stands for: exactly.
template <kv_part Part>
[[nodiscard]] double kv_value(const attention_shape& shape,
                              const kv_layer_view& kv,
                              const paged_sequence& sequence,
                              std::uint32_t position,
                              std::uint32_t kv_head,
                              std::uint32_t dim) noexcept {
  constexpr auto element = Part == kv_part::k ? k_element : v_element;
  constexpr auto scale = Part == kv_part::k ? k_scale : v_scale;
  const double x = load_kv(shape.kv, element(shape, kv, sequence, position, kv_head, dim));
  return shape.kv == dtype::e4m3
             ? x * load_kv(dtype::f32, scale(shape, kv, sequence, position, kv_head))
             : x;
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
