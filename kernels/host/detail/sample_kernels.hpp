// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The passes of sampling that read a whole row, for one instruction set.
#pragma once

#include <oriel/kernels/isa.hpp>

#include <cstdint>

namespace oriel::detail {

/// Logits that share one maximum in `block_maxima`.
inline constexpr std::uint32_t sample_block = 64;

/// The functions of one instruction set. All give the same bits.
struct sample_kernels {
  /// maxima[b] = the largest of logits [64 b, 64 b + 64), NaN ignored, -infinity if there is none.
  /// @returns the largest of all
  float (*block_maxima)(const float* logits, std::uint32_t n, float* maxima);
  /// weights[i] = exp((logits[i] - largest) * inverse_temperature), 1 for the largest, 0 for NaN.
  /// In place if the two are one array. @returns the sum of mass_of(weights[i])
  std::uint64_t (*weigh)(const float* logits,
                         std::uint32_t n,
                         float largest,
                         float inverse_temperature,
                         float* weights);
  /// Sum of mass_of(weights[i]).
  std::uint64_t (*mass)(const float* weights, std::uint32_t n);
};

extern const sample_kernels sample_kernels_scalar, sample_kernels_avx2, sample_kernels_avx512;

/// The table for `path`. @pre is_supported(path)
[[nodiscard]] const sample_kernels& sample_kernels_for(isa path) noexcept;

}  // namespace oriel::detail
