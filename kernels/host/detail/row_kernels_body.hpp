// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The row kernels, written once over lanes; included by one unit per instruction set.
#pragma once

#include "lanes.hpp"
#include "row_kernels.hpp"

namespace {

using oriel::moe_route_shape;
using oriel::detail::rms_norm_row;

/// h = round(x + add), or x itself; left in row.sum when there is an addend.
template <bool Bf16>
ORIEL_INLINE const float* add_residual(const rms_norm_row& row) {
  if (row.add == nullptr) {
    return row.x;
  }
  lanes::for_lanes(row.width, [&](std::uint32_t i, std::uint32_t n) {
    const lanes::f32 h = lanes::load_lanes(row.x + i, n) + lanes::load_lanes(row.add + i, n);
    lanes::store_lanes(row.sum + i, lanes::round_activation<Bf16>(h), n);
  });
  return row.sum;
}

/// Sum of squares: element i belongs to lane i % 64; the lanes are added as one fixed tree.
ORIEL_INLINE float sum_of_squares(const float* x, std::uint32_t width) {
  constexpr std::uint32_t vectors = lanes::sum_lanes / lanes::width;
  lanes::f32 partial[vectors] = {};
  std::uint32_t i = 0;
  for (; i + lanes::sum_lanes <= width; i += lanes::sum_lanes) {
    for (std::uint32_t j = 0; j < vectors; ++j) {
      const lanes::f32 v = lanes::load(x + i + j * lanes::width);
      partial[j] += v * v;
    }
  }
  for (std::uint32_t j = 0; i < width; ++j, i += lanes::width) {
    const std::uint32_t left = width - i;
    const lanes::f32 v = lanes::load_lanes(x + i, left < lanes::width ? left : lanes::width);
    partial[j] += v * v;
  }
  float sums[lanes::sum_lanes];
  __builtin_memcpy(sums, partial, sizeof sums);
  return lanes::sum_of_lanes(sums);
}

float rms_norm_scale(const rms_norm_row& row) {
  const float* h = row.bf16 ? add_residual<true>(row) : add_residual<false>(row);
  const float mean = sum_of_squares(h, row.width) / static_cast<float>(row.width);
  return 1.0f / __builtin_sqrtf(mean + row.eps);
}

template <bool Bf16>
ORIEL_INLINE void rms_norm_columns_as(
    float* out, const float* h, const float* weight, float scale, std::uint32_t n) {
  lanes::for_lanes(n, [&](std::uint32_t i, std::uint32_t count) {
    const lanes::f32 unit = lanes::round_activation<Bf16>(lanes::load_lanes(h + i, count) * scale);
    const lanes::f32 y = lanes::load_lanes(weight + i, count) * unit;
    lanes::store_lanes(out + i, lanes::round_activation<Bf16>(y), count);
  });
}

void rms_norm_columns(
    float* out, const float* h, const float* weight, float scale, std::uint32_t n, bool bf16) {
  bf16 ? rms_norm_columns_as<true>(out, h, weight, scale, n)
       : rms_norm_columns_as<false>(out, h, weight, scale, n);
}

template <bool Bf16>
ORIEL_INLINE void swiglu_as(float* out, const float* gate, const float* up, std::uint32_t n) {
  lanes::for_lanes(n, [&](std::uint32_t i, std::uint32_t count) {
    using lanes::round_activation;
    const lanes::f32 g = round_activation<Bf16>(lanes::load_lanes(gate + i, count));
    const lanes::f32 u = round_activation<Bf16>(lanes::load_lanes(up + i, count));
    const lanes::f32 silu = round_activation<Bf16>(g / (1.0f + lanes::exp(-g)));
    lanes::store_lanes(out + i, round_activation<Bf16>(silu * u), count);
  });
}

void swiglu(float* out, const float* gate, const float* up, std::uint32_t n, bool bf16) {
  bf16 ? swiglu_as<true>(out, gate, up, n) : swiglu_as<false>(out, gate, up, n);
}

void widen_bf16(float* out, const void* in, std::uint32_t n) {
  const auto* bytes = static_cast<const unsigned char*>(in);
  for (std::uint32_t i = 0; i < n; ++i) {
    std::uint16_t b;
    __builtin_memcpy(&b, bytes + 2 * std::size_t{i}, sizeof b);
    const std::uint32_t wide = static_cast<std::uint32_t>(b) << 16;
    __builtin_memcpy(out + i, &wide, sizeof wide);
  }
}

void add_scaled(float* out, const float* y, float weight, std::uint32_t n) {
  lanes::for_lanes(n, [&](std::uint32_t i, std::uint32_t count) {
    const lanes::f32 sum =
        lanes::load_lanes(out + i, count) + weight * lanes::load_lanes(y + i, count);
    lanes::store_lanes(out + i, sum, count);
  });
}

// --- Routing. Choices become integers of the same order, so that "already taken" can stand below
// every choice, -infinity included.

inline constexpr std::int32_t taken = INT32_MIN;

/// Scores and choices of one token, padded to whole lanes; pads are taken.
struct routing {
  alignas(64) float score[oriel::max_experts];
  alignas(64) std::int32_t choice[oriel::max_experts];
};

/// An integer that orders as the float does; -0 and 0 are equal, NaN is -infinity.
ORIEL_INLINE lanes::i32 ordered(lanes::f32 v) {
  const lanes::f32 number = v != v ? lanes::splat(-lanes::infinity) : v + 0.0f;
  const lanes::i32 b = (lanes::i32)lanes::bits_of(number);
  return b ^ ((b >> 31) & 0x7FFF'FFFF);
}

/// The float of `ordered`.
ORIEL_INLINE float unordered(std::int32_t key) {
  const std::int32_t b = key ^ ((key >> 31) & 0x7FFF'FFFF);
  float v;
  __builtin_memcpy(&v, &b, sizeof v);
  return v;
}

ORIEL_INLINE void score_experts(const float* logits,
                                const float* bias,
                                std::uint32_t experts,
                                routing& r) {
  lanes::for_lanes(experts, [&](std::uint32_t i, std::uint32_t n) {
    const lanes::f32 s = lanes::sigmoid(lanes::load_lanes(logits + i, n));
    const lanes::f32 b = bias != nullptr ? lanes::load_lanes(bias + i, n) : lanes::f32{};
    lanes::store(r.score + i, s != s ? lanes::f32{} : s);
    const lanes::i32 key = ordered(s + b);
    __builtin_memcpy(r.choice + i, &key, sizeof key);
  });
  for (std::uint32_t i = experts; i % lanes::width != 0; ++i) {
    r.choice[i] = taken;
  }
}

/// Sum of a group's two largest choices (of its only one).
ORIEL_INLINE float group_score(const std::int32_t* choice, std::uint32_t members) {
  std::int32_t first = choice[0], second = taken;
  for (std::uint32_t i = 1; i < members; ++i) {
    if (choice[i] > first) {
      second = first;
      first = choice[i];
    } else if (choice[i] > second) {
      second = choice[i];
    }
  }
  const float sum = members > 1 ? unordered(first) + unordered(second) : unordered(first);
  return sum != sum ? -lanes::infinity : sum;
}

/// Marks the experts outside the kept groups as taken.
ORIEL_INLINE void drop_groups(const moe_route_shape& shape, routing& r) {
  const std::uint32_t members = shape.experts / shape.groups;
  float score[oriel::max_experts];
  bool kept[oriel::max_experts] = {};
  for (std::uint32_t g = 0; g < shape.groups; ++g) {
    score[g] = group_score(r.choice + g * members, members);
  }
  for (std::uint32_t k = 0; k < shape.kept_groups; ++k) {
    std::uint32_t best = shape.groups;
    for (std::uint32_t g = 0; g < shape.groups; ++g) {
      if (!kept[g] && (best == shape.groups || score[g] > score[best])) {
        best = g;
      }
    }
    kept[best] = true;
  }
  for (std::uint32_t e = 0; e < shape.experts; ++e) {
    r.choice[e] = kept[e / members] ? r.choice[e] : taken;
  }
}

/// The largest choice, the lowest index among equals.
ORIEL_INLINE std::uint32_t best_expert(const std::int32_t* choice, std::uint32_t experts) {
  lanes::i32 best = lanes::i32{} + taken, index = lanes::i32{} + INT32_MAX;
  lanes::i32 at;
  for (std::uint32_t lane = 0; lane < lanes::width; ++lane) {
    at[lane] = static_cast<std::int32_t>(lane);
  }
  for (std::uint32_t i = 0; i < experts; i += lanes::width) {
    lanes::i32 c;
    __builtin_memcpy(&c, choice + i, sizeof c);
    const lanes::i32 better = c > best;
    best = better ? c : best;
    index = better ? at : index;
    at += static_cast<std::int32_t>(lanes::width);
  }
  std::int32_t value = best[0], where = index[0];
  for (std::uint32_t lane = 1; lane < lanes::width; ++lane) {
    if (best[lane] > value || (best[lane] == value && index[lane] < where)) {
      value = best[lane];
      where = index[lane];
    }
  }
  return static_cast<std::uint32_t>(where);
}

void route(const moe_route_shape& shape,
           const float* logits,
           const float* bias,
           std::uint32_t* ids,
           float* weights) {
  routing r;
  score_experts(logits, bias, shape.experts, r);
  if (shape.kept_groups < shape.groups) {
    drop_groups(shape, r);
  }
  for (std::uint32_t k = 0; k < shape.top_k; ++k) {
    const std::uint32_t id = best_expert(r.choice, shape.experts);
    r.choice[id] = taken;
    std::uint32_t slot = k;  // Insertion sort: ids ascending.
    for (; slot > 0 && ids[slot - 1] > id; --slot) {
      ids[slot] = ids[slot - 1];
    }
    ids[slot] = id;
  }
  float sum = 0.0f;
  for (std::uint32_t k = 0; k < shape.top_k; ++k) {
    weights[k] = r.score[ids[k]];
    sum += weights[k];
  }
  for (std::uint32_t k = 0; k < shape.top_k; ++k) {
    weights[k] = (shape.normalize ? weights[k] / (sum + 1e-20f) : weights[k]) * shape.scale;
  }
}

inline constexpr oriel::detail::row_kernels this_isa = {
    rms_norm_scale, rms_norm_columns, swiglu, widen_bf16, add_scaled, route};

}  // namespace
