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
  static constexpr std::uint32_t rows_in_call = 4;
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

  /// Bits, not numbers: a NaN keeps its payload. Loads first: under way together.
  ORIEL_HOST_DEVICE void operator()(std::uint32_t first,
                                    std::uint32_t rows,
                                    std::uint32_t i) const {
    std::uint32_t from[rows_in_call];
    stored_vector<N, T> v[rows_in_call];
    ORIEL_UNROLL
    for (std::uint32_t j = 0; j < rows_in_call; ++j) {
      from[j] = args.rows.data()[first + j < rows ? first + j : first] / shape.divisor;
    }
    ORIEL_UNROLL
    for (std::uint32_t j = 0; j < rows_in_call; ++j) {
      v[j] = load_stored<N>(args.x + from[j] * args.x_stride + i);
    }
    ORIEL_UNROLL
    for (std::uint32_t j = 0; j < rows_in_call; ++j) {
      if (first + j < rows) {
        store_stored(args.out + (first + j) * args.out_stride + i, v[j]);
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
    for (std::uint32_t slot = 0; slot < shape.top_k; slot += batch) {
      add_slots(token, slot, i, sum);
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

 private:
  static constexpr std::uint32_t batch = 4;

  /// Adds the slots [first, first + 4), in this order. Loads first: under way together.
  ORIEL_HOST_DEVICE void add_slots(std::uint32_t token,
                                   std::uint32_t first,
                                   std::uint32_t i,
                                   row_vector<N>& sum) const {
    const std::size_t pair = std::size_t{token} * shape.top_k + first;
    std::uint32_t row[batch];
    float weight[batch];
    stored_vector<N, T> y[batch];
    // Read and not used where there is no row: a branch would make loads wait for each other.
    const T* const nowhere = args.out + token * args.out_stride;
    ORIEL_UNROLL
    for (std::uint32_t j = 0; j < batch; ++j) {
      const bool is_slot = first + j < shape.top_k;
      row[j] = is_slot ? args.row_of_pair[pair + j] : UINT32_MAX;
      weight[j] = is_slot ? args.weights[pair + j] : 0.0f;
    }
    ORIEL_UNROLL
    for (std::uint32_t j = 0; j < batch; ++j) {
      const T* from = row[j] != UINT32_MAX ? args.y + row[j] * args.y_stride : nowhere;
      y[j] = load_stored<N>(from + i);
    }
    ORIEL_UNROLL
    for (std::uint32_t j = 0; j < batch; ++j) {
      const row_vector<N> v = widened<N, T>(y[j]);
      ORIEL_UNROLL
      for (std::uint32_t lane = 0; lane < N; ++lane) {
        const float more = sum.lane[lane] + weight[j] * v.lane[lane];
        sum.lane[lane] = row[j] != UINT32_MAX ? more : sum.lane[lane];
      }
    }
  }
};

}  // namespace oriel::detail
