// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A random copy of KV pages: shape, orders, layers in pools that are laid out differently, and
/// pairs of pages; for the tests of the device kernel on the host (tests/device) and on a device
/// (tests/cuda).
#pragma once

#include <oriel/core/random.hpp>
#include <oriel/kernels/kv_copy.hpp>

#include <kernels/attention_case.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <numeric>
#include <utility>
#include <vector>

namespace oriel::test {

/// Where the layers of one side lie, as offsets into its memory.
struct copy_pool {
  std::vector<std::size_t> k, v;  // [layers]
  std::size_t page_stride_bytes = 0;
  std::size_t bytes = 0;
  std::uint32_t pages = 0;

  /// Page by page, the layers of a page side by side, with room between them if there are gaps; or
  /// layer by layer.
  copy_pool(const attention_shape& s,
            std::uint32_t layers,
            std::uint32_t page_count,
            bool is_by_page,
            bool has_gaps)
      : pages(page_count) {
    const auto lines = [](std::size_t n) { return (n + 63) / 64 * 64; };
    const std::size_t gap = has_gaps ? 64 : 0;
    const std::size_t k_part =
        gap + lines(k_bytes_per_page(s.page_size, s.kv_heads, s.head_dim_qk, s.kv));
    const std::size_t v_part =
        gap + lines(v_bytes_per_page(s.page_size, s.kv_heads, s.head_dim_vo, s.kv));
    page_stride_bytes = is_by_page ? layers * (k_part + v_part) : std::max(k_part, v_part);
    for (std::uint32_t layer = 0; layer < layers; ++layer) {
      const std::size_t first =
          is_by_page ? layer * (k_part + v_part) : 2 * layer * pages * page_stride_bytes;
      k.push_back(first);
      v.push_back(first + (is_by_page ? k_part : pages * page_stride_bytes));
    }
    bytes = (is_by_page ? 1 : 2 * layers) * pages * page_stride_bytes;
  }

  [[nodiscard]] kv_layer_view layer(std::uint32_t i, std::byte* base) const {
    return {base + k[i], base + v[i], page_stride_bytes};
  }
};

/// K, or V, of a layer in a page: where it begins in the memory of both sides.
struct copy_part {
  std::size_t from, to, bytes;
};

struct copy_case {
  /// f32 or bf16 by the seed's parity, e4m3 now and then; the orders by its next two bits.
  explicit copy_case(std::uint64_t seed)
      : random(seed, 71),
        shape(random_shape(seed, random)),
        layers(1 + random.next_below(random.next_below(5) == 0 ? 20 : 3)),
        from(shape.layer, layers, some_pages(), random.next_below(3) != 0, coin()),
        to(shape.layer, layers, some_pages(), random.next_below(3) != 0, coin()) {
    std::vector<std::uint32_t> sources(from.pages), targets(to.pages);
    std::iota(sources.begin(), sources.end(), 0);
    std::iota(targets.begin(), targets.end(), 0);
    if (coin()) {  // Else whole stretches lie side by side.
      shuffle(sources);
      shuffle(targets);
    }
    const std::uint32_t most = std::min(from.pages, to.pages);
    for (std::uint32_t i = 0, n = 1 + random.next_below(most); i < n; ++i) {
      pages.push_back({sources[i], targets[i]});
    }
    source.resize(from.bytes);
    for (std::size_t at = 0; at < source.size(); at += 64) {  // Pools are whole lines.
      const auto words = std::bit_cast<std::array<std::byte, 4>>(random.next_below(~0u));
      for (std::size_t i = 0; i < 64; ++i) {
        source[at + i] = words[i % 4] ^ static_cast<std::byte>(i * 37);
      }
    }
  }

  /// Of memory like the two pools.
  [[nodiscard]] std::vector<kv_copy_layer> layers_in(std::byte* source_base,
                                                     std::byte* target_base) const {
    std::vector<kv_copy_layer> views;
    for (std::uint32_t i = 0; i < layers; ++i) {
      views.push_back({from.layer(i, source_base), to.layer(i, target_base)});
    }
    return views;
  }

  /// What the target has afterwards. @param count  pages that are copied
  /// @param before  what each of its bytes was
  [[nodiscard]] std::vector<std::byte> expected(std::uint32_t count, std::byte before = poison) {
    std::vector<std::byte> target(to.bytes, before);
    const auto views = layers_in(source.data(), target.data());
    reference::kv_copy(shape, {views, std::span(pages).first(count)});
    return target;
  }
  /// All that a copy of layer `layer` reads and writes.
  [[nodiscard]] std::vector<copy_part> parts_of(std::uint32_t layer) const {
    const attention_shape& s = shape.layer;
    const std::size_t k_bytes = k_bytes_per_page(s.page_size, s.kv_heads, s.head_dim_qk, s.kv),
                      v_bytes = v_bytes_per_page(s.page_size, s.kv_heads, s.head_dim_vo, s.kv);
    std::vector<copy_part> parts;
    for (const kv_page_pair p : pages) {
      const std::size_t source_page = p.from * from.page_stride_bytes,
                        target_page = p.to * to.page_stride_bytes;
      parts.push_back({from.k[layer] + source_page, to.k[layer] + target_page, k_bytes});
      parts.push_back({from.v[layer] + source_page, to.v[layer] + target_page, v_bytes});
    }
    return parts;
  }
  [[nodiscard]] std::uint32_t page_count() const {
    return static_cast<std::uint32_t>(pages.size());
  }

  random_stream random;
  kv_copy_shape shape;
  std::uint32_t layers;
  copy_pool from, to;
  std::vector<kv_page_pair> pages;
  std::vector<std::byte> source;

 private:
  [[nodiscard]] std::uint32_t some_pages() { return 2 + random.next_below(layers > 3 ? 4 : 14); }
  [[nodiscard]] bool coin() { return random.next_below(2) == 0; }
  void shuffle(std::vector<std::uint32_t>& x) {
    for (std::size_t i = x.size(); i > 1; --i) {
      std::swap(x[i - 1], x[random.next_below(static_cast<std::uint32_t>(i))]);
    }
  }
  [[nodiscard]] static kv_copy_shape random_shape(std::uint64_t seed, random_stream& random) {
    static constexpr std::pair<std::uint32_t, std::uint32_t> usual[] = {
        {192, 128}, {128, 128}, {64, 64}, {256, 256}};
    auto [dk, dv] = usual[random.next_below(4)];
    if (random.next_below(2) == 0) {
      dk = 1 + random.next_below(256);
      dv = 1 + random.next_below(256);
    }
    return {.layer = {.q_heads = 0,
                      .kv_heads = 1 + random.next_below(3),
                      .head_dim_qk = dk,
                      .head_dim_vo = dv,
                      .page_size = 16 * (1 + random.next_below(4)),
                      .window_tokens = 0,
                      .kv = seed % 5 == 4   ? dtype::e4m3
                            : seed % 2 != 0 ? dtype::bf16
                                            : dtype::f32},
            .from = seed / 2 % 2 != 0 ? kv_order::device : kv_order::host,
            .to = seed / 4 % 2 != 0 ? kv_order::device : kv_order::host};
  }
};

}  // namespace oriel::test
