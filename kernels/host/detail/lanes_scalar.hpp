// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `lanes_scalar`: a vector of f32 in plain C++, the model of the `lanes` that attention_body.hpp
/// is written in. Its fma is a rounded product and a rounded sum: no CPU has to have a fused one.
#pragma once

#include <oriel/core/dtype.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace oriel::host::detail {

struct lanes_scalar {
  static constexpr std::uint32_t width = 4;             ///< f32 lanes; divides kv_tile_tokens
  static constexpr std::uint32_t rows_max = 4;          ///< rows of a register tile
  static constexpr std::uint32_t accumulators_max = 8;  ///< vectors of a register tile

  struct vec {
    float lane[width];
  };
  /// Two bf16 side by side in each lane, widened.
  struct pair {
    vec first;
    vec second;
  };

  template <class F>
  static vec each(F&& f) {
    vec r;
    for (std::uint32_t i = 0; i < width; ++i) {
      r.lane[i] = f(i);
    }
    return r;
  }

  static vec set1(float x) {
    return each([&](std::uint32_t) { return x; });
  }
  static vec load(const void* p) {
    vec r;
    std::memcpy(&r, p, sizeof r);
    return r;
  }
  /// The first `n` lanes; the others are zero and their bytes are not read.
  static vec load_first(const void* p, std::uint32_t n) {
    vec r = set1(0.0f);
    std::memcpy(&r, p, std::size_t{n} * sizeof(float));
    return r;
  }
  static void store(float* p, vec x) { std::memcpy(p, &x, sizeof x); }
  static void store_first(float* p, vec x, std::uint32_t n) {
    std::memcpy(p, &x, std::size_t{n} * sizeof(float));
  }

  static vec add(vec a, vec b) {
    return each([&](std::uint32_t i) { return a.lane[i] + b.lane[i]; });
  }
  static vec sub(vec a, vec b) {
    return each([&](std::uint32_t i) { return a.lane[i] - b.lane[i]; });
  }
  static vec mul(vec a, vec b) {
    return each([&](std::uint32_t i) { return a.lane[i] * b.lane[i]; });
  }
  static vec div(vec a, vec b) {
    return each([&](std::uint32_t i) { return a.lane[i] / b.lane[i]; });
  }
  /// a * b + c.
  static vec fma(vec a, vec b, vec c) {
    return each([&](std::uint32_t i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
  }
  /// The larger; b where either is NaN.
  static vec max(vec a, vec b) {
    return each([&](std::uint32_t i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  /// 2^n for whole n in [-127, 127], given as the bits of the float n + 1.5 * 2^23; 2^-127 is zero.
  static vec power_of_two(vec biased) {
    return each([&](std::uint32_t i) {
      return std::bit_cast<float>((std::bit_cast<std::uint32_t>(biased.lane[i]) + 127u) << 23);
    });
  }
  /// Lanes [first, last) of x; `other` elsewhere.
  static vec keep(vec x, std::uint32_t first, std::uint32_t last, float other) {
    return each([&](std::uint32_t i) { return i >= first && i < last ? x.lane[i] : other; });
  }
  /// x rounded to bf16, widened again.
  static vec round_to_bf16(vec x) {
    return each([&](std::uint32_t i) { return oriel::round_to_bf16(x.lane[i]); });
  }
  /// Words of two bf16, widened.
  static pair load_pairs(const void* p) { return load_pairs_first(p, width, 0xFFFF'FFFFu); }
  /// The first `n` words, each after an AND with `mask`; the others are zero.
  static pair load_pairs_first(const void* p, std::uint32_t n, std::uint32_t mask) {
    std::uint32_t words[width] = {};
    std::memcpy(words, p, std::size_t{n} * sizeof(std::uint32_t));
    const auto first = [&](std::uint32_t i) {
      return std::bit_cast<float>((words[i] & mask) << 16);
    };
    const auto second = [&](std::uint32_t i) {
      return std::bit_cast<float>(words[i] & mask & 0xFFFF'0000u);
    };
    return {each(first), each(second)};
  }
  static float reduce_max(vec x) {
    const float a = x.lane[0] > x.lane[2] ? x.lane[0] : x.lane[2];
    const float b = x.lane[1] > x.lane[3] ? x.lane[1] : x.lane[3];
    return a > b ? a : b;
  }
  static float reduce_add(vec x) { return (x.lane[0] + x.lane[2]) + (x.lane[1] + x.lane[3]); }
};

}  // namespace oriel::host::detail
