// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What one thread does of the kernels whose elements do not depend on each other: embedding, row
/// gather, SwiGLU, the sum over a token's experts. Agents as run_on_host (row_vector.cuh) tells; N
/// is their vector_width.
#pragma once

#include "row_vector.cuh"
#include "scalar_math.cuh"

#include <oriel/kernels/embed.hpp>
#include <oriel/kernels/gather_rows.hpp>
#include <oriel/kernels/moe_combine.hpp>
#include <oriel/kernels/swiglu.hpp>

namespace oriel::detail {

/// @tparam Table  element of the table
template <class T, class Table, std::uint32_t N>
struct embed_agent {
  static constexpr std::uint32_t vector_width = N;
  embed_shape shape;
  basic_embed_args<T> args;

  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t rows() const {
    return static_cast<std::uint32_t>(args.tokens.size());
  }
  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t width() const { return shape.width; }
  [[nodiscard]] static bool fits(const embed_shape& shape, const basic_embed_args<T>& args) {
    return shape.width % N == 0 && is_vector_aligned(args.out, args.out_stride) &&
           is_vector_aligned(static_cast<const Table*>(args.table), shape.width);
  }

  ORIEL_HOST_DEVICE void operator()(std::uint32_t row, std::uint32_t i) const {
    const std::size_t token = to_index(args.tokens.data()[row]);
    row_vector<N> v;
    if (token < shape.vocabulary) {
      v = load_vector<N>(static_cast<const Table*>(args.table) + token * shape.width + i);
    } else {
      for (float& lane : v.lane) {
        lane = std::bit_cast<float>(0x7FFF'FFFFu);
      }
    }
    store_vector(args.out + row * args.out_stride + i, v);
  }
};

template <class T, std::uint32_t N>
struct gather_rows_agent {
  static constexpr std::uint32_t vector_width = N;
  gather_rows_shape shape;
  basic_gather_rows_args<T> args;

  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t rows() const {
    return static_cast<std::uint32_t>(args.rows.size());
  }
  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t width() const { return shape.width; }
  [[nodiscard]] static bool fits(const gather_rows_shape& shape,
                                 const basic_gather_rows_args<T>& args) {
    return shape.width % N == 0 && is_vector_aligned(args.out, args.out_stride) &&
           is_vector_aligned(args.x, args.x_stride);
  }

  ORIEL_HOST_DEVICE void operator()(std::uint32_t row, std::uint32_t i) const {
    const T* from = args.x + args.rows.data()[row] / shape.divisor * args.x_stride + i;
    T* to = args.out + row * args.out_stride + i;
    if constexpr (N == 1) {
      *to = *from;
    } else {  // Bits, not numbers: a NaN keeps its payload.
      for (std::uint32_t j = 0; j < N; j += 16 / sizeof(T)) {
        store_words(to + j, load_words(from + j));
      }
    }
  }
};

/// silu(gate) * up, rounded where arrays of type `t` would round.
template <std::uint32_t N>
ORIEL_HOST_DEVICE row_vector<N> swiglu_of(dtype t,
                                          const row_vector<N>& gate,
                                          const row_vector<N>& up) {
  row_vector<N> out;
  for (std::uint32_t j = 0; j < N; ++j) {
    const float g = rounded_to(t, gate.lane[j]), u = rounded_to(t, up.lane[j]);
    const float silu = rounded_to(t, g / (1.0f + exp_unfused(-g)));
    out.lane[j] = rounded_to(t, silu * u);
  }
  return out;
}

template <class T, std::uint32_t N>
struct swiglu_agent {
  static constexpr std::uint32_t vector_width = N;
  swiglu_shape shape;
  basic_swiglu_args<T> args;

  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t rows() const { return args.rows; }
  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t width() const { return shape.inter; }
  [[nodiscard]] static bool fits(const swiglu_shape& shape, const basic_swiglu_args<T>& args) {
    return shape.inter % N == 0 && is_vector_aligned(args.out, args.out_stride) &&
           is_vector_aligned(args.gate_up, args.gate_up_stride);
  }

  ORIEL_HOST_DEVICE void operator()(std::uint32_t row, std::uint32_t i) const {
    const T* gate_up = args.gate_up + row * args.gate_up_stride + i;
    store_vector(
        args.out + row * args.out_stride + i,
        swiglu_of(
            shape.activation, load_vector<N>(gate_up), load_vector<N>(gate_up + shape.inter)));
  }
};

template <class T, std::uint32_t N>
struct moe_combine_agent {
  static constexpr std::uint32_t vector_width = N;
  moe_combine_shape shape;
  basic_moe_combine_args<T> args;

  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t rows() const { return args.tokens; }
  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t width() const { return shape.hidden; }
  [[nodiscard]] static bool fits(const moe_combine_shape& shape,
                                 const basic_moe_combine_args<T>& args) {
    return shape.hidden % N == 0 && is_vector_aligned(args.out, args.out_stride) &&
           is_vector_aligned(args.y, args.y_stride);
  }

  ORIEL_HOST_DEVICE void operator()(std::uint32_t token, std::uint32_t i) const {
    row_vector<N> sum = {};
    for (std::uint32_t slot = 0; slot < shape.top_k; ++slot) {
      const std::size_t pair = std::size_t{token} * shape.top_k + slot;
      const std::uint32_t row = args.row_of_pair[pair];
      if (row == UINT32_MAX) {
        continue;
      }
      const float weight = args.weights[pair];
      const row_vector<N> y = load_vector<N>(args.y + row * args.y_stride + i);
      for (std::uint32_t j = 0; j < N; ++j) {
        sum.lane[j] = sum.lane[j] + weight * y.lane[j];
      }
    }
    T* out = args.out + token * args.out_stride + i;
    if (args.accumulate) {
      const row_vector<N> before = load_vector<N>(out);
      for (std::uint32_t j = 0; j < N; ++j) {
        sum.lane[j] = before.lane[j] + sum.lane[j];
      }
    }
    store_vector(out, sum);
  }
};

}  // namespace oriel::detail
