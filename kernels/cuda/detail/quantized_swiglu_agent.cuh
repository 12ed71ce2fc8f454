// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a block of SwiGLU to e4m3 does: the activation is computed where quantisation would load
/// it, 8 columns a thread.
#pragma once

#include "quantize_rows_agent.cuh"
#include "row_agents.cuh"

#include <oriel/core/mutation.hpp>
#include <oriel/kernels/swiglu.hpp>

namespace oriel::detail {

/// @tparam Whole  every thread's 8 columns are there, aligned; else each is looked at
template <bool Whole>
struct quantized_swiglu_agent {
  swiglu_shape shape;
  quantized_swiglu_args args;

  [[nodiscard]] static bool fits(const swiglu_shape& shape, const quantized_swiglu_args& args) {
    return shape.inter % quantize_per_thread == 0 &&
           is_vector_aligned(args.gate_up, args.gate_up_stride) && takes_whole_stores(args.out);
  }

  /// Columns [2048 * block, 2048 * (block + 1)) of a row.
  template <class Group>
  ORIEL_HOST_DEVICE void operator()(Group g, std::uint32_t row, std::uint32_t block) const {
    quantize_columns<Whole>(
        g, args.out, shape.inter, row, block, [&](std::uint32_t, std::uint32_t column) {
          return activated(row, column);
        });
  }

 private:
  ORIEL_HOST_DEVICE row_vector<quantize_per_thread> activated(std::uint32_t row,
                                                              std::uint32_t column) const {
    constexpr std::uint32_t n = Whole ? quantize_per_thread : 1;
    const bf16* const gate = args.gate_up + row * args.gate_up_stride;
    const dtype stored =
        ORIEL_MUTANT(swiglu_quantises_what_it_did_not_round) ? dtype::f32 : shape.activation;
    row_vector<quantize_per_thread> v = {};
    for (std::uint32_t j = 0; j < quantize_per_thread && column + j < shape.inter; j += n) {
      const std::uint32_t i = column + j;
      const row_vector<n> y =
          swiglu_of(stored, load_vector<n>(gate + i), load_vector<n>(gate + shape.inter + i));
      for (std::uint32_t lane = 0; lane < n; ++lane) {
        v.lane[j + lane] = y.lane[lane];
      }
    }
    return v;
  }
};

}  // namespace oriel::detail
