// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The router's product on the host, in every tile, against the reference and against each other.
#include <oriel/kernels/gemm.hpp>
#include <oriel/kernels/router_logits.hpp>

#include <catch2/catch.hpp>
#include <device/router_machine.hpp>
#include <device/stored_rows.hpp>
#include <support/scale.hpp>

#include <algorithm>
#include <cmath>

namespace router_logits_agent_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

constexpr router_program all_programs[] = {
    router_program::few, router_program::some, router_program::many, router_program::unaligned};

/// Rows of x, of which the first `tokens` are there and the others NaN, and weights behind which
/// there is NaN.
class router_case {
 public:
  router_case(const router_logits_shape& of, std::uint32_t tokens_now, std::size_t gap)
      : shape(of),
        tokens(tokens_now),
        x_stride_((of.hidden + 7) / 8 * 8 + gap),
        logits_stride_(of.experts + gap % 3),
        x_((tokens_now + 1) * x_stride_),
        weights_((of.experts + 1) * std::size_t{of.hidden}) {}

  template <class X, class W>
  void fill(X&& x, W&& weight) {
    for (std::size_t row = 0; row < tokens; ++row) {
      for (std::size_t k = 0; k < shape.hidden; ++k) {
        x_.data()[row * x_stride_ + k] = to_bf16(x());
      }
    }
    for (std::size_t i = 0; i < shape.experts * std::size_t{shape.hidden}; ++i) {
      weights_.data()[i] = weight();
    }
  }

  /// [tokens, experts] and whatever lies between and behind.
  std::vector<float> run(router_program program, bool backwards) {
    std::vector<float> logits = poisoned_floats((tokens + 2) * logits_stride_);
    const std::uint32_t count = tokens;
    run_router(program, shape, args(logits.data(), tokens + 2), &count, backwards);
    return logits;
  }
  std::vector<float> run_one(router_program program, std::uint32_t token) {
    std::vector<float> logits = poisoned_floats(logits_stride_);
    router_logits_args one = args(logits.data(), 1);
    one.x += token * x_stride_;
    run_router(program, shape, one, nullptr, false);
    return logits;
  }
  std::vector<float> reference() {
    std::vector<float> x = x_.floats(), logits = poisoned_floats((tokens + 2) * logits_stride_);
    reference::gemm({shape.experts, shape.hidden, dtype::f32},
                    {.out = logits.data(),
                     .out_stride = logits_stride_,
                     .x = x.data(),
                     .x_stride = x_stride_,
                     .weights = reinterpret_cast<const std::byte*>(weights_.data()),
                     .rows = tokens});
    return logits;
  }
  [[nodiscard]] bool takes(router_program program) {
    std::vector<float> none;
    return program == router_program::unaligned ||
           detail::router_tile_agent::fits(shape, args(none.data(), 1));
  }
  [[nodiscard]] float logit(const std::vector<float>& of,
                            std::size_t row,
                            std::size_t expert) const {
    return of[row * logits_stride_ + expert];
  }
  /// Sum of |x w|.
  [[nodiscard]] double weight_of(std::size_t row, std::size_t expert) {
    double sum = 0;
    for (std::size_t k = 0; k < shape.hidden; ++k) {
      sum += std::abs(static_cast<double>(to_float(x_.data()[row * x_stride_ + k])) *
                      weights_.data()[expert * shape.hidden + k]);
    }
    return sum;
  }

  router_logits_shape shape;
  std::uint32_t tokens;

 private:
  router_logits_args args(float* logits, std::uint32_t rows) {
    return {.logits = logits,
            .logits_stride = logits_stride_,
            .x = x_.data(),
            .x_stride = x_stride_,
            .weights = weights_.data(),
            .tokens = rows};
  }
  std::size_t x_stride_, logits_stride_;
  stored_rows<bf16> x_;
  stored_rows<float> weights_;
};

router_case random_case(random_stream& random, std::uint32_t hidden_max = UINT32_MAX) {
  const std::uint32_t hidden =
      random.next_below(3) == 0 ? 1 + random.next_below(300) : 4 * (1 + random.next_below(500));
  const std::uint32_t experts = 1 + random.next_below(random.next_below(4) == 0 ? 300 : 40);
  const std::uint32_t tokens = 1 + random.next_below(random.next_below(4) == 0 ? 150 : 40);
  return {{experts, std::min(hidden, hidden_max)}, tokens, random.next_below(2) * 8};
}

}  // namespace

TEST_CASE("a weight is three bf16 numbers exactly") {
  random_stream random(1, 140);
  for (int i = 0; i < 20'000; ++i) {
    float w[4];
    for (float& x : w) {
      // Any finite number whose lowest limb is no smaller than the smallest of bf16.
      do {
        x = std::bit_cast<float>(static_cast<std::uint32_t>(random.next_below(UINT32_MAX)));
      } while (!std::isfinite(x) || (x != 0.0f && std::abs(x) < 1e-30f));
    }
    std::uint32_t limb[detail::router_limbs][2];
    detail::split_weights(w, limb);
    for (std::uint32_t j = 0; j < 4; ++j) {
      const auto of = [&](std::uint32_t l) { return detail::bf16_of_half(limb[l][j / 2], j % 2); };
      REQUIRE(of(2) + (of(1) + of(0)) == w[j]);
      REQUIRE(static_cast<double>(of(0)) + of(1) + of(2) == w[j]);
      REQUIRE(std::abs(of(1)) <= std::abs(of(2)) * 0x1p-7f);
      REQUIRE(std::abs(of(0)) <= std::abs(of(2)) * 0x1p-15f);
    }
  }
}

TEST_CASE("the router's product of small integers is the reference's in every tile") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 24)));
  if (is_left_out(seed, 24)) {
    return;
  }
  INFO("seed " << seed);
  random_stream random(seed, 141);
  router_case c = random_case(random, seed % 3 == 0 ? 12 : UINT32_MAX);
  // Of few columns weights have up to 20 bits, all limbs; sums stay below 2^24.
  const std::uint32_t most = c.shape.hidden <= 12 ? 1u << 20 : 30u;
  c.fill(
      [&] { return static_cast<float>(random.next_below(3)) - 1.0f; },
      [&] { return static_cast<float>(random.next_below(most)) - static_cast<float>(most / 2); });
  INFO("experts " << c.shape.experts << ", hidden " << c.shape.hidden << ", tokens " << c.tokens);
  const std::vector<float> expected = c.reference();
  for (const router_program program : all_programs) {
    if (c.takes(program)) {
      INFO("program " << static_cast<int>(program));
      for (const bool backwards : {false, true}) {
        REQUIRE(same_bits(c.run(program, backwards), expected));
      }
    }
  }
}

TEST_CASE("a logit has the same bits in every tile, whatever the tokens beside it") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 24)));
  if (is_left_out(seed, 24)) {
    return;
  }
  INFO("seed " << seed);
  random_stream random(seed, 142);
  router_case c = random_case(random);
  c.fill([&] { return random.next_uniform(-3.0f, 3.0f); },
         [&] { return random.next_uniform(-0.1f, 0.1f); });
  INFO("experts " << c.shape.experts << ", hidden " << c.shape.hidden << ", tokens " << c.tokens);
  const std::vector<float> all = c.run(router_program::unaligned, false);
  for (const router_program program : all_programs) {
    if (c.takes(program)) {
      INFO("program " << static_cast<int>(program));
      REQUIRE(same_bits(c.run(program, true), all));
      const std::uint32_t token = random.next_below(c.tokens);
      const std::vector<float> one = c.run_one(program, token);
      for (std::uint32_t e = 0; e < c.shape.experts; ++e) {
        REQUIRE(c.logit(one, 0, e) == c.logit(all, token, e));
      }
    }
  }
  // Its error is that of f32 sums: each rounding of a slice's 24 mma and of the sum of slices.
  const std::vector<float> expected = c.reference();
  for (std::uint32_t i = 0; i < 40; ++i) {
    const std::uint32_t token = random.next_below(c.tokens);
    const std::uint32_t expert = random.next_below(c.shape.experts);
    const double error = std::abs(static_cast<double>(c.logit(all, token, expert)) -
                                  c.logit(expected, token, expert));
    CHECK(error <= 4e-6 * c.weight_of(token, expert));
  }
}

TEST_CASE("the router's product takes the models' rows as they are, over all of their k") {
  random_stream random(2, 143);
  for (const router_logits_shape shape : {router_logits_shape{256, 4'096}, {384, 6'144}}) {
    CHECK(router_case(shape, 1, 0).takes(router_program::many));
    router_case c({24, shape.hidden}, 3, 0);
    c.fill([&] { return random.next_uniform(-3.0f, 3.0f); },
           [&] { return random.next_uniform(-0.1f, 0.1f); });
    const std::vector<float> few = c.run(router_program::few, false);
    CHECK(same_bits(c.run(router_program::some, false), few));
    CHECK(same_bits(c.run(router_program::many, true), few));
  }
}

TEST_CASE("the router's product: plans") {
  const auto tile_for = [](std::uint32_t tokens) {
    return cuda::plan_router_logits({384, 6'144}, tokens)->tile;
  };
  CHECK(tile_for(1) == cuda::router_tile::few);
  CHECK(tile_for(32) == cuda::router_tile::few);
  CHECK(tile_for(33) == cuda::router_tile::some);
  CHECK(tile_for(2'048) == cuda::router_tile::some);
  CHECK(tile_for(2'049) == cuda::router_tile::many);
  CHECK_FALSE(cuda::plan_router_logits({0, 64}, 1));
  CHECK_FALSE(cuda::plan_router_logits({1'025, 64}, 1));
  CHECK_FALSE(cuda::plan_router_logits({8, 0}, 1));
  CHECK_FALSE(cuda::plan_router_logits({8, (1u << 20) + 1}, 1));
  CHECK_FALSE(cuda::plan_router_logits({8, 64}, 0));
}

}  // namespace router_logits_agent_test
