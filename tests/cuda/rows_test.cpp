// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The row kernels on a device, against the host's. tests/device runs the same programs on the host.
#include <oriel/core/executor.hpp>
#include <oriel/kernels/embed.hpp>
#include <oriel/kernels/gather_rows.hpp>
#include <oriel/kernels/quantize_rows.hpp>
#include <oriel/kernels/rms_norm.hpp>
#include <oriel/kernels/rope.hpp>
#include <oriel/kernels/swiglu.hpp>

#include <cuda/captured.hpp>
#include <cuda/device_array.hpp>

#include <support/arrays.hpp>

#include <algorithm>

namespace rows_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

constexpr std::uint32_t rows = 37;
serial_executor serial;

template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

std::vector<bf16> to_bf16s(const std::vector<float>& x) {
  std::vector<bf16> y(x.size());
  std::transform(x.begin(), x.end(), y.begin(), [](float v) { return to_bf16(v); });
  return y;
}

std::vector<float> widened(const std::vector<bf16>& x) {
  std::vector<float> y(x.size());
  std::transform(x.begin(), x.end(), y.begin(), [](bf16 v) { return to_float(v); });
  return y;
}

}  // namespace

TEST_CASE("cuda embed and gather copy the host's bits") {
  const std::uint32_t width = GENERATE(1u, 65u, 128u, 6'144u);
  random_stream random(width, 70);
  const std::vector<bf16> table = to_bf16s(random_floats(50 * width, random));
  std::vector<token_id> tokens(rows);
  std::vector<std::uint32_t> chosen(rows);
  for (std::uint32_t i = 0; i < rows; ++i) {
    tokens[i] = token_id{random.next_below(50)};
    chosen[i] = random.next_below(50 * 8);
  }
  std::vector<float> expected(rows * width);
  host::run_embed(*host::plan_embed({50, width, dtype::bf16}),
                  {expected.data(), width, table.data(), tokens},
                  serial);
  const auto device_table = to_device(table);
  const auto device_tokens = to_device(tokens);
  const device_array<float> out(rows * width);
  const device_array<bf16> out_bf16(rows * width);
  const auto plan = cuda::plan_embed({50, width, dtype::bf16});
  const std::span<const token_id> ids(device_tokens.data(), rows);
  REQUIRE(cuda::run_embed(*plan, {out.data(), width, device_table.data(), ids}, nullptr));
  REQUIRE(cuda::run_embed(
      *plan, basic_embed_args<bf16>{out_bf16.data(), width, device_table.data(), ids}, nullptr));
  CHECK(same(out.to_host(), expected));
  CHECK(same(widened(out_bf16.to_host()), expected));

  const std::vector<float> x = widened(table);
  reference::gather_rows({width, 8}, {expected.data(), width, x.data(), width, chosen});
  const auto device_chosen = to_device(chosen);
  REQUIRE(cuda::run_gather_rows(
      *cuda::plan_gather_rows({width, 8}),
      basic_gather_rows_args<bf16>{
          out_bf16.data(), width, device_table.data(), width, {device_chosen.data(), rows}},
      nullptr));
  CHECK(same(widened(out_bf16.to_host()), expected));
}

TEST_CASE("cuda swiglu has the bits of the host's") {
  const std::uint32_t inter = GENERATE(1u, 77u, 2'048u);
  random_stream random(inter, 71);
  const std::vector<bf16> gate_up = to_bf16s(random_floats(rows * 2 * inter, random, -9.0f, 9.0f));
  const std::vector<float> x = widened(gate_up);
  std::vector<float> expected(rows * inter);
  const swiglu_shape shape{inter, dtype::bf16};
  host::run_swiglu(
      *host::plan_swiglu(shape), {expected.data(), inter, x.data(), 2 * inter, rows}, serial);
  const auto device_x = to_device(x);
  const auto device_gate_up = to_device(gate_up);
  const device_array<float> out(rows * inter);
  const device_array<bf16> out_bf16(rows * inter);
  const auto plan = cuda::plan_swiglu(shape);
  REQUIRE(cuda::run_swiglu(*plan, {out.data(), inter, device_x.data(), 2 * inter, rows}, nullptr));
  REQUIRE(cuda::run_swiglu(
      *plan,
      basic_swiglu_args<bf16>{out_bf16.data(), inter, device_gate_up.data(), 2 * inter, rows},
      nullptr));
  CHECK(same(out.to_host(), expected));
  CHECK(same(widened(out_bf16.to_host()), expected));
}

namespace {

/// Rows anywhere, and the host's table of them.
struct rope_case {
  rope_case(const rope_shape& shape, random_stream& random) : positions(rows) {
    const auto made = cuda::plan_rope(shape);
    REQUIRE(made);
    plan = *made;
    for (std::uint32_t& p : positions) {
      p = random.next_below(1'000'000);
    }
    table.resize(plan.table_size(rows));
    host::fill_rope_table(plan, positions, table, serial);
  }
  cuda::rope_plan plan{};
  std::vector<std::uint32_t> positions;
  std::vector<float> table;
};

}  // namespace

TEST_CASE("cuda rope has the bits of the host's, its table up to one in 2^28") {
  const rope_shape shape = GENERATE(rope_shape{192, 64, 64, 1e7}, rope_shape{10, 6, 5, 1e4});
  constexpr std::uint32_t heads = 3;
  random_stream random(shape.head_dim, 72);
  const rope_case c(shape, random);
  const auto device_positions = to_device(c.positions);
  const device_array<float> device_table(c.table.size());
  const std::span<const std::uint32_t> at(device_positions.data(), rows);
  REQUIRE(cuda::fill_rope_table(c.plan, at, {device_table.data(), c.table.size()}, nullptr));
  CHECK(same(device_table.to_host(), c.table));

  const std::size_t stride = std::size_t{heads} * shape.head_dim;
  std::vector<float> x = random_floats(rows * stride, random);
  const auto device_x = to_device(x);
  host::run_rope(c.plan, {x.data(), stride, heads, c.positions}, c.table, serial);
  const auto host_table = to_device(c.table);
  REQUIRE(cuda::run_rope(
      c.plan, {device_x.data(), stride, heads, at}, {host_table.data(), c.table.size()}, nullptr));
  CHECK(same(device_x.to_host(), x));
}

TEST_CASE("cuda rope writes query heads in bf16 with the bits of the host's") {
  const rope_shape shape = GENERATE(rope_shape{192, 64, 64, 1e7}, rope_shape{10, 6, 5, 1e4});
  constexpr std::uint32_t q_heads = 5, kv_heads = 2;
  random_stream random(shape.head_dim, 76);
  const rope_case c(shape, random);
  const std::size_t q_stride = std::size_t{q_heads} * shape.head_dim,
                    stride = q_stride + std::size_t{kv_heads} * shape.head_dim;
  std::vector<float> x = random_floats(rows * stride, random);
  std::vector<bf16> q(rows * q_stride);
  const auto device_x = to_device(x), device_table = to_device(c.table);
  const auto device_positions = to_device(c.positions);
  const device_array<bf16> device_q(q.size());
  const auto args = [&](bf16* to, float* from, std::span<const std::uint32_t> at) {
    return rope_qk_args{.q = to,
                        .q_stride = q_stride,
                        .x = from,
                        .x_stride = stride,
                        .q_heads = q_heads,
                        .kv_heads = kv_heads,
                        .positions = at};
  };
  host::run_rope(c.plan, args(q.data(), x.data(), c.positions), c.table, serial);
  REQUIRE(cuda::run_rope(c.plan,
                         args(device_q.data(), device_x.data(), {device_positions.data(), rows}),
                         {device_table.data(), c.table.size()},
                         nullptr));
  CHECK(same(device_x.to_host(), x));
  CHECK((device_q.to_host() == q));  // Not as text.
}

TEST_CASE("cuda quantises rows with the bits of the reference") {
  const std::uint32_t columns = GENERATE(1u, 129u, 2'048u, 6'144u);
  random_stream random(columns, 73);
  std::vector<float> x = random_floats(rows * columns, random, -50.0f, 50.0f);
  x[columns / 2] = std::numeric_limits<float>::quiet_NaN();
  const std::size_t groups = (columns + 127) / 128;
  std::vector<e4m3> expected(rows * columns);
  std::vector<float> scales(rows * groups);
  const quantize_rows_shape shape{columns};
  reference::quantize_rows(
      shape, {{expected.data(), columns, scales.data(), groups, 1}, x.data(), columns, rows});
  const auto device_x = to_device(x);
  const device_array<e4m3> out(expected.size());
  const device_array<float> device_scales(scales.size());
  REQUIRE(cuda::run_quantize_rows(
      *cuda::plan_quantize_rows(shape),
      {{out.data(), columns, device_scales.data(), groups, 1}, device_x.data(), columns, rows},
      nullptr));
  CHECK(same(out.to_host(), expected));
  CHECK(same(device_scales.to_host(), scales));
}

TEST_CASE("cuda SwiGLU writes e4m3 with the bits of quantisation behind it") {
  const std::uint32_t inter = GENERATE(127u, 2'056u);
  random_stream random(inter, 75);
  const std::vector<bf16> gate_up = to_bf16s(random_floats(rows * 2 * inter, random));
  const std::size_t groups = (inter - 1) / quantize_group + 1;
  const auto device_gate_up = to_device(gate_up);
  const device_array<bf16> act(rows * inter);
  const device_array<e4m3> expected(rows * inter), out(rows * inter);
  const device_array<float> expected_scales(rows * groups), scales(rows * groups);
  const auto plan = *cuda::plan_swiglu({inter, dtype::bf16});
  REQUIRE(cuda::run_swiglu(
      plan,
      basic_swiglu_args<bf16>{act.data(), inter, device_gate_up.data(), 2 * inter, rows},
      nullptr));
  REQUIRE(cuda::run_quantize_rows(
      *cuda::plan_quantize_rows({inter}),
      basic_quantize_rows_args<bf16>{
          {expected.data(), inter, expected_scales.data(), 1, rows}, act.data(), inter, rows},
      nullptr));
  REQUIRE(cuda::run_swiglu(
      plan,
      quantized_swiglu_args{
          {out.data(), inter, scales.data(), 1, rows}, device_gate_up.data(), 2 * inter, rows},
      nullptr));
  CHECK(same(out.to_host(), expected.to_host()));
  CHECK(same(scales.to_host(), expected_scales.to_host()));
}

TEST_CASE("cuda rms_norm, recorded once, serves as many rows as device memory says") {
  constexpr std::uint32_t width = 256;
  random_stream random(1, 74);
  const std::vector<bf16> x = to_bf16s(random_floats(rows * width, random));
  const std::vector<float> weight = random_floats(width, random), wide = widened(x);
  std::vector<float> all(rows * width);
  const rms_norm_shape shape{width, 1e-5f, dtype::bf16};
  host::run_rms_norm(*host::plan_rms_norm(shape),
                     {.out = all.data(),
                      .out_stride = width,
                      .x = wide.data(),
                      .x_stride = width,
                      .weight = weight.data(),
                      .rows = rows},
                     serial);
  const auto device_x = to_device(x);
  const auto device_weight = to_device(weight);
  const device_array<bf16> out(rows * width);
  const device_array<std::uint32_t> row_count(1);
  const basic_rms_norm_args<bf16> args{.out = out.data(),
                                       .out_stride = width,
                                       .x = device_x.data(),
                                       .x_stride = width,
                                       .weight = device_weight.data(),
                                       .rows = rows};
  captured graph([&](cudaStream_t stream) {
    REQUIRE(cuda::run_rms_norm(*cuda::plan_rms_norm(shape), args, stream, row_count.data()));
  });
  for (const std::uint32_t count : {3u, 0u, rows, 20u}) {
    out.poison();
    ORIEL_REQUIRE_CUDA(cudaMemcpy(row_count.data(), &count, sizeof count, cudaMemcpyHostToDevice));
    graph.launch();
    std::vector<float> expected = widened(std::vector<bf16>(rows * width, bf16{0xFFFF}));
    std::copy_n(all.begin(), count * width, expected.begin());
    CHECK(same(widened(out.to_host()), expected));
  }
}

}  // namespace rows_test
