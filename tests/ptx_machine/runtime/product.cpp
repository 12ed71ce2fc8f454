// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "product.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace oriel::ptx_machine {
namespace {

constexpr std::uint64_t scale_block = 128, tile_m = 8, tile_n = 8;

float from_bf16(std::uint16_t bits) {
  return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

std::uint16_t to_bf16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if (std::isnan(x)) {
    return 0x7FFF;
  }
  return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

float from_e4m3(unsigned bits) {
  const unsigned exponent = bits >> 3 & 15, mantissa = bits & 7;
  float x = exponent == 0
                ? std::ldexp(static_cast<float>(mantissa), -9)
                : std::ldexp(static_cast<float>(8 + mantissa), static_cast<int>(exponent) - 10);
  if (exponent == 15 && mantissa == 7) {
    x = std::numeric_limits<float>::quiet_NaN();
  }
  return (bits & 128) != 0 ? -x : x;
}

float load(const void* at, std::uint64_t i, element type) {
  static const auto e4m3_values = [] {
    std::array<float, 256> all{};
    for (unsigned b = 0; b < 256; ++b) {
      all[b] = from_e4m3(b);
    }
    return all;
  }();
  switch (type) {
    case element::bf16:
      return from_bf16(static_cast<const std::uint16_t*>(at)[i]);
    case element::e4m3:
      return e4m3_values[static_cast<const std::uint8_t*>(at)[i]];
    case element::f32:
      break;
  }
  return static_cast<const float*>(at)[i];
}

/// Tiles of `tile` indices outside of k, in each k after k; what is beyond the end is 0.
template <typename T>
std::vector<T> packed(const matrix& x,
                      std::uint64_t outer,
                      std::uint64_t k,
                      std::uint64_t tile,
                      bool outer_is_contiguous) {
  std::vector<T> out((outer + tile - 1) / tile * tile * k);
  const auto pack = [&](auto load_as) {
    for (std::uint64_t o = 0; o < outer; ++o) {
      T* const to = &out[o / tile * k * tile + o % tile];
      for (std::uint64_t i = 0; i < k; ++i) {
        const std::uint64_t at = outer_is_contiguous ? i * x.stride + o : o * x.stride + i;
        to[i * tile] = static_cast<T>(load_as(at));
      }
    }
  };
  if (x.type == element::bf16) {  // Mostly, and not with a switch for each.
    const auto* const from = static_cast<const std::uint16_t*>(x.at);
    pack([from](std::uint64_t at) { return from_bf16(from[at]); });
  } else {
    pack([&x](std::uint64_t at) { return load(x.at, at, x.type); });
  }
  return out;
}

double scale_of(const matrix& x,
                std::uint64_t outer,
                std::uint64_t outer_count,
                std::uint64_t block,
                std::uint64_t blocks) {
  if (x.scales == nullptr) {
    return 1.0;
  }
  switch (x.scales_are) {
    case scale_layout::vector_128:
      return x.scales[block * outer_count + outer];
    case scale_layout::block_128:
      return x.scales[outer / scale_block * ((blocks + 3) / 4 * 4) + block];
    case scale_layout::whole:
      break;
  }
  return x.scales[0];
}

using tile_sums = std::array<std::array<double, tile_m>, tile_n>;

using eight_floats = float __attribute__((vector_size(4 * tile_m)));
using eight_doubles = double __attribute__((vector_size(8 * tile_m)));

/// Products are exact in double, so that it does not matter whether a multiplication and its
/// addition are one; and each sum has its order of k, however many columns there are.
template <std::uint64_t Columns>
[[gnu::always_inline]] inline void add_columns(const float* a,
                                               const double* b,
                                               std::uint64_t k,
                                               tile_sums& sums) {
  eight_doubles s[Columns] = {};
  for (std::uint64_t i = 0; i < k; ++i) {
    eight_floats x;
    std::memcpy(&x, a + i * tile_m, sizeof x);
    const eight_doubles v = __builtin_convertvector(x, eight_doubles);
#pragma GCC unroll 8  // Else the sums are in memory.
    for (std::uint64_t y = 0; y < Columns; ++y) {
      s[y] += v * b[i * tile_n + y];
    }
  }
  std::memcpy(sums.data(), s, sizeof s);
}

__attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"))) void add_products(
    const float* a, const double* b, std::uint64_t k, std::uint64_t columns, tile_sums& sums) {
  if (columns == 1) {
    add_columns<1>(a, b, k, sums);
  } else if (columns <= 4) {
    add_columns<4>(a, b, k, sums);
  } else {
    add_columns<tile_n>(a, b, k, sums);
  }
}

void store(const product& p, std::uint64_t i, std::uint64_t j, double sum) {
  double x = static_cast<double>(p.alpha) * sum;
  if (p.beta != 0.0f) {
    x += static_cast<double>(p.beta) *
         static_cast<double>(load(p.c.at, j * p.c.stride + i, p.c.type));
  }
  const std::uint64_t at = j * p.d_stride + i;
  if (p.d_type == element::bf16) {
    static_cast<std::uint16_t*>(p.d)[at] = to_bf16(static_cast<float>(x));
  } else {
    static_cast<float*>(p.d)[at] = static_cast<float>(x);
  }
}

}  // namespace

void multiply(const product& p) {
  const auto a = packed<float>(p.a, p.m, p.k, tile_m, !p.a.is_transposed);
  const auto b = packed<double>(p.b, p.n, p.k, tile_n, p.b.is_transposed);
  const bool by_blocks =
      p.a.scales_are != scale_layout::whole || p.b.scales_are != scale_layout::whole;
  const std::uint64_t step = by_blocks ? scale_block : std::max<std::uint64_t>(p.k, 1);
  const std::uint64_t blocks = (p.k + step - 1) / step;
  for (std::uint64_t j0 = 0; j0 < p.n; j0 += tile_n) {
    for (std::uint64_t i0 = 0; i0 < p.m; i0 += tile_m) {
      const std::uint64_t columns = std::min(tile_n, p.n - j0), rows = std::min(tile_m, p.m - i0);
      tile_sums total{}, part;
      for (std::uint64_t block = 0; block < blocks; ++block) {
        const std::uint64_t first = block * step;
        add_products(&a[i0 * p.k + first * tile_m],
                     &b[j0 * p.k + first * tile_n],
                     std::min(step, p.k - first),
                     columns,
                     part);
        for (std::uint64_t y = 0; y < columns; ++y) {
          const double by = scale_of(p.b, j0 + y, p.n, block, blocks);
          for (std::uint64_t x = 0; x < rows; ++x) {
            total[y][x] += part[y][x] * (scale_of(p.a, i0 + x, p.m, block, blocks) * by);
          }
        }
      }
      for (std::uint64_t y = 0; y < columns; ++y) {
        for (std::uint64_t x = 0; x < rows; ++x) {
          store(p, i0 + x, j0 + y, total[y][x]);
        }
      }
    }
  }
}

}  // namespace oriel::ptx_machine
