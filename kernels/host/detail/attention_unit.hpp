// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Units of a dot product. A unit is one 32-bit word of a K or V tile: an f32, or two bf16 that lie
/// side by side. K and V tiles of both types are then lines of words, and one body serves them all.
///
///   load(p)               a vector of words, ready to multiply
///   load_first(p, n, m)   the first n words, each ANDed with m: m removes a masked key of a pair
///   broadcast(words)      the other factor, from `words_per_unit` packed floats
///   step(acc, x, y)       acc + x * y, in the unit's fixed order
#pragma once

#include <oriel/core/dtype.hpp>

#include <cstddef>
#include <cstdint>

namespace oriel::host::detail {

/// Masks of a word of two keys.
inline constexpr std::uint32_t both_keys = 0xFFFF'FFFFu;
inline constexpr std::uint32_t even_key = 0x0000'FFFFu;
inline constexpr std::uint32_t odd_key = 0xFFFF'0000u;

/// f32 storage: one fused multiply-add.
template <class Lanes>
struct unit_f32 {
  using lanes = Lanes;
  using vec = typename Lanes::vec;
  using loaded = vec;
  using factor = vec;
  static constexpr std::uint32_t elements = 1;
  static constexpr std::uint32_t words = 1;

  static loaded load(const std::byte* p) { return Lanes::load(p); }
  static loaded load_first(const std::byte* p, std::uint32_t n, std::uint32_t) {
    return Lanes::load_first(p, n);
  }
  static factor broadcast(const float* y) { return Lanes::set1(*y); }
  static vec step(vec acc, loaded x, factor y) { return Lanes::fma(x, y, acc); }
  static void pack(float* words_out, const float* x, std::uint32_t) { *words_out = *x; }
  /// Vector `v` of a row of probabilities, in place of its scores.
  static void store(float* row, std::uint32_t v, vec p) { Lanes::store(row + v * Lanes::width, p); }
};

/// bf16 storage, widened: the first element of the pair, then the second.
template <class Lanes>
struct unit_bf16_wide {
  using lanes = Lanes;
  using vec = typename Lanes::vec;
  using loaded = typename Lanes::pair;
  static constexpr std::uint32_t elements = 2;
  static constexpr std::uint32_t words = 2;

  struct factor {
    vec first;
    vec second;
  };

  static loaded load(const std::byte* p) { return Lanes::load_pairs(p); }
  static loaded load_first(const std::byte* p, std::uint32_t n, std::uint32_t mask) {
    return Lanes::load_pairs_first(p, n, mask);
  }
  static factor broadcast(const float* y) { return {Lanes::set1(y[0]), Lanes::set1(y[1])}; }
  static vec step(vec acc, loaded x, factor y) {
    return Lanes::fma(x.second, y.second, Lanes::fma(x.first, y.first, acc));
  }
  static void pack(float* words_out, const float* x, std::uint32_t n) {
    words_out[0] = round_to_bf16(x[0]);
    words_out[1] = n > 1 ? round_to_bf16(x[1]) : 0.0f;
  }
  static void store(float* row, std::uint32_t v, vec p) {
    Lanes::store(row + v * Lanes::width, Lanes::round_to_bf16(p));
  }
};

}  // namespace oriel::host::detail
