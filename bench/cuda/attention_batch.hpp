// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Batches of attention with random content: 64 query heads, 4 of KV, 192/128, pages of 64 tokens.
#pragma once

#include "measure.hpp"

#include <oriel/core/random.hpp>
#include <oriel/kernels/attention.hpp>

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

namespace oriel::bench {

inline constexpr std::uint32_t page_tokens = 64, q_heads = 64, kv_heads = 4, dk = 192, dv = 128;
inline constexpr std::uint32_t window = 128, ring_pages = window / page_tokens + 1;
/// K and V of a token, whatever belongs to them (scales) included.
[[nodiscard]] inline double kv_token_bytes(dtype kv = dtype::bf16) {
  return static_cast<double>(k_bytes_per_page(page_tokens, kv_heads, dk, kv) +
                             v_bytes_per_page(page_tokens, kv_heads, dv, kv)) /
         page_tokens;
}
inline constexpr double row_bytes = 2.0 * q_heads * (dk + dv);  // Q and O

[[nodiscard]] inline attention_shape shape_of(std::uint32_t window_tokens, dtype kv = dtype::bf16) {
  return {q_heads, kv_heads, dk, dv, page_tokens, window_tokens, kv};
}

enum class pages : std::uint8_t { scattered, in_order };

/// Sequences of random content, `rows` computed rows at the end of each.
class batch {
 public:
  batch(const attention_shape& shape,
        const std::vector<std::uint32_t>& keys,
        std::uint32_t rows,
        pages order = pages::scattered,
        bool has_rings = false,
        std::uint32_t multiprocessors = facts().multiprocessors) {
    std::vector<std::uint32_t> first_page{0};
    for (const std::uint32_t n : keys) {
      first_page.push_back(first_page.back() +
                           (has_rings ? ring_pages : (n - 1) / page_tokens + 1));
    }
    std::vector<std::uint32_t> table(first_page.back());
    std::iota(table.begin(), table.end(), 0u);
    random_stream random(table.size());
    for (std::uint32_t i = first_page.back(); order == pages::scattered && i > 1; --i) {
      std::swap(table[i - 1], table[random.next_below(i)]);
    }
    table_ = on_device(table);
    const auto count = static_cast<std::uint32_t>(keys.size());
    std::vector<paged_sequence> parts;
    for (std::uint32_t i = 0; i < count; ++i) {
      parts.push_back({table_.as<std::uint32_t>() + first_page[i],
                       has_rings ? ring_pages : 0,
                       keys[i] - rows,
                       rows});
    }
    parts_ = on_device(parts);
    const auto plan = cuda::plan_attention(shape,
                                           {.sequences_max = count,
                                            .rows_max = count * rows,
                                            .rows_per_sequence_max = rows,
                                            .keys_max = *std::ranges::max_element(keys),
                                            .multiprocessors = multiprocessors});
    require(static_cast<bool>(plan), "plan_attention");
    plan_ = *plan;
    const std::size_t k_bytes = k_bytes_per_page(page_tokens, kv_heads, dk, shape.kv),
                      v_bytes = v_bytes_per_page(page_tokens, kv_heads, dv, shape.kv);
    kv_ = device_bytes(table.size() * (k_bytes + v_bytes), shape.kv);
    q_ = device_bytes(std::size_t{2} * count * rows * q_heads * dk, dtype::bf16);
    out_ = device_bytes(std::size_t{2} * count * rows * q_heads * dv, dtype::bf16);
    workspace_ = device_bytes(plan_.workspace_bytes, dtype::f32);
    sinks_ = device_bytes(q_heads * sizeof(float), dtype::f32);
    args_ = {.out = out_.as<bf16>(),
             .q = q_.as<bf16>(),
             .q_stride = std::size_t{q_heads} * dk,
             .kv = {kv_.data(), kv_.data() + k_bytes, k_bytes + v_bytes},
             .sequences = {parts_.as<paged_sequence>(), count},
             .sinks = sinks_.as<float>(),
             .scale = 0.0721688f};
  }

  void operator()(cudaStream_t stream) const {
    require(static_cast<bool>(cuda::run_attention(
                plan_, args_, {workspace_.data(), plan_.workspace_bytes}, stream)),
            "run_attention");
  }

 private:
  cuda::attention_plan plan_{};
  basic_attention_args<bf16> args_{};
  device_bytes table_, parts_, kv_, q_, out_, workspace_, sinks_;
};

}  // namespace oriel::bench
