// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What one thread of the KV append kernel does.
///
///     block (x, head)   rows [16 x, 16 x + 16) of the batch, one KV head; 128 threads
///     K                 thread t: row t / 8, dims t % 8, t % 8 + 8, ...  In bf16, 8 dims of a key
///                       are side by side: 8 threads fill 16 bytes, a warp those of 4 keys.
///     V                 thread t: rows t % 8, t % 8 + 8, dims t / 8, t / 8 + 16, ...  In bf16, 8
///                       keys of a dim are side by side.
#pragma once

#include "find_row.cuh"

#include <oriel/device/paged_kv_view.cuh>
#include <oriel/kernels/kv_append.hpp>

namespace oriel::detail {

inline constexpr std::uint32_t kv_append_rows = kv_tile_tokens;  // per block
inline constexpr std::uint32_t kv_append_threads = 128;

template <dtype Kv>
ORIEL_HOST_DEVICE void append_k(const attention_shape& shape,
                                const kv_append_args& args,
                                const paged_kv_view<Kv>& view,
                                std::uint32_t block,
                                std::uint32_t head,
                                std::uint32_t thread) {
  const std::uint32_t row = block * kv_append_rows + thread / kv_group_tokens;
  const row_home home = find_row(args.sequences, row);
  if (home.sequence == nullptr || home.position < home.sequence->first_key) {
    return;
  }
  const std::uint32_t dims = shape.head_dim_qk, stored = view.stored_dims(dims);
  const float* k = args.k + row * args.k_stride + std::size_t{head} * dims;
  for (std::uint32_t d = thread % kv_group_tokens; d < stored; d += kv_group_tokens) {
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
  for (std::uint32_t r = thread % kv_group_tokens; r < kv_append_rows; r += kv_group_tokens) {
    const std::uint32_t row = block * kv_append_rows + r;
    const row_home home = find_row(args.sequences, row);
    if (home.sequence == nullptr) {
      return;
    }
    if (home.position < home.sequence->first_key) {
      continue;
    }
    const float* v = args.v + row * args.v_stride + std::size_t{head} * shape.head_dim_vo;
    for (std::uint32_t d = thread / kv_group_tokens; d < shape.head_dim_vo;
         d += kv_append_threads / kv_group_tokens) {
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
