// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "support/death.hpp"

#include <oriel/kv/page_layout.hpp>

#include <catch2/catch.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

using oriel::dtype;
using oriel::kv_layer_shape;

TEST_CASE("parts of a page are aligned, in order, and do not overlap") {
  const std::vector<kv_layer_shape> layers{
      {.kv_heads = 4, .head_dim_qk = 192, .head_dim_vo = 128},
      {.kv_heads = 1, .head_dim_qk = 7, .head_dim_vo = 5},
      {.kv_heads = 3, .head_dim_qk = 33, .head_dim_vo = 1, .kv = dtype::f32},
      {.kv_heads = 8, .head_dim_qk = 64, .head_dim_vo = 64, .kv = dtype::e4m3},
  };
  for (const std::uint32_t page_size : {1u, 2u, 16u, 48u, 256u}) {
    CAPTURE(page_size);
    const oriel::page_layout layout(page_size, layers);
    CHECK(layout.page_size() == page_size);
    REQUIRE(layout.slots() == layers.size());
    std::size_t end = 0, slices = 0;
    for (std::uint32_t slot = 0; slot < layout.slots(); ++slot) {
      const kv_layer_shape& l = layers[slot];
      CHECK(layout.k_offset_bytes(slot) % 64 == 0);
      CHECK(layout.v_offset_bytes(slot) % 64 == 0);
      CHECK(layout.k_offset_bytes(slot) >= end);
      end = layout.k_offset_bytes(slot) +
            oriel::k_bytes_per_page(page_size, l.kv_heads, l.head_dim_qk, l.kv);
      CHECK(layout.v_offset_bytes(slot) >= end);
      end = layout.v_offset_bytes(slot) +
            oriel::v_bytes_per_page(page_size, l.kv_heads, l.head_dim_vo, l.kv);
      CHECK(layout.k_offset_bytes(slot) == slices);  // From one K to the next.
      slices += layout.slice_bytes(slot);
      CHECK(slices >= end);
    }
    CHECK(slices == layout.page_bytes());
    CHECK(layout.page_bytes() >= end);
    CHECK(layout.page_bytes() % 64 == 0);
    CHECK(layout.page_bytes() < end + 64);
    CHECK(aborts([&] { static_cast<void>(layout.k_offset_bytes(layout.slots())); }));
    CHECK(aborts([&] { static_cast<void>(layout.slice_bytes(layout.slots())); }));
  }
}

// MiMo-V2.5-Pro: 5,120 bytes per token and layer. Real shapes leave no gap.
TEST_CASE("a page of a real model wastes nothing") {
  const std::vector<kv_layer_shape> layers(10,
                                           {.kv_heads = 8, .head_dim_qk = 192, .head_dim_vo = 128});
  CHECK(oriel::page_layout(16, layers).page_bytes() == 10u * 16u * 5'120u);
}

// The goal of decode: at most 0.58 of the time, which is that of the bytes.
TEST_CASE("a page of e4m3 has 328 bytes a token and head of a real model, scales included") {
  std::vector<kv_layer_shape> layers(10, {.kv_heads = 8, .head_dim_qk = 192, .head_dim_vo = 128});
  const std::size_t bf16_bytes = oriel::page_layout(16, layers).page_bytes();
  for (kv_layer_shape& l : layers) {
    l.kv = dtype::e4m3;
  }
  const std::size_t e4m3_bytes = oriel::page_layout(16, layers).page_bytes();
  CHECK(e4m3_bytes == 10u * 16u * 8u * 328u);
  CHECK(100 * e4m3_bytes <= 58 * bf16_bytes);
}

TEST_CASE("kernels get the addresses of their layer") {
  const std::vector<kv_layer_shape> layers(2, {.kv_heads = 2, .head_dim_qk = 24, .head_dim_vo = 8});
  const oriel::page_layout layout(16, layers);
  std::vector<std::byte> bytes(layout.page_bytes());
  const oriel::kv_layer_view view = layout.layer(1, bytes.data());
  CHECK(view.k == bytes.data() + 16 * 2 * 32 * 2);
  CHECK(view.v == view.k + 16 * 2 * 24 * 2);
  CHECK(view.page_stride_bytes == bytes.size());
}
