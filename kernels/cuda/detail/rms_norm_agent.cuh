// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a block of the RMSNorm kernel does with its row. Each element is read and written once:
///
///     add     the row, with the addend, goes to shared memory in f32, 16 bytes at a time
///     sum     64 threads square it: element i belongs to thread i % 64, in ascending order; the 64
///             sums are added as the tree that the host's kernel uses, so both give the same bits
///     scale   every thread scales its elements
#pragma once

#include "row_vector.cuh"
#include "thread_group.cuh"

#include <oriel/kernels/rms_norm.hpp>

#include <math.h>

namespace oriel::detail {

inline constexpr std::uint32_t rms_norm_lanes = 64;
inline constexpr std::uint32_t rms_norm_threads = 256;  // of a block: one row

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

template <class T, std::uint32_t N>
struct rms_norm_agent {
  rms_norm_shape shape;
  basic_rms_norm_args<T> args;

  [[nodiscard]] static bool fits(const rms_norm_shape& shape, const basic_rms_norm_args<T>& args) {
    return shape.width % N == 0 && is_vector_aligned(args.out, args.out_stride) &&
           is_vector_aligned(args.x, args.x_stride) && is_vector_aligned(args.add, args.x_stride) &&
           is_vector_aligned(args.sum, args.x_stride) && is_vector_aligned(args.weight, 0);
  }

  /// @param shared  [64 + width], 16-byte aligned
  template <class Group>
  ORIEL_HOST_DEVICE void operator()(Group g, std::uint32_t row, float* shared) const {
    float* partial = shared;
    float* h = shared + rms_norm_lanes;
    g.each([&](std::uint32_t thread) {
      for (std::uint32_t i = thread * N; i < shape.width; i += Group::threads * N) {
        add_residual(row, i, h);
      }
    });
    g.sync();
    g.each([&](std::uint32_t thread) {
      if (thread < rms_norm_lanes) {
        float squares = 0.0f;
        for (std::uint32_t i = thread; i < shape.width; i += rms_norm_lanes) {
          squares += h[i] * h[i];
        }
        partial[thread] = squares;
      }
    });
    g.sync();
    g.each([&](std::uint32_t thread) {
      const float mean = rms_norm_sum(partial) / static_cast<float>(shape.width);
      const float scale = 1.0f / sqrtf(mean + shape.eps);
      for (std::uint32_t i = thread * N; i < shape.width; i += Group::threads * N) {
        scale_elements(row, i, h, scale);
      }
    });
  }

 private:
  ORIEL_HOST_DEVICE void add_residual(std::uint32_t row, std::uint32_t i, float* h) const {
    const std::size_t at = row * args.x_stride + i;
    row_vector<N> x = load_vector<N>(args.x + at);
    if (args.add != nullptr) {
      const row_vector<N> add = load_vector<N>(args.add + at);
      for (std::uint32_t j = 0; j < N; ++j) {
        x.lane[j] = rounded_to(shape.activation, x.lane[j] + add.lane[j]);
      }
      store_vector(args.sum + at, x);
    }
    store_vector(h + i, x);
  }

  ORIEL_HOST_DEVICE void scale_elements(std::uint32_t row,
                                        std::uint32_t i,
                                        const float* h,
                                        float scale) const {
    row_vector<N> y = load_vector<N>(h + i);
    const row_vector<N> weight = load_vector<N>(args.weight + i);
    for (std::uint32_t j = 0; j < N; ++j) {
      const float unit = rounded_to(shape.activation, y.lane[j] * scale);
      y.lane[j] = rounded_to(shape.activation, weight.lane[j] * unit);
    }
    store_vector(args.out + row * args.out_stride + i, y);
  }
};

}  // namespace oriel::detail
