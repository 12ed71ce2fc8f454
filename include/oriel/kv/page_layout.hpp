// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `page_layout`: where each layer's K and V stand inside one page of a pool.
///
///     page p of a pool, at base + p * page_bytes()
///     +----------+----------+----------+----------+- ... -+------------+
///     | K, slot 0| V, slot 0| K, slot 1| V, slot 1|       | V, last    |
///     +----------+----------+----------+----------+- ... -+------------+
///     0          every part starts at a multiple of 64 bytes           page_bytes()
///
/// A page holds every layer of its pool, so one id per logical page serves them all. What K and V
/// look like inside (heads, tiles of 16 tokens) is told in kernels/paged_kv.hpp. Layers of one pool
/// may differ in heads, in widths (head_dim_qk != head_dim_vo) and in dtype.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/dtype.hpp>
#include <oriel/kernels/paged_kv.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel {

/// What one attention layer stores, and for how long.
struct kv_layer_shape {
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim_qk = 0;  ///< elements of one K head
  std::uint32_t head_dim_vo = 0;  ///< elements of one V head
  /// Keys a query sees, itself included; 0 = all (full attention).
  std::uint32_t window_tokens = 0;
  dtype kv = dtype::bf16;
  /// Of a layer that only drafts: what it keeps may be missing or depend on tokens behind it, so it
  /// has a kind of its own (pool_plan::soft_kind).
  bool is_soft = false;

  friend bool operator==(const kv_layer_shape&, const kv_layer_shape&) = default;
};

/// Offsets of the layers' parts in a page. A *slot* is a layer's place in its pool: 0, 1, ...
class page_layout {
 public:
  static constexpr std::size_t part_alignment_bytes = 64;

  /// Lays out `layers` in their order. O(layers). No layer is allowed: then a page has 0 bytes.
  /// @pre    page_size > 0
  /// @throws std::bad_alloc
  page_layout(std::uint32_t page_size, std::span<const kv_layer_shape> layers)
      : page_size_(page_size) {
    ORIEL_EXPECTS(page_size > 0);
    parts_.reserve(layers.size());
    for (const kv_layer_shape& l : layers) {
      const std::size_t k = page_bytes_;
      const std::size_t v =
          k + aligned(k_bytes_per_page(page_size, l.kv_heads, l.head_dim_qk, l.kv));
      page_bytes_ = v + aligned(v_bytes_per_page(page_size, l.kv_heads, l.head_dim_vo, l.kv));
      parts_.push_back({k, v});
    }
  }

  /// Tokens per page.
  [[nodiscard]] std::uint32_t page_size() const noexcept { return page_size_; }
  /// Bytes from one page to the next; a multiple of 64.
  [[nodiscard]] std::size_t page_bytes() const noexcept { return page_bytes_; }
  /// Layers in the pool.
  [[nodiscard]] std::uint32_t slots() const noexcept {
    return static_cast<std::uint32_t>(parts_.size());
  }

  /// Byte offset of a layer's K in a page. @pre slot < slots()
  [[nodiscard]] std::size_t k_offset_bytes(std::uint32_t slot) const noexcept {
    ORIEL_EXPECTS(slot < slots());
    return parts_[slot].k;
  }
  /// Byte offset of a layer's V in a page. @pre slot < slots()
  [[nodiscard]] std::size_t v_offset_bytes(std::uint32_t slot) const noexcept {
    ORIEL_EXPECTS(slot < slots());
    return parts_[slot].v;
  }
  /// Bytes of a layer in a page: K, V and what aligns them. They lie side by side, so this is its
  /// slice of a record in a tier (`store_item::slices`). @pre slot < slots()
  [[nodiscard]] std::size_t slice_bytes(std::uint32_t slot) const noexcept {
    const std::size_t begin = k_offset_bytes(slot);
    return (slot + 1 < slots() ? parts_[slot + 1].k : page_bytes_) - begin;
  }

  /// What kernels need of one layer, for pages that start at `base`. @pre slot < slots()
  [[nodiscard]] kv_layer_view layer(std::uint32_t slot, std::byte* base) const noexcept {
    return {base + k_offset_bytes(slot), base + v_offset_bytes(slot), page_bytes_};
  }

 private:
  struct part {
    std::size_t k;  // byte offsets in a page
    std::size_t v;
  };

  static constexpr std::size_t aligned(std::size_t bytes) noexcept {
    return (bytes + part_alignment_bytes - 1) / part_alignment_bytes * part_alignment_bytes;
  }

  std::vector<part> parts_;  // [slots]
  std::size_t page_bytes_ = 0;
  std::uint32_t page_size_;
};

}  // namespace oriel
