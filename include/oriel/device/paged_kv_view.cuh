// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `paged_kv_view`: one layer's KV pages as a thread of a kernel sees them, element by element.
///
/// Pages, heads and tiles of 16 tokens lie as in kernels/paged_kv.hpp, and take as many bytes. f32
/// tiles are the host's. Inside a bf16 tile the order is another, so that a tile copied into shared
/// memory as it is can be an operand of a tensor core: 8 x 8 elements, K-major, 128 bytes in a row
/// (a "core matrix" of wgmma without swizzle, and what ldmatrix reads without a bank conflict).
///
///     K   bf16 tile   [2 key groups][ceil(head_dim_qk / 8)][8 keys][8 dims]
///     V   bf16 tile   [2 key groups][head_dim_vo][8 keys]
///
/// The last 8 dims of K may be fewer: the remainder of head_dim_qk, padded to an even number by a
/// zero. Only a device has this order: pages that leave it are permuted into the host's on their
/// way, and back when they return (kernels/kv_copy.hpp). KV of a device and of the host are two
/// arithmetics all the same (docs/arithmetic.md).
/// Units that include this need nvcc's --expt-relaxed-constexpr.
#pragma once

#include <oriel/device/host_device.cuh>
#include <oriel/kernels/reference/kv_element.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace oriel {

/// Tokens whose K or V lie in one core matrix.
inline constexpr std::uint32_t kv_group_tokens = 8;

/// Index of element (key, dim) in a device's K tile, in elements. `stored_dims`: of a K head.
[[nodiscard]] ORIEL_HOST_DEVICE constexpr std::size_t device_index_in_k_tile(
    dtype kv, std::uint32_t stored_dims, std::uint32_t key, std::uint32_t dim) {
  if (kv == dtype::f32) {
    return reference::index_in_k_tile(kv, key, dim);
  }
  constexpr std::uint32_t side = 8;  // of a core matrix
  const std::uint32_t chunk = dim / side * side, left = stored_dims - chunk;
  const std::uint32_t width = left < side ? left : side;
  return std::size_t{key / kv_group_tokens} * kv_group_tokens * stored_dims +
         chunk * kv_group_tokens + key % kv_group_tokens * width + (dim - chunk);
}

/// Index of element (key, dim) in a device's V tile, in elements.
[[nodiscard]] ORIEL_HOST_DEVICE constexpr std::size_t device_index_in_v_tile(
    dtype kv, std::uint32_t head_dim_vo, std::uint32_t key, std::uint32_t dim) {
  if (kv == dtype::f32) {
    return reference::index_in_v_tile(kv, head_dim_vo, key, dim);
  }
  return (std::size_t{key / kv_group_tokens} * head_dim_vo + dim) * kv_group_tokens +
         key % kv_group_tokens;
}

/// Where K and V of one token lie. `Kv` is the storage type: f32 or bf16.
template <dtype Kv>
class paged_kv_view {
 public:
  static_assert(Kv == dtype::f32 || Kv == dtype::bf16);
  using element = std::conditional_t<Kv == dtype::bf16, bf16, float>;

  /// @pre shape.kv == Kv
  ORIEL_HOST_DEVICE paged_kv_view(const attention_shape& shape, const kv_layer_view& kv)
      : kv_(kv),
        page_size_(shape.page_size),
        stored_dims_(stored_dims(shape.head_dim_qk)),
        head_dim_vo_(shape.head_dim_vo),
        k_tile_bytes_(k_bytes_per_page(kv_tile_tokens, 1, shape.head_dim_qk, Kv)),
        v_tile_bytes_(v_bytes_per_page(kv_tile_tokens, 1, shape.head_dim_vo, Kv)) {}

  /// Byte offset from the layer's K in page 0 to element (position, head, dim).
  /// @pre dim < stored_dims(head_dim_qk)
  [[nodiscard]] ORIEL_HOST_DEVICE std::size_t k_offset_bytes(const paged_sequence& sequence,
                                                             std::uint32_t position,
                                                             std::uint32_t head,
                                                             std::uint32_t dim) const {
    return tile_offset_bytes(sequence, position, head, k_tile_bytes_) +
           device_index_in_k_tile(Kv, stored_dims_, position % kv_tile_tokens, dim) *
               sizeof(element);
  }

  /// As k_offset_bytes, for V. @pre dim < head_dim_vo
  [[nodiscard]] ORIEL_HOST_DEVICE std::size_t v_offset_bytes(const paged_sequence& sequence,
                                                             std::uint32_t position,
                                                             std::uint32_t head,
                                                             std::uint32_t dim) const {
    const std::uint32_t key = position % kv_tile_tokens;
    return tile_offset_bytes(sequence, position, head, v_tile_bytes_) +
           device_index_in_v_tile(Kv, head_dim_vo_, key, dim) * sizeof(element);
  }

  /// The element itself.
  [[nodiscard]] ORIEL_HOST_DEVICE element& k(const paged_sequence& sequence,
                                             std::uint32_t position,
                                             std::uint32_t head,
                                             std::uint32_t dim) const {
    return *reinterpret_cast<element*>(kv_.k + k_offset_bytes(sequence, position, head, dim));
  }
  [[nodiscard]] ORIEL_HOST_DEVICE element& v(const paged_sequence& sequence,
                                             std::uint32_t position,
                                             std::uint32_t head,
                                             std::uint32_t dim) const {
    return *reinterpret_cast<element*>(kv_.v + v_offset_bytes(sequence, position, head, dim));
  }

  /// Dims a K head takes in memory: an odd head_dim_qk is padded with one zero in bf16.
  [[nodiscard]] ORIEL_HOST_DEVICE static std::uint32_t stored_dims(std::uint32_t head_dim_qk) {
    return Kv == dtype::bf16 ? (head_dim_qk + 1) / 2 * 2 : head_dim_qk;
  }

  /// `value`, rounded to the storage type.
  [[nodiscard]] ORIEL_HOST_DEVICE static element stored(float value) {
    if constexpr (Kv == dtype::bf16) {
      return to_bf16(value);
    } else {
      return value;
    }
  }

 private:
  // Pages hold [kv_heads][page_size / 16] tiles.
  [[nodiscard]] ORIEL_HOST_DEVICE std::size_t tile_offset_bytes(const paged_sequence& sequence,
                                                                std::uint32_t position,
                                                                std::uint32_t head,
                                                                std::size_t tile_bytes) const {
    const std::size_t page = page_at(sequence, position / page_size_);
    const std::uint32_t tile = position % page_size_ / kv_tile_tokens;
    const std::size_t tiles_per_head = page_size_ / kv_tile_tokens;
    return page * kv_.page_stride_bytes + (head * tiles_per_head + tile) * tile_bytes;
  }

  kv_layer_view kv_;
  std::uint32_t page_size_;
  std::uint32_t stored_dims_;
  std::uint32_t head_dim_vo_;
  std::size_t k_tile_bytes_;  // of one head's 16 tokens
  std::size_t v_tile_bytes_;
};

}  // namespace oriel
