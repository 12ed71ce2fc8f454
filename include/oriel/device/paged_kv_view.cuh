// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `paged_kv_view`: one layer's KV pages as a thread of a kernel sees them, element by element.
///
/// Pages, heads and tiles of 16 tokens lie as in kernels/paged_kv.hpp, and take as many bytes. f32
/// and e4m3 tiles are as there. Inside a bf16 tile the order is another, so that a tile copied into
/// shared memory as it is can be an operand of a tensor core: 8 x 8 elements, K-major, 128 bytes in
/// a row (a "core matrix" of wgmma without swizzle, and what ldmatrix reads without a bank
/// conflict).
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

/// Index of element (key, dim) in a device's K tile, in elements. `stored_dims`: of a K head.
[[nodiscard]] ORIEL_HOST_DEVICE constexpr std::size_t device_index_in_k_tile(
    dtype kv, std::uint32_t stored_dims, std::uint32_t key, std::uint32_t dim) {
  if (kv == dtype::f32) {
    return reference::index_in_k_tile(kv, key, dim);
  }
  if (kv == dtype::e4m3) {
    return reference::index_in_e4m3_k_tile(stored_dims, key, dim);
  }
  return reference::index_in_grouped_k_tile(stored_dims, key, dim);
}

/// Index of element (key, dim) in a device's V tile, in elements. `head_dim_vo`: as stored.
[[nodiscard]] ORIEL_HOST_DEVICE constexpr std::size_t device_index_in_v_tile(
    dtype kv, std::uint32_t head_dim_vo, std::uint32_t key, std::uint32_t dim) {
  if (kv == dtype::f32) {
    return reference::index_in_v_tile(kv, head_dim_vo, key, dim);
  }
  if (kv == dtype::e4m3) {
    return reference::index_in_e4m3_v_tile(head_dim_vo, key, dim);
  }
  return reference::index_in_grouped_v_tile(head_dim_vo, key, dim);
}

/// Where K and V of one token lie. `Kv` is the storage type.
template <dtype Kv>
class paged_kv_view {
 public:
  using element = std::
      conditional_t<Kv == dtype::f32, float, std::conditional_t<Kv == dtype::bf16, bf16, e4m3>>;

  /// @pre shape.kv == Kv
  ORIEL_HOST_DEVICE paged_kv_view(const attention_shape& shape, const kv_layer_view& kv)
      : kv_(kv),
        page_size_(shape.page_size),
        stored_dims_(stored_dims(shape.head_dim_qk)),
        stored_dims_vo_(Kv == dtype::e4m3 ? stored_dims(shape.head_dim_vo) : shape.head_dim_vo),
        k_tile_bytes_(k_bytes_per_page(kv_tile_tokens, 1, shape.head_dim_qk, Kv)),
        v_tile_bytes_(v_bytes_per_page(kv_tile_tokens, 1, shape.head_dim_vo, Kv)) {}

  /// Byte offset from the layer's K in page 0 to the tile of a token's head: its page is looked up.
  [[nodiscard]] ORIEL_HOST_DEVICE std::size_t k_tile(const paged_sequence& sequence,
                                                     std::uint32_t position,
                                                     std::uint32_t head) const {
    return tile_offset_bytes(sequence, position, head, k_tile_bytes_);
  }
  /// As k_tile, for V.
  [[nodiscard]] ORIEL_HOST_DEVICE std::size_t v_tile(const paged_sequence& sequence,
                                                     std::uint32_t position,
                                                     std::uint32_t head) const {
    return tile_offset_bytes(sequence, position, head, v_tile_bytes_);
  }

  /// An element of a tile. @pre key < 16, dim < stored_dims(head_dim_qk)
  [[nodiscard]] ORIEL_HOST_DEVICE element& k_in(std::size_t k_tile,
                                                std::uint32_t key,
                                                std::uint32_t dim) const {
    return reinterpret_cast<element*>(kv_.k +
                                      k_tile)[device_index_in_k_tile(Kv, stored_dims_, key, dim)];
  }
  /// As k_in. @pre dim < stored_dims_vo()
  [[nodiscard]] ORIEL_HOST_DEVICE element& v_in(std::size_t v_tile,
                                                std::uint32_t key,
                                                std::uint32_t dim) const {
    return reinterpret_cast<element*>(
        kv_.v + v_tile)[device_index_in_v_tile(Kv, stored_dims_vo_, key, dim)];
  }

  /// The scale of a token in its tile. @pre Kv is e4m3
  [[nodiscard]] ORIEL_HOST_DEVICE float& k_scale_in(std::size_t k_tile, std::uint32_t key) const {
    return scale_in(kv_.k + k_tile + k_tile_bytes_, key);
  }
  [[nodiscard]] ORIEL_HOST_DEVICE float& v_scale_in(std::size_t v_tile, std::uint32_t key) const {
    return scale_in(kv_.v + v_tile + v_tile_bytes_, key);
  }

  /// The same of a token that is looked up.
  [[nodiscard]] ORIEL_HOST_DEVICE element& k(const paged_sequence& sequence,
                                             std::uint32_t position,
                                             std::uint32_t head,
                                             std::uint32_t dim) const {
    return k_in(k_tile(sequence, position, head), position % kv_tile_tokens, dim);
  }
  [[nodiscard]] ORIEL_HOST_DEVICE element& v(const paged_sequence& sequence,
                                             std::uint32_t position,
                                             std::uint32_t head,
                                             std::uint32_t dim) const {
    return v_in(v_tile(sequence, position, head), position % kv_tile_tokens, dim);
  }
  [[nodiscard]] ORIEL_HOST_DEVICE float& k_scale(const paged_sequence& sequence,
                                                 std::uint32_t position,
                                                 std::uint32_t head) const {
    return k_scale_in(k_tile(sequence, position, head), position % kv_tile_tokens);
  }
  [[nodiscard]] ORIEL_HOST_DEVICE float& v_scale(const paged_sequence& sequence,
                                                 std::uint32_t position,
                                                 std::uint32_t head) const {
    return v_scale_in(v_tile(sequence, position, head), position % kv_tile_tokens);
  }

  /// Dims a head takes in memory: zeros pad it to an even number in bf16, to a multiple of 4 in
  /// e4m3.
  [[nodiscard]] ORIEL_HOST_DEVICE static std::uint32_t stored_dims(std::uint32_t head_dim) {
    return stored_head_dims(head_dim, Kv);
  }

  /// Of a head of V.
  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t stored_dims_vo() const { return stored_dims_vo_; }

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

  // Scales lie behind the numbers of a tile.
  [[nodiscard]] ORIEL_HOST_DEVICE static float& scale_in(std::byte* tile_end, std::uint32_t key) {
    return reinterpret_cast<float*>(
        tile_end)[static_cast<std::ptrdiff_t>(key) - static_cast<std::ptrdiff_t>(kv_tile_tokens)];
  }

  kv_layer_view kv_;
  std::uint32_t page_size_;
  std::uint32_t stored_dims_;
  std::uint32_t stored_dims_vo_;
  std::size_t k_tile_bytes_;  // of one head's 16 tokens
  std::size_t v_tile_bytes_;
};

}  // namespace oriel
