// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What one thread of a warpgroup does for its two rows of an attention tile: visibility, online
/// softmax, the fold of splits, and what it stores. Fragments as in mma_fragment.cuh.
#pragma once

#include "attention_work.cuh"
#include "mma_fragment.cuh"
#include "row_vector.cuh"

#ifdef __CUDACC__
#include "ptx.cuh"
#endif

#include <math.h>

namespace oriel::detail {

/// Head dims of an instantiation, and the type of K and V in pages. Multiples of 64, so that every
/// product is whole instructions. Products are of bf16: a tile of e4m3 becomes one on its way, and
/// the scales of its keys lie behind it.
template <std::uint32_t Qk, std::uint32_t Vo, dtype Kv = dtype::bf16>
struct attention_dims {
  static constexpr std::uint32_t qk = Qk;
  static constexpr std::uint32_t vo = Vo;
  static constexpr bool is_scaled = Kv == dtype::e4m3;
  static constexpr std::uint32_t query_bytes = mma_rows * Qk * 2;  ///< of a warpgroup
  static constexpr std::uint32_t k_bytes = tile_keys * Qk * 2;     ///< of a tile
  static constexpr std::uint32_t v_bytes = tile_keys * Vo * 2;
  /// [2][tile_keys] f32: of K, of V.
  static constexpr std::uint32_t scale_bytes = is_scaled ? 2 * tile_keys * 4 : 0;
  static constexpr std::uint32_t stage_bytes = k_bytes + v_bytes + scale_bytes;
  static constexpr std::uint32_t k_key_bytes = is_scaled ? Qk + 4 : Qk * 2;  ///< in a page
  static constexpr std::uint32_t v_key_bytes = is_scaled ? Vo + 4 : Vo * 2;
  static constexpr std::uint32_t raw_k_bytes = tile_keys * k_key_bytes;  ///< of a tile, as copied
  static constexpr std::uint32_t raw_bytes = raw_k_bytes + tile_keys * v_key_bytes;
};

/// The registers of one thread.
template <class Dims>
struct attention_thread {
  float score[tile_keys / 2];           ///< of its two rows in the tile, then their weights
  std::uint32_t weight[tile_keys / 4];  ///< the same as the products want them, two bf16 each
  float out[Dims::vo / 2];              ///< of the split: sum of weights x values
  float kept[Dims::vo / 2];             ///< of the splits before it
  float tile_max[2];                    ///< largest score of a row in the tile
  float split_max[2];                   ///< of the split, times scale x log2(e)
  float split_sum[2];                   ///< of the split's weights; this thread's columns
  float shrink[2];                      ///< what `out` is multiplied with before the tile is added
  float kept_max[2];                    ///< of the sink and the splits before
  float kept_sum[2];
  std::uint32_t first[2];  ///< first key that a row sees
  std::uint32_t end[2];    ///< one past its last; 0: not a row
};

/// Three warps beside the producer's: they hand items on, and copy queries.
inline constexpr std::uint32_t loader_threads = 96;

inline constexpr float log2_e = 0x1.715476p0f;

[[nodiscard]] ORIEL_HOST_DEVICE inline float attention_exp2(float x) {
#ifdef __CUDA_ARCH__
  return ptx::exp2_approx(x);
#else
  return ::exp2f(x);
#endif
}

/// Two elements of out, from `index` on. @pre index is even
ORIEL_HOST_DEVICE inline void store_out_pair(const attention_call& call,
                                             std::size_t index,
                                             float low,
                                             float high) {
  if (call.out_bf16 != nullptr) {
    *reinterpret_cast<std::uint32_t*>(call.out_bf16 + index) = nearest_bf16_pair(low, high);
  } else {
    call.args.out[index] = low;
    call.args.out[index + 1] = high;
  }
}

/// One element of out.
ORIEL_HOST_DEVICE inline void store_out(const attention_call& call, std::size_t index, float x) {
  if (call.out_bf16 != nullptr) {
    call.out_bf16[index] = to_bf16(x);
  } else {
    call.args.out[index] = x;
  }
}

/// Which token and query head a row of a warpgroup is.
struct tile_row {
  std::uint32_t token;  ///< of the block
  std::uint32_t head;   ///< of the KV head's group
  bool exists;
};
[[nodiscard]] ORIEL_HOST_DEVICE inline tile_row row_at(const attention_call& call,
                                                       const attention_work& work,
                                                       std::uint32_t warpgroup,
                                                       std::uint32_t row) {
  const std::uint32_t token = row / call.group;
  const std::uint32_t of_block = warpgroup * call.tokens_per_tile + token;
  return {of_block, row % call.group, token < call.tokens_per_tile && of_block < work.tokens};
}

/// Starts copies of what loader `thread` brings of an item's queries: a warp takes eight rows of a
/// warpgroup and 32 dims at a time, a thread eight dims of a row, so that eight threads side by side
/// fill one core matrix, and four read 64 bytes of a row. Rows that do not exist become zero.
/// `Copy`: copy(to, from, units, bytes) fills the 16 bytes at `to`, behind the first warpgroup's
/// queries, with the first `bytes` of those 16 x `units` bytes behind `from`, and zeros.
template <class Dims, class Copy>
ORIEL_HOST_DEVICE_INLINE void copy_queries(const attention_call& call,
                                           const attention_work& work,
                                           std::uint32_t thread,
                                           Copy&& copy) {
  constexpr std::uint32_t sides = mma_rows / core_side;  // of a warpgroup
  constexpr std::uint32_t dims_at_once = 4 * core_side, units = dims_at_once * sizeof(bf16) / 16;
  const std::uint32_t lane = thread % warp_threads, dim = lane / core_side * core_side;
  ORIEL_UNROLL_BY(1)
  for (std::uint32_t side = thread / warp_threads; side < sides * call.warpgroups;
       side += loader_threads / warp_threads) {
    const std::uint32_t warpgroup = side / sides;
    const std::uint32_t row = side % sides * core_side + lane % core_side;
    const tile_row at = row_at(call, work, warpgroup, row);
    const std::size_t head = std::size_t{work.kv_head} * call.group + at.head;
    const bf16* const from =
        at.exists
            ? call.q_bf16 + (work.batch_row + at.token) * call.args.q_stride + head * Dims::qk + dim
            : call.q_bf16;
    const std::uint32_t to = warpgroup * Dims::query_bytes + core_offset_bytes(Dims::qk, row, dim);
    ORIEL_UNROLL
    for (std::uint32_t piece = 0; piece < Dims::qk / dims_at_once; ++piece) {
      copy(to + core_offset_bytes(Dims::qk, 0, piece * dims_at_once),
           from,
           at.exists ? piece * units : 0,
           at.exists ? 16u : 0u);
    }
  }
}

/// Before the first tile of an item: what its rows see, and the sink, which enters here alone.
template <class Dims>
ORIEL_HOST_DEVICE_INLINE void begin_rows(const attention_call& call,
                                         const attention_work& work,
                                         std::uint32_t warpgroup,
                                         std::uint32_t thread,
                                         attention_thread<Dims>& t) {
  ORIEL_UNROLL
  for (std::uint32_t half = 0; half < 2; ++half) {
    const tile_row at = row_at(call, work, warpgroup, fragment_row(thread, half));
    const std::uint32_t position = work.position + at.token;
    t.first[half] = at.exists ? first_seen(call.shape.window_tokens, work.first_key, position) : 0;
    t.end[half] = at.exists ? position + 1 : 0;
    const bool has_sink = call.args.sinks != nullptr && at.exists;
    t.kept_max[half] =
        has_sink ? call.args.sinks[work.kv_head * call.group + at.head] * log2_e : -INFINITY;
    t.kept_sum[half] = has_sink ? 1.0f : 0.0f;
  }
}

template <class Dims>
ORIEL_HOST_DEVICE_INLINE void begin_split(attention_thread<Dims>& t) {
  t.split_max[0] = t.split_max[1] = -INFINITY;
  t.split_sum[0] = t.split_sum[1] = 0.0f;
  ORIEL_UNROLL
  for (float& x : t.out) {
    x = 0.0f;
  }
}

/// Replaces the scores of keys that a row does not see. Not needed where all rows see all keys.
template <class Dims>
ORIEL_HOST_DEVICE_INLINE void mask_scores(std::uint32_t thread,
                                          std::uint32_t tile,
                                          attention_thread<Dims>& t) {
  ORIEL_UNROLL
  for (std::uint32_t r = 0; r < tile_keys / 2; ++r) {
    const std::uint32_t key = tile * tile_keys + fragment_column(thread, r);
    const std::uint32_t half = fragment_half(r);
    if (key < t.first[half] || key >= t.end[half]) {
      t.score[r] = -INFINITY;
    }
  }
}

/// Scales of two neighbouring keys.
struct two_scales {
  float low, high;
};
/// From shared memory, 8-byte aligned. Where it is written: the compiler would load all scales of a
/// tile at once, and has no registers for them.
[[nodiscard]] ORIEL_HOST_DEVICE inline two_scales load_scales(const float* from) {
#ifdef __CUDA_ARCH__
  two_scales s;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
               : "=f"(s.low), "=f"(s.high)
               : "r"(ptx::shared_address(from)));
  return s;
#else
  return {from[0], from[1]};
#endif
}

/// e4m3: scores of the keys' numbers become scores of the keys. `scales`: of the tile.
template <class Dims>
ORIEL_HOST_DEVICE_INLINE void scale_scores(std::uint32_t thread,
                                           const float* scales,
                                           attention_thread<Dims>& t) {
  ORIEL_UNROLL
  for (std::uint32_t r = 0; r < tile_keys / 2; r += 4) {  // Both rows have the same two columns.
    const two_scales s = load_scales(scales + fragment_column(thread, r));
    t.score[r] *= s.low;
    t.score[r + 1] *= s.high;
    t.score[r + 2] *= s.low;
    t.score[r + 3] *= s.high;
  }
}

/// Before the exchange: the largest of this thread's scores of each row.
template <class Dims>
ORIEL_HOST_DEVICE_INLINE void find_largest(attention_thread<Dims>& t) {
  t.tile_max[0] = t.tile_max[1] = -INFINITY;
  ORIEL_UNROLL
  for (std::uint32_t r = 0; r < tile_keys / 2; ++r) {
    const std::uint32_t half = fragment_half(r);
    t.tile_max[half] = fmaxf(t.tile_max[half], t.score[r]);
  }
}

/// After it: scores become weights relative to the largest so far, and what was summed before is
/// scaled to it, but for `out`: the product of the tile before may be under way. `c`: scale x
/// log2(e). A row that sees nothing of the tile is left as it is.
template <class Dims>
ORIEL_HOST_DEVICE_INLINE void weigh(float c, attention_thread<Dims>& t) {
  float base[2];
  ORIEL_UNROLL
  for (std::uint32_t half = 0; half < 2; ++half) {
    const float largest = fmaxf(t.split_max[half], t.tile_max[half] * c);
    base[half] = largest == -INFINITY ? 0.0f : largest;  // exp2(-inf) is 0, of -inf + inf is NaN.
    t.shrink[half] = attention_exp2(t.split_max[half] - base[half]);
    t.split_max[half] = largest;
    t.split_sum[half] *= t.shrink[half];
  }
  ORIEL_UNROLL
  for (std::uint32_t r = 0; r < tile_keys / 2; r += 2) {
    const std::uint32_t half = fragment_half(r);
    t.score[r] = attention_exp2(fmaf(t.score[r], c, -base[half]));
    t.score[r + 1] = attention_exp2(fmaf(t.score[r + 1], c, -base[half]));
    t.split_sum[half] += t.score[r] + t.score[r + 1];
  }
}

/// The operand of the next product. With e4m3 the weights that meet V are multiplied with its
/// `scales`, those that were summed are not. @pre nothing that reads `weight` is under way
template <class Dims>
ORIEL_HOST_DEVICE_INLINE void pack_weights(std::uint32_t thread,
                                           const float* scales,
                                           attention_thread<Dims>& t) {
  ORIEL_UNROLL
  for (std::uint32_t r = 0; r < tile_keys / 2; r += 2) {
    if constexpr (Dims::is_scaled) {
      const two_scales s = load_scales(scales + fragment_column(thread, r));
      t.weight[r / 2] = nearest_bf16_pair(t.score[r] * s.low, t.score[r + 1] * s.high);
    } else {
      t.weight[r / 2] = nearest_bf16_pair(t.score[r], t.score[r + 1]);
    }
  }
}

/// Does the tile change what `out` is relative to? Else shrinking would multiply with 1.
template <class Dims>
[[nodiscard]] ORIEL_HOST_DEVICE_INLINE bool shrinks(const attention_thread<Dims>& t) {
  return t.shrink[0] != 1.0f || t.shrink[1] != 1.0f;
}

/// Before the product. @pre nothing that adds to `out` is under way
template <class Dims>
ORIEL_HOST_DEVICE_INLINE void shrink_out(attention_thread<Dims>& t) {
  ORIEL_UNROLL
  for (std::uint32_t r = 0; r < Dims::vo / 2; ++r) {
    t.out[r] *= t.shrink[fragment_half(r)];
  }
}

/// The words of eight keys side by side, one dim; those whose bit of `keys` is 0 become 0.
[[nodiscard]] ORIEL_HOST_DEVICE inline words16 keep_values(words16 w, std::uint32_t keys) {
  ORIEL_UNROLL
  for (std::uint32_t i = 0; i < 4; ++i) {
    const std::uint32_t two = keys >> (2 * i);
    w.word[i] &= ((two & 1) | (two & 2) << 15) * 0xFFFFu;
  }
  return w;
}

/// V of keys that no row of the block sees may be anything: it becomes 0 before it meets a weight
/// of 0. Thread `index` of `threads` clears its share of the tile at `v`. A group of keys is read
/// only where some of it stay.
template <class Dims>
ORIEL_HOST_DEVICE_INLINE void clear_values(const attention_work& work,
                                           std::uint32_t tile,
                                           std::uint32_t index,
                                           std::uint32_t threads,
                                           std::byte* v) {
  constexpr std::uint32_t lines = tile_keys / core_side * Dims::vo;  // 8 keys of one dim each
  const std::uint64_t seen = seen_part(work, tile).keys();
  for (std::uint32_t line = index; line < lines; line += threads) {
    const auto keys = static_cast<std::uint32_t>(seen >> (line / Dims::vo * core_side)) & 0xFFu;
    std::byte* const values = v + line * sizeof(words16);
    if (keys == 0) {
      store_words(values, words16{});
    } else if (keys != 0xFF) {
      store_words(values, keep_values(load_words(values), keys));
    }
  }
}

/// What the state before and a split's share are multiplied with when they are added.
struct fold_factors {
  float kept, added;
};

/// `largest`: of the two. If it is -inf they are no numbers.
[[nodiscard]] ORIEL_HOST_DEVICE inline fold_factors fold_factors_of(float kept_max,
                                                                    float split_max,
                                                                    float largest) {
  return {attention_exp2(kept_max - largest), attention_exp2(split_max - largest)};
}

/// Adds a split's largest score and sum to a row's. @pre split_max > -inf
[[nodiscard]] ORIEL_HOST_DEVICE inline fold_factors fold_split(float split_max,
                                                               float split_sum,
                                                               float& kept_max,
                                                               float& kept_sum) {
  const float largest = fmaxf(kept_max, split_max);
  const fold_factors f = fold_factors_of(kept_max, split_max, largest);
  kept_sum = fmaf(kept_sum, f.kept, split_sum * f.added);
  kept_max = largest;
  return f;
}

/// One element of a row's output in the same fold.
[[nodiscard]] ORIEL_HOST_DEVICE inline float fold_value(fold_factors f, float kept, float added) {
  return fmaf(kept, f.kept, added * f.added);
}

/// The end of a split of which the thread's rows keep the state themselves. Splits come in
/// ascending order; one that a row does not see changes nothing.
template <class Dims>
ORIEL_HOST_DEVICE_INLINE void fold_rows(attention_thread<Dims>& t) {
  ORIEL_UNROLL
  for (std::uint32_t half = 0; half < 2; ++half) {
    if (t.split_max[half] == -INFINITY) {
      continue;
    }
    const fold_factors f =
        fold_split(t.split_max[half], t.split_sum[half], t.kept_max[half], t.kept_sum[half]);
    ORIEL_UNROLL
    for (std::uint32_t r = half * 2; r < Dims::vo / 2; r += 4) {
      t.kept[r] = fold_value(f, t.kept[r], t.out[r]);
      t.kept[r + 1] = fold_value(f, t.kept[r + 1], t.out[r + 1]);
    }
  }
}

/// Index of (row of the batch, query head) among [rows, q_heads].
[[nodiscard]] ORIEL_HOST_DEVICE inline std::size_t head_index(const attention_call& call,
                                                              const attention_work& work,
                                                              const tile_row& at) {
  return std::size_t{work.batch_row + at.token} * call.shape.q_heads + work.kv_head * call.group +
         at.head;
}

/// Stores the outputs of one of the thread's rows, whose splits are all folded, in f32.
template <class Dims>
ORIEL_HOST_DEVICE_INLINE void store_row(const attention_call& call,
                                        const attention_work& work,
                                        const tile_row& at,
                                        std::uint32_t thread,
                                        std::uint32_t half,
                                        const attention_thread<Dims>& t) {
  float* const out = call.args.out + head_index(call, work, at) * Dims::vo;
  const float inverse = 1.0f / t.kept_sum[half];  // One division, as in the merge.
  ORIEL_UNROLL
  for (std::uint32_t r = half * 2; r < Dims::vo / 2; r += 4) {
    const std::uint32_t column = fragment_column(thread, r);
    out[column] = t.kept[r] * inverse;
    out[column + 1] = t.kept[r + 1] * inverse;
  }
}

/// Does one of the thread's rows exist, with all its splits in the item?
template <class Dims>
[[nodiscard]] ORIEL_HOST_DEVICE inline bool is_whole_row(const attention_call& call,
                                                         const attention_work& work,
                                                         std::uint32_t half,
                                                         const attention_thread<Dims>& t) {
  const std::uint32_t split = work.key_begin / split_keys;
  return t.end[half] != 0 && (call.splits_max == 0 || (t.first[half] / split_keys == split &&
                                                       (t.end[half] - 1) / split_keys == split));
}

// Outputs in bf16: a thread has two columns of each eight of its row, 4 bytes. The four threads of
// a row exchange them, so that each has eight side by side, and store 64 bytes together.
//
//     pack_row    weight[c] = columns 8 c + 2 (thread % 4), + 1; products need it no more
//     exchange    weight[4 k + j] = columns 8 (4 k + thread % 4) + 2 j, + 1

/// @pre nothing that reads `weight` is under way
template <class Dims>
ORIEL_HOST_DEVICE_INLINE void pack_row(bool is_whole,
                                       std::uint32_t half,
                                       attention_thread<Dims>& t) {
  static_assert(Dims::vo / core_side <= tile_keys / 4);
  const float inverse = is_whole ? 1.0f / t.kept_sum[half] : 0.0f;
  ORIEL_UNROLL
  for (std::uint32_t r = half * 2; r < Dims::vo / 2; r += 4) {
    t.weight[r / 4] = nearest_bf16_pair(t.kept[r] * inverse, t.kept[r + 1] * inverse);
  }
}
/// Behind the exchange.
template <class Dims>
ORIEL_HOST_DEVICE_INLINE void store_packed_row(const attention_call& call,
                                               const attention_work& work,
                                               std::uint32_t warpgroup,
                                               std::uint32_t thread,
                                               std::uint32_t half,
                                               const attention_thread<Dims>& t) {
  const tile_row at = row_at(call, work, warpgroup, fragment_row(thread, half));
  bf16* const out = call.out_bf16 + head_index(call, work, at) * Dims::vo + thread % 4 * core_side;
  const bool is_aligned = is_vector_aligned(call.out_bf16, core_side);
  ORIEL_UNROLL
  for (std::uint32_t k = 0; k < Dims::vo / (4 * core_side); ++k) {
    const std::uint32_t* const w = t.weight + 4 * k;
    bf16* const to = out + k * 4 * core_side;
    if (is_aligned) {
      store_global_words(to, {{w[0], w[1], w[2], w[3]}});
    } else {
      ORIEL_UNROLL
      for (std::uint32_t j = 0; j < 4; ++j) {
        reinterpret_cast<std::uint32_t*>(to)[j] = w[j];
      }
    }
  }
}

/// Slot of a row in the partials.
[[nodiscard]] ORIEL_HOST_DEVICE inline std::size_t slot_of(const attention_call& call,
                                                           const attention_work& work,
                                                           const tile_row& at) {
  const auto sequence = static_cast<std::size_t>(work.sequence - call.args.sequences.data());
  return sequence * call.sequence_rows_max + work.token + at.token;
}

/// Stores a split's share of one of the thread's rows.
template <class Dims>
ORIEL_HOST_DEVICE_INLINE void store_partial(const attention_call& call,
                                            const attention_work& work,
                                            const tile_row& at,
                                            std::uint32_t split,
                                            std::uint32_t thread,
                                            std::uint32_t half,
                                            const attention_thread<Dims>& t) {
  const std::size_t head = work.kv_head * call.group + at.head;
  const std::size_t index =
      (slot_of(call, work, at) * call.shape.q_heads + head) * call.splits_max + split;
  float* out = call.partials.out + index * Dims::vo;
  ORIEL_UNROLL
  for (std::uint32_t r = half * 2; r < Dims::vo / 2; r += 4) {
    const std::uint32_t column = fragment_column(thread, r);
    out[column] = t.out[r];
    out[column + 1] = t.out[r + 1];
  }
  if (thread % 4 == 0) {
    call.partials.weights[index] = {t.split_max[half], t.split_sum[half]};
  }
}

/// The end of an item, but for rows in bf16 that are whole. A row all of whose splits were in the
/// item is finished; of another the share is stored, and with its first split which row it is.
template <class Dims>
ORIEL_HOST_DEVICE_INLINE void end_rows(const attention_call& call,
                                       const attention_work& work,
                                       std::uint32_t warpgroup,
                                       std::uint32_t thread,
                                       attention_thread<Dims>& t) {
  const std::uint32_t split = work.key_begin / split_keys;
  ORIEL_UNROLL
  for (std::uint32_t half = 0; half < 2; ++half) {
    if (t.end[half] == 0) {
      continue;
    }
    const tile_row at = row_at(call, work, warpgroup, fragment_row(thread, half));
    const std::uint32_t first = t.first[half] / split_keys;
    const std::uint32_t last = (t.end[half] - 1) / split_keys;
    if (call.splits_max != 0) {
      if (split < first || split > last) {
        continue;
      }
      if (split == first && work.kv_head == 0 && at.head == 0 && thread % 4 == 0) {
        call.partials.batch_rows[slot_of(call, work, at)] = work.batch_row + at.token;
      }
      if (first != last) {
        store_partial(call, work, at, split - first, thread, half, t);
        continue;
      }
    }
    if (call.out_bf16 == nullptr) {
      store_row(call, work, at, thread, half, t);
    }
  }
}

}  // namespace oriel::detail
