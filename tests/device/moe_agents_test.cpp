// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The device's router, permutation and combination on the host, against the host's kernels.
#include <oriel/core/executor.hpp>
#include <oriel/kernels/dispatch.hpp>
#include <oriel/kernels/moe_combine.hpp>
#include <oriel/kernels/moe_permute.hpp>
#include <oriel/kernels/moe_route.hpp>

#include <cuda/detail/moe_permute_agent.cuh>
#include <cuda/detail/moe_route_agent.cuh>
#include <cuda/detail/row_agents.cuh>

#include <catch2/catch.hpp>
#include <device/stored_rows.hpp>

#include <memory>

namespace moe_agents_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

serial_executor serial;

/// @returns how many tokens' experts were chosen by near choices: these leave ids where exact ones
/// leave keys.
std::uint32_t route_on_host(const cuda::moe_route_plan& plan,
                            const moe_route_args& args,
                            bool backwards) {
  std::uint32_t near = 0;
  const auto groups = std::make_unique<detail::moe_group_shared>();
  const bool dispatched = dispatch_static<8, 12, 16, 32>(plan.scores_per_lane, [&](auto p) {
    const detail::moe_route_agent<p()> agent{plan.shape, args};
    for (std::uint32_t token = 0; token < args.tokens; ++token) {
      typename decltype(agent)::shared_memory shared;
      std::memset(&shared, 0xFF, sizeof shared);
      std::memset(groups.get(), 0xFF, sizeof *groups);
      agent(detail::host_group<32>(backwards),
            token,
            shared,
            plan.shape.kept_groups < plan.shape.groups ? groups.get() : nullptr);
      near += shared.candidate[0] < plan.shape.experts ? 1u : 0u;
    }
  });
  REQUIRE(dispatched);
  return near;
}

/// Logits and bias with ties, infinities and NaN.
std::vector<float> hard_logits(std::size_t count, random_stream& random) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  constexpr float special[] = {infinity, -infinity, std::numeric_limits<float>::quiet_NaN(), -0.0f};
  std::vector<float> logits(count);
  const std::uint32_t kind = random.next_below(3);  // Few values, so many ties; or all different.
  for (float& v : logits) {
    v = kind == 0 ? static_cast<float>(random.next_below(4)) : random.next_uniform(-6.0f, 6.0f);
    v = kind == 2 && random.next_below(4) == 0 ? special[random.next_below(4)] : v;
  }
  return logits;
}

/// @param bias  of `tokens` that are odd
/// @returns how many were chosen by near choices
std::uint32_t check_route(const moe_route_shape& shape,
                          std::uint32_t tokens,
                          std::size_t stride,
                          const std::vector<float>& logits,
                          const std::vector<float>& bias) {
  std::vector<std::uint32_t> ids[2];
  std::vector<float> weights[2];
  const auto args = [&](int which) {
    ids[which].assign(tokens * shape.top_k, UINT32_MAX);
    weights[which] = poisoned_floats(tokens * shape.top_k);
    return moe_route_args{.ids = ids[which].data(),
                          .weights = weights[which].data(),
                          .logits = logits.data(),
                          .logits_stride = stride,
                          .correction_bias = tokens % 2 != 0 ? bias.data() : nullptr,
                          .tokens = tokens};
  };
  host::run_moe_route(*host::plan_moe_route(shape), args(0), serial);
  const auto plan = cuda::plan_moe_route(shape);
  REQUIRE(plan);
  std::uint32_t near = 0;
  for (const bool backwards : {false, true}) {
    near = route_on_host(*plan, args(1), backwards);
    REQUIRE(ids[0] == ids[1]);
    REQUIRE(same_bits(weights[0], weights[1]));
  }
  return near;
}

void check_route(const moe_route_shape& shape, random_stream& random) {
  const std::uint32_t tokens = random.next_below(5);
  const std::size_t stride = shape.experts + random.next_below(3);
  const std::vector<float> logits = hard_logits(tokens * stride + 1, random);
  check_route(shape, tokens, stride, logits, hard_logits(shape.experts, random));
}

/// Expert ids as a router gives them: ascending within a token. `skewed`: nearly all to few
/// experts.
std::vector<std::uint32_t> random_ids(const moe_permute_shape& shape,
                                      std::uint32_t tokens,
                                      bool skewed,
                                      random_stream& random) {
  std::vector<std::uint32_t> ids;
  for (std::uint32_t token = 0; token < tokens; ++token) {
    std::vector<std::uint32_t> own;
    while (own.size() < shape.top_k) {
      const std::uint32_t limit = skewed && random.next_below(8) != 0 ? shape.top_k : shape.experts;
      const std::uint32_t id = random.next_below(limit);
      if (std::find(own.begin(), own.end(), id) == own.end()) {
        own.push_back(id);
      }
    }
    std::sort(own.begin(), own.end());
    ids.insert(ids.end(), own.begin(), own.end());
  }
  return ids;
}

void permute_on_host(const cuda::moe_permute_plan& plan,
                     std::span<const std::uint32_t> ids,
                     std::span<std::byte> workspace,
                     const std::uint32_t* token_count,
                     bool backwards) {
  using detail::host_group;
  const detail::moe_permute_agent agent{plan.shape,
                                        plan.chunks,
                                        static_cast<std::uint32_t>(ids.size()),
                                        ids.data(),
                                        detail::permute_arrays_in(plan, workspace)};
  const auto shared = std::make_unique<detail::permute_shared>();
  const std::uint32_t pairs = agent.pairs(token_count);
  const host_group<detail::permute_threads> group(backwards);
  const auto fresh = [&]() -> detail::permute_shared& {
    std::memset(shared.get(), 0xFF, sizeof *shared);
    return *shared;
  };
  if (plan.chunks == 1) {
    agent.whole(group, pairs, fresh());
    return;
  }
  for (std::uint32_t chunk = plan.chunks; chunk-- > 0;) {  // Blocks in no order.
    agent.count(group, chunk, pairs, fresh());
  }
  agent.scan(host_group<detail::permute_scan_threads>(backwards), fresh());
  for (std::uint32_t chunk = plan.chunks; chunk-- > 0;) {
    agent.scatter(group, chunk, pairs, fresh());
  }
}

void check_permute(const moe_permute_shape& shape,
                   std::uint32_t tokens,
                   bool skewed,
                   random_stream& random) {
  const std::vector<std::uint32_t> ids = random_ids(shape, shape.tokens_max, skewed, random);
  const std::size_t pairs = std::size_t{tokens} * shape.top_k;
  std::vector<std::uint32_t> offsets(shape.experts + 1), pair_of_row(pairs), row_of_pair(pairs);
  reference::moe_permute(shape, std::span(ids).first(pairs), offsets, pair_of_row, row_of_pair);
  const auto plan = cuda::plan_moe_permute(shape);
  REQUIRE(plan);
  for (const bool backwards : {false, true}) {
    workspace_bytes workspace(plan->workspace_bytes);
    permute_on_host(*plan, ids, workspace.span(), &tokens, backwards);
    const moe_permutation p = cuda::permutation_in(*plan, workspace.span());
    const auto equal = [](std::span<const std::uint32_t> a, const std::vector<std::uint32_t>& b) {
      return std::equal(b.begin(), b.end(), a.begin());
    };
    INFO("experts " << shape.experts << ", top_k " << shape.top_k << ", tokens " << tokens << " of "
                    << shape.tokens_max << ", backwards " << backwards);
    REQUIRE(equal(p.expert_offsets, offsets));
    REQUIRE(equal(p.pair_of_row, pair_of_row));
    REQUIRE(equal(p.row_of_pair, row_of_pair));
    for (std::size_t pair = pairs; pair < ids.size(); ++pair) {  // Beyond: as it was.
      REQUIRE(p.row_of_pair[pair] == UINT32_MAX);
    }
  }
}

template <class T, std::uint32_t N>
void check_combine(std::uint32_t hidden,
                   std::size_t stride,
                   bool accumulate,
                   random_stream& random) {
  constexpr std::uint32_t tokens = 5, top_k = 6;  // More than are added together.
  const std::vector<float> y = exact_floats<T>(tokens * top_k * stride, random);
  const std::vector<float> weights = random_floats(tokens * top_k, random, 0.0f, 1.0f);
  std::vector<std::uint32_t> row_of_pair(tokens * top_k);
  for (std::uint32_t pair = 0; pair < row_of_pair.size(); ++pair) {
    row_of_pair[pair] = (pair * 7) % 30;
  }
  row_of_pair[4] = UINT32_MAX;
  const std::vector<float> before = exact_floats<T>(tokens * stride, random);
  stored_rows<T> stored(y), out(before);
  const moe_combine_shape shape{hidden, top_k};
  const basic_moe_combine_args<T> args{out.data(),
                                       stride,
                                       stored.data(),
                                       stride,
                                       weights.data(),
                                       row_of_pair.data(),
                                       tokens,
                                       accumulate};
  REQUIRE((N == 1 || detail::moe_combine_agent<T, N>::fits(shape, args)));
  detail::run_on_host(detail::moe_combine_agent<T, N>{shape, args});
  std::vector<float> expected = before;
  reference::moe_combine(shape,
                         {expected.data(),
                          stride,
                          y.data(),
                          stride,
                          weights.data(),
                          row_of_pair.data(),
                          tokens,
                          accumulate});
  const std::vector<float> found = out.floats(), rounded = stored_rows<T>(expected).floats();
  for (std::size_t row = 0; row < tokens; ++row) {
    REQUIRE(std::memcmp(&found[row * stride], &rounded[row * stride], hidden * sizeof(float)) == 0);
  }
}

}  // namespace

TEST_CASE("the device's router chooses and weighs with the bits of the host's") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 150)));
  INFO("seed " << seed);
  random_stream random(seed, 80);
  moe_route_shape shape{.experts = 1 + random.next_below(random.next_below(2) != 0 ? 1'024 : 400),
                        .top_k = 1};
  if (random.next_below(2) == 0) {
    shape.groups = 1 + random.next_below(8);
    shape.experts = shape.groups * (1 + random.next_below(60));
    shape.kept_groups = 1 + random.next_below(shape.groups);
  }
  shape.top_k = 1 + random.next_below(std::min(shape.experts / shape.groups * shape.kept_groups,
                                               seed % 5 == 0 ? 64u : 8u));
  shape.normalize = random.next_below(2) == 0;
  shape.scale = random.next_below(2) == 0 ? 1.0f : 2.5f;
  check_route(shape, random);
}

TEST_CASE("the device's router knows the models' shapes, and as many groups as experts") {
  random_stream random(1, 81);
  check_route({.experts = 256, .top_k = 8}, random);
  check_route({.experts = 384, .top_k = 8}, random);
  check_route({.experts = 257, .top_k = 8}, random);
  for (int round = 0; round < 30; ++round) {  // All are chosen, those that are no number too.
    check_route({.experts = 6, .top_k = 6}, random);
  }
  check_route({.experts = 1'024, .top_k = 64, .groups = 1'024, .kept_groups = 64}, random);
  CHECK(cuda::plan_moe_route({.experts = 256, .top_k = 8})->scores_per_lane == 8);
  CHECK(cuda::plan_moe_route({.experts = 384, .top_k = 8})->scores_per_lane == 12);
  CHECK_FALSE(cuda::plan_moe_route({.experts = 1'025, .top_k = 8}));
  CHECK_FALSE(cuda::plan_moe_route({.experts = 8, .top_k = 9}));
}

TEST_CASE("choices that near ones cannot tell apart are told apart") {
  // Some experts far above, some far below, and between them some that differ by single roundings
  // of a sigmoid, or not at all; without a bias, with one, and with one that swallows them.
  random_stream random(3, 85);
  std::uint32_t near = 0;
  constexpr std::uint32_t tokens = 3;
  for (int round = 0; round < 200; ++round) {
    const moe_route_shape shape{.experts = random.next_below(2) != 0 ? 384u : 300u,
                                .top_k = 1 + random.next_below(12)};
    const std::uint32_t above = random.next_below(shape.top_k + 1),
                        alike = above + shape.top_k + random.next_below(12);
    const float middle = random.next_uniform(-3.0f, 3.0f);
    std::vector<float> logits(tokens * shape.experts);
    for (std::uint32_t token = 0; token < tokens; ++token) {
      std::vector<std::uint32_t> order(shape.experts);
      for (std::uint32_t i = 0; i < shape.experts; ++i) {
        const std::uint32_t j = random.next_below(i + 1);
        order[i] = order[j];
        order[j] = i;
      }
      for (std::uint32_t i = 0; i < shape.experts; ++i) {
        logits[token * shape.experts + order[i]] =
            i < above   ? middle + random.next_uniform(0.5f, 2.0f)
            : i < alike ? middle + random.next_uniform(0.0f, 1e-6f)
                        : middle - random.next_uniform(0.5f, 2.0f);
      }
    }
    constexpr float biases[] = {0.0f, 0.75f, 1e4f, 1e9f, -20.0f};
    const std::vector<float> bias(shape.experts, biases[random.next_below(5)]);
    near += check_route(shape, tokens, shape.experts, logits, bias);
  }
  CHECK(near > 300);
}

TEST_CASE("random tokens are routed by near choices") {
  random_stream random(4, 86);
  constexpr std::uint32_t tokens = 99, experts = 384;
  const std::vector<float> logits = random_floats(tokens * experts, random, -4.0f, 4.0f);
  const std::vector<float> bias = random_floats(experts, random, -0.1f, 0.1f);
  CHECK(check_route({.experts = experts, .top_k = 8}, tokens, experts, logits, bias) == tokens);
}

TEST_CASE("the device's permutation is the reference's, whatever the number of chunks") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 30)));
  INFO("seed " << seed);
  random_stream random(seed, 82);
  const std::uint32_t experts = 1 + random.next_below(seed % 4 == 0 ? 1'024 : 40);
  const std::uint32_t top_k = 1 + random.next_below(std::min(experts, 8u));
  const std::uint32_t tokens_max = 1 + random.next_below(seed % 3 == 0 ? 2'500 : 60);
  const moe_permute_shape shape{experts, top_k, tokens_max};
  check_permute(shape, tokens_max, random.next_below(2) == 0, random);
  check_permute(shape, random.next_below(tokens_max + 1), random.next_below(2) == 0, random);
  check_permute(shape, 0, false, random);
}

TEST_CASE("the device's permutation: chunk borders, and ids that are no expert") {
  random_stream random(2, 83);
  for (const std::uint32_t tokens : {511u, 512u, 513u, 1'024u, 1'025u}) {
    check_permute({384, 8, tokens}, tokens, true, random);
  }
  const moe_permute_shape shape{4, 2, 3};
  const std::vector<std::uint32_t> ids{1, 3, 4, 1, 0, UINT32_MAX};
  const auto plan = cuda::plan_moe_permute(shape);
  workspace_bytes workspace(plan->workspace_bytes);
  permute_on_host(*plan, ids, workspace.span(), nullptr, false);
  const moe_permutation p = cuda::permutation_in(*plan, workspace.span());
  CHECK(std::vector(p.expert_offsets.begin(), p.expert_offsets.end()) ==
        std::vector<std::uint32_t>{0, 1, 3, 3, 4});
  CHECK(std::vector(p.row_of_pair.begin(), p.row_of_pair.end()) ==
        std::vector<std::uint32_t>{1, 3, UINT32_MAX, 2, 0, UINT32_MAX});
  CHECK_FALSE(cuda::plan_moe_permute({0, 8, 1}));
  CHECK_FALSE(cuda::plan_moe_permute({1'025, 8, 1}));
  CHECK_FALSE(cuda::plan_moe_permute({8, 8, 0}));
  CHECK_FALSE(cuda::plan_moe_permute({8, 8, 1u << 29}));
}

TEST_CASE("the device adds a token's experts with the bits of the reference") {
  random_stream random(3, 84);
  for (const bool accumulate : {false, true}) {
    check_combine<float, 8>(64, 72, accumulate, random);
    check_combine<float, 1>(5, 7, accumulate, random);
    check_combine<bf16, 8>(64, 64, accumulate, random);
    check_combine<bf16, 1>(33, 33, accumulate, random);
  }
  CHECK(cuda::plan_moe_combine({8, 8}));
  CHECK_FALSE(cuda::plan_moe_combine({0, 8}));
  CHECK_FALSE(cuda::plan_moe_combine({8, 0}));
}

}  // namespace moe_agents_test
