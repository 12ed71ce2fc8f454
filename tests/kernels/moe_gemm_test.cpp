// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/thread_pool.hpp>
#include <oriel/kernels/moe_gemm.hpp>

#include <catch2/catch.hpp>
#include <support/arrays.hpp>
#include <support/death.hpp>

#include <algorithm>
#include <cmath>

namespace moe_gemm_test {

using oriel::bf16;
using oriel::dtype;
using oriel::isa;
using oriel::moe_gemm_shape;
using oriel::host::moe_gemm_plan;

namespace {

// Plain weights of all experts, in the type of the shape.
struct plain_experts {
  plain_experts(const moe_gemm_shape& s, oriel::random_stream& random) : shape(s) {
    const float range = 1.0f / std::sqrt(static_cast<float>(s.hidden));
    for (std::uint32_t e = 0; e < s.experts; ++e) {
      gate_up.push_back(
          stored(random_floats(2 * std::size_t{s.inter} * s.hidden, random, -range, range)));
      down.push_back(stored(random_floats(std::size_t{s.hidden} * s.inter, random, -range, range)));
    }
  }
  [[nodiscard]] std::vector<std::byte> stored(const std::vector<float>& values) const {
    std::vector<std::byte> bytes(values.size() * size_bytes(shape.weights));
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (shape.weights == dtype::f32) {
        std::memcpy(bytes.data() + 4 * i, &values[i], 4);
      } else {
        const bf16 rounded = oriel::to_bf16(values[i]);
        std::memcpy(bytes.data() + 2 * i, &rounded, 2);
      }
    }
    return bytes;
  }

  moe_gemm_shape shape;
  std::vector<std::vector<std::byte>> gate_up, down;
};

// The same weights, packed for one plan: gate and up as two tensors, down in uneven parts.
struct packed_experts {
  packed_experts(const plain_experts& plain, const moe_gemm_plan& plan) {
    const moe_gemm_shape& s = plain.shape;
    for (std::uint32_t e = 0; e < s.experts; ++e) {
      gate_up_bytes.emplace_back(plan.gate_up_bytes);
      down_bytes.emplace_back(plan.down_bytes);
      std::byte* gate_up = gate_up_bytes.back().span().data();
      std::byte* down = down_bytes.back().span().data();
      const std::size_t gate_size = plain.gate_up[e].size() / 2;
      if (e % 2 == 0) {
        pack_moe_gate_up(plan, plain.gate_up[e].data() + gate_size, s.inter, s.inter, gate_up);
        pack_moe_gate_up(plan, plain.gate_up[e].data(), 0, s.inter, gate_up);
      } else {
        pack_moe_gate_up(plan, plain.gate_up[e].data(), 0, 2 * s.inter, gate_up);
      }
      const std::uint32_t first = s.hidden / 3;
      const std::size_t row_bytes = s.inter * size_bytes(s.weights);
      pack_moe_down(plan, plain.down[e].data() + first * row_bytes, first, s.hidden - first, down);
      pack_moe_down(plan, plain.down[e].data(), 0, first, down);
    }
    for (std::uint32_t e = 0; e < s.experts; ++e) {
      gate_up_at.push_back(gate_up_bytes[e].span().data());
      down_at.push_back(down_bytes[e].span().data());
    }
  }

  std::vector<workspace_bytes> gate_up_bytes, down_bytes;
  std::vector<const std::byte*> gate_up_at, down_at;
};

// Rows of tokens and where they are routed.
struct routed_tokens {
  routed_tokens(const moe_gemm_shape& s, std::uint32_t count, oriel::random_stream& random)
      : tokens(count), x(random_floats(std::size_t{count} * s.hidden, random)) {
    for (std::uint32_t t = 0; t < count; ++t) {
      std::vector<std::uint32_t> experts(s.experts);
      for (std::uint32_t e = 0; e < s.experts; ++e) {
        experts[e] = e;
      }
      for (std::uint32_t k = 0; k < s.top_k; ++k) {
        std::swap(experts[k], experts[k + random.next_below(s.experts - k)]);
      }
      std::sort(experts.begin(), experts.begin() + s.top_k);
      ids.insert(ids.end(), experts.begin(), experts.begin() + s.top_k);
    }
    weights = random_floats(ids.size(), random, 0.0f, 1.0f);
  }

  std::uint32_t tokens;
  std::vector<float> x;
  std::vector<std::uint32_t> ids;
  std::vector<float> weights;
};

// Runs tokens [first, first + count).
std::vector<float> run(const moe_gemm_plan& plan,
                       const packed_experts& experts,
                       const routed_tokens& in,
                       std::uint32_t first,
                       std::uint32_t count,
                       oriel::executor_ref executor) {
  const moe_gemm_shape& s = plan.shape;
  std::vector<float> out = poisoned_floats(std::size_t{count} * s.hidden);
  workspace_bytes workspace(plan.workspace_bytes);
  run_moe_gemm(plan,
               {.out = out.data(),
                .out_stride = s.hidden,
                .x = in.x.data() + std::size_t{first} * s.hidden,
                .x_stride = s.hidden,
                .tokens = count,
                .ids = in.ids.data() + std::size_t{first} * s.top_k,
                .weights = in.weights.data() + std::size_t{first} * s.top_k,
                .gate_up = experts.gate_up_at,
                .down = experts.down_at},
               workspace.span(),
               executor);
  return out;
}

std::vector<float> expected_of(const plain_experts& plain,
                               const routed_tokens& in,
                               std::uint32_t count) {
  const moe_gemm_shape& s = plain.shape;
  std::vector<const std::byte*> gate_up, down;
  for (std::uint32_t e = 0; e < s.experts; ++e) {
    gate_up.push_back(plain.gate_up[e].data());
    down.push_back(plain.down[e].data());
  }
  std::vector<float> out = poisoned_floats(std::size_t{count} * s.hidden);
  oriel::reference::moe_gemm(s,
                             {.out = out.data(),
                              .out_stride = s.hidden,
                              .x = in.x.data(),
                              .x_stride = s.hidden,
                              .tokens = count,
                              .ids = in.ids.data(),
                              .weights = in.weights.data(),
                              .gate_up = gate_up,
                              .down = down});
  return out;
}

// Largest difference over largest expected value.
float relative_error(std::span<const float> got, std::span<const float> expected) {
  float worst = 0.0f, largest = 0.0f;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const float difference = std::abs(got[i] - expected[i]);
    worst = difference <= worst ? worst : difference;  // NaN becomes the worst.
    largest = std::max(largest, std::abs(expected[i]));
  }
  return worst / largest;
}

}  // namespace

TEST_CASE("moe_gemm meets the reference on every path") {
  oriel::thread_pool pool(2);
  const moe_gemm_shape shapes[] = {
      {.hidden = 1, .inter = 1, .experts = 1, .top_k = 1},
      {.hidden = 24, .inter = 10, .experts = 3, .top_k = 3},
      {.hidden = 64, .inter = 48, .experts = 16, .top_k = 4},
      {.hidden = 256, .inter = 128, .experts = 8, .top_k = 2},   // 2 slices each
      {.hidden = 1024, .inter = 512, .experts = 2, .top_k = 1},  // 8 slices each
      {.hidden = 130, .inter = 70, .experts = 40, .top_k = 8},
  };
  oriel::random_stream random(1);
  for (const moe_gemm_shape& plain_shape : shapes) {
    for (const dtype type : {dtype::f32, dtype::bf16}) {
      moe_gemm_shape shape = plain_shape;
      shape.weights = type;
      shape.activation = type;
      const plain_experts plain(shape, random);
      const std::uint32_t tokens = 13;
      const routed_tokens in(shape, tokens, random);
      const auto expected = expected_of(plain, in, tokens);
      for (const isa path : supported_paths()) {
        const auto plan = oriel::host::plan_moe_gemm(shape, tokens, 2, path);
        REQUIRE(plan);
        const packed_experts packed(plain, *plan);
        const auto got = run(*plan, packed, in, 0, tokens, pool);
        INFO("hidden " << shape.hidden << ", " << oriel::name_of(type) << ", "
                       << oriel::name_of(path));
        CHECK(relative_error(got, expected) <= (type == dtype::f32 ? 3e-6f : 1e-2f));
      }
    }
  }
}

TEST_CASE("a token's bits know neither its companions, nor the blocks, nor the threads") {
  oriel::serial_executor serial;
  oriel::thread_pool pool(2);
  oriel::random_stream random(2);
  for (const dtype type : {dtype::f32, dtype::bf16}) {
    // Rows are wide, so that 600 pairs need several blocks, and an expert is cut in two.
    const moe_gemm_shape shape{
        .hidden = 8192, .inter = 64, .experts = 3, .top_k = 2, .weights = type, .activation = type};
    const plain_experts plain(shape, random);
    const std::uint32_t tokens = 400;
    const routed_tokens in(shape, tokens, random);
    for (const isa path : {oriel::best_isa(), isa::avx2}) {
      if (!oriel::is_supported(path)) {
        continue;
      }
      const auto plan = oriel::host::plan_moe_gemm(shape, tokens, 2, path);
      REQUIRE(plan);
      REQUIRE(plan->block_rows < tokens * shape.top_k / shape.experts);
      const packed_experts packed(plain, *plan);
      const auto all = run(*plan, packed, in, 0, tokens, serial);
      INFO(oriel::name_of(type) << ", " << oriel::name_of(path));
      CHECK(same_bits(run(*plan, packed, in, 0, tokens, pool), all));
      const auto small_plan = oriel::host::plan_moe_gemm(shape, 9, 2, path);
      for (const std::uint32_t first : {0u, 1u, 200u, 391u}) {
        for (const std::uint32_t count : {1u, 2u, 9u}) {
          const auto some = run(*small_plan, packed, in, first, count, pool);
          CHECK(same_bits(some, std::span(all).subspan(std::size_t{first} * 8192, some.size())));
        }
      }
      CHECK(relative_error(std::span(all).first(3 * 8192), expected_of(plain, in, 3)) <=
            (type == dtype::f32 ? 3e-6f : 1e-2f));
    }
  }
}

TEST_CASE("every token on one expert, and no token at all") {
  oriel::serial_executor serial;
  oriel::random_stream random(3);
  const moe_gemm_shape shape{.hidden = 64,
                             .inter = 32,
                             .experts = 5,
                             .top_k = 1,
                             .weights = dtype::f32,
                             .activation = dtype::f32};
  const plain_experts plain(shape, random);
  routed_tokens in(shape, 20, random);
  std::fill(in.ids.begin(), in.ids.end(), 4u);
  const auto plan = oriel::host::plan_moe_gemm(shape, 20, 1);
  const packed_experts packed(plain, *plan);
  CHECK(relative_error(run(*plan, packed, in, 0, 20, serial), expected_of(plain, in, 20)) <= 3e-6f);
  CHECK(run(*plan, packed, in, 0, 0, serial).empty());
}

TEST_CASE("moe_gemm refuses what it cannot do") {
  using oriel::host::plan_moe_gemm;
  const moe_gemm_shape good{.hidden = 64,
                            .inter = 32,
                            .experts = 4,
                            .top_k = 2,
                            .weights = dtype::bf16,
                            .activation = dtype::bf16};
  CHECK(plan_moe_gemm(good, 1, 1));
  CHECK_FALSE(plan_moe_gemm(good, 0, 1));
  CHECK_FALSE(plan_moe_gemm(good, 1, 0));
  auto with = [&](auto change) {
    moe_gemm_shape shape = good;
    change(shape);
    return plan_moe_gemm(shape, 1, 1).has_value();
  };
  CHECK_FALSE(with([](auto& s) { s.hidden = 0; }));
  CHECK_FALSE(with([](auto& s) { s.inter = 0; }));
  CHECK_FALSE(with([](auto& s) { s.experts = 0; }));
  CHECK_FALSE(with([](auto& s) { s.top_k = 0; }));
  CHECK_FALSE(with([](auto& s) { s.weights = dtype::e4m3; }));
  CHECK_FALSE(with([](auto& s) { s.activation = dtype::e4m3; }));
}

}  // namespace moe_gemm_test
