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
///
/// Pairs side by side are what a bf16 dot-product instruction (vdpbf16ps) eats; 16 keys are one
/// AVX-512 register of f32 scores. An odd head_dim_qk is padded with one zero dim. On a CUDA device
/// a bf16 tile has the same bytes in another order: device/paged_kv_view.cuh.
#pragma once

#include <oriel/core/dtype.hpp>

#include <cstddef>
#include <cstdint>

namespace oriel {

/// Token positions in one tile. page_size is a multiple of it.
inline constexpr std::uint32_t kv_tile_tokens = 16;

/// Bytes of one layer's K in a page of `page_size` tokens. @pre kv is f32 or bf16
[[nodiscard]] constexpr std::size_t k_bytes_per_page(std::uint32_t page_size,
                                                     std::uint32_t kv_heads,
                                                     std::uint32_t head_dim_qk,
                                                     dtype kv) noexcept {
  const std::size_t dims = kv == dtype::bf16 ? (head_dim_qk + 1u) / 2u * 2u : head_dim_qk;
  return std::size_t{page_size} * kv_heads * dims * size_bytes(kv);
}

/// Bytes of one layer's V in a page of `page_size` tokens.
[[nodiscard]] constexpr std::size_t v_bytes_per_page(std::uint32_t page_size,
                                                     std::uint32_t kv_heads,
                                                     std::uint32_t head_dim_vo,
                                                     dtype kv) noexcept {
  return std::size_t{page_size} * kv_heads * head_dim_vo * size_bytes(kv);
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
