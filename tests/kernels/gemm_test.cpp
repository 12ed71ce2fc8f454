// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/random.hpp>
#include <oriel/core/thread_pool.hpp>
#include <oriel/kernels/gemm.hpp>

#include <catch2/catch.hpp>
#include <support/aligned_bytes.hpp>
#include <support/death.hpp>
#include <support/scale.hpp>

#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

namespace gemm_test {

using oriel::bf16;
using oriel::dtype;
using oriel::gemm_args;
using oriel::gemm_shape;
using oriel::isa;
using oriel::host::gemm_backend;
using oriel::host::gemm_plan;
using oriel::test::aligned_bytes;

namespace {

struct way {
  isa path;
  gemm_backend backend;
};

// Every (path, backend) that this machine and this build can run for `shape`.
std::vector<way> ways_for(const gemm_shape& shape) {
  std::vector<way> ways;
  for (const isa path : {isa::scalar, isa::avx2, isa::avx512, isa::avx512_bf16}) {
    for (const gemm_backend backend : {gemm_backend::own, gemm_backend::onednn}) {
      if (oriel::host::plan_gemm(shape, 1, 1, path, backend)) {
        ways.push_back({path, backend});
      }
    }
  }
  return ways;
}

// A plain [n, k] matrix in the shape's type.
struct plain_matrix {
  plain_matrix(const gemm_shape& s, std::uint64_t seed)
      : shape(s), bytes(std::size_t{s.n} * s.k * size_bytes(s.weights)) {
    oriel::random_stream random(seed, 1);
    for (std::size_t i = 0; i < std::size_t{s.n} * s.k; ++i) {
      set(i, random.next_uniform(-1.0f, 1.0f));
    }
  }
  void set(std::size_t i, float value) {
    if (shape.weights == dtype::f32) {
      std::memcpy(bytes.data() + i * 4, &value, 4);
    } else {
      const bf16 rounded = oriel::to_bf16(value);
      std::memcpy(bytes.data() + i * 2, &rounded, 2);
    }
  }
  const std::byte* row(std::uint32_t n) const {
    return bytes.data() + std::size_t{n} * shape.k * size_bytes(shape.weights);
  }

  gemm_shape shape;
  std::vector<std::byte> bytes;
};

std::vector<float> random_rows(std::size_t count, std::uint64_t seed) {
  oriel::random_stream random(seed, 2);
  std::vector<float> x(count);
  for (float& value : x) {
    value = random.next_uniform(-1.0f, 1.0f);
  }
  return x;
}

// A planned matrix with its packed weights, ready to multiply.
struct packed_matrix {
  packed_matrix(const plain_matrix& w,
                way how,
                std::uint32_t rows_max,
                std::uint32_t concurrency = 1)
      : plan(*oriel::host::plan_gemm(w.shape, rows_max, concurrency, how.path, how.backend)),
        weights(plan.packed_bytes),
        workspace(plan.workspace_bytes) {
    oriel::host::pack_gemm_weights(plan, w.row(0), 0, w.shape.n, weights.data());
  }
  std::vector<float> run(const float* x,
                         std::size_t x_stride,
                         std::uint32_t rows,
                         oriel::executor_ref executor) {
    std::vector<float> out(std::size_t{rows} * plan.shape.n,
                           std::numeric_limits<float>::quiet_NaN());
    oriel::host::run_gemm(plan,
                          {.out = out.data(),
                           .out_stride = plan.shape.n,
                           .x = x,
                           .x_stride = x_stride,
                           .weights = weights.data(),
                           .rows = rows},
                          workspace.span(),
                          executor);
    return out;
  }

  gemm_plan plan;
  aligned_bytes weights;
  aligned_bytes workspace;
};

// Largest error in units of what one rounding per addition may give.
void check_close(const std::vector<float>& got,
                 const plain_matrix& w,
                 const std::vector<float>& x,
                 std::uint32_t rows) {
  const gemm_shape& shape = w.shape;
  std::vector<float> want(got.size());
  oriel::reference::gemm(shape,
                         {.out = want.data(),
                          .out_stride = shape.n,
                          .x = x.data(),
                          .x_stride = shape.k,
                          .weights = w.row(0),
                          .rows = rows});
  for (std::size_t i = 0; i < got.size(); ++i) {
    // Inputs lie in [-1, 1]; a sum of k products with k roundings of partial sums of size sqrt(k).
    const double margin = 2e-7 * shape.k;
    INFO("row " << i / shape.n << " column " << i % shape.n);
    REQUIRE(std::abs(got[i] - want[i]) <= margin);
  }
}

bool same_bits(const float* a, const float* b, std::size_t count) {
  return std::memcmp(a, b, count * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("every path gives the reference's product within rounding", "[gemm]") {
  struct size {
    std::uint32_t n, k, rows;
  };
  oriel::serial_executor serial;
  for (const dtype weights : {dtype::f32, dtype::bf16}) {
    for (const size s : {size{1, 1, 1},
                         {1, 2, 3},
                         {3, 1, 2},
                         {5, 7, 1},
                         {32, 16, 4},
                         {33, 31, 5},
                         {64, 64, 14},
                         {65, 33, 15},
                         {100, 129, 29},
                         {128, 100, 1},
                         {257, 65, 2},
                         {160, 48, 3},
                         {16, 300, 40}}) {
      const gemm_shape shape{.n = s.n, .k = s.k, .weights = weights};
      const plain_matrix w(shape, s.n);
      const std::vector<float> x = random_rows(std::size_t{s.rows} * s.k, s.k);
      for (const way how : ways_for(shape)) {
        INFO("n " << s.n << " k " << s.k << " rows " << s.rows << " " << name_of(weights) << " "
                  << name_of(how.path) << " backend " << static_cast<int>(how.backend));
        packed_matrix packed(w, how, s.rows);
        check_close(packed.run(x.data(), s.k, s.rows, serial), w, x, s.rows);
      }
    }
  }
}

TEST_CASE("a row's bits do not depend on how many rows come with it", "[gemm]") {
  constexpr std::uint32_t rows = 512;
  const std::uint32_t step = scaled(10) < 10 ? 7 : 1;  // Every count, but for sanitizer builds.
  oriel::serial_executor serial;
  for (const dtype weights : {dtype::f32, dtype::bf16}) {
    const gemm_shape shape{.n = 85, .k = 97, .weights = weights};
    const plain_matrix w(shape, 3);
    const std::vector<float> x = random_rows(std::size_t{rows} * shape.k, 4);
    for (const way how : ways_for(shape)) {
      INFO(name_of(weights) << " " << name_of(how.path) << " backend "
                            << static_cast<int>(how.backend));
      packed_matrix packed(w, how, rows);
      std::vector<float> one_by_one;
      for (std::uint32_t r = 0; r < rows; ++r) {
        const std::vector<float> row = packed.run(&x[r * shape.k], shape.k, 1, serial);
        one_by_one.insert(one_by_one.end(), row.begin(), row.end());
      }
      for (std::uint32_t m = 1; m <= rows; m += step) {
        const std::uint32_t first = (m * 7) % (rows - m + 1);  // Other companions each time.
        const std::vector<float> together = packed.run(&x[first * shape.k], shape.k, m, serial);
        INFO("rows " << m);
        REQUIRE(
            same_bits(together.data(), &one_by_one[std::size_t{first} * shape.n], together.size()));
      }
    }
  }
}

TEST_CASE("threads, strides and a small workspace do not change bits", "[gemm]") {
  constexpr std::uint32_t rows = 75;
  const gemm_shape f32{.n = 530, .k = 1030, .weights = dtype::f32};
  for (gemm_shape shape : {f32, gemm_shape{.n = 530, .k = 1030, .weights = dtype::bf16}}) {
    const plain_matrix w(shape, 5);
    const std::size_t stride = shape.k + 3;
    const std::vector<float> x = random_rows(rows * stride, 6);
    for (const way how : ways_for(shape)) {
      if (how.path == isa::scalar) {
        continue;  // Slow, and shares its code with the others.
      }
      INFO(name_of(shape.weights) << " " << name_of(how.path) << " backend "
                                  << static_cast<int>(how.backend));
      oriel::serial_executor serial;
      packed_matrix packed(w, how, rows);
      const std::vector<float> want = packed.run(x.data(), stride, rows, serial);
      for (const std::uint32_t threads : {1u, 2u, 3u}) {
        oriel::thread_pool pool(threads);
        for (const std::uint32_t rows_max : {rows, 7u}) {
          packed_matrix other(w, how, rows_max, threads);
          const std::vector<float> got = other.run(x.data(), stride, rows, pool);
          INFO("threads " << threads << " rows_max " << rows_max);
          REQUIRE(same_bits(got.data(), want.data(), got.size()));
        }
      }
    }
  }
}

TEST_CASE("weights may arrive in ranges of rows, in any order", "[gemm]") {
  for (const dtype weights : {dtype::f32, dtype::bf16}) {
    const gemm_shape shape{.n = 203, .k = 77, .weights = weights};
    const plain_matrix w(shape, 7);
    for (const way how : ways_for(shape)) {
      INFO(name_of(weights) << " " << name_of(how.path) << " backend "
                            << static_cast<int>(how.backend));
      packed_matrix whole(w, how, 1);
      aligned_bytes parts(whole.plan.packed_bytes);
      for (const auto& [first, count] :
           {std::pair{150u, 53u}, {0u, 1u}, {1u, 36u}, {37u, 0u}, {37u, 113u}}) {
        oriel::host::pack_gemm_weights(whole.plan, w.row(first), first, count, parts.data());
      }
      REQUIRE(std::memcmp(parts.data(), whole.weights.data(), whole.plan.packed_bytes) == 0);
    }
  }
}

TEST_CASE("a column's bits depend on its own weights alone", "[gemm]") {
  // The same 40 rows of w at other places of a wider matrix.
  for (const dtype weights : {dtype::f32, dtype::bf16}) {
    const gemm_shape narrow{.n = 40, .k = 70, .weights = weights},
        wide{.n = 140, .k = 70, .weights = weights};
    const plain_matrix w(narrow, 8);
    const std::vector<float> x = random_rows(9 * narrow.k, 9);
    oriel::serial_executor serial;
    for (const way how : ways_for(narrow)) {
      packed_matrix a(w, how, 9), b(plain_matrix(wide, 10), how, 9);
      oriel::host::pack_gemm_weights(b.plan, w.row(0), 51, narrow.n, b.weights.data());
      const std::vector<float> from_a = a.run(x.data(), narrow.k, 9, serial),
                               from_b = b.run(x.data(), narrow.k, 9, serial);
      for (std::size_t r = 0; r < 9; ++r) {
        INFO(name_of(weights) << " " << name_of(how.path) << " backend "
                              << static_cast<int>(how.backend));
        REQUIRE(same_bits(&from_a[r * narrow.n], &from_b[r * wide.n + 51], narrow.n));
      }
    }
  }
}

TEST_CASE("accumulate adds the finished product once", "[gemm]") {
  oriel::serial_executor serial;
  for (const dtype weights : {dtype::f32, dtype::bf16}) {
    const gemm_shape shape{.n = 45, .k = 50, .weights = weights};
    const plain_matrix w(shape, 11);
    for (const std::uint32_t rows : {1u, 2u, 17u}) {
      const std::vector<float> x = random_rows(rows * shape.k, 12),
                               start = random_rows(rows * shape.n, 13);
      for (const way how : ways_for(shape)) {
        INFO(name_of(weights) << " " << name_of(how.path) << " backend "
                              << static_cast<int>(how.backend));
        packed_matrix packed(w, how, rows);
        const std::vector<float> product = packed.run(x.data(), shape.k, rows, serial);
        std::vector<float> out = start;
        oriel::host::run_gemm(packed.plan,
                              {.out = out.data(),
                               .out_stride = shape.n,
                               .x = x.data(),
                               .x_stride = shape.k,
                               .weights = packed.weights.data(),
                               .rows = rows,
                               .accumulate = true},
                              packed.workspace.span(),
                              serial);
        for (std::size_t i = 0; i < out.size(); ++i) {
          REQUIRE(out[i] == start[i] + product[i]);
        }
      }
    }
  }
}

TEST_CASE("only the rows and columns of the product are written", "[gemm]") {
  oriel::serial_executor serial;
  const gemm_shape shape{.n = 37, .k = 20, .weights = dtype::bf16};
  const plain_matrix w(shape, 14);
  for (const way how : ways_for(shape)) {
    constexpr std::uint32_t rows = 5;
    constexpr std::size_t stride = 41;
    packed_matrix packed(w, how, rows);
    const std::vector<float> x = random_rows(rows * shape.k, 15);
    std::vector<float> out((rows + 1) * stride, 1234.0f);
    oriel::host::run_gemm(packed.plan,
                          {.out = out.data(),
                           .out_stride = stride,
                           .x = x.data(),
                           .x_stride = shape.k,
                           .weights = packed.weights.data(),
                           .rows = rows},
                          packed.workspace.span(),
                          serial);
    for (std::size_t i = 0; i < out.size(); ++i) {
      const bool inside = i / stride < rows && i % stride < shape.n;
      REQUIRE((out[i] == 1234.0f) == !inside);
    }
  }
}

TEST_CASE("NaN and infinity reach the elements they belong to and no other", "[gemm]") {
  constexpr float inf = std::numeric_limits<float>::infinity(),
                  nan = std::numeric_limits<float>::quiet_NaN();
  oriel::serial_executor serial;
  for (const dtype weights : {dtype::f32, dtype::bf16}) {
    const gemm_shape shape{.n = 35, .k = 19, .weights = weights};
    plain_matrix w(shape, 16);
    w.set(3 * shape.k + 18, nan);
    w.set(4 * shape.k + 5, inf);
    std::vector<float> x = random_rows(4 * shape.k, 17);
    x[1 * shape.k + 18] = nan;
    x[2 * shape.k + 18] = -inf;
    for (const way how : ways_for(shape)) {
      INFO(name_of(weights) << " " << name_of(how.path) << " backend "
                            << static_cast<int>(how.backend));
      packed_matrix packed(w, how, 4);
      const std::vector<float> out = packed.run(x.data(), shape.k, 4, serial);
      for (std::uint32_t n = 0; n < shape.n; ++n) {
        CHECK(std::isnan(out[0 * shape.n + n]) == (n == 3));
        CHECK(std::isinf(out[0 * shape.n + n]) == (n == 4));
        CHECK(std::isnan(out[1 * shape.n + n]));
        CHECK(!std::isfinite(out[2 * shape.n + n]));
        CHECK(std::isnan(out[3 * shape.n + n]) == (n == 3));
      }
    }
  }
}

TEST_CASE("a run inside a task, each worker with its own workspace", "[gemm]") {
  const gemm_shape shape{.n = 96, .k = 128, .weights = dtype::bf16};
  const plain_matrix w(shape, 18);
  packed_matrix packed(w, {oriel::best_isa(), gemm_backend::automatic}, 4, 3);
  oriel::serial_executor serial;
  const std::vector<float> x = random_rows(32 * shape.k, 19);
  const std::vector<float> want = packed.run(x.data(), shape.k, 4, serial);
  oriel::thread_pool pool(3);
  std::vector<aligned_bytes> workspaces(pool.concurrency(),
                                        aligned_bytes(packed.plan.workspace_bytes));
  std::vector<float> out(32 * shape.n);
  oriel::executor_ref(pool).for_each(8, [&](std::uint32_t task, std::uint32_t worker) {
    oriel::serial_executor alone;
    oriel::host::run_gemm(packed.plan,
                          {.out = &out[task * 4 * shape.n],
                           .out_stride = shape.n,
                           .x = &x[task * 4 * shape.k],
                           .x_stride = shape.k,
                           .weights = packed.weights.data(),
                           .rows = 4},
                          workspaces[worker].span(),
                          alone);
  });
  CHECK(same_bits(out.data(), want.data(), want.size()));
}

TEST_CASE("plan_gemm refuses what it cannot do", "[gemm]") {
  const auto code_of = [](gemm_shape shape) {
    return oriel::host::plan_gemm(shape, 1, 1).error().code;
  };
  CHECK(code_of({.n = 0, .k = 4, .weights = dtype::f32}) == oriel::errc::unsupported_shape);
  CHECK(code_of({.n = 4, .k = 0, .weights = dtype::f32}) == oriel::errc::unsupported_shape);
  CHECK(code_of({.n = 4, .k = 4, .weights = dtype::e4m3}) == oriel::errc::unsupported_shape);
}

TEST_CASE("rows outside the matrix and a short workspace break the contract", "[gemm]") {
  const gemm_shape shape{.n = 8, .k = 8, .weights = dtype::f32};
  const plain_matrix w(shape, 20);
  packed_matrix packed(w, {isa::scalar, gemm_backend::own}, 2);
  CHECK(aborts(
      [&] { oriel::host::pack_gemm_weights(packed.plan, w.row(0), 4, 5, packed.weights.data()); }));
  CHECK(aborts([&] {
    oriel::serial_executor serial;
    float out[8], x[8] = {};
    oriel::host::run_gemm(packed.plan,
                          {.out = out,
                           .out_stride = 8,
                           .x = x,
                           .x_stride = 8,
                           .weights = packed.weights.data(),
                           .rows = 1},
                          {},
                          serial);
  }));
}

}  // namespace gemm_test
