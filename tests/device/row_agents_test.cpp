// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The threads of the device's row kernels, one after the other on the host: the same bits as the
// host's kernels, whether rows are read in vectors or element by element.
#include <oriel/core/executor.hpp>
#include <oriel/kernels/embed.hpp>
#include <oriel/kernels/gather_rows.hpp>
#include <oriel/kernels/rope.hpp>
#include <oriel/kernels/swiglu.hpp>

#include <cuda/detail/rope_agent.cuh>
#include <cuda/detail/row_agents.cuh>

#include <catch2/catch.hpp>
#include <device/stored_rows.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace row_agents_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

constexpr std::uint32_t rows = 5;
serial_executor serial;

template <class T, class Table, std::uint32_t N>
void check_embed(std::uint32_t width, std::size_t stride) {
  random_stream random(width, 50);
  const embed_shape shape{.vocabulary = 9,
                          .width = width,
                          .table = std::is_same_v<Table, bf16> ? dtype::bf16 : dtype::f32};
  stored_rows<Table> table(exact_floats<Table>(std::size_t{9} * width, random));
  const std::vector<token_id> tokens{
      token_id{8}, token_id{0}, token_id{3}, token_id{3}, token_id{9}};
  stored_rows<T> out(rows * stride);
  const basic_embed_args<T> args{out.data(), stride, table.data(), tokens};
  if (N == 1 || detail::embed_agent<T, Table, N>::fits(shape, args)) {
    detail::run_on_host(detail::embed_agent<T, Table, N>{shape, args});
  } else {
    FAIL("rows that should be aligned are not");
  }

  std::vector<float> expected = stored_rows<T>(rows * stride).floats();
  host::run_embed(*host::plan_embed(shape),
                  {expected.data(), stride, table.data(), std::span(tokens).first(4)},
                  serial);
  const std::vector<float> found = out.floats();
  for (std::uint32_t i = 0; i < width; ++i) {  // A token outside the vocabulary.
    REQUIRE(std::isnan(found[4 * stride + i]));
  }
  REQUIRE(std::memcmp(found.data(), expected.data(), 4 * stride * sizeof(float)) == 0);
}

template <class T, std::uint32_t N>
void check_swiglu(std::uint32_t inter, std::size_t stride, dtype activation) {
  random_stream random(inter, 51);
  std::vector<float> gate_up = exact_floats<T>(rows * 2 * stride, random, 12.0f);
  gate_up[0] = 200.0f;
  gate_up[inter / 2] = -200.0f;
  stored_rows<T> stored(gate_up), out(rows * stride);
  const swiglu_shape shape{inter, activation};
  const basic_swiglu_args<T> args{out.data(), stride, stored.data(), 2 * stride, rows};
  REQUIRE((N == 1 || detail::swiglu_agent<T, N>::fits(shape, args)));
  const std::uint32_t row_count = rows - 1;  // The last row stays.
  detail::run_on_host(detail::swiglu_agent<T, N>{shape, args}, &row_count);

  std::vector<float> expected = stored_rows<T>(rows * stride).floats();
  host::run_swiglu(*host::plan_swiglu(shape),
                   {expected.data(), stride, gate_up.data(), 2 * stride, row_count},
                   serial);
  INFO("inter " << inter << ", activation " << name_of(activation));
  REQUIRE(same_bits(out.floats(), expected));
}

template <class T, std::uint32_t N>
void check_gather(std::uint32_t width, std::size_t stride, std::uint32_t divisor) {
  random_stream random(width, 52);
  const std::vector<float> x = exact_floats<T>(7 * stride, random);
  stored_rows<T> stored(x), out(rows * stride);
  std::vector<std::uint32_t> chosen(rows);
  for (std::uint32_t& row : chosen) {
    row = random.next_below(7 * divisor);
  }
  const gather_rows_shape shape{width, divisor};
  const basic_gather_rows_args<T> args{out.data(), stride, stored.data(), stride, chosen};
  REQUIRE((N == 1 || detail::gather_rows_agent<T, N>::fits(shape, args)));
  const std::uint32_t row_count = random.next_below(rows + 2);  // Not a whole number of calls.
  detail::run_on_host(detail::gather_rows_agent<T, N>{shape, args}, &row_count);
  chosen.resize(std::min(row_count, rows));
  std::vector<float> expected = stored_rows<T>(rows * stride).floats();
  reference::gather_rows(shape, {expected.data(), stride, x.data(), stride, chosen});
  REQUIRE(same_bits(out.floats(), expected));
}

std::vector<float> host_table(const host::rope_plan& plan,
                              const std::vector<std::uint32_t>& positions) {
  std::vector<float> table(plan.table_size(positions.size()));
  host::fill_rope_table(plan, positions, table, serial);
  return table;
}

template <class T, std::uint32_t N>
void check_rope(const rope_shape& shape, std::uint32_t heads, std::size_t stride) {
  random_stream random(shape.rotary_dims, 53);
  const auto plan = host::plan_rope(shape);
  REQUIRE(plan);
  const std::vector<std::uint32_t> positions{0, 1, 77, 4'095, 1'000'000};
  const std::vector<float> filled = host_table(*plan, positions);
  stored_rows<float> table(filled);
  std::vector<float> x = exact_floats<T>(rows * stride, random);
  stored_rows<T> stored(x);
  const basic_rope_args<T> args{stored.data(), stride, heads, positions};
  REQUIRE((N == 1 || detail::rope_agent<T, N>::fits(*plan, args, table.data())));
  detail::run_on_host(detail::rope_agent<T, N>{shape.head_dim, plan->pairs, args, table.data()});
  host::run_rope(*plan, {x.data(), stride, heads, positions}, filled, serial);
  REQUIRE(same_bits(stored.floats(), stored_rows<T>(x).floats()));
}

/// Query heads in a matrix of their own, rounded; the others turn in place.
template <std::uint32_t N>
void check_rope_qk(const rope_shape& shape,
                   std::uint32_t q_heads,
                   std::uint32_t kv_heads,
                   std::size_t padding) {
  random_stream random(shape.rotary_dims, 55);
  const auto plan = host::plan_rope(shape);
  REQUIRE(plan);
  const std::vector<std::uint32_t> positions{0, 1, 77, 4'095, 1'000'000};
  const std::vector<float> filled = host_table(*plan, positions);
  const std::size_t q_width = std::size_t{q_heads} * shape.head_dim;
  const std::size_t stride = q_width + std::size_t{kv_heads} * shape.head_dim + padding;
  const std::size_t q_stride = q_width + padding;
  stored_rows<float> table(filled);
  const std::vector<float> x = random_floats(rows * stride, random, -4.0f, 4.0f);
  std::vector<float> turned = x;
  host::run_rope(*plan, {turned.data(), stride, q_heads + kv_heads, positions}, filled, serial);
  std::vector<float> expected = x, expected_q = stored_rows<bf16>(rows * q_stride).floats();
  const std::uint32_t row_count = rows - 1;  // The last row stays.
  for (std::size_t row = 0; row < row_count; ++row) {
    const auto from = turned.begin() + static_cast<std::ptrdiff_t>(row * stride);
    const auto behind_q = from + static_cast<std::ptrdiff_t>(q_width);
    std::transform(from,
                   behind_q,
                   expected_q.begin() + static_cast<std::ptrdiff_t>(row * q_stride),
                   round_to_bf16);
    std::copy(behind_q,
              from + static_cast<std::ptrdiff_t>(stride),
              expected.begin() + static_cast<std::ptrdiff_t>(row * stride + q_width));
  }
  INFO("head dim " << shape.head_dim << ", " << q_heads << " and " << kv_heads << " heads");
  for (const bool is_host : {false, true}) {
    stored_rows<float> stored(x);
    stored_rows<bf16> q(rows * q_stride);
    rope_qk_args args{.q = q.data(),
                      .q_stride = q_stride,
                      .x = stored.data(),
                      .x_stride = stride,
                      .q_heads = q_heads,
                      .kv_heads = kv_heads,
                      .positions = positions};
    if (is_host) {
      args.positions = args.positions.first(row_count);
      host::run_rope(*plan, args, filled, serial);
    } else {
      REQUIRE((N == 1 || detail::rope_qk_agent<N>::fits(*plan, args, table.data())));
      detail::run_on_host(detail::rope_qk_agent<N>{shape.head_dim, plan->pairs, args, table.data()},
                          &row_count);
    }
    REQUIRE(same_bits(stored.floats(), expected));
    REQUIRE(same_bits(q.floats(), expected_q));
  }
}

}  // namespace

TEST_CASE("the device's embedding has the bits of the host's; an unknown token is NaN") {
  check_embed<float, float, 8>(64, 64);
  check_embed<float, bf16, 8>(72, 80);
  check_embed<bf16, bf16, 8>(64, 64);
  for (const std::uint32_t width : {1u, 7u, 65u}) {
    check_embed<float, float, 1>(width, width + 1);
    check_embed<float, bf16, 1>(width, width);
    check_embed<bf16, bf16, 1>(width, width + 3);
  }
}

TEST_CASE("the device's SwiGLU has the bits of the host's") {
  for (const dtype activation : {dtype::f32, dtype::bf16}) {
    check_swiglu<float, 8>(64, 68, activation);
    check_swiglu<float, 8>(2'048, 2'048, activation);
    check_swiglu<float, 1>(1, 1, activation);
    check_swiglu<float, 1>(77, 80, activation);
  }
  check_swiglu<bf16, 8>(2'048, 2'056, dtype::bf16);
  check_swiglu<bf16, 1>(77, 77, dtype::bf16);
}

TEST_CASE("the device gathers the rows of the reference") {
  for (const std::uint32_t divisor : {1u, 2u, 8u}) {
    check_gather<float, 8>(64, 64, divisor);
    check_gather<float, 1>(5, 6, divisor);
    check_gather<bf16, 8>(192, 200, divisor);
    check_gather<bf16, 1>(33, 33, divisor);
  }
}

TEST_CASE("rows that are not aligned are not read in vectors") {
  stored_rows<bf16> x(1'024), out(1'024);
  const auto fits = [](const basic_gather_rows_args<bf16>& args, std::uint32_t width) {
    return detail::gather_rows_agent<bf16, 8>::fits({width, 1}, args);
  };
  CHECK(fits({out.data(), 64, x.data(), 64, {}}, 64));
  CHECK_FALSE(fits({out.data() + 1, 64, x.data(), 64, {}}, 64));
  CHECK_FALSE(fits({out.data(), 64, x.data() + 4, 64, {}}, 64));
  CHECK_FALSE(fits({out.data(), 68, x.data(), 64, {}}, 64));
  CHECK_FALSE(fits({out.data(), 64, x.data(), 65, {}}, 64));
  CHECK_FALSE(fits({out.data(), 64, x.data(), 64, {}}, 60));
}

TEST_CASE("the device's rope rotates with the bits of the host's") {
  const rope_shape partial{192, 64, 64, 1e7}, whole{128, 128, 128, 1e4}, odd{10, 6, 5, 1e4};
  check_rope<float, 8>(partial, 3, 3 * 192);
  check_rope<bf16, 8>(partial, 2, 2 * 192 + 8);
  check_rope<float, 8>(whole, 2, 2 * 128);
  check_rope<bf16, 8>(whole, 1, 128);
  check_rope<float, 1>(odd, 3, 31);
  check_rope<bf16, 1>(odd, 3, 33);
  check_rope<float, 1>({8, 0, 0, 1e4}, 3, 24);  // Nothing turns.
}

TEST_CASE("rope writes query heads as attention reads them, with the bits of rounding behind it") {
  const rope_shape partial{192, 64, 64, 1e7}, whole{128, 128, 128, 1e4}, odd{10, 6, 5, 1e4};
  check_rope_qk<8>(partial, 3, 2, 0);
  check_rope_qk<8>(partial, 1, 0, 8);
  check_rope_qk<8>(whole, 2, 1, 16);
  check_rope_qk<8>({64, 0, 0, 1e4}, 2, 1, 0);  // Nothing turns: queries are rounded.
  check_rope_qk<1>(odd, 3, 2, 1);
  check_rope_qk<1>({8, 0, 0, 1e4}, 3, 1, 3);
  const host::rope_plan plan = *host::plan_rope(partial);
  stored_rows<bf16> q(1'024);
  stored_rows<float> x(1'024);
  const auto fits = [&](std::size_t q_begin, std::size_t q_stride, std::size_t x_stride) {
    return detail::rope_qk_agent<8>::fits(
        plan, {q.data() + q_begin, q_stride, x.data(), x_stride, 1, 1, {}}, x.data());
  };
  CHECK(fits(0, 192, 384));
  CHECK_FALSE(fits(4, 192, 384));
  CHECK_FALSE(fits(0, 196, 384));
  CHECK_FALSE(fits(0, 192, 385));
}

TEST_CASE("the device's rope table is the host's") {
  random_stream random(1, 54);
  std::vector<std::uint32_t> positions{0, 1, 2, 3, 1u << 24, UINT32_MAX, 0x8000'0001u};
  for (int i = 0; i < 4'000; ++i) {
    positions.push_back(random.next_bits() >> random.next_below(32));
  }
  const auto plan = host::plan_rope({64, 64, 64, GENERATE(1e4, 1e7)});
  REQUIRE(plan);
  std::vector<float> table(plan->table_size(positions.size()));
  detail::run_on_host(detail::rope_table_agent{
      *plan, positions.data(), static_cast<std::uint32_t>(positions.size()), table.data()});
  REQUIRE(same_bits(table, host_table(*plan, positions)));
}

TEST_CASE("plans of the device's row kernels refuse what no kernel does") {
  CHECK(cuda::plan_embed({9, 8, dtype::bf16}));
  CHECK_FALSE(cuda::plan_embed({0, 8, dtype::bf16}));
  CHECK_FALSE(cuda::plan_embed({9, 0, dtype::bf16}));
  CHECK_FALSE(cuda::plan_embed({9, 8, dtype::e4m3}));
  CHECK(cuda::plan_gather_rows({8, 1}));
  CHECK_FALSE(cuda::plan_gather_rows({0, 1}));
  CHECK_FALSE(cuda::plan_gather_rows({8, 0}));
  CHECK(cuda::plan_swiglu({8, dtype::f32}));
  CHECK_FALSE(cuda::plan_swiglu({0, dtype::f32}));
  CHECK_FALSE(cuda::plan_swiglu({8, dtype::e4m3}));
  CHECK(cuda::plan_rope({192, 64, 64, 1e7}));
  CHECK_FALSE(cuda::plan_rope({192, 63, 64, 1e7}));
}

}  // namespace row_agents_test
