// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// How the kernels see KV pages: one layer's K and V inside pages, and one sequence's block table.
///
/// A page holds `page_size` consecutive token positions of every layer of its pool. Inside a page,
/// one layer's part is two arrays, each cut by KV head and by tile of 16 token positions:
///
///     K of a page   [kv_heads][page_size / 16] tiles
///       bf16 tile   [ceil(head_dim_qk / 2)][16 keys][2 dims]   a pair of dims side by side
///       f32 tile    [head_dim_qk][16 keys]
///     V of a page   [kv_heads][page_size / 16] tiles
///       bf16 tile   [8 key pairs][head_dim_vo][2 keys]         a pair of keys side by side
///       f32 tile    [16 keys][head_dim_vo]
///     e4m3 tiles, of K and of V, behind which lie the scales of their keys:
///       K           [2 key groups][ceil(head_dim_qk / 8)][8 keys][8 dims], [16] f32
///       V           [2 key groups][head_dim_vo][8 keys], [16] f32
///       of four numbers side by side the order is 0 2 1 3: masks and shifts make two pairs of a
///       word, neighbours each, which is cheaper than byte by byte
///
/// Pairs side by side are what a bf16 dot-product instruction (vdpbf16ps) eats; 16 keys are one
/// AVX-512 register of f32 scores. An odd head_dim_qk is padded with one zero dim. On a CUDA device
/// a bf16 tile has the same bytes in another order: device/paged_kv_view.cuh.
///
/// e4m3 is for devices, and has one order everywhere. A scale is of one token, KV head, and K or V:
/// what a token's bytes are depends on the token alone, not on which tokens came with it or filled
/// its page first, as it would with a scale a page. Dims are padded with zeros to a multiple of 4,
/// of V as well; the last 8 of K may be 4.
///
///     scale   kv_scale_of(largest |x| of the head's numbers)
///     number  e4m3(x * (1 / scale)), in f32, each step rounded once: about x / scale
#pragma once

#include <oriel/core/dtype.hpp>

#include <cstddef>
#include <cstdint>

namespace oriel {

/// Token positions in one tile. page_size is a multiple of it.
inline constexpr std::uint32_t kv_tile_tokens = 16;

/// Keys whose numbers of one dim, or 8 of them, lie side by side in an e4m3 tile.
inline constexpr std::uint32_t kv_group_tokens = 8;

/// The scale of e4m3 numbers of which the largest is +-`largest`. A NaN among them must be
/// `largest`: the scale, and so every number of the head, is a NaN then.
[[nodiscard]] constexpr float kv_scale_of(float largest) noexcept {
  const float scale = largest / 448.0f;  // the largest number of e4m3
  return scale < 0x1p-126f ? 0x1p-126f : scale;
}

/// Dims that a head of K takes in memory, and of V where kv is e4m3.
[[nodiscard]] constexpr std::uint32_t stored_head_dims(std::uint32_t head_dim, dtype kv) noexcept {
  const std::uint32_t unit = kv == dtype::f32 ? 1u : kv == dtype::bf16 ? 2u : 4u;
  return (head_dim + unit - 1u) / unit * unit;
}

/// Where number i of a row of an e4m3 tile lies in it: of four the order is 0 2 1 3.
[[nodiscard]] constexpr std::uint32_t e4m3_place(std::uint32_t i) noexcept {
  return (i & ~3u) | (i & 1u) << 1 | (i >> 1 & 1u);
}

/// Bytes of the scale of a token of a head: none but in e4m3.
[[nodiscard]] constexpr std::size_t kv_scale_bytes(dtype kv) noexcept {
  return kv == dtype::e4m3 ? sizeof(float) : 0;
}

/// Bytes of one layer's K in a page of `page_size` tokens.
[[nodiscard]] constexpr std::size_t k_bytes_per_page(std::uint32_t page_size,
                                                     std::uint32_t kv_heads,
                                                     std::uint32_t head_dim_qk,
                                                     dtype kv) noexcept {
  const std::size_t token = stored_head_dims(head_dim_qk, kv) * size_bytes(kv) + kv_scale_bytes(kv);
  return std::size_t{page_size} * kv_heads * token;
}

/// Bytes of one layer's V in a page of `page_size` tokens.
[[nodiscard]] constexpr std::size_t v_bytes_per_page(std::uint32_t page_size,
                                                     std::uint32_t kv_heads,
                                                     std::uint32_t head_dim_vo,
                                                     dtype kv) noexcept {
  const std::size_t dims = kv == dtype::e4m3 ? stored_head_dims(head_dim_vo, kv) : head_dim_vo;
  return std::size_t{page_size} * kv_heads * (dims * size_bytes(kv) + kv_scale_bytes(kv));
}

/// One layer's KV inside a pool's pages: page p's K starts at `k + p * page_stride_bytes`.
struct kv_layer_view {
  std::byte* k;                   ///< K of this layer in page 0; 64-byte aligned
  std::byte* v;                   ///< V of this layer in page 0; 64-byte aligned
  std::size_t page_stride_bytes;  ///< from one page to the next; a multiple of 64
};

/// One sequence's part of a batch: which pages hold it and which rows are computed now.
///
/// Row r of the part stands at token position `first_position + r`. Logical page j (positions
/// [j * page_size, (j + 1) * page_size)) is `pages[j]`, or `pages[j % ring_pages]` in a ring.
struct paged_sequence {
  const std::uint32_t* pages;    ///< [pages of the sequence], or [ring_pages]
  std::uint32_t ring_pages;      ///< entries of a window ring; 0 for a flat table
  std::uint32_t first_position;  ///< token position of the first row
  std::uint32_t rows;            ///< rows (tokens) of this sequence in the batch; may be 0
  /// Keys before this position are not seen, as if the sequence began here, and none is written.
  std::uint32_t first_key = 0;
};

/// The physical page of logical page `logical`.
[[nodiscard]] constexpr std::uint32_t page_at(const paged_sequence& s,
                                              std::uint32_t logical) noexcept {
  return s.pages[s.ring_pages != 0 ? logical % s.ring_pages : logical];
}

}  // namespace oriel
