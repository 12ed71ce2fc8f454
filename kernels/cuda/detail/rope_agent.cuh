// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What one thread of the rope kernels does. Agents as run_on_host (row_vector.cuh) tells.
///
///     table      one (row, pair) a call
///     rotation   N pairs of one head of one row: elements j and j + pairs belong together
///     q and k    the same; and N of the dims of a query head that do not turn, to be rounded
#pragma once

#include "row_vector.cuh"

#include <oriel/core/mutation.hpp>
#include <oriel/kernels/rope.hpp>

#include <math.h>

namespace oriel::detail {

struct sine_cosine {
  double sine;
  double cosine;
};

/// Both, for an angle in [0, 2^33) that is a float's value; within two ulp of double but near a
/// zero of the sine or cosine, where the relative error is below 2^-45. No table, no memory.
///
/// angle = n * pi/2 + r with |r| <= pi/4: pi/2 in three doubles, of which n times the first leaves
/// an exact difference (n has 33 bits; both terms are multiples of 2^-52). Then the Taylor
/// polynomials; their first missing terms are below 2^-53.
ORIEL_HOST_DEVICE inline sine_cosine sine_cosine_of(double angle) {
  const double n = rint(angle * 0.6366197723675814);
  double r = fma(n, -1.5707963267948966, angle);
  r = fma(n, -6.123233995736766e-17, r);
  r = fma(n, 1.4973849048591698e-33, r);
  const double z = r * r;
  double s = -7.647163731819816e-13;  // -1/15!
  s = fma(s, z, 1.6059043836821613e-10);
  s = fma(s, z, -2.505210838544172e-08);
  s = fma(s, z, 2.7557319223985893e-06);
  s = fma(s, z, -0.0001984126984126984);
  s = fma(s, z, 0.008333333333333333);
  s = fma(s, z, -0.16666666666666666);
  const double sine = fma(r * z, s, r);
  double c = 4.779477332387385e-14;  // 1/16!
  c = fma(c, z, -1.1470745597729725e-11);
  c = fma(c, z, 2.08767569878681e-09);
  c = fma(c, z, -2.755731922398589e-07);
  c = fma(c, z, 2.48015873015873e-05);
  c = fma(c, z, -0.001388888888888889);
  c = fma(c, z, 0.041666666666666664);
  const double cosine = fma(z * z, c, fma(z, -0.5, 1.0));
  const auto quadrant = static_cast<std::int64_t>(n) & 3;
  const double first = (quadrant & 1) != 0 ? cosine : sine;
  const double second = (quadrant & 1) != 0 ? sine : cosine;
  return {quadrant >= 2 ? -first : first, quadrant == 1 || quadrant == 2 ? -second : second};
}

struct rope_table_agent {
  static constexpr std::uint32_t vector_width = 1;
  host::rope_plan plan;
  const std::uint32_t* positions;
  std::uint32_t row_limit;
  float* table;

  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t rows() const { return row_limit; }
  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t width() const { return plan.pairs; }

  ORIEL_HOST_DEVICE void operator()(std::uint32_t row, std::uint32_t j) const {
    const float angle = static_cast<float>(positions[row]) * plan.frequency[j];
    const sine_cosine of = sine_cosine_of(double{angle});
    float* cosine = table + std::size_t{row} * plan.pairs * 2;
    cosine[j] = static_cast<float>(of.cosine);
    cosine[plan.pairs + j] = static_cast<float>(of.sine);
  }
};

/// Pairs [j, j + N) of a head, turned.
template <std::uint32_t N>
struct turned_pairs {
  row_vector<N> first, second;
};
template <std::uint32_t N, class T>
[[nodiscard]] ORIEL_HOST_DEVICE turned_pairs<N> turn_pairs(const T* x,
                                                           std::uint32_t pairs,
                                                           const float* cosine) {
  const row_vector<N> a = load_vector<N>(x), b = load_vector<N>(x + pairs);
  const row_vector<N> c = load_vector<N>(cosine), s = load_vector<N>(cosine + pairs);
  turned_pairs<N> turned;
  for (std::uint32_t k = 0; k < N; ++k) {
    turned.first.lane[k] = a.lane[k] * c.lane[k] - b.lane[k] * s.lane[k];
    turned.second.lane[k] = b.lane[k] * c.lane[k] + a.lane[k] * s.lane[k];
  }
  return turned;
}

template <class T, std::uint32_t N>
struct rope_agent {
  static constexpr std::uint32_t vector_width = N;
  std::uint32_t head_dim;
  std::uint32_t pairs;
  basic_rope_args<T> args;
  const float* table;

  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t rows() const {
    return static_cast<std::uint32_t>(args.positions.size());
  }
  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t width() const { return args.heads * pairs; }
  [[nodiscard]] static bool fits(const host::rope_plan& plan,
                                 const basic_rope_args<T>& args,
                                 const float* table) {
    return plan.pairs % N == 0 && is_vector_aligned(args.x, args.x_stride) &&
           is_vector_aligned(args.x, plan.shape.head_dim) && is_vector_aligned(table, 0);
  }

  ORIEL_HOST_DEVICE void operator()(std::uint32_t row, std::uint32_t i) const {
    const std::uint32_t head = i / pairs, j = i % pairs;
    T* x = args.x + row * args.x_stride + std::size_t{head} * head_dim + j;
    const float* cosine = table + std::size_t{row} * pairs * 2 + j;
    const turned_pairs<N> turned = turn_pairs<N>(x, pairs, cosine);
    store_vector(x, turned.first);
    store_vector(x + pairs, turned.second);
  }
};

template <std::uint32_t N>
struct rope_qk_agent {
  static constexpr std::uint32_t vector_width = N;
  std::uint32_t head_dim;
  std::uint32_t pairs;
  rope_qk_args args;
  const float* table;

  /// A row's pairs come first, those of all heads, then what its query heads have besides: lanes of
  /// a warp do the same.
  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t all_pairs() const {
    return (args.q_heads + args.kv_heads) * pairs;
  }
  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t other_dims() const { return head_dim - 2 * pairs; }
  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t rows() const {
    return static_cast<std::uint32_t>(args.positions.size());
  }
  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t width() const {
    return all_pairs() + args.q_heads * other_dims();
  }
  [[nodiscard]] static bool fits(const host::rope_plan& plan,
                                 const rope_qk_args& args,
                                 const float* table) {
    return plan.pairs % N == 0 && plan.shape.head_dim % N == 0 &&
           is_vector_aligned(args.q, args.q_stride) && is_vector_aligned(args.x, args.x_stride) &&
           is_vector_aligned(table, 0);
  }

  ORIEL_HOST_DEVICE void operator()(std::uint32_t row, std::uint32_t i) const {
    float* const x = args.x + row * args.x_stride;
    bf16* const q = args.q + row * args.q_stride;
    if (i >= all_pairs()) {
      if (ORIEL_MUTANT(rope_leaves_what_does_not_turn)) {
        return;
      }
      const std::uint32_t head = (i - all_pairs()) / other_dims();
      const std::uint32_t d = 2 * pairs + (i - all_pairs()) % other_dims();
      const std::size_t at = std::size_t{head} * head_dim + d;
      store_vector(q + at, load_vector<N>(x + at));
      return;
    }
    const std::uint32_t head = i / pairs, j = i % pairs;
    const std::size_t at = std::size_t{head} * head_dim + j;
    const turned_pairs<N> turned =
        turn_pairs<N>(x + at, pairs, table + std::size_t{row} * pairs * 2 + j);
    if (head < args.q_heads) {
      store_vector(q + at, turned.first);
      store_vector(q + at + pairs, turned.second);
    } else {
      store_vector(x + at, turned.first);
      store_vector(x + at + pairs, turned.second);
    }
  }
};

}  // namespace oriel::detail
