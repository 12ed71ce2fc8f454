// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a block of the RMSNorm kernel does with its row. Each element is read and written once:
///
///     add     the row, with the addend, goes to shared memory in f32, 16 bytes at a time
///     sum     64 threads square it: element i belongs to thread i % 64, in ascending order; the 64
///             sums are added as the tree that the host's kernel uses, so both give the same bits
///     scale   every thread scales its elements, and writes them in each form that is asked for;
///             for e4m3 a thread takes 8 at a time, whatever the alignment, and 16 have a scale
#pragma once

#include "quantize_rows_agent.cuh"
#include "row_vector.cuh"
#include "thread_group.cuh"

#include <oriel/core/mutation.hpp>
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
           is_vector_aligned(args.sum, args.x_stride) && is_vector_aligned(args.weight, 0) &&
           is_vector_aligned(args.rounded, args.rounded_stride) &&
           takes_whole_stores(args.quantized);
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
        for (std::uint32_t i = thread; i < shape.width; i += rms_norm_lanes * batch) {
          squares = add_squares(h, i, squares);
        }
        partial[thread] = squares;
      }
    });
    g.sync();
    typename Group::template var<float> scale;
    g.each([&](std::uint32_t thread) {
      const float mean = rms_norm_sum(partial) / static_cast<float>(shape.width);
      scale[thread] = 1.0f / sqrtf(mean + shape.eps);
    });
    if (args.quantized.values == nullptr) {
      g.each([&](std::uint32_t thread) {
        for (std::uint32_t i = thread * N; i < shape.width; i += Group::threads * N) {
          scale_elements(row, i, h, scale[thread]);
        }
      });
      return;
    }
    for (std::uint32_t block = 0; block * quantize_columns_per_block < shape.width; ++block) {
      const auto scaled = [&](std::uint32_t thread, std::uint32_t column) {
        return scale_columns(row, column, h, scale[thread]);
      };
      quantize_columns<N == quantize_per_thread>(
          g, args.quantized, shape.width, row, block, scaled);
    }
  }

 private:
  static constexpr std::uint32_t batch = 16;

  /// Adds the squares of elements i, i + 64, ... of 16, in this order. Loads first: a sum waits for
  /// the sum before it, and for no load. (A zero more changes no bit of a sum of squares.)
  ORIEL_HOST_DEVICE float add_squares(const float* h, std::uint32_t i, float squares) const {
    float x[batch];
    ORIEL_UNROLL
    for (std::uint32_t j = 0; j < batch; ++j) {
      const std::uint32_t at = i + j * rms_norm_lanes;
      x[j] = at < shape.width ? h[at] : 0.0f;
    }
    ORIEL_UNROLL
    for (const float element : x) {
      squares += element * element;
    }
    return squares;
  }

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

  /// Elements [i, i + N) as they are written.
  ORIEL_HOST_DEVICE row_vector<N> scale_elements(std::uint32_t row,
                                                 std::uint32_t i,
                                                 const float* h,
                                                 float scale) const {
    row_vector<N> y = load_vector<N>(h + i);
    const row_vector<N> weight = load_vector<N>(args.weight + i);
    for (std::uint32_t j = 0; j < N; ++j) {
      const float unit = rounded_to(shape.activation, y.lane[j] * scale);
      const bool rounds =
          args.quantized.values == nullptr || !ORIEL_MUTANT(norm_quantises_what_it_did_not_round);
      const dtype stored = rounds ? shape.activation : dtype::f32;
      y.lane[j] = rounded_to(stored, weight.lane[j] * unit);
    }
    if (args.out != nullptr) {
      store_vector(args.out + row * args.out_stride + i, y);
    }
    if (args.rounded != nullptr) {
      store_vector(args.rounded + row * args.rounded_stride + i, y);
    }
    return y;
  }

  /// The 8 elements that a thread quantises; zeros beyond the row.
  ORIEL_HOST_DEVICE row_vector<quantize_per_thread> scale_columns(std::uint32_t row,
                                                                  std::uint32_t column,
                                                                  const float* h,
                                                                  float scale) const {
    row_vector<quantize_per_thread> v = {};
    for (std::uint32_t j = 0; j < quantize_per_thread && column + j < shape.width; j += N) {
      const row_vector<N> y = scale_elements(row, column + j, h, scale);
      for (std::uint32_t lane = 0; lane < N; ++lane) {
        v.lane[j + lane] = y.lane[lane];
      }
    }
    return v;
  }
};

}  // namespace oriel::detail
