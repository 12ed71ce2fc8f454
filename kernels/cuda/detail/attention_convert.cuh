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
#include "row_vector.cuh"

#include <cstring>

namespace oriel::detail {

inline constexpr std::uint32_t converter_threads = loader_threads;  ///< the same warps

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

/// Eight numbers, each four in the order 0 2 1 3, to eight of bf16 in theirs.
[[nodiscard]] ORIEL_HOST_DEVICE inline words16 e4m3_as_bf16(const two_words& w) {
  return {{times_2_120(low_bytes_as_bf16(w.low)),
           times_2_120(high_bytes_as_bf16(w.low)),
           times_2_120(low_bytes_as_bf16(w.high)),
           times_2_120(high_bytes_as_bf16(w.high))}};
}

/// 8 bytes from shared memory. @pre aligned so
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

/// The bytes of the 4 keys of the low bits of `keys`, as e4m3_place() has them.
[[nodiscard]] ORIEL_HOST_DEVICE inline std::uint32_t kept_bytes(std::uint32_t keys) {
  constexpr std::uint32_t to_places = 1u | 1u << 15 | 1u << 6 | 1u << 21;  // Nothing carries.
  return ((keys & 0xFu) * to_places & 0x0101'0101u) * 0xFFu;
}

/// Thread `thread` of converter_threads converts its share of K or V, `Dims` numbers a key: each
/// converter_threads-th unit of 8 numbers. Loads are a batch ahead of stores, since a load does not
/// overtake a store that may be to its place; unrolled, offsets are constants.
template <std::uint32_t Dims>
struct converter_share {
  static constexpr std::uint32_t units_of_tile = kv_tile_tokens * Dims / 8;  // of 16 keys
  static constexpr std::uint32_t units = tile_keys / kv_tile_tokens * units_of_tile;
  static constexpr std::uint32_t count = (units - 1) / converter_threads + 1;
  static constexpr std::uint32_t batch = 4;
  static constexpr std::uint32_t scale_bytes = kv_tile_tokens * 4;  ///< behind a tile's numbers

  std::uint32_t thread;
  two_words loaded[2][batch] = {};

  /// Not of all threads the last units are.
  [[nodiscard]] ORIEL_HOST_DEVICE bool has(std::uint32_t i) const {
    return (i + 1) * converter_threads <= units || i * converter_threads + thread < units;
  }
  /// The tile of 16 keys of unit i; in a few places it depends on the thread.
  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t tile_of(std::uint32_t i) const {
    const std::uint32_t first = i * converter_threads, left = units_of_tile - first % units_of_tile;
    return first / units_of_tile + (left < converter_threads && thread >= left ? 1 : 0);
  }
  ORIEL_HOST_DEVICE_INLINE void load(const std::byte* raw, std::uint32_t begin) {
    ORIEL_UNROLL
    for (std::uint32_t i = begin; i < begin + batch && i < count; ++i) {
      if (has(i)) {
        loaded[begin / batch % 2][i % batch] =
            load_two(raw + thread * 8 + (i * converter_threads * 8 + tile_of(i) * scale_bytes));
      }
    }
  }
  /// Numbers of V of keys that are not there become zero.
  ORIEL_HOST_DEVICE_INLINE void keep(const tile_part& part, std::uint32_t begin) {
    const std::uint64_t keys = part.keys();
    ORIEL_UNROLL
    for (std::uint32_t i = begin; i < begin + batch && i < count; ++i) {
      const std::uint32_t key = (i * converter_threads + thread) / Dims * kv_group_tokens;
      const auto group = static_cast<std::uint32_t>(keys >> key % tile_keys);
      two_words& w = loaded[begin / batch % 2][i % batch];
      w = {w.low & kept_bytes(group), w.high & kept_bytes(group >> 4)};
    }
  }
  ORIEL_HOST_DEVICE_INLINE void store(std::byte* to, std::uint32_t begin) const {
    ORIEL_UNROLL
    for (std::uint32_t i = begin; i < begin + batch && i < count; ++i) {
      if (has(i)) {
        store_words(to + thread * 16 + i * converter_threads * 16,
                    e4m3_as_bf16(loaded[begin / batch % 2][i % batch]));
      }
    }
  }
};

/// @tparam IsV  numbers of keys that are not there become zero
template <std::uint32_t Dims, bool IsV>
ORIEL_HOST_DEVICE_INLINE void convert_part(const std::byte* raw,
                                           std::byte* to,
                                           const tile_part& part,
                                           std::uint32_t thread) {
  using share = converter_share<Dims>;
  share mine{thread};
  mine.load(raw, 0);
  ORIEL_UNROLL
  for (std::uint32_t begin = 0; begin < share::count; begin += share::batch) {
    mine.load(raw, begin + share::batch);
    if (IsV && !part.is_whole()) {
      mine.keep(part, begin);
    }
    mine.store(to, begin);
  }
}

/// The scale of a key of K or V: behind the numbers of its 16 keys.
template <std::uint32_t Dims>
[[nodiscard]] ORIEL_HOST_DEVICE inline float raw_scale(const std::byte* raw, std::uint32_t key) {
  constexpr std::uint32_t tile_bytes = kv_tile_tokens * (Dims + 4);
  const std::byte* const end = raw + (key / kv_tile_tokens + 1) * tile_bytes;
  return (reinterpret_cast<const float*>(end) - kv_tile_tokens)[key % kv_tile_tokens];
}

/// What thread `thread` of converter_threads does for a tile. `raw`: as copied; `stage`: K, V,
/// scales.
template <class Dims>
ORIEL_HOST_DEVICE_INLINE void convert_tile(const attention_work& work,
                                           std::uint32_t tile,
                                           std::uint32_t thread,
                                           const std::byte* raw,
                                           std::byte* stage) {
  const tile_part part = seen_part(work, tile);
  const std::byte* const raw_v = raw + Dims::raw_k_bytes;
  std::byte* const stage_v = stage + Dims::k_bytes;
  float k_scale = 0.0f, v_scale = 0.0f;  // Of key `thread`, where there is one.
  if (part.has(thread)) {
    k_scale = raw_scale<Dims::qk>(raw, thread);
    v_scale = raw_scale<Dims::vo>(raw_v, thread);
  }
  convert_part<Dims::qk, false>(raw, stage, part, thread);
  convert_part<Dims::vo, true>(raw_v, stage_v, part, thread);
  if (thread < tile_keys) {
    auto* const scales = reinterpret_cast<float*>(stage_v + Dims::v_bytes);
    scales[thread] = k_scale;
    scales[tile_keys + thread] = v_scale;
  }
}
static_assert(converter_threads >= tile_keys);

}  // namespace oriel::detail
