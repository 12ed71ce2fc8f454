// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A random KV append: shape, tables, rows and poisoned pages, for the tests of the device kernel
/// on the host (tests/device) and on a device (tests/cuda).
#pragma once

#include <oriel/core/random.hpp>
#include <oriel/kernels/kv_append.hpp>

#include <kernels/attention_case.hpp>

#include <array>
#include <vector>

namespace oriel::test {

/// Two flat tables, an empty part, and a ring that goes round; f32, bf16 or e4m3 by the seed. Half
/// of the cases have rows of K that can be read 16 bytes at a time.
struct append_case {
  static constexpr std::uint32_t pages = 16;

  explicit append_case(std::uint64_t seed) {
    random_stream random(seed, 31);
    shape = {.q_heads = 4,
             .kv_heads = 1 + random.next_below(4),
             .head_dim_qk = 1 + random.next_below(200),
             .head_dim_vo = 1 + random.next_below(140),
             .page_size = 16 * (1 + random.next_below(4)),
             .window_tokens = 0,
             .kv = seed % 3 == 0   ? dtype::f32
                   : seed % 3 == 1 ? dtype::bf16
                                   : dtype::e4m3};
    const bool is_wide = random.next_below(2) == 0;
    if (is_wide) {
      shape.head_dim_qk = (shape.head_dim_qk + 7) / 8 * 8;
    }
    parts = {
        paged_sequence{tables.data(), 0, random.next_below(10), 1 + random.next_below(50)},
        paged_sequence{tables.data(), 0, 0, 0},
        paged_sequence{tables.data() + 4, 3, 100 + random.next_below(100), random.next_below(30)},
        paged_sequence{tables.data() + 7, 0, random.next_below(20), 1}};
    for (paged_sequence& part : parts) {
      rows += part.rows;
      if (random.next_below(3) == 0) {
        part.first_key = part.first_position + random.next_below(part.rows + 2);
      }
    }
    k_stride = std::size_t{shape.kv_heads} * shape.head_dim_qk + (is_wide ? 4 : 3);
    v_stride = std::size_t{shape.kv_heads} * shape.head_dim_vo + 5;
    k = random_floats(random, rows * k_stride);
    v = random_floats(random, rows * v_stride);
    const auto lines = [](std::size_t bytes) { return (bytes + 63) / 64 * 64; };
    k_bytes = lines(k_bytes_per_page(shape.page_size, shape.kv_heads, shape.head_dim_qk, shape.kv));
    page_bytes = k_bytes + lines(v_bytes_per_page(
                               shape.page_size, shape.kv_heads, shape.head_dim_vo, shape.kv));
  }

  [[nodiscard]] std::size_t pool_bytes() const { return pages * page_bytes; }
  [[nodiscard]] kv_layer_view view(std::byte* pool) const {
    return {pool, pool + k_bytes, page_bytes};
  }
  [[nodiscard]] kv_append_args args(std::byte* pool) const {
    return {view(pool), k.data(), v.data(), k_stride, v_stride, 0.707f, parts};
  }

  attention_shape shape{};
  std::array<std::uint32_t, 10> tables{7, 2, 9, 0, 5, 11, 3, 15, 12, 1};  // 4 pages, ring of 3, 3
  std::array<paged_sequence, 4> parts{};
  std::uint32_t rows = 0;
  std::size_t k_stride, v_stride, k_bytes, page_bytes;
  std::vector<float> k, v;

  append_case(const append_case&) = delete;  // `parts` point into `tables`
  append_case& operator=(const append_case&) = delete;
};

}  // namespace oriel::test
