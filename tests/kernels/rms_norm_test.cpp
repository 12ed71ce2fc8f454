// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/thread_pool.hpp>
#include <oriel/kernels/rms_norm.hpp>

#include <catch2/catch.hpp>
#include <support/arrays.hpp>
#include <support/norm_forms.hpp>

#include <cmath>

namespace rms_norm_test {

using oriel::dtype;
using oriel::isa;
using oriel::rms_norm_args;

namespace {

struct problem {
  oriel::rms_norm_shape shape;
  std::uint32_t rows;
  std::vector<float> x{}, add{}, weight{};
};

problem make_problem(std::uint32_t width,
                     std::uint32_t rows,
                     dtype activation,
                     std::uint64_t seed) {
  oriel::random_stream random(seed);
  problem p{.shape = {.width = width, .eps = 1e-5f, .activation = activation}, .rows = rows};
  p.x = random_floats(std::size_t{rows} * width, random, -3.0f, 3.0f);
  p.add = random_floats(p.x.size(), random);
  p.weight = random_floats(width, random, 0.2f, 2.0f);
  if (activation == dtype::bf16) {
    for (auto* v : {&p.x, &p.add, &p.weight}) {
      for (float& f : *v) {
        f = oriel::round_to_bf16(f);
      }
    }
  }
  return p;
}

struct outcome {
  std::vector<float> out, sum;
};

oriel::rms_norm_args args_of(const problem& p, outcome& o, bool with_add) {
  o.out = poisoned_floats(p.x.size());
  o.sum = poisoned_floats(with_add ? p.x.size() : 0);
  return {.out = o.out.data(),
          .out_stride = p.shape.width,
          .x = p.x.data(),
          .x_stride = p.shape.width,
          .weight = p.weight.data(),
          .rows = p.rows,
          .add = with_add ? p.add.data() : nullptr,
          .sum = with_add ? o.sum.data() : nullptr};
}

outcome run(const problem& p, bool with_add, isa path, oriel::executor_ref executor) {
  outcome o;
  const auto plan = oriel::host::plan_rms_norm(p.shape, path);
  REQUIRE(plan);
  oriel::host::run_rms_norm(*plan, args_of(p, o, with_add), executor);
  return o;
}

}  // namespace

TEST_CASE("rms_norm meets the reference and gives one set of bits on every path") {
  oriel::serial_executor serial;
  for (const dtype activation : {dtype::f32, dtype::bf16}) {
    for (const std::uint32_t width :
         {1u, 2u, 15u, 16u, 17u, 63u, 64u, 65u, 100u, 192u, 1024u, 4099u}) {
      for (const bool with_add : {false, true}) {
        const problem p = make_problem(width, 3, activation, width);
        outcome expected;
        oriel::reference::rms_norm(p.shape, args_of(p, expected, with_add));
        const outcome scalar = run(p, with_add, isa::scalar, serial);
        INFO("width " << width << ", " << oriel::name_of(activation) << ", add " << with_add);
        CHECK(same_bits(scalar.sum, expected.sum));
        // One bf16 step where a rounding falls the other way; a few f32 steps otherwise.
        const float tolerance = activation == dtype::bf16 ? 0x1.1p-7f : 2e-6f;
        for (std::size_t i = 0; i < scalar.out.size(); ++i) {
          REQUIRE(std::abs(scalar.out[i] - expected.out[i]) <=
                  tolerance * std::abs(expected.out[i]));
        }
        for (const isa path : supported_paths()) {
          const outcome other = run(p, with_add, path, serial);
          CHECK(same_bits(other.out, scalar.out));
          CHECK(same_bits(other.sum, scalar.sum));
        }
      }
    }
  }
}

TEST_CASE("rms_norm in bf16 differs from the reference in few elements") {
  oriel::serial_executor serial;
  const problem p = make_problem(1024, 16, dtype::bf16, 9);
  outcome expected;
  oriel::reference::rms_norm(p.shape, args_of(p, expected, false));
  const outcome got = run(p, false, oriel::best_isa(), serial);
  std::size_t different = 0;
  for (std::size_t i = 0; i < got.out.size(); ++i) {
    different += got.out[i] != expected.out[i];
    REQUIRE(got.out[i] == oriel::round_to_bf16(got.out[i]));
  }
  CHECK(different < got.out.size() / 1000);
}

TEST_CASE("a row of rms_norm knows neither its companions nor the threads") {
  oriel::thread_pool pool(2);
  oriel::serial_executor serial;
  problem p = make_problem(777, 150, dtype::bf16, 4);
  const outcome all = run(p, true, oriel::best_isa(), pool);
  for (const std::uint32_t row : {0u, 1u, 42u, 43u, 149u}) {
    problem one = p;
    one.rows = 1;
    one.x.assign(p.x.begin() + row * 777, p.x.begin() + (row + 1) * 777);
    one.add.assign(p.add.begin() + row * 777, p.add.begin() + (row + 1) * 777);
    const outcome alone = run(one, true, oriel::best_isa(), serial);
    CHECK(same_bits(alone.out, std::span(all.out).subspan(row * 777, 777)));
    CHECK(same_bits(alone.sum, std::span(all.sum).subspan(row * 777, 777)));
  }
}

TEST_CASE("rms_norm writes operands with the bits of a norm and a kernel behind it") {
  const bool with_add = GENERATE(false, true);
  const auto activation = GENERATE(dtype::f32, dtype::bf16);
  constexpr std::uint32_t rows = 3;
  oriel::thread_pool pool(2);
  for (const std::uint32_t width : {1u, 37u, 127u, 128u, 129u, 300u, 1'024u, 1'031u}) {
    problem p = make_problem(width, rows, activation, width);
    p.x[width / 2] *= 0x1p20f;  // One group of a row has quite another scale.
    outcome plain;              // Rows with gaps behind them, as the forms have them.
    const std::size_t stride = width + 5;
    const auto check = [&](const auto& run_norm) {
      std::vector<float> y(rows * stride);
      rms_norm_args args = args_of(p, plain, with_add);
      args.out = y.data();
      args.out_stride = stride;
      run_norm(args);
      const std::vector<float> sum = plain.sum;
      for (unsigned forms = plain_rows; forms <= all_rows; ++forms) {
        norm_forms<float> expected(rows, width, stride), found(rows, width, stride);
        expected.make(y, forms);
        args = args_of(p, plain, with_add);
        found.ask(args, forms);
        run_norm(args);
        INFO("width " << width << ", forms " << forms);
        REQUIRE(found.has_bits_of(expected));
        REQUIRE(same_bits(plain.sum, sum));
      }
    };
    check([&](const rms_norm_args& args) { oriel::reference::rms_norm(p.shape, args); });
    for (const isa path : supported_paths()) {
      const auto plan = oriel::host::plan_rms_norm(p.shape, path);
      check([&](const rms_norm_args& args) { oriel::host::run_rms_norm(*plan, args, pool); });
    }
  }
}

TEST_CASE("rms_norm works in place, with strides, and leaves the gaps alone") {
  oriel::serial_executor serial;
  const problem p = make_problem(37, 5, dtype::f32, 12);
  const outcome expected = run(p, false, oriel::best_isa(), serial);
  std::vector<float> buffer(5 * 50, 7.0f);
  for (std::size_t row = 0; row < 5; ++row) {
    std::copy_n(p.x.begin() + static_cast<std::ptrdiff_t>(row * 37),
                37,
                buffer.begin() + static_cast<std::ptrdiff_t>(row * 50));
  }
  const auto plan = oriel::host::plan_rms_norm(p.shape);
  oriel::host::run_rms_norm(*plan,
                            {.out = buffer.data(),
                             .out_stride = 50,
                             .x = buffer.data(),
                             .x_stride = 50,
                             .weight = p.weight.data(),
                             .rows = 5},
                            serial);
  for (std::size_t row = 0; row < 5; ++row) {
    CHECK(same_bits(std::span(buffer).subspan(row * 50, 37),
                    std::span(expected.out).subspan(row * 37, 37)));
    CHECK(std::span(buffer).subspan(row * 50 + 37, 13).front() == 7.0f);
    CHECK(std::span(buffer).subspan(row * 50 + 37, 13).back() == 7.0f);
  }
}

TEST_CASE("rms_norm refuses what it cannot do") {
  CHECK_FALSE(oriel::host::plan_rms_norm({.width = 0, .eps = 0.0f, .activation = dtype::f32}));
  CHECK_FALSE(oriel::host::plan_rms_norm({.width = 8, .eps = 0.0f, .activation = dtype::e4m3}));
}

}  // namespace rms_norm_test
