// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A tile of e4m3 keys, as bulk copies brought it, to the operands of bf16 that the products read:
/// the numbers without their scales, exactly, since bf16 has all of e4m3. Both orders are core
/// matrices, so eight numbers side by side there are eight side by side here.
///
///     as copied   K [4 tiles of 16 keys] of (numbers, 16 scales), V likewise
///     becomes     K, V as bf16 tiles of 64 keys, scales [2][64] f32
///
/// Numbers and scales of V of keys that no row of the block sees become zero, and their K's scales:
/// in a page they may be anything.
#pragma once

#include "attention_rows.cuh"

#include <cstring>

namespace oriel::detail {

inline constexpr std::uint32_t converter_threads = 96;  ///< three warps; the fourth is the producer

/// Two numbers of e4m3, one in the low byte of each half of `word` (the rest is not looked at), to
/// two of bf16 with their exponents 120 too small: the bits of e4m3's exponent and mantissa stand
/// where bf16 has its own, subnormal numbers included.
[[nodiscard]] ORIEL_HOST_DEVICE inline std::uint32_t low_bytes_as_bf16(std::uint32_t word) {
  return ((word << 8) & 0x8000'8000u) | ((word << 4) & 0x07F0'07F0u);
}
/// Likewise of the high bytes.
[[nodiscard]] ORIEL_HOST_DEVICE inline std::uint32_t high_bytes_as_bf16(std::uint32_t word) {
  return (word & 0x8000'8000u) | ((word >> 4) & 0x07F0'07F0u);
}

/// Two bf16 by 2^120: exactly.
[[nodiscard]] ORIEL_HOST_DEVICE inline std::uint32_t times_2_120(std::uint32_t pair) {
#ifdef __CUDA_ARCH__
  return ptx::multiply_bf16x2(pair, 0x7B80'7B80u);
#else
  const auto one = [](std::uint32_t x) {
    return static_cast<std::uint32_t>(to_bf16(to_float(static_cast<bf16>(x & 0xFFFFu)) * 0x1p120f));
  };
  return one(pair) | one(pair >> 16) << 16;
#endif
}

struct two_words {
  std::uint32_t low, high;
};
struct four_words {
  std::uint32_t word[4];
};

/// Eight numbers, each four in the order 0 2 1 3, to eight of bf16 in theirs.
[[nodiscard]] ORIEL_HOST_DEVICE inline four_words e4m3_as_bf16(const two_words& w) {
  return {{times_2_120(low_bytes_as_bf16(w.low)),
           times_2_120(high_bytes_as_bf16(w.low)),
           times_2_120(low_bytes_as_bf16(w.high)),
           times_2_120(high_bytes_as_bf16(w.high))}};
}

/// 8 bytes from, 16 bytes to shared memory. @pre aligned so
[[nodiscard]] ORIEL_HOST_DEVICE inline two_words load_two(const std::byte* from) {
#ifdef __CUDA_ARCH__
  const uint2 w = *reinterpret_cast<const uint2*>(from);
  return {w.x, w.y};
#else
  two_words w;
  std::memcpy(&w, from, sizeof w);
  return w;
#endif
}
ORIEL_HOST_DEVICE inline void store_four(std::byte* to, const four_words& w) {
#ifdef __CUDA_ARCH__
  *reinterpret_cast<uint4*>(to) = make_uint4(w.word[0], w.word[1], w.word[2], w.word[3]);
#else
  std::memcpy(to, &w, sizeof w);
#endif
}

/// Keys [begin, end) of a tile of 64 that are there.
struct tile_part {
  std::uint32_t begin, end;
  [[nodiscard]] ORIEL_HOST_DEVICE bool has(std::uint32_t key) const {
    return key >= begin && key < end;
  }
  [[nodiscard]] ORIEL_HOST_DEVICE bool is_whole() const { return begin == 0 && end == tile_keys; }
};
[[nodiscard]] ORIEL_HOST_DEVICE inline tile_part seen_part(const attention_work& work,
                                                           std::uint32_t tile) {
  const std::uint32_t begin = tile * tile_keys;
  const std::uint32_t first = work.key_begin < begin ? begin : work.key_begin;
  const std::uint32_t end = work.key_end < begin + tile_keys ? work.key_end : begin + tile_keys;
  return {first - begin, end - begin};
}

/// Of 8 keys of a dim, in the order in which they are stored, those that are there.
[[nodiscard]] ORIEL_HOST_DEVICE inline two_words keep_keys(const two_words& w,
                                                           const tile_part& part,
                                                           std::uint32_t key) {
  std::uint32_t mask[2] = {0, 0};
  for (std::uint32_t i = 0; i < kv_group_tokens; ++i) {
    const std::uint32_t place = e4m3_place(i);
    mask[place / 4] |= part.has(key + i) ? 0xFFu << place % 4 * 8 : 0u;
  }
  return {w.low & mask[0], w.high & mask[1]};
}

/// Thread `thread` of `threads` converts its share of K or V: `Dims` numbers a key.
/// @tparam IsV  keys that are not there become zero
template <std::uint32_t Dims, bool IsV>
ORIEL_HOST_DEVICE void convert_part(const std::byte* raw,
                                    std::byte* to,
                                    const tile_part& part,
                                    std::uint32_t thread,
                                    std::uint32_t threads) {
  constexpr std::uint32_t units_of_tile = kv_tile_tokens * Dims / 8;  // of 8 numbers
  constexpr std::uint32_t tile_bytes = kv_tile_tokens * (Dims + 4);
  constexpr std::uint32_t units = tile_keys / kv_tile_tokens * units_of_tile;
  const bool is_whole = part.is_whole();
  ORIEL_UNROLL_BY(3)  // Four would not fit the registers that are left to converters.
  for (std::uint32_t unit = thread; unit < units; unit += threads) {
    const std::uint32_t tile = unit / units_of_tile;
    two_words w = load_two(raw + tile * tile_bytes + unit % units_of_tile * 8);
    if (IsV && !is_whole) {
      w = keep_keys(w, part, unit / Dims * kv_group_tokens);
    }
    store_four(to + unit * 16, e4m3_as_bf16(w));
  }
}

/// The scales of K or V: behind each 16 keys.
template <std::uint32_t Dims>
ORIEL_HOST_DEVICE void convert_scales(const std::byte* raw,
                                      float* to,
                                      const tile_part& part,
                                      std::uint32_t thread,
                                      std::uint32_t threads) {
  constexpr std::uint32_t tile_bytes = kv_tile_tokens * (Dims + 4);
  for (std::uint32_t key = thread; key < tile_keys; key += threads) {
    const std::byte* const end = raw + (key / kv_tile_tokens + 1) * tile_bytes;
    const auto* const scales = reinterpret_cast<const float*>(end) - kv_tile_tokens;
    to[key] = part.has(key) ? scales[key % kv_tile_tokens] : 0.0f;
  }
}

/// A tile. `raw`: as copied; `stage`: K, V, scales.
template <class Dims>
ORIEL_HOST_DEVICE void convert_tile(const attention_work& work,
                                    std::uint32_t tile,
                                    std::uint32_t thread,
                                    std::uint32_t threads,
                                    const std::byte* raw,
                                    std::byte* stage) {
  const tile_part part = seen_part(work, tile);
  const std::byte* const raw_v = raw + Dims::raw_k_bytes;
  std::byte* const v = stage + Dims::k_bytes;
  auto* const scales = reinterpret_cast<float*>(v + Dims::v_bytes);
  convert_part<Dims::qk, false>(raw, stage, part, thread, threads);
  convert_part<Dims::vo, true>(raw_v, v, part, thread, threads);
  convert_scales<Dims::qk>(raw, scales, part, thread, threads);
  convert_scales<Dims::vo>(raw_v, scales + tile_keys, part, thread, threads);
}

}  // namespace oriel::detail
