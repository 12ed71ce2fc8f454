// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/moe_permute.hpp>

#include <catch2/catch.hpp>
#include <support/arrays.hpp>
#include <support/death.hpp>

#include <algorithm>

namespace moe_permute_test {

namespace {

struct arrays {
  std::vector<std::uint32_t> offsets, pair_of_row, row_of_pair;
};

arrays sorted_by_reference(const oriel::moe_permute_shape& shape,
                           const std::vector<std::uint32_t>& ids) {
  arrays a{.offsets = std::vector<std::uint32_t>(shape.experts + 1),
           .pair_of_row = std::vector<std::uint32_t>(ids.size()),
           .row_of_pair = std::vector<std::uint32_t>(ids.size())};
  oriel::reference::moe_permute(shape, ids, a.offsets, a.pair_of_row, a.row_of_pair);
  return a;
}

}  // namespace

TEST_CASE("moe_permute is the stable sort by expert") {
  oriel::random_stream random(20);
  for (int round = 0; round < 200; ++round) {
    const oriel::moe_permute_shape shape{.experts = 1 + random.next_below(400),
                                         .top_k = 1 + random.next_below(8),
                                         .tokens_max = 1 + random.next_below(100)};
    const auto plan = oriel::host::plan_moe_permute(shape);
    REQUIRE(plan);
    // Fewer tokens than planned; in some rounds, few experts get them all.
    const std::uint32_t tokens = random.next_below(shape.tokens_max + 1);
    const std::uint32_t used = 1 + random.next_below(shape.experts);
    std::vector<std::uint32_t> ids(std::size_t{tokens} * shape.top_k);
    for (std::uint32_t& id : ids) {
      id = random.next_below(used);
    }
    const arrays expected = sorted_by_reference(shape, ids);
    workspace_bytes workspace(plan->workspace_bytes);
    const auto got = oriel::host::run_moe_permute(*plan, ids, workspace.span());
    INFO("round " << round);
    REQUIRE(std::ranges::equal(got.expert_offsets, expected.offsets));
    REQUIRE(std::ranges::equal(got.pair_of_row, expected.pair_of_row));
    REQUIRE(std::ranges::equal(got.row_of_pair, expected.row_of_pair));
  }
}

TEST_CASE("moe_permute refuses what it cannot do") {
  using oriel::host::plan_moe_permute;
  CHECK_FALSE(plan_moe_permute({.experts = 0, .top_k = 1, .tokens_max = 1}));
  CHECK_FALSE(plan_moe_permute({.experts = 1, .top_k = 0, .tokens_max = 1}));
  CHECK_FALSE(plan_moe_permute({.experts = 1, .top_k = 1u << 16, .tokens_max = 1u << 16}));
  const auto plan = plan_moe_permute({.experts = 4, .top_k = 1, .tokens_max = 1});
  const std::vector<std::uint32_t> outside{4};
  workspace_bytes workspace(plan->workspace_bytes);
  CHECK(aborts([&] { (void)oriel::host::run_moe_permute(*plan, outside, workspace.span()); }));
}

}  // namespace moe_permute_test
