// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kv/pool_plan.hpp>
#include <oriel/model/geometry.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

namespace pool_plan_test {

using oriel::full_pool;
using oriel::kv_layer_shape;
using oriel::pool_plan;
using oriel::window_pool;

namespace {

constexpr std::uint64_t gib = std::uint64_t{1} << 30;

kv_layer_shape shape(std::uint32_t kv_heads, std::uint32_t window_tokens) {
  return {
      .kv_heads = kv_heads, .head_dim_qk = 192, .head_dim_vo = 128, .window_tokens = window_tokens};
}

/// The attention layers of MiMo-V2.5-Pro: 10 full, 60 with a window of 128.
std::vector<kv_layer_shape> pro_layers() {
  std::vector<kv_layer_shape> layers(70, shape(8, 128));
  for (std::size_t i = 0; i < 70; i += 7) {
    layers[i] = shape(8, 0);
  }
  return layers;
}

pool_plan make_plan(const std::vector<kv_layer_shape>& layers, const oriel::pool_options& options) {
  auto plan = pool_plan::make(layers, options);
  REQUIRE(plan);
  return *plan;
}

}  // namespace

TEST_CASE("layers are grouped by window") {
  const std::vector<kv_layer_shape> layers{
      shape(4, 128), shape(2, 0), shape(4, 32), shape(8, 128), shape(2, 0)};
  const pool_plan plan = make_plan(layers, {.page_size = 16, .step_tokens = 4});
  CHECK(plan.pools() == 3);
  CHECK(plan.window_kinds() == 2);
  CHECK(plan.home(0) == oriel::layer_home{window_pool(0), 0});
  CHECK(plan.home(1) == oriel::layer_home{full_pool, 0});
  CHECK(plan.home(2) == oriel::layer_home{window_pool(1), 0});
  CHECK(plan.home(3) == oriel::layer_home{window_pool(0), 1});
  CHECK(plan.home(4) == oriel::layer_home{full_pool, 1});
  CHECK(plan.layout(full_pool).page_bytes() == 2u * 16u * 2u * 320u * 2u);
  CHECK(plan.layout(window_pool(0)).page_bytes() == 16u * (4u + 8u) * 320u * 2u);
  CHECK(plan.layout(window_pool(1)).page_bytes() == 16u * 4u * 320u * 2u);
  CHECK(plan.ring(0).window_tokens == 128);
  CHECK(plan.ring(1).window_tokens == 32);
  CHECK(plan.pages_for(full_pool, 1'000) == 63);
  CHECK(plan.pages_for(window_pool(0), 1'000) == 8 + 1 + 1 + 1);
  CHECK(plan.pages_for(window_pool(1), 1'000) == 2 + 1 + 1 + 1);
  CHECK(plan.pages_for(window_pool(1), 17) == 2);
}

TEST_CASE("shapes follow a model's layers") {
  oriel::layer_geometry full, window;
  full.attention = {.kind = oriel::attention_kind::full,
                    .window_tokens = 99,  // Means nothing in a full layer.
                    .kv_heads = 4,
                    .head_dim_qk = 192,
                    .head_dim_vo = 128};
  window.attention = {.kind = oriel::attention_kind::window,
                      .window_tokens = 128,
                      .kv_heads = 8,
                      .head_dim_qk = 64,
                      .head_dim_vo = 32};
  const std::vector layers{full, window};
  const auto shapes = oriel::kv_shapes_of(layers, oriel::dtype::f32);
  REQUIRE(shapes.size() == 2);
  CHECK(shapes[0] == kv_layer_shape{4, 192, 128, 0, oriel::dtype::f32});
  CHECK(shapes[1] == kv_layer_shape{8, 64, 32, 128, oriel::dtype::f32});
}

TEST_CASE("a plan refuses what it cannot lay out") {
  const auto code = [](std::vector<kv_layer_shape> layers, oriel::pool_options options) {
    const auto plan = pool_plan::make(layers, options);
    REQUIRE_FALSE(plan);
    return plan.error().code;
  };
  const auto invalid = oriel::errc::invalid_argument;
  CHECK(code({}, {}) == invalid);
  CHECK(code({shape(0, 0)}, {}) == invalid);
  CHECK(code({shape(1, 0)}, {.page_size = 0}) == invalid);
  CHECK(code({shape(1, 0)}, {.step_tokens = 0}) == invalid);
  CHECK(code({shape(0xFFFF'FFFFu, 0)}, {}) == invalid);
  CHECK(code({shape(1, 0xFFFF'FFFFu)}, {}) == invalid);
  CHECK(code({{1u << 20, 1u << 20, 1u << 20}}, {.page_size = 1u << 20}) == invalid);
}

TEST_CASE("sizes follow the budget, in bytes of each kind") {
  const pool_plan plan = make_plan({shape(2, 0), shape(8, 64), shape(8, 64)}, {.step_tokens = 4});
  const std::uint64_t full_bytes = plan.layout(full_pool).page_bytes();
  const std::uint64_t window_bytes = plan.layout(window_pool(0)).page_bytes();
  CHECK(window_bytes == 8 * full_bytes);
  for (const std::uint64_t budget : {10'000'000ull, 123'456'789ull, 80ull * gib}) {
    for (const std::uint32_t window : {1u, 3u, 7u, 50u}) {
      for (const std::uint32_t full : {1u, 4u, 9u, 1'000u}) {
        const std::uint32_t mix[] = {full, window};
        const double ratio = static_cast<double>(window) / full;
        const double exact =
            static_cast<double>(budget) /
            (static_cast<double>(full_bytes) + ratio * static_cast<double>(window_bytes));
        const auto expected = static_cast<std::uint64_t>(exact + 1e-6);
        const auto sizes = plan.size_for_mix(budget, mix);
        if (expected * window / full == 0) {  // Not one window page.
          REQUIRE_FALSE(sizes);
          CHECK(sizes.error().code == oriel::errc::invalid_argument);
          continue;
        }
        REQUIRE(sizes);
        const std::uint64_t f = sizes->pages[0], w = sizes->pages[1];
        CHECK(f == expected);
        CHECK(w == f * window / full);
        CHECK(f * full_bytes + w * window_bytes <= budget);
      }
    }
  }
  CHECK_FALSE(plan.size_for_tokens(full_bytes, 100));
  CHECK(plan.size_for_tokens(full_bytes, 100).error().code == oriel::errc::invalid_argument);
}

TEST_CASE("the bytes of n sequences buy the pages of n sequences") {
  for (const std::uint32_t tokens : {1u, 15u, 16u, 100u, 1'000u, 65'536u, 1'048'576u}) {
    for (const std::uint32_t page_size : {16u, 64u, 256u}) {
      const pool_plan plan =
          make_plan(pro_layers(), {.page_size = page_size, .step_tokens = 4, .slack_pages = 1});
      for (const std::uint64_t n : {1u, 2u, 3u, 7u, 64u}) {
        const auto sizes = plan.size_for_tokens(n * plan.bytes_for(tokens), tokens);
        REQUIRE(sizes);
        CHECK(sizes->pages[0] == n * plan.pages_for(full_pool, tokens));
        CHECK(sizes->pages[1] == n * plan.pages_for(window_pool(0), tokens));
        const auto one_less = plan.size_for_tokens(n * plan.bytes_for(tokens) - 1, tokens);
        if (one_less) {
          CHECK(one_less->pages[0] < n * plan.pages_for(full_pool, tokens));
        }
      }
    }
  }
}

TEST_CASE("soft layers have a pool of their own, with one window") {
  const oriel::kv_layer_shape full{.kv_heads = 1, .head_dim_qk = 8, .head_dim_vo = 8};
  oriel::kv_layer_shape window = full, soft = full;
  window.window_tokens = soft.window_tokens = 32;
  soft.is_soft = true;
  const auto plan = oriel::pool_plan::make(std::vector{full, window, soft, soft}, {});
  REQUIRE(plan);
  CHECK(plan->pools() == 3);
  CHECK(plan->soft_kind() == 1u);
  CHECK(plan->home(1).pool == oriel::window_pool(0));
  CHECK(plan->home(3) == oriel::layer_home{oriel::window_pool(1), 1});
  CHECK_FALSE(oriel::pool_plan::make(std::vector{full, window}, {})->soft_kind());
  oriel::kv_layer_shape other = soft;
  other.window_tokens = 16;
  CHECK_FALSE(oriel::pool_plan::make(std::vector{full, soft, other}, {}));
  other.window_tokens = 0;
  CHECK_FALSE(oriel::pool_plan::make(std::vector{full, other}, {}));
}

}  // namespace pool_plan_test
