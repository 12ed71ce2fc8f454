// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A grouped product with random operands and routing, for tests on the host and on a device.
#pragma once

#include <oriel/core/random.hpp>
#include <oriel/kernels/grouped_gemm.hpp>
#include <oriel/kernels/swiglu.hpp>

#include <support/aligned_bytes.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

namespace oriel::test {

/// Elements of `type`, each value(i); what is between rows of `columns` and `stride` is a NaN.
template <class F>
aligned_bytes stored_matrix(
    dtype type, std::size_t rows, std::size_t columns, std::size_t stride, F&& value) {
  aligned_bytes bytes(rows * stride * size_bytes(type), poison);
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t column = 0; column < columns; ++column) {
      const float x = value();
      std::byte* const at = bytes.data() + (row * stride + column) * size_bytes(type);
      if (type == dtype::bf16) {
        const bf16 rounded = to_bf16(x);
        std::memcpy(at, &rounded, sizeof rounded);
      } else {
        const e4m3 rounded = to_e4m3(x);
        std::memcpy(at, &rounded, sizeof rounded);
      }
    }
  }
  return bytes;
}

/// @param exact  operands are small integers and scales powers of 2: sums in f32 are exact
struct grouped_gemm_case {
  grouped_gemm_case(const grouped_gemm_shape& s,
                    std::vector<std::uint32_t> rows_of_groups,
                    bool gather,
                    bool exact,
                    bool sharded,
                    random_stream& random)
      : shape(s), offsets(s.groups + 1) {
    std::inclusive_scan(rows_of_groups.begin(), rows_of_groups.end(), offsets.begin() + 1);
    rows = offsets.back();
    sources = gather ? rows / 2 + 1 : std::max(rows, 1u);
    divisor = gather ? 3 : 1;
    for (std::uint32_t r = 0; gather && r < rows; ++r) {
      row_index.push_back(random.next_below(sources * divisor));
    }
    const std::size_t unit = 16 / size_bytes(s.weights);
    x_stride = (s.k + unit - 1) / unit * unit + (random.next_below(2) ? 0 : unit);
    const auto value = [&] {
      return exact ? static_cast<float>(random.next_below(7)) - 3.0f
                   : random.next_uniform(-1.0f, 1.0f);
    };
    x = stored_matrix(s.weights, sources, s.k, x_stride, value);
    plain = stored_matrix(s.weights, std::size_t{s.groups} * s.weight_rows(), s.k, s.k, value);
    const auto scale = [&] {
      return exact ? static_cast<float>(1u << random.next_below(3)) * 0.5f
                   : random.next_uniform(0.01f, 2.0f);
    };
    const std::uint32_t columns = (s.k - 1) / scale_block + 1;
    x_scales.resize(std::size_t{sources} * columns);
    std::generate(x_scales.begin(), x_scales.end(), scale);
    std::uint32_t grid_rows = s.plain_grid_rows();
    if (sharded && s.weight_rows() % 4 == 0) {
      scale_rows.resize(s.weight_rows());
      fill_sharded_scale_rows(4, s.weight_rows() / 4, scale_rows.data());
      grid_rows = scale_rows.back() + 1;
    }
    scale_stride = columns + random.next_below(3);
    scale_group_stride = grid_rows * scale_stride + random.next_below(5);
    weight_scales.resize(s.groups * scale_group_stride);
    std::generate(weight_scales.begin(), weight_scales.end(), scale);
  }

  /// For the reference: plain weights, out not yet set.
  template <class Out>
  [[nodiscard]] grouped_gemm_args<Out> args(Out* out, std::size_t out_stride) const {
    const bool scaled = shape.weights == dtype::e4m3;
    return {.out = out,
            .out_stride = out_stride,
            .x = x.data(),
            .x_stride = x_stride,
            .row_index = row_index.empty() ? nullptr : row_index.data(),
            .row_divisor = divisor,
            .weights = plain.data(),
            .offsets = offsets.data(),
            .rows = rows,
            .x_scales = scaled ? x_scales.data() : nullptr,
            .x_scale_row_stride = 1,
            .x_scale_column_stride = sources,
            .weight_scales = scaled ? weight_scales.data() : nullptr,
            .weight_scale_group_stride = scale_group_stride,
            .weight_scale_stride = scale_stride,
            .weight_scale_rows = scale_rows.empty() ? nullptr : scale_rows.data()};
  }

  /// Groups packed one behind the other, in uneven parts in any order.
  [[nodiscard]] aligned_bytes packed(const cuda::grouped_gemm_plan& plan) const {
    aligned_bytes bytes(plan.packed_bytes * shape.groups, poison);
    const std::uint32_t all = shape.weight_rows(), cut = all / 3;
    const std::size_t row_bytes = shape.k * size_bytes(shape.weights);
    for (std::uint32_t g = 0; g < shape.groups; ++g) {
      const std::byte* const from = plain.data() + g * all * row_bytes;
      std::byte* const to = bytes.data() + g * plan.packed_bytes;
      cuda::pack_grouped_weights(plan, from + cut * row_bytes, cut, all - cut, to);
      cuda::pack_grouped_weights(plan, from, 0, cut, to);
    }
    return bytes;
  }

  grouped_gemm_shape shape;
  std::vector<std::uint32_t> offsets, row_index, scale_rows;
  std::uint32_t rows = 0, sources = 0, divisor = 1;
  std::size_t x_stride = 0, scale_stride = 0, scale_group_stride = 0;
  aligned_bytes x{0}, plain{0};
  std::vector<float> x_scales, weight_scales;
};

/// Rows of groups: none, one, borders of tiles, or skewed 1 to 1,000.
inline std::vector<std::uint32_t> random_groups(std::uint32_t groups,
                                                std::uint32_t rows_most,
                                                random_stream& random) {
  std::vector<std::uint32_t> rows(groups);
  for (std::uint32_t& r : rows) {
    switch (random.next_below(5)) {
      case 0:
        r = 0;
        break;
      case 1:
        r = 1;
        break;
      case 2:
        r = std::min(rows_most, (16u << random.next_below(5)) + random.next_below(3) - 1);
        break;
      default:
        r = random.next_below(20);
    }
  }
  rows[random.next_below(groups)] = 1 + random.next_below(rows_most);
  return rows;
}

/// What tests/cuda multiplies: exact operands of any shape and type, a third of them with SwiGLU.
inline grouped_gemm_case device_grouped_gemm_case(std::uint64_t seed) {
  random_stream random(seed, 91);
  const bool has_many_groups = seed % 8 == 7;  // More than a warp has lanes.
  const grouped_gemm_shape shape{.groups = (has_many_groups ? 33 : 1) + random.next_below(6),
                                 .n = 1 + random.next_below(has_many_groups ? 90 : 400),
                                 .k = 1 + random.next_below(has_many_groups ? 200 : 700),
                                 .weights = random.next_below(2) ? dtype::bf16 : dtype::e4m3,
                                 .swiglu = random.next_below(3) == 0};
  std::vector<std::uint32_t> rows = random_groups(shape.groups, 700, random);
  const bool gather = random.next_below(2) != 0, sharded = random.next_below(2) != 0;
  return {shape, std::move(rows), gather, true, sharded, random};
}

/// Wide items between narrow ones and behind each other: they are stored under the products of the
/// next one, whose k tiles may be too few for that.
inline grouped_gemm_case wide_grouped_gemm_case(dtype type, bool swiglu, std::uint32_t k_tiles) {
  random_stream random(k_tiles, 77);
  const grouped_gemm_shape shape{.groups = 5,
                                 .n = swiglu ? 72u : 136u,
                                 .k = k_tiles * (type == dtype::bf16 ? 64 : 128) - 3,
                                 .weights = type,
                                 .swiglu = swiglu};
  return {shape, {260, 5, 0, 141, 129}, true, true, false, random};
}

/// What SwiGLU's product gives as bf16, [rows, n] as floats: gate and up are each rounded to bf16,
/// as between the two kernels whose work it does. Only the sigmoid is not exact: a gate's may be
/// off by a few ulp, which may turn the last rounding.
inline std::vector<float> rounded_swiglu(const grouped_gemm_case& c) {
  const std::uint32_t n = c.shape.n;
  grouped_gemm_shape both = c.shape;
  both.n = 2 * n;
  both.swiglu = false;
  std::vector<float> gate_up(std::size_t{c.rows} * both.n), out(std::size_t{c.rows} * n);
  std::vector<std::uint32_t> scale_rows(both.n);  // Of gate and up, each with a plain grid.
  for (std::uint32_t r = 0; r < n; ++r) {
    scale_rows[r] = r / scale_block;
    scale_rows[n + r] = (n - 1) / scale_block + 1 + r / scale_block;
  }
  auto args = c.args(gate_up.data(), both.n);
  if (args.weight_scale_rows == nullptr) {
    args.weight_scale_rows = scale_rows.data();
  }
  reference::grouped_gemm(both, args);
  reference::swiglu({n, dtype::bf16},
                    {.out = out.data(),
                     .out_stride = n,
                     .gate_up = gate_up.data(),
                     .gate_up_stride = both.n,
                     .rows = c.rows});
  return out;
}

/// How far a bf16 of the device may be from it: silu may be the neighbouring number, 2^-7 away, and then the product
/// is rounded.
inline float rounded_swiglu_slack(float expected) {
  return 0x1p-6f * std::abs(expected) + 1e-30f;
}

}  // namespace oriel::test
