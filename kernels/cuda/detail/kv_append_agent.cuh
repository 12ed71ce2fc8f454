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
///     e4m3              8 neighbouring threads have a row's head: they find its scale together.
#pragma once

#include "find_row.cuh"
#include "thread_group.cuh"

#include <oriel/core/mutation.hpp>
#include <oriel/device/paged_kv_view.cuh>
#include <oriel/kernels/kv_append.hpp>

#include <bit>

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

/// Where the numbers and the scale of a row's head go.
struct scaled_k {
  ORIEL_HOST_DEVICE static std::uint32_t dims(const attention_shape& s) { return s.head_dim_qk; }
  ORIEL_HOST_DEVICE static const float* row(const kv_append_args& args, std::size_t row) {
    return args.k + row * args.k_stride;
  }
  ORIEL_HOST_DEVICE static float factor(const kv_append_args&) { return 1.0f; }
  template <class... At>
  ORIEL_HOST_DEVICE static e4m3& number(const paged_kv_view<dtype::e4m3>& view, const At&... at) {
    return view.k(at...);
  }
  template <class... At>
  ORIEL_HOST_DEVICE static float& scale(const paged_kv_view<dtype::e4m3>& view, const At&... at) {
    return view.k_scale(at...);
  }
};
struct scaled_v {
  ORIEL_HOST_DEVICE static std::uint32_t dims(const attention_shape& s) { return s.head_dim_vo; }
  ORIEL_HOST_DEVICE static const float* row(const kv_append_args& args, std::size_t row) {
    return args.v + row * args.v_stride;
  }
  ORIEL_HOST_DEVICE static float factor(const kv_append_args& args) { return args.v_scale; }
  template <class... At>
  ORIEL_HOST_DEVICE static e4m3& number(const paged_kv_view<dtype::e4m3>& view, const At&... at) {
    return view.v(at...);
  }
  template <class... At>
  ORIEL_HOST_DEVICE static float& scale(const paged_kv_view<dtype::e4m3>& view, const At&... at) {
    return view.v_scale(at...);
  }
};

template <class Part, class Group>
ORIEL_HOST_DEVICE void append_scaled(const attention_shape& shape,
                                     const kv_append_args& args,
                                     std::uint32_t block,
                                     std::uint32_t head,
                                     Group& g) {
  const paged_kv_view<dtype::e4m3> view(shape, args.kv);
  const std::uint32_t dims = Part::dims(shape), stored = view.stored_dims(dims);
  const float factor = Part::factor(args);
  typename Group::template var<row_home> home;
  typename Group::template var<std::uint32_t> largest;
  const auto row_of = [&](std::uint32_t thread) {
    return block * kv_append_rows + thread / kv_group_tokens;
  };
  const auto numbers = [&](std::uint32_t thread) {
    return Part::row(args, row_of(thread)) + std::size_t{head} * dims;
  };
  g.each([&](std::uint32_t thread) {
    home[thread] = find_row(args.sequences, row_of(thread));
    std::uint32_t bits = 0;  // Of |x|: they are in its order, and a NaN's are the largest.
    for (std::uint32_t d = thread % kv_group_tokens; home[thread].sequence != nullptr && d < dims;
         d += kv_group_tokens) {
      const std::uint32_t b =
          std::bit_cast<std::uint32_t>(numbers(thread)[d] * factor) & 0x7FFF'FFFFu;
      bits = b > bits ? b : bits;
    }
    largest[thread] = bits;
  });
  largest = g.template max_over<kv_group_tokens>(largest);
  g.each([&](std::uint32_t thread) {
    const row_home& at = home[thread];
    if (at.sequence == nullptr ||
        (at.position < at.sequence->first_key && !ORIEL_MUTANT(e4m3_append_writes_cached_rows))) {
      return;
    }
    const float scale = kv_scale_of(std::bit_cast<float>(largest[thread]));
    const float inverse = 1.0f / scale;
    for (std::uint32_t d = thread % kv_group_tokens; d < stored; d += kv_group_tokens) {
      const float x = d < dims ? numbers(thread)[d] * factor : 0.0f;
      Part::number(view, *at.sequence, at.position, head, d) = to_e4m3(x * inverse);
    }
    if (thread % kv_group_tokens == 0) {
      Part::scale(view, *at.sequence, at.position, head) = scale;
    }
  });
}

/// The block's rows of one KV head. `Group` has kv_append_threads.
template <class Group>
ORIEL_HOST_DEVICE void kv_append_scaled(const attention_shape& shape,
                                        const kv_append_args& args,
                                        std::uint32_t block,
                                        std::uint32_t head,
                                        Group g) {
  append_scaled<scaled_k>(shape, args, block, head, g);
  append_scaled<scaled_v>(shape, args, block, head, g);
}

}  // namespace oriel::detail
