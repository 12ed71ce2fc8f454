// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// How far attention may be from the reference, from the roundings it makes.
#pragma once

#include <kernels/attention_case.hpp>

#include <algorithm>
#include <cmath>

namespace oriel::test {

inline std::vector<float> random_sinks(const attention_shape& s, random_stream& random) {
  return random.next_below(2) ? random_floats(random, s.q_heads) : std::vector<float>{};
}

inline double largest_magnitude(const std::vector<float>& x) {
  double m = 0.0;
  for (const float value : x) {
    m = std::max(m, std::abs(double{value}));
  }
  return m;
}

inline double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double m = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(double{a[i]} - double{b[i]});
    m = d <= m || std::isnan(m) ? m : d;  // A NaN stays.
  }
  return m;
}

/// A bound on |ours - exact| from the roundings made, u = 2^-24 each, over stored K, V and the
/// queries as rounded.
///
/// A score is off by at most (2 dk + 4) u times sum |q_d k_d| * scale <= |q| |k| scale, its maximum
/// and exponential by 8 u more; a weight is thus off by that share, its bf16 rounding by 2^-9. The
/// weights' errors hit numerator and denominator. The sums over keys add 2 u per key.
inline double error_bound(const attention_shape& s, const token_stream& t, std::uint32_t keys) {
  const double u = 0x1p-24, dk = s.head_dim_qk;
  const auto largest_norm = [&](const std::vector<float>& x) {
    double m = 0.0;
    for (std::size_t i = 0; i < x.size(); i += s.head_dim_qk) {
      double sum = 0.0;
      for (std::uint32_t d = 0; d < s.head_dim_qk; ++d) {
        sum += double{x[i + d]} * double{x[i + d]};
      }
      m = std::max(m, sum);
    }
    return std::sqrt(m);
  };
  const double stored = s.kv == dtype::e4m3 ? 1.07 : 1.01;  // Rounding makes numbers larger, too.
  const double score = largest_norm(t.q) * largest_norm(t.k) * stored / std::sqrt(dk);
  const double weight = (2 * dk + 4) * u * score + 8 * u * (1 + score);
  const double rounding = s.kv == dtype::f32 ? 0.0 : 0x1p-9;
  return largest_magnitude(t.v) * stored * (2 * weight + rounding + 4 * keys * u);
}

inline std::uint32_t keys_seen(const attention_shape& s, std::uint32_t length) {
  return s.window_tokens == 0 ? length : std::min(length, s.window_tokens);
}

}  // namespace oriel::test
