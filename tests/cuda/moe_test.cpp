// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Router, permutation and combination on a device, against the host's; one graph for any count.
#include <oriel/core/executor.hpp>
#include <oriel/kernels/moe_combine.hpp>
#include <oriel/kernels/moe_permute.hpp>
#include <oriel/kernels/moe_route.hpp>

#include <cuda/captured.hpp>
#include <cuda/device_array.hpp>

#include <support/arrays.hpp>

namespace moe_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

serial_executor serial;

template <class T>
void check_equal(const T* found, const std::vector<T>& expected) {
  std::vector<T> host(expected.size());
  ORIEL_REQUIRE_CUDA(
      cudaMemcpy(host.data(), found, host.size() * sizeof(T), cudaMemcpyDeviceToHost));
  CHECK(std::memcmp(host.data(), expected.data(), host.size() * sizeof(T)) == 0);
}

}  // namespace

TEST_CASE("cuda moe: one graph routes, permutes and combines any number of tokens") {
  const std::uint32_t experts = GENERATE(16u, 256u, 384u, 1'024u);
  const std::uint32_t tokens_max = GENERATE(5u, 1'100u);
  constexpr std::uint32_t top_k = 8, hidden = 72;
  INFO("experts " << experts << ", tokens " << tokens_max);
  random_stream random(experts, 90);
  std::vector<float> logits = random_floats(tokens_max * experts, random, -3.0f, 3.0f);
  for (std::size_t i = 0; i < logits.size(); i += 7) {
    logits[i] = 1.0f;  // Ties.
  }
  const std::vector<float> bias = random_floats(experts, random);
  const std::vector<float> y = random_floats(tokens_max * top_k * hidden, random);
  const moe_route_shape route{.experts = experts, .top_k = top_k, .groups = 4, .kept_groups = 3};
  const moe_permute_shape permute{experts, top_k, tokens_max};

  const auto device_logits = to_device(logits), device_bias = to_device(bias),
             device_y = to_device(y);
  const device_array<std::uint32_t> ids(tokens_max * top_k), count(1);
  const device_array<float> weights(tokens_max * top_k), out(tokens_max * hidden);
  const auto route_plan = cuda::plan_moe_route(route);
  const auto permute_plan = cuda::plan_moe_permute(permute);
  const auto combine_plan = cuda::plan_moe_combine({hidden, top_k});
  REQUIRE((route_plan && permute_plan && combine_plan));
  const device_array<std::byte> workspace(permute_plan->workspace_bytes);
  const std::span<std::byte> bytes(workspace.data(), workspace.size());
  const moe_permutation p = cuda::permutation_in(*permute_plan, bytes);
  captured graph([&](cudaStream_t stream) {
    REQUIRE(cuda::run_moe_route(*route_plan,
                                {.ids = ids.data(),
                                 .weights = weights.data(),
                                 .logits = device_logits.data(),
                                 .logits_stride = experts,
                                 .correction_bias = device_bias.data(),
                                 .tokens = tokens_max},
                                stream,
                                count.data()));
    REQUIRE(cuda::run_moe_permute(
        *permute_plan, {ids.data(), ids.size()}, bytes, stream, count.data()));
    REQUIRE(cuda::run_moe_combine(*combine_plan,
                                  {.out = out.data(),
                                   .out_stride = hidden,
                                   .y = device_y.data(),
                                   .y_stride = hidden,
                                   .weights = weights.data(),
                                   .row_of_pair = p.row_of_pair.data(),
                                   .tokens = tokens_max},
                                  stream,
                                  count.data()));
  });

  for (const std::uint32_t tokens : {tokens_max, 0u, tokens_max / 2}) {
    ORIEL_REQUIRE_CUDA(cudaMemcpy(count.data(), &tokens, sizeof tokens, cudaMemcpyHostToDevice));
    graph.launch();
    const std::size_t pairs = std::size_t{tokens} * top_k;
    std::vector<std::uint32_t> expected_ids(pairs), offsets(experts + 1), pair_of_row(pairs),
        row_of_pair(pairs);
    std::vector<float> expected_weights(pairs), expected_out(tokens * hidden);
    host::run_moe_route(*host::plan_moe_route(route),
                        {.ids = expected_ids.data(),
                         .weights = expected_weights.data(),
                         .logits = logits.data(),
                         .logits_stride = experts,
                         .correction_bias = bias.data(),
                         .tokens = tokens},
                        serial);
    reference::moe_permute(permute, expected_ids, offsets, pair_of_row, row_of_pair);
    reference::moe_combine({hidden, top_k},
                           {.out = expected_out.data(),
                            .out_stride = hidden,
                            .y = y.data(),
                            .y_stride = hidden,
                            .weights = expected_weights.data(),
                            .row_of_pair = row_of_pair.data(),
                            .tokens = tokens});
    check_equal(ids.data(), expected_ids);
    check_equal(weights.data(), expected_weights);
    check_equal(p.expert_offsets.data(), offsets);
    check_equal(p.pair_of_row.data(), pair_of_row);
    check_equal(p.row_of_pair.data(), row_of_pair);
    check_equal(out.data(), expected_out);
  }
}

}  // namespace moe_test
