// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/rope.hpp>

#include <kernels/attention_case.hpp>

#include <cmath>
#include <vector>

namespace rope_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

std::vector<float> rotate(const rope_shape& shape,
                          std::vector<float> x,
                          std::uint32_t heads,
                          std::span<const std::uint32_t> positions,
                          executor_ref executor) {
  const auto plan = host::plan_rope(shape);
  REQUIRE(plan);
  std::vector<float> table(plan->table_size(positions.size()));
  host::fill_rope_table(*plan, positions, table, executor);
  host::run_rope(*plan, {x.data(), x.size() / positions.size(), heads, positions}, table, executor);
  return x;
}

}  // namespace

TEST_CASE("rope agrees with the formula") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 20)));
  random_stream random(seed, 20);
  const std::uint32_t rotary = 2 * random.next_below(65);
  const rope_shape shape{.head_dim = rotary + random.next_below(100) + 1,
                         .rotary_dims = rotary,
                         .rope_base_dims = rotary < 2 ? 1 : rotary - random.next_below(2),
                         .theta = random.next_below(2) ? 1e4 : 5e6};
  const std::uint32_t heads = 1 + random.next_below(5), rows = 1 + random.next_below(40);
  std::vector<std::uint32_t> positions(rows);
  std::uint32_t last = 0;
  for (auto& p : positions) {
    p = random.next_below(1u << (1 + random.next_below(17)));
    last = std::max(last, p);
  }
  const std::size_t stride = std::size_t{heads} * shape.head_dim + 7;  // The tail stays.
  const auto x = random_floats(random, rows * stride);
  serial_executor serial;
  backward_executor backward;
  const auto got = rotate(shape, x, heads, positions, serial);
  CHECK(same_bits(got, rotate(shape, x, heads, positions, backward)));
  auto expected = x;
  reference::rope(shape, {expected.data(), stride, heads, positions});
  // A frequency carries three roundings, its product with the position one, so an angle is off by
  // 4 * 2^-24 of itself; values are below 3.5. Then the products and sums.
  const double bound = 2 * 3.5 * (4.0 * last * 0x1p-24 + 6 * 0x1p-24);
  for (std::size_t i = 0; i < x.size(); ++i) {
    REQUIRE(std::abs(double{got[i]} - double{expected[i]}) <= bound);
    if (i % stride >= stride - 7 || i % stride % shape.head_dim >= rotary) {
      REQUIRE(got[i] == x[i]);
    }
  }
}

TEST_CASE("a row's rotation depends on its position alone") {
  const rope_shape shape{64, 32, 32, 1e4};
  random_stream random(21);
  serial_executor serial;
  const auto x = random_floats(random, 64);
  const std::uint32_t here[] = {70'001};
  const auto alone = rotate(shape, x, 1, here, serial);
  std::vector<std::uint32_t> positions(50);
  std::vector<float> many;
  for (std::uint32_t i = 0; i < 50; ++i) {
    positions[i] = 69'980 + i;
    many.insert(many.end(), x.begin(), x.end());
  }
  const auto got = rotate(shape, many, 1, positions, serial);
  CHECK(same_bits({got.begin() + 21 * 64, got.begin() + 22 * 64}, alone));
}

TEST_CASE("impossible rope shapes are refused") {
  CHECK_FALSE(host::plan_rope({64, 31, 31, 1e4}));
  CHECK_FALSE(host::plan_rope({64, 66, 66, 1e4}));
  CHECK_FALSE(host::plan_rope({512, 260, 260, 1e4}));
  CHECK_FALSE(host::plan_rope({64, 32, 0, 1e4}));
  CHECK_FALSE(host::plan_rope({64, 32, 32, 0.0}));
  CHECK(host::plan_rope({64, 0, 0, 1e4}));
}

}  // namespace rope_test
