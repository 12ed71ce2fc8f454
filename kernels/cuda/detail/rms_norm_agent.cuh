// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What one thread of the RMSNorm kernel does. A row has 64 threads: element i belongs to thread
/// i % 64, and the 64 partial sums are added as the tree that the host's kernel uses, so that both
/// give the same bits.
#pragma once

#include <oriel/device/host_device.cuh>
#include <oriel/kernels/rms_norm.hpp>

#include <math.h>

namespace oriel::detail {

inline constexpr std::uint32_t rms_norm_lanes = 64;          // threads of a row
inline constexpr std::uint32_t rms_norm_rows_per_block = 4;  // 256 threads

ORIEL_HOST_DEVICE inline float rounded(dtype activation, float x) {
  return activation == dtype::bf16 ? round_to_bf16(x) : x;
}

/// Before the barrier: adds the residual, and returns the sum of squares of this thread's elements.
ORIEL_HOST_DEVICE inline float rms_norm_squares(const rms_norm_shape& shape,
                                                const rms_norm_args& args,
                                                std::uint32_t row,
                                                std::uint32_t lane) {
  const std::size_t at = row * args.x_stride;
  float squares = 0.0f;
  for (std::uint32_t i = lane; i < shape.width; i += rms_norm_lanes) {
    float h = args.x[at + i];
    if (args.add != nullptr) {
      h = rounded(shape.activation, h + args.add[at + i]);
      args.sum[at + i] = h;
    }
    squares += h * h;
  }
  return squares;
}

/// The sum of a row's 64 partial sums, by halves: 32 + 32, 16 + 16, ...
ORIEL_HOST_DEVICE inline float rms_norm_sum(const float* partial) {
  constexpr std::uint32_t half_lanes = rms_norm_lanes / 2;
  float lane[half_lanes];
  for (std::uint32_t i = 0; i < half_lanes; ++i) {
    lane[i] = partial[i] + partial[i + half_lanes];
  }
  for (std::uint32_t half = half_lanes / 2; half != 0; half /= 2) {
    for (std::uint32_t i = 0; i < half; ++i) {
      lane[i] += lane[i + half];
    }
  }
  return lane[0];
}

/// After the barrier: scales this thread's elements. `squares` is the row's sum of squares.
ORIEL_HOST_DEVICE inline void rms_norm_scale(const rms_norm_shape& shape,
                                             const rms_norm_args& args,
                                             std::uint32_t row,
                                             std::uint32_t lane,
                                             float squares) {
  const float scale = 1.0f / sqrtf(squares / static_cast<float>(shape.width) + shape.eps);
  const float* h = (args.add != nullptr ? args.sum : args.x) + row * args.x_stride;
  float* out = args.out + row * args.out_stride;
  for (std::uint32_t i = lane; i < shape.width; i += rms_norm_lanes) {
    const float unit = rounded(shape.activation, h[i] * scale);
    out[i] = rounded(shape.activation, args.weight[i] * unit);
  }
}

}  // namespace oriel::detail
