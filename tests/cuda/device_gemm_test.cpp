// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Products by cuBLASLt against sums in double. Operands are small integers, so f32 sums are exact
// in any order: outputs are compared bit by bit. Where the order is what is asked for, they are
// not.
#include <oriel/core/random.hpp>
#include <oriel/kernels/device_gemm.hpp>

#include <cuda/captured.hpp>
#include <cuda/device_array.hpp>

#include <support/arrays.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <iterator>
#include <vector>

namespace device_gemm_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

std::vector<float> small_integers(random_stream& random, std::size_t n) {
  std::vector<float> x(n);
  for (float& v : x) {
    v = static_cast<float>(random.next_below(9)) - 4.0f;
  }
  return x;
}

template <class T>
T stored(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else if constexpr (std::is_same_v<T, bf16>) {
    return to_bf16(x);
  } else {
    return to_e4m3(x);
  }
}

template <class T>
std::vector<T> stored(const std::vector<float>& x) {
  std::vector<T> y(x.size());
  std::transform(x.begin(), x.end(), y.begin(), [](float v) { return stored<T>(v); });
  return y;
}

/// False, and said, in a build without cuBLASLt.
bool library_is_built() {
  if (!cuda::gemm_library::is_built()) {
    WARN("built without cuBLASLt: not tested");
  }
  return cuda::gemm_library::is_built();
}

cuda::gemm_library make_library() {
  auto library = cuda::gemm_library::create();
  INFO((library ? "" : library.error().detail));
  REQUIRE(library);
  return std::move(*library);
}

/// Has the plan an algorithm, for rows that lie side by side? If none it is said, and that it is no
/// other failure is checked: engines then take a grouped product.
template <class Plan>
bool has_algorithm(const cuda::gemm_library& library,
                   const Plan& plan,
                   std::uint32_t n,
                   std::uint32_t k) {
  const status found =
      cuda::find_gemm(library, plan, {.x_stride = k, .weight_stride = k, .out_stride = n});
  if (!found) {
    INFO(found.error().detail << ", " << found.error().native);
    REQUIRE(found.error().code == errc::unsupported_shape);
    WARN("cuBLASLt has no algorithm for n "
         << n << ", k " << k << ", " << plan.rows_max << " rows, order-fixed "
         << (plan.order == cuda::gemm_order::fixed) << ", status " << found.error().native);
  }
  return bool{found};
}

template <class X, class Out>
void check_product(const cuda::gemm_library& library, gemm_shape shape, dtype out_type) {
  random_stream random(shape.n, shape.k);
  constexpr std::uint32_t rows_max = 300;
  const auto order = GENERATE(cuda::gemm_order::fastest, cuda::gemm_order::fixed);
  const bool accumulate = GENERATE(false, true);
  const std::uint32_t n = shape.n, k = shape.k;
  const auto w = small_integers(random, std::size_t{n} * k),
             x = small_integers(random, std::size_t{rows_max} * k),
             before = small_integers(random, std::size_t{rows_max} * n);
  const auto device_w = to_device(stored<X>(w)), device_x = to_device(stored<X>(x));
  const auto plan = cuda::plan_gemm(shape, out_type, rows_max, order);
  REQUIRE(plan);
  const device_array<std::byte> workspace(plan->workspace_bytes);
  for (const std::uint32_t rows : {1u, 7u, 64u, rows_max}) {
    INFO("n " << n << " k " << k << " rows " << rows);
    const auto device_out = to_device(stored<Out>(before));
    const auto multiply = [&](Out* to, cudaStream_t stream) {
      REQUIRE(cuda::run_gemm(library,
                             *plan,
                             device_gemm_args<X, Out>{.out = to,
                                                      .out_stride = n,
                                                      .x = device_x.data(),
                                                      .x_stride = k,
                                                      .weights = device_w.data(),
                                                      .weight_stride = k,
                                                      .rows = rows,
                                                      .accumulate = accumulate},
                             {workspace.data(), workspace.size()},
                             stream));
    };
    const auto first_out = to_device(stored<Out>(before));
    multiply(first_out.data(), nullptr);  // Looks for an algorithm, which a capture may not.
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    captured graph([&](cudaStream_t stream) { multiply(device_out.data(), stream); });
    graph.launch();
    const auto out = device_out.to_host();
    for (std::uint32_t r = 0; r < rows_max; ++r) {
      for (std::uint32_t c = 0; c < n; c += 1 + r % 7) {
        double sum = accumulate || r >= rows ? before[r * n + c] : 0.0;
        for (std::uint32_t i = 0; i < k && r < rows; ++i) {
          sum += static_cast<double>(x[r * k + i]) * static_cast<double>(w[c * k + i]);
        }
        REQUIRE(out[r * n + c] == stored<Out>(static_cast<float>(sum)));
      }
    }
  }
}

}  // namespace

TEST_CASE("cuda gemm: either answer by which cuBLASLt refuses is a shape without an algorithm") {
  if (!library_is_built()) {
    return;
  }
  const cuda::gemm_library library = make_library();
  const auto order = GENERATE(cuda::gemm_order::fastest, cuda::gemm_order::fixed);
  const auto e4m3s = cuda::plan_block_scaled_gemm({256, 640, dtype::e4m3}, dtype::f32, 36, order);
  const auto bf16s = cuda::plan_gemm({256, 640, dtype::bf16}, dtype::f32, 36, order);
  REQUIRE(e4m3s);
  REQUIRE(bf16s);
  // Rows of outputs that overlap make no sense (INVALID_VALUE); rows of e4m3 of 648 bytes do, and
  // nobody multiplies them (NOT_SUPPORTED). A version may take either.
  const cuda::gemm_layout overlapping{.x_stride = 640, .weight_stride = 640, .out_stride = 240},
      uneven{.x_stride = 648, .weight_stride = 640, .out_stride = 256};
  for (const status& found : {cuda::find_gemm(library, *e4m3s, overlapping),
                              cuda::find_gemm(library, *bf16s, overlapping),
                              cuda::find_gemm(library, *e4m3s, uneven)}) {
    if (!found) {
      INFO(found.error().detail << ", " << found.error().native);
      CHECK(found.error().code == errc::unsupported_shape);
    }
  }
  // What is asked next is not refused for it.
  CHECK((has_algorithm(library, *bf16s, 256, 640) || order == cuda::gemm_order::fixed));
}

TEST_CASE("cuda gemm: bf16 and f32, any number of rows, captured") {
  if (!library_is_built()) {
    return;
  }
  const cuda::gemm_library library = make_library();
  SECTION("bf16 to bf16") {
    check_product<bf16, bf16>(library, {264, 512, dtype::bf16}, dtype::bf16);
  }
  SECTION("bf16 to f32") {
    check_product<bf16, float>(library, {384, 192, dtype::bf16}, dtype::f32);
  }
  SECTION("f32") {
    check_product<float, float>(library, {384, 256, dtype::f32}, dtype::f32);
  }
}

namespace {

/// A small matrix, and sizes of models: a square, a fused QKV, and as narrow as a router.
struct matrix_size {
  std::uint32_t n, k, rows_max;
};
constexpr matrix_size matrix_sizes[] = {
    {512, 2'048, 192}, {4'096, 4'096, 1'024}, {13'568, 4'096, 1'024}, {256, 4'096, 1'024}};

/// Sums of such numbers depend on the order of their additions.
template <class T>
device_array<T> random_on_device(random_stream& random, std::size_t n) {
  return to_device(stored<T>(random_floats(n, random, -1.0f, 1.0f)));
}

/// Do the rows of product(rows) have the bits that they have among rows_max?
template <class F>
void check_companions(const matrix_size& m,
                      std::initializer_list<std::uint32_t> counts,
                      const F& product) {
  INFO("n " << m.n << " k " << m.k);
  const std::vector<float> all = product(m.rows_max);
  for (const std::uint32_t rows : counts) {
    INFO(rows << " rows of " << m.rows_max);
    if (rows <= m.rows_max) {
      const std::vector<float> some = product(rows);
      REQUIRE(std::memcmp(some.data(), all.data(), some.size() * sizeof(float)) == 0);
    }
  }
}

}  // namespace

TEST_CASE("cuda gemm: in the fixed order a row's bits do not depend on its companions") {
  if (!library_is_built()) {
    return;
  }
  const cuda::gemm_library library = make_library();
  const matrix_size m = GENERATE(from_range(std::begin(matrix_sizes), std::end(matrix_sizes)));
  random_stream random(3, m.n);
  const auto plan =
      cuda::plan_gemm({m.n, m.k, dtype::bf16}, dtype::f32, m.rows_max, cuda::gemm_order::fixed);
  REQUIRE(plan);
  const bool is_taken = has_algorithm(library, *plan, m.n, m.k);
  REQUIRE((is_taken || m.n != 4'096));  // The square, at least.
  if (!is_taken) {
    return;
  }
  const auto w = random_on_device<bf16>(random, std::size_t{m.n} * m.k),
             x = random_on_device<bf16>(random, std::size_t{m.rows_max} * m.k);
  const device_array<std::byte> workspace(plan->workspace_bytes);
  check_companions(m, {1, 3, 16, 65, 200, m.rows_max}, [&](std::uint32_t rows) {
    const device_array<float> out(std::size_t{rows} * m.n);
    REQUIRE(cuda::run_gemm(library,
                           *plan,
                           device_gemm_args<bf16, float>{.out = out.data(),
                                                         .out_stride = m.n,
                                                         .x = x.data(),
                                                         .x_stride = m.k,
                                                         .weights = w.data(),
                                                         .weight_stride = m.k,
                                                         .rows = rows},
                           {workspace.data(), workspace.size()},
                           nullptr));
    return out.to_host();
  });
}

TEST_CASE("cuda gemm: so it is for block-scaled e4m3, by fours of rows") {
  if (!library_is_built()) {
    return;
  }
  const cuda::gemm_library library = make_library();
  const matrix_size m = GENERATE(from_range(std::begin(matrix_sizes), std::end(matrix_sizes)));
  random_stream random(4, m.n);
  const auto plan = cuda::plan_block_scaled_gemm(
      {m.n, m.k, dtype::e4m3}, dtype::f32, m.rows_max, cuda::gemm_order::fixed);
  REQUIRE(plan);
  const bool is_taken = has_algorithm(library, *plan, m.n, m.k);
  REQUIRE((is_taken || m.n != 4'096));  // The square, at least.
  if (!is_taken) {
    return;
  }
  const std::uint32_t groups = (m.k - 1) / 128 + 1, grid_rows = (m.n - 1) / 128 + 1;
  const auto w = random_on_device<e4m3>(random, std::size_t{m.n} * m.k),
             x = random_on_device<e4m3>(random, std::size_t{m.rows_max} * m.k);
  const auto w_scales =
      to_device(random_floats(grid_rows * plan->weight_scale_stride, random, 0.5f, 2.0f));
  const auto scales = random_floats(std::size_t{groups} * m.rows_max, random, 0.5f, 2.0f);
  const device_array<std::byte> workspace(plan->workspace_bytes);
  check_companions(m, {4, 16, 68, 200, m.rows_max}, [&](std::uint32_t rows) {
    std::vector<float> x_scales;  // [groups, rows]
    for (std::uint32_t g = 0; g < groups; ++g) {
      const auto first = scales.begin() + static_cast<std::ptrdiff_t>(g * m.rows_max);
      x_scales.insert(x_scales.end(), first, first + rows);
    }
    const auto device_x_scales = to_device(x_scales);
    const device_array<float> out(std::size_t{rows} * m.n);
    REQUIRE(cuda::run_block_scaled_gemm(
        library,
        *plan,
        block_scaled_gemm_args<float>{.out = out.data(),
                                      .out_stride = m.n,
                                      .x = x.data(),
                                      .x_stride = m.k,
                                      .x_scales = device_x_scales.data(),
                                      .weights = w.data(),
                                      .weight_stride = m.k,
                                      .weight_scales = w_scales.data(),
                                      .weight_scale_stride = plan->weight_scale_stride,
                                      .rows = rows},
        {workspace.data(), workspace.size()},
        nullptr));
    return out.to_host();
  });
}

TEST_CASE("cuda gemm: block-scaled e4m3 with a plain grid") {
  const bool accumulate = GENERATE(false, true);
  const std::uint32_t n = GENERATE(256u, 208u);  // Blocks of the grid are whole, or one is not.
  if (!library_is_built()) {
    return;
  }
  const cuda::gemm_library library = make_library();
  random_stream random(1, 2);
  constexpr std::uint32_t k = 640, rows = 36, groups = k / 128;
  const auto plan = cuda::plan_block_scaled_gemm({n, k, dtype::e4m3}, dtype::f32, rows);
  REQUIRE(plan);
  const bool is_taken = has_algorithm(library, *plan, n, k);
  REQUIRE((is_taken || n % 128 != 0));
  if (!is_taken) {
    return;
  }
  const std::size_t stride = plan->weight_scale_stride;
  const auto w = small_integers(random, std::size_t{n} * k),
             x = small_integers(random, std::size_t{rows} * k);
  std::vector<float> w_scales(2 * stride), x_scales(groups * rows);
  for (float& s : w_scales) {
    s = random.next_below(2) ? 0.5f : 2.0f;
  }
  for (float& s : x_scales) {
    s = random.next_below(2) ? 0.25f : 1.0f;
  }
  const auto device_w = to_device(stored<e4m3>(w)), device_x = to_device(stored<e4m3>(x));
  const auto device_w_scales = to_device(w_scales), device_x_scales = to_device(x_scales);
  const auto before = small_integers(random, std::size_t{rows} * n);
  const device_array<float> out = to_device(before);
  const device_array<std::byte> workspace(plan->workspace_bytes);
  REQUIRE(cuda::run_block_scaled_gemm(
      library,
      *plan,
      block_scaled_gemm_args<float>{.out = out.data(),
                                    .out_stride = n,
                                    .x = device_x.data(),
                                    .x_stride = k,
                                    .x_scales = device_x_scales.data(),
                                    .weights = device_w.data(),
                                    .weight_stride = k,
                                    .weight_scales = device_w_scales.data(),
                                    .weight_scale_stride = stride,
                                    .rows = rows,
                                    .accumulate = accumulate},
      {workspace.data(), workspace.size()},
      nullptr));
  const auto found = out.to_host();
  for (std::uint32_t r = 0; r < rows; ++r) {
    for (std::uint32_t c = 0; c < n; ++c) {
      double sum = accumulate ? static_cast<double>(before[r * n + c]) : 0.0;
      for (std::uint32_t i = 0; i < k; ++i) {
        sum += static_cast<double>(x[r * k + i]) * static_cast<double>(w[c * k + i]) *
               static_cast<double>(w_scales[c / 128 * stride + i / 128]) *
               static_cast<double>(x_scales[i / 128 * rows + r]);
      }
      REQUIRE(found[r * n + c] == static_cast<float>(sum));
    }
  }
}

}  // namespace device_gemm_test
