// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The router's product on a device: the reference's logits within the roundings of f32 sums, and
// the same bits for any number of tokens, in every tile, from one graph.
#include <oriel/kernels/gemm.hpp>
#include <oriel/kernels/router_logits.hpp>

#include <cuda/captured.hpp>
#include <cuda/device_array.hpp>

#include <support/arrays.hpp>

#include <algorithm>
#include <cmath>
#include <optional>

namespace router_logits_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

/// x and weights of a router on the device and on the host.
struct router_inputs {
  router_inputs(const router_logits_shape& of, std::uint32_t tokens, random_stream& random)
      : shape(of), x(random_floats(std::size_t{tokens} * of.hidden, random, -3.0f, 3.0f)) {
    std::vector<bf16> rounded(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      rounded[i] = to_bf16(x[i]);
      x[i] = to_float(rounded[i]);
    }
    weights = random_floats(std::size_t{shape.experts} * shape.hidden, random, -0.1f, 0.1f);
    device_x.emplace(std::span<const bf16>(rounded));
    device_weights.emplace(std::span<const float>(weights));
  }

  [[nodiscard]] router_logits_args args(float* logits,
                                        std::uint32_t first,
                                        std::uint32_t tokens) const {
    return {.logits = logits,
            .logits_stride = shape.experts,
            .x = device_x->data() + std::size_t{first} * shape.hidden,
            .x_stride = shape.hidden,
            .weights = device_weights->data(),
            .tokens = tokens};
  }

  router_logits_shape shape;
  std::vector<float> x, weights;
  std::optional<device_array<bf16>> device_x;
  std::optional<device_array<float>> device_weights;
};

constexpr cuda::router_tile all_tiles[] = {
    cuda::router_tile::few, cuda::router_tile::some, cuda::router_tile::many};

std::vector<float> logits_of(const router_inputs& in,
                             cuda::router_tile tile,
                             std::uint32_t first,
                             std::uint32_t tokens) {
  const device_array<float> logits(std::size_t{tokens} * in.shape.experts);
  REQUIRE(
      cuda::run_router_logits({in.shape, tile}, in.args(logits.data(), first, tokens), nullptr));
  ORIEL_REQUIRE_CUDA(cudaDeviceSynchronize());
  return logits.to_host();
}

}  // namespace

TEST_CASE("cuda router: logits are the reference's, of equal bits in any company and tile") {
  // Of the models, with edges of experts and k, and of rows that are not aligned.
  const auto shape = GENERATE(router_logits_shape{384, 6'144},
                              router_logits_shape{256, 4'096},
                              router_logits_shape{6, 48},
                              router_logits_shape{131, 392},
                              router_logits_shape{33, 205});
  constexpr std::uint32_t tokens = 150;
  INFO("experts " << shape.experts << ", hidden " << shape.hidden);
  random_stream random(shape.hidden, 144);
  const router_inputs in(shape, tokens, random);
  const std::vector<float> all = logits_of(in, cuda::router_tile::many, 0, tokens);
  CHECK(same_bits(logits_of(in, cuda::router_tile::few, 0, tokens), all));
  CHECK(same_bits(logits_of(in, cuda::router_tile::some, 0, tokens), all));
  for (const cuda::router_tile tile : all_tiles) {
    for (const std::uint32_t count : {1u, 5u, 17u}) {
      const std::uint32_t first = random.next_below(tokens - count);
      const std::span<const float> expected(all.data() + std::size_t{first} * shape.experts,
                                            std::size_t{count} * shape.experts);
      CHECK(same_bits(logits_of(in, tile, first, count), expected));
    }
  }
  std::vector<float> expected(all.size());
  reference::gemm({shape.experts, shape.hidden, dtype::f32},
                  {.out = expected.data(),
                   .out_stride = shape.experts,
                   .x = in.x.data(),
                   .x_stride = shape.hidden,
                   .weights = reinterpret_cast<const std::byte*>(in.weights.data()),
                   .rows = tokens});
  double worst = 0;  // Beside the sum of |x w|, which is about hidden x 1.5 x 0.05.
  for (std::size_t i = 0; i < all.size(); ++i) {
    const double error = std::abs(static_cast<double>(all[i]) - expected[i]);
    worst = std::isfinite(all[i]) ? std::max(worst, error) : INFINITY;
  }
  CHECK(worst <= 4e-6 * 0.075 * shape.hidden);
}

TEST_CASE("cuda router: one graph computes as many tokens as there are") {
  constexpr router_logits_shape shape{384, 512};
  constexpr std::uint32_t tokens_max = 200;
  random_stream random(3, 145);
  const router_inputs in(shape, tokens_max, random);
  const std::vector<float> all = logits_of(in, cuda::router_tile::some, 0, tokens_max);
  const device_array<std::uint32_t> count(1);
  const device_array<float> logits(all.size());
  for (const cuda::router_tile tile : all_tiles) {
    captured graph([&](cudaStream_t stream) {
      REQUIRE(cuda::run_router_logits(
          {shape, tile}, in.args(logits.data(), 0, tokens_max), stream, count.data()));
    });
    for (const std::uint32_t tokens : {tokens_max, 0u, 129u, 16u}) {
      logits.poison();
      ORIEL_REQUIRE_CUDA(cudaMemcpy(count.data(), &tokens, sizeof tokens, cudaMemcpyHostToDevice));
      graph.launch();
      std::vector<float> expected(all.size());
      std::memset(expected.data(), 0xFF, expected.size() * sizeof(float));
      std::copy_n(all.begin(), std::size_t{tokens} * shape.experts, expected.begin());
      CHECK(same_bits(logits.to_host(), expected));
    }
  }
}

}  // namespace router_logits_test
