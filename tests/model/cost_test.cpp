// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/model/cost.hpp>
#include <oriel/model/presets.hpp>

#include <catch2/catch.hpp>

#include <cstddef>
#include <cstdint>

namespace cost_test {

using namespace oriel;

namespace {

constexpr double gib = 1024.0 * 1024.0 * 1024.0, mib = 1024.0 * 1024.0;

double in(double unit, std::uint64_t bytes) {
  return static_cast<double>(bytes) / unit;
}

std::uint64_t blocks(std::uint64_t n) {
  return (n + 127) / 128;
}

/// FP8 scales of MiMo-V2.5-Pro's checkpoint: one for each 128x128 block, by tensor
/// (docs/model.md#fp8-weights).
std::uint64_t scales_of_pro(const model_geometry& m) {
  const std::uint64_t qkv = 8 * blocks(3392) * blocks(m.hidden);
  const auto swiglu = [&](const ffn_geometry& f) {
    return 3 * blocks(f.intermediate) * blocks(m.hidden);
  };
  std::uint64_t scales = 0;
  for (const auto* layers : {&m.layers, &m.mtp_layers}) {
    for (const layer_geometry& l : *layers) {
      scales += qkv + (l.ffn.is_moe() ? l.ffn.experts : 1) * swiglu(l.ffn);
    }
  }
  return scales;
}

}  // namespace

TEST_CASE("KV bytes meet the published figures at 128 Ki tokens") {
  constexpr std::uint64_t tokens = 131072;
  const model_geometry pro = *preset("mimo-v2.5-pro");
  CHECK(in(gib, kv_bytes(pro, tokens, dtype::bf16)) == Approx(6.29).margin(0.005));
  CHECK(in(gib, kv_bytes_uniform(pro, tokens, dtype::bf16)) == Approx(43.75).margin(0.005));
  CHECK(in(gib, kv_bytes(pro, 1 << 20, dtype::bf16)) == Approx(50.0).margin(0.05));
  CHECK(in(gib, kv_bytes_uniform(pro, 1 << 20, dtype::bf16)) == Approx(350.0));
  CHECK(in(mib, window_bytes_per_sequence(pro, dtype::bf16)) == 37.5);
  for (const char* name : {"mimo-v2-flash", "mimo-v2.5"}) {
    const model_geometry m = *preset(name);
    CHECK(in(gib, kv_bytes(m, tokens, dtype::bf16)) == Approx(2.84).margin(0.005));
    CHECK(in(gib, kv_bytes_uniform(m, tokens, dtype::bf16)) == Approx(27.2).margin(0.05));
    CHECK(in(mib, window_bytes_per_sequence(m, dtype::bf16)) == Approx(24.4).margin(0.05));
    CHECK(kv_bytes_per_token_full(m, dtype::bf16) == 9 * 2560);
  }
}

TEST_CASE("window layers stop growing at the window, full layers never") {
  const model_geometry m = *preset("mimo-v2-flash");
  CHECK(kv_bytes(m, 0, dtype::bf16) == 0);
  CHECK(kv_bytes(m, 128, dtype::bf16) == kv_bytes_uniform(m, 128, dtype::bf16));
  CHECK(kv_bytes(m, 129, dtype::bf16) - kv_bytes(m, 128, dtype::bf16) == 9 * 2560);
  CHECK(kv_bytes(m, 127, dtype::f32) == 2 * kv_bytes(m, 127, dtype::bf16));
  CHECK(kv_bytes_read_per_token(m, 0, dtype::bf16) == kv_bytes_uniform(m, 1, dtype::bf16));
}

TEST_CASE("pools gather layers of one kind and window") {
  model_geometry m = *preset("mimo-v2-flash");
  m.layers[1].attention.window_tokens = 512;
  const auto pools = kv_pools(m, dtype::bf16);
  REQUIRE(pools.size() == 3);
  CHECK(pools[0].kind == attention_kind::full);
  CHECK(pools[0].layers == 9);
  CHECK(pools[0].bytes_per_token == 9 * 2560);
  CHECK(pools[0].bytes_per_window == 0);
  CHECK(pools[1].window_tokens == 128);
  CHECK(pools[1].layers == 38);
  CHECK(pools[1].bytes_per_window == 38 * 128 * 5120);
  CHECK(pools[2].window_tokens == 512);
  CHECK(pools[2].bytes_per_token == 5120);
}

TEST_CASE("parameters of MiMo-V2.5-Pro: the published total, to the last one") {
  const model_geometry pro = *preset("mimo-v2.5-pro");
  const parameter_counts n = count_parameters(pro);
  // The published figure counts every number in the files: MTP blocks and FP8 scales too.
  CHECK(n.total + n.mtp + scales_of_pro(pro) == 1'023'244'718'976);
  CHECK(in(1e9, n.active) == Approx(42.0).margin(0.5));
  CHECK(in(1e9, n.mtp / 3) == Approx(0.645).margin(0.001));
}

TEST_CASE("parameters of the others, in round figures") {
  const auto billions = [](const char* name) {
    return in(1e9, count_parameters(*preset(name)).total);
  };
  const auto active = [](const char* name) {
    return in(1e9, count_parameters(*preset(name)).active);
  };
  CHECK(billions("mimo-v2-flash") == Approx(309).margin(1));
  CHECK(active("mimo-v2-flash") == Approx(15).margin(0.5));
  CHECK(in(1e9, count_parameters(*preset("mimo-v2-flash")).mtp / 3) == Approx(0.33).margin(0.005));
  CHECK(billions("gpt-oss-20b") == Approx(20.9).margin(0.1));
  CHECK(active("gpt-oss-20b") == Approx(3.6).margin(0.6));
  CHECK(billions("gpt-oss-120b") == Approx(116.8).margin(0.2));
  CHECK(billions("gemma-3-27b") == Approx(27.0).margin(0.5));
  CHECK(billions("bench-0.4b") == Approx(0.4).margin(0.01));
  CHECK(billions("bench-0.4b-moe") == Approx(0.55).margin(0.02));
  CHECK(billions("bench-1.4b") == Approx(1.4).margin(0.01));
}

TEST_CASE("operations grow with the position, in window layers up to the window") {
  const model_geometry m = *preset("bench-0.4b");
  const std::uint64_t full = 4, window = 14, per_key = 2 * 16 * (192 + 128);
  CHECK(flops_per_token(m, 1) - flops_per_token(m, 0) == (full + window) * per_key);
  CHECK(flops_per_token(m, 128) - flops_per_token(m, 127) == full * per_key);
  // Without attention: two per weight that is read, the embedding's not among them.
  const std::uint64_t weights = weight_bytes_per_token(m, dtype::bf16) / 2;
  CHECK(flops_per_token(m, 0) == 2 * weights + (full + window) * per_key);
}

TEST_CASE("a layer's operations add up to the tokens' operations") {
  for (const char* name : {"mimo-v2.5-pro", "gpt-oss-20b", "bench-0.4b-moe"}) {
    const model_geometry m = *preset(name);
    const std::uint64_t head = 2 * std::uint64_t{m.vocabulary} * m.hidden;
    const auto layers = [&](std::uint64_t first, std::uint64_t last) {
      flop_count sum;
      for (std::size_t l = 0; l < m.layers.size(); ++l) {
        sum += layer_flops(m, l, first, last);
      }
      return sum;
    };
    std::uint64_t tokens = 0;
    for (std::uint64_t p = 0; p < 300; ++p) {
      tokens += flops_per_token(m, p);
      const flop_count sum = layers(0, p + 1);
      REQUIRE(sum.linear + sum.attention + (p + 1) * head == tokens);
    }
    flop_count cut = layers(0, 127);
    cut += layers(127, 129);
    cut += layers(129, 5'000);
    cut += layers(5'000, 5'000);
    CHECK(cut == layers(0, 5'000));
  }
}

TEST_CASE("seconds of MiMo-V2.5-Pro's prefill by two rates") {
  const model_geometry pro = *preset("mimo-v2.5-pro");
  const compute_rates node{.linear_flops_per_s = 2.69e15, .attention_flops_per_s = 4.13e15};
  const auto tokens_per_s = [&](std::uint64_t tokens) {
    flop_count sum;
    for (std::size_t l = 0; l < pro.layers.size(); ++l) {
      sum += layer_flops(pro, l, 0, tokens);
    }
    return static_cast<double>(tokens) / seconds_of(sum, node);
  };
  // Published for a node of 8 GPUs; the rates were fitted with MTP counted in, about 5 %.
  CHECK(tokens_per_s(4 << 10) == Approx(30'800).epsilon(0.12));
  CHECK(tokens_per_s(64 << 10) == Approx(26'650).epsilon(0.12));
  CHECK(tokens_per_s(512 << 10) == Approx(11'300).epsilon(0.12));
  CHECK(kv_projection_flops(pro, 1, 3) == 3 * 2 * 8 * (192 + 128) * std::uint64_t{6144});
}

TEST_CASE("the bench models read far more than caches hold") {
  CHECK(weight_bytes_per_token(*preset("bench-0.4b"), dtype::bf16) > 700'000'000);
  const model_geometry moe = *preset("bench-0.4b-moe");
  CHECK(in(1e9, weight_bytes_per_token(moe, dtype::bf16)) == Approx(0.29).margin(0.02));
  // Routers are read in f32.
  CHECK(weight_bytes_per_token(moe, dtype::f32) - weight_bytes_per_token(moe, dtype::bf16) ==
        weight_bytes_per_token(moe, dtype::bf16) - 9 * 32 * 1024 * 4);
}

}  // namespace cost_test
