// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What one thread of the KV append kernel does.
///
///     block (x, head)   rows [16 x, 16 x + 16) of the batch, one KV head; 128 threads
///     K                 thread t: row t % 16, dims t / 16, t / 16 + 8, ...  A tile keeps 16 keys
///                       side by side, so half a warp fills one 64-byte line of it.
///     V                 thread t: rows t / 32, t / 32 + 4, ..., dims t % 32, t % 32 + 32, ...
///                       A row of V is read and written along its dims.
#pragma once

#include <oriel/device/paged_kv_view.cuh>
#include <oriel/kernels/kv_append.hpp>

namespace oriel::detail {

inline constexpr std::uint32_t kv_append_rows = kv_tile_tokens;  // per block
inline constexpr std::uint32_t kv_append_threads = 128;

/// Where a row of the batch belongs.
struct row_home {
  const paged_sequence* sequence;  ///< null: the batch has no such row
  std::uint32_t position;
};

/// Sequences are few and every thread of a block walks the same ones. O(sequences).
ORIEL_HOST_DEVICE inline row_home find_row(const kv_append_args& args, std::uint32_t row) {
  const paged_sequence* sequence = args.sequences.data();
  const paged_sequence* end = sequence + args.sequences.size();
  for (; sequence != end; ++sequence) {
    if (row < sequence->rows) {
      return {sequence, sequence->first_position + row};
    }
    row -= sequence->rows;
  }
  return {nullptr, 0};
}

template <dtype Kv>
ORIEL_HOST_DEVICE void append_k(const attention_shape& shape,
                                const kv_append_args& args,
                                const paged_kv_view<Kv>& view,
                                std::uint32_t block,
                                std::uint32_t head,
                                std::uint32_t thread) {
  const std::uint32_t row = block * kv_append_rows + thread % kv_append_rows;
  const row_home home = find_row(args, row);
  if (home.sequence == nullptr) {
    return;
  }
  const std::uint32_t dims = shape.head_dim_qk, stored = view.stored_dims(dims);
  const float* k = args.k + row * args.k_stride + std::size_t{head} * dims;
  for (std::uint32_t d = thread / kv_append_rows; d < stored;
       d += kv_append_threads / kv_append_rows) {
    view.k(*home.sequence, home.position, head, d) = view.stored(d < dims ? k[d] : 0.0f);
  }
}

template <dtype Kv>
ORIEL_HOST_DEVICE void append_v(const attention_shape& shape,
                                const kv_append_args& args,
                                const paged_kv_view<Kv>& view,
                                std::uint32_t block,
                                std::uint32_t head,
                                std::uint32_t thread) {
  constexpr std::uint32_t warp = 32;
  for (std::uint32_t r = thread / warp; r < kv_append_rows; r += kv_append_threads / warp) {
    const std::uint32_t row = block * kv_append_rows + r;
    const row_home home = find_row(args, row);
    if (home.sequence == nullptr) {
      return;
    }
    const float* v = args.v + row * args.v_stride + std::size_t{head} * shape.head_dim_vo;
    for (std::uint32_t d = thread % warp; d < shape.head_dim_vo; d += warp) {
      view.v(*home.sequence, home.position, head, d) = view.stored(v[d] * args.v_scale);
    }
  }
}

template <dtype Kv>
ORIEL_HOST_DEVICE void kv_append_thread(const attention_shape& shape,
                                        const kv_append_args& args,
                                        std::uint32_t block,
                                        std::uint32_t head,
                                        std::uint32_t thread) {
  const paged_kv_view<Kv> view(shape, args.kv);
  append_k(shape, args, view, block, head, thread);
  append_v(shape, args, view, block, head, thread);
}

}  // namespace oriel::detail
