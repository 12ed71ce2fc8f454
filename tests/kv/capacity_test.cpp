// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kv/capacity.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <vector>

namespace capacity_test {

using oriel::kv_layer_shape;

namespace {

constexpr std::uint64_t gib = std::uint64_t{1} << 30;

kv_layer_shape shape(std::uint32_t kv_heads, std::uint32_t window_tokens) {
  return {
      .kv_heads = kv_heads, .head_dim_qk = 192, .head_dim_vo = 128, .window_tokens = window_tokens};
}

/// Layers in the numbers of MiMo-V2.5-Pro: 10 full, 60 with a window of 128.
std::vector<kv_layer_shape> pro_layers() {
  std::vector<kv_layer_shape> layers(70, shape(8, 128));
  for (std::size_t i = 0; i < 70; i += 7) {
    layers[i] = shape(8, 0);
  }
  return layers;
}

}  // namespace

TEST_CASE("what fits is what the pools admit") {
  const auto fits = [](std::uint64_t budget_bytes, std::uint32_t tokens) {
    const auto answer = oriel::sequences_that_fit(
        pro_layers(), {.budget_bytes = budget_bytes, .sequence_tokens = tokens});
    REQUIRE(answer);
    return *answer;
  };
  SECTION("MiMo-V2.5-Pro at 64 K tokens in 80 GiB") {
    const auto answer = fits(80 * gib, 65'536);
    // Full: 10 layers of 65,536 tokens. Window: 60 layers of 11 pages. 5,120 bytes each.
    const std::uint64_t dual = 10ull * 65'536 * 5'120 + 60ull * 11 * 16 * 5'120;
    CHECK(answer.bytes_per_sequence_dual == dual);
    CHECK(answer.bytes_per_sequence_uniform == 70ull * 65'536 * 5'120);
    CHECK(answer.sequences_dual == 80 * gib / dual);
    CHECK(answer.sequences_uniform == 3);
    CHECK(answer.sequences_dual >= 5 * answer.sequences_uniform);
  }
  SECTION("short sequences have no window to drop") {
    const auto answer = fits(gib, 16);
    CHECK(answer.sequences_dual == answer.sequences_uniform);
    CHECK(answer.sequences_dual == gib / (70ull * 16 * 5'120));
  }
  SECTION("exactly one, and one byte too little for it") {
    const std::uint64_t one = fits(gib, 1'000).bytes_per_sequence_dual;
    CHECK(fits(one, 1'000).sequences_dual == 1);
    CHECK(fits(one - 1, 1'000).sequences_dual == 0);
    CHECK(fits(0, 1'000).sequences_dual == 0);
    CHECK(fits(one - 1, 1'000).sequences_uniform == 0);
  }
  SECTION("a budget beyond all addresses is an error, not a crash") {
    const auto answer = oriel::sequences_that_fit(
        pro_layers(), {.budget_bytes = std::uint64_t{1} << 58, .sequence_tokens = 1'048'576});
    REQUIRE_FALSE(answer);
    CHECK(answer.error().code == oriel::errc::out_of_memory);
  }
}

TEST_CASE("a model without full layers, and one without window layers") {
  const auto windows = oriel::sequences_that_fit(std::vector{shape(8, 128)},
                                                 {.budget_bytes = gib, .sequence_tokens = 10'000});
  REQUIRE(windows);
  CHECK(windows->sequences_dual == gib / (11ull * 16 * 5'120));
  const auto full = oriel::sequences_that_fit(std::vector{shape(8, 0)},
                                              {.budget_bytes = gib, .sequence_tokens = 10'000});
  REQUIRE(full);
  CHECK(full->sequences_dual == full->sequences_uniform);
}

TEST_CASE("layers that cannot be laid out are an error") {
  const auto answer = oriel::sequences_that_fit(
      std::vector{shape(8, 0)},
      {.budget_bytes = gib, .sequence_tokens = 10, .pools = {.page_size = 0}});
  REQUIRE_FALSE(answer);
  CHECK(answer.error().code == oriel::errc::invalid_argument);
}

}  // namespace capacity_test
