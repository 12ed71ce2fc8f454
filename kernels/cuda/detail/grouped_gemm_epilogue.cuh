// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What leaves a grouped product: a consumer's accumulators become elements of out, gate and up one
/// of them with SwiGLU. Each kind of out has code of its own, in straight lines: a consumer that
/// stores at once does not multiply.
///
/// A thread's registers 4 b to 4 b + 3 are packed rows r and r + 8, rows 2 q and 2 q + 1 of the 8
/// rows of block b (mma_fragment.cuh). As bf16 each half of a block is a matrix of 8 x 8 that the
/// warp transposes; gemm_store_blocks blocks go together, so that their chains overlap.
///
/// An item of the widest tile in bf16 leaves late: its sums are rounded, which frees the
/// accumulators, and the rest is done a few blocks at a time under the products of the next item.
#pragma once

#include "grouped_gemm_work.cuh"
#include "near_math.cuh"
#include "row_vector.cuh"

#include <oriel/core/mutation.hpp>

#ifdef __CUDACC__
#include "ptx_gemm.cuh"
#endif

#include <bit>

#include <math.h>

namespace oriel::detail {

inline constexpr std::uint32_t gemm_store_blocks = 4;

/// Neighbours that a thread stores as bf16 at a time.
template <bool Swiglu>
inline constexpr std::uint32_t gemm_store_width = Swiglu ? 2 : 4;

// ---- Arithmetic --------------------------------------------------------------------------------
// On a device by instructions of the hardware. The host computes the same steps with its own exp2
// and division, so its bits are near and not equal where a gate has a sigmoid.

[[nodiscard]] ORIEL_HOST_DEVICE_INLINE float low_of_pair(std::uint32_t pair) {
  return std::bit_cast<float>(pair << 16);
}
[[nodiscard]] ORIEL_HOST_DEVICE_INLINE float high_of_pair(std::uint32_t pair) {
  return std::bit_cast<float>(pair & 0xFFFF'0000u);
}
/// The products of two pairs, each rounded once: they fit f32.
[[nodiscard]] ORIEL_HOST_DEVICE_INLINE std::uint32_t multiply_pairs(std::uint32_t a,
                                                                    std::uint32_t b) {
#ifdef __CUDA_ARCH__
  return ptx::multiply_bf16x2(a, b);
#else
  return nearest_bf16_pair(low_of_pair(a) * low_of_pair(b), high_of_pair(a) * high_of_pair(b));
#endif
}

/// x / (1 + exp(-x)) within 7e-7 of itself, or 1e-36; -0 far below zero.
[[nodiscard]] ORIEL_HOST_DEVICE_INLINE float near_silu(float x) {
  // log2(e) in two parts: of one alone, -87 would be off by 3e-6. Beyond the limits the result is
  // x or 0.
  constexpr float log2e = 1.442'695'02f, rest = 1.925'963e-8f, ln_2 = 0.693'147'18f;
  const float y = ::fminf(::fmaxf(x, -88.0f), 88.0f), power = y * -log2e;
  const float missing = ::fmaf(y, -rest, ::fmaf(y, -log2e, -power));
  const float e = near_exp2(power);
  const float whole = ORIEL_MUTANT(gemm_sigmoid_forgets_the_rest) ? 0.0f : missing * ln_2;
  return x * near_reciprocal(1.0f + ::fmaf(e, whole, e));
}
/// The same for a result that is rounded to bf16: within 4e-6.
[[nodiscard]] ORIEL_HOST_DEVICE_INLINE float nearly_silu(float x) {
  return x * near_reciprocal(1.0f + near_exp2(x * -1.442'695'02f));
}

/// silu(gate) * up of two rows, rounded where swiglu.hpp rounds.
[[nodiscard]] ORIEL_HOST_DEVICE_INLINE std::uint32_t gated_pair(std::uint32_t gate,
                                                                std::uint32_t up) {
  const std::uint32_t silu =
      nearest_bf16_pair(nearly_silu(low_of_pair(gate)), nearly_silu(high_of_pair(gate)));
  return multiply_pairs(silu, up);
}

// ---- f32 ---------------------------------------------------------------------------------------

/// A thread's elements of all rows go where they belong, 8 threads to 32 bytes.
template <std::uint32_t Columns, bool Swiglu, bool Accumulate, std::uint32_t Size>
ORIEL_HOST_DEVICE_INLINE void store_f32(const grouped_gemm_call& call,
                                        const grouped_gemm_work& work,
                                        std::uint32_t packed,
                                        std::uint32_t first_row,
                                        const float (&d)[Size]) {
  constexpr std::uint32_t blocks = Columns / 8,
                          together = blocks < gemm_store_blocks ? blocks : gemm_store_blocks;
  constexpr std::uint32_t halves = Swiglu ? 1 : 2, elements = 2 * halves;  // of a block
  const std::uint32_t n = call.shape.n, feature = feature_of_packed(Swiglu, packed);
  // Rows from first_row on that this thread has of each half.
  const std::uint32_t left = first_row < work.rows ? work.rows - first_row : 0;
  const std::uint32_t rows[2] = {feature < n ? left : 0,
                                 feature_of_packed(Swiglu, packed + 8) < n ? left : 0};
  const std::size_t stride = call.args.out_stride;
  float* to = call.args.out + (work.first_row + first_row) * stride + feature;
  ORIEL_UNROLL
  for (std::uint32_t first = 0; first < blocks; first += together) {
    float x[together * elements];
    float* at = to;
    ORIEL_UNROLL
    for (std::uint32_t i = 0; i < together; ++i, at += 8 * stride) {
      ORIEL_UNROLL
      for (std::uint32_t e = 0; e < elements; ++e) {  // Row e % 2 of half e / 2.
        const std::uint32_t r = 4 * (first + i) + e, row = (first + i) * 8 + e % 2;
        x[i * elements + e] = Swiglu ? near_silu(d[r]) * d[r + 2] : d[r];
        if (Accumulate && row < rows[e / 2]) {
          x[i * elements + e] += at[e % 2 * stride + e / 2 * 2];
        }
      }
    }
    ORIEL_UNROLL
    for (std::uint32_t i = 0; i < together; ++i, to += 8 * stride) {
      ORIEL_UNROLL
      for (std::uint32_t e = 0; e < elements; ++e) {
        if ((first + i) * 8 + e % 2 < rows[e / 2]) {
          to[e % 2 * stride + e / 2 * 2] = x[i * elements + e];
        }
      }
    }
  }
}

// ---- bf16 --------------------------------------------------------------------------------------

/// Neighbours of one row, two in each word. `Whole`: all of them exist, and lie where words do.
template <bool Swiglu, bool Whole>
ORIEL_HOST_DEVICE_INLINE void store_neighbours(std::uint32_t existing,
                                               const std::uint32_t* pair,
                                               bf16* to) {
  if constexpr (!Whole) {
    ORIEL_UNROLL
    for (std::uint32_t i = 0; i < gemm_store_width<Swiglu>; ++i) {
      if (i < existing) {
        to[i] = static_cast<bf16>(pair[i / 2] >> (i % 2 * 16) & 0xFFFFu);
      }
    }
  } else if constexpr (Swiglu) {
    *reinterpret_cast<std::uint32_t*>(to) = pair[0];
  } else {
    *reinterpret_cast<std::uint64_t*>(to) = pair[0] | std::uint64_t{pair[1]} << 32;
  }
}

/// Sums of `Blocks` blocks, rounded: two words a block.
template <std::uint32_t Blocks>
ORIEL_HOST_DEVICE_INLINE void round_blocks(const float* sum, std::uint32_t* words) {
  ORIEL_UNROLL
  for (std::uint32_t i = 0; i < 2 * Blocks; ++i) {
    words[i] = nearest_bf16_pair(sum[2 * i], sum[2 * i + 1]);
  }
}

/// A thread's pairs, rounded sums of `Blocks` blocks, become what it stores of each block.
template <std::uint32_t Blocks, bool Swiglu, class Thread, class Machine>
ORIEL_HOST_DEVICE_INLINE void finish_blocks(Machine& machine) {
  if constexpr (Swiglu) {
    machine.each([](std::uint32_t, Thread& t) {
      ORIEL_UNROLL
      for (std::uint32_t i = 0; i < Blocks; ++i) {
        t.pair[i] = gated_pair(t.pair[2 * i], t.pair[2 * i + 1]);
      }
    });
  }
  machine.template transpose_pairs<Blocks * gemm_store_width<Swiglu> / 2>();
}

/// What a thread stores of the blocks of an item, when they are transposed.
struct gemm_place {
  bf16* to;                ///< of the first block; the next one is 8 rows behind
  std::uint32_t rows;      ///< from there on that exist
  std::uint32_t existing;  ///< elements of a row
};
template <bool Swiglu>
[[nodiscard]] ORIEL_HOST_DEVICE_INLINE gemm_place place_of(const grouped_gemm_call& call,
                                                           const grouped_gemm_work& work,
                                                           std::uint32_t tile,
                                                           std::uint32_t thread) {
  const std::uint32_t run = tile / gemm_run + thread / warp_threads;
  const std::uint32_t feature = run * (Swiglu ? 8 : 16) + thread % 4 * gemm_store_width<Swiglu>;
  const std::uint32_t row = thread % warp_threads / 4;
  const std::uint32_t existing = feature < call.shape.n ? call.shape.n - feature : 0;
  return {.to = call.out_bf16 + (work.first_row + row) * call.args.out_stride + feature,
          .rows = row < work.rows && existing != 0 ? work.rows - row : 0,
          .existing = existing};
}

template <std::uint32_t Columns, bool Swiglu, bool Whole, class Thread, class Machine>
ORIEL_HOST_DEVICE_INLINE void store_bf16(const grouped_gemm_call& call,
                                         const grouped_gemm_work& work,
                                         std::uint32_t tile,
                                         Machine& machine) {
  constexpr std::uint32_t blocks = Columns / 8,
                          together = blocks < gemm_store_blocks ? blocks : gemm_store_blocks;
  constexpr std::uint32_t words = gemm_store_width<Swiglu> / 2;
  ORIEL_UNROLL
  for (std::uint32_t first = 0; first < blocks; first += together) {
    machine.each(
        [&](std::uint32_t, Thread& t) { round_blocks<together>(t.sum + 4 * first, t.pair); });
    finish_blocks<together, Swiglu, Thread>(machine);
    machine.each([&](std::uint32_t thread, Thread& t) {
      const gemm_place place = place_of<Swiglu>(call, work, tile, thread);
      bf16* to = place.to + first * 8 * call.args.out_stride;
      ORIEL_UNROLL
      for (std::uint32_t i = 0; i < together; ++i, to += 8 * call.args.out_stride) {
        if ((first + i) * 8 < place.rows) {
          store_neighbours<Swiglu, Whole>(place.existing, t.pair + words * i, to);
        }
      }
    });
  }
}

// ---- bf16, late --------------------------------------------------------------------------------
// Parts of a few blocks: as many as leave registers enough beside the accumulators. Each part has
// code of its own, for registers have no index.

template <bool Swiglu>
inline constexpr std::uint32_t gemm_late_blocks = Swiglu ? 2 : 4;
static_assert(gemm_late_blocks<true> <= gemm_store_blocks &&
              gemm_late_blocks<false> <= gemm_store_blocks);
inline constexpr std::uint32_t gemm_no_late_part = 0xFFFF'FFFFu;

template <bool Swiglu, class Thread>
inline constexpr std::uint32_t gemm_late_parts = sizeof(Thread::late) / sizeof(std::uint32_t) /
                                                 (2 * gemm_late_blocks<Swiglu>);

/// Rounds an item's sums, for store_late_part. @pre rows of out lie where words do
template <std::uint32_t Columns, bool Swiglu, class Thread, class Machine>
ORIEL_HOST_DEVICE_INLINE void keep_for_later(const grouped_gemm_call& call,
                                             const grouped_gemm_work& work,
                                             std::uint32_t tile,
                                             Machine& machine) {
  machine.each([&](std::uint32_t thread, Thread& t) {
    round_blocks<Columns / 8>(t.sum, t.late);
    const gemm_place place = place_of<Swiglu>(call, work, tile, thread);
    t.late_to = place.to;
    t.late_rows = place.rows;
  });
  machine.late_part = 0;
}

/// The next part of what an item before has left, if there is one.
template <bool Swiglu, class Thread, class Machine>
ORIEL_HOST_DEVICE_INLINE void store_late_part(const grouped_gemm_call& call, Machine& machine) {
  constexpr std::uint32_t words = gemm_store_width<Swiglu> / 2, blocks = gemm_late_blocks<Swiglu>;
  const std::uint32_t next = machine.late_part;
  ORIEL_UNROLL
  for (std::uint32_t part = 0; part < gemm_late_parts<Swiglu, Thread>; ++part) {
    if (part != next) {
      continue;
    }
    machine.late_part = part + 1;
    machine.each([&](std::uint32_t, Thread& t) {
      ORIEL_UNROLL
      for (std::uint32_t i = 0; i < 2 * blocks; ++i) {
        t.pair[i] = t.late[part * 2 * blocks + i];
      }
    });
    finish_blocks<blocks, Swiglu, Thread>(machine);
    machine.each([&](std::uint32_t, Thread& t) {
      ORIEL_UNROLL
      for (std::uint32_t i = 0; i < blocks; ++i) {
        if (i * 8 < t.late_rows) {
          store_neighbours<Swiglu, true>(gemm_store_width<Swiglu>, t.pair + words * i, t.late_to);
        }
        t.late_to += ORIEL_MUTANT(gemm_late_parts_meet_in_one_place) ? 0 : 8 * call.args.out_stride;
      }
      t.late_rows -= t.late_rows < blocks * 8 ? t.late_rows : blocks * 8;
    });
  }
}

template <bool Swiglu, class Thread, class Machine>
ORIEL_HOST_DEVICE_INLINE void store_late_parts(const grouped_gemm_call& call, Machine& machine) {
  while (machine.late_part < gemm_late_parts<Swiglu, Thread>) {
    store_late_part<Swiglu, Thread>(call, machine);
  }
}

/// Nothing is kept: the compiler need not keep registers for it.
template <class Thread, class Machine>
ORIEL_HOST_DEVICE_INLINE void forget_late(Machine& machine) {
  machine.each([](std::uint32_t, Thread& t) {
    ORIEL_UNROLL
    for (std::uint32_t& word : t.late) {
      word = 0;
    }
  });
}

// ---- An item -----------------------------------------------------------------------------------

/// `Late`: under the next item's products, where rows of out lie where words do.
template <std::uint32_t Columns, bool Swiglu, dtype Out, bool Late, class Thread, class Machine>
ORIEL_HOST_DEVICE_INLINE void store_item(const grouped_gemm_call& call,
                                         const grouped_gemm_work& work,
                                         std::uint32_t warpgroup,
                                         Machine& machine) {
  const std::uint32_t tile = work.feature_tile * gemm_feature_tile + warpgroup * mma_rows;
  if constexpr (Out == dtype::bf16) {
    if (!call.out_is_whole) {
      if constexpr (Late) {
        forget_late<Thread>(machine);
      }
      store_bf16<Columns, Swiglu, false, Thread>(call, work, tile, machine);
    } else if constexpr (Late) {
      keep_for_later<Columns, Swiglu, Thread>(call, work, tile, machine);
    } else {
      store_bf16<Columns, Swiglu, true, Thread>(call, work, tile, machine);
    }
  } else {
    machine.each([&](std::uint32_t thread, Thread& t) {
      const std::uint32_t packed = tile + fragment_row(thread, 0), row = thread % 4 * 2;
      if (call.args.accumulate) {
        store_f32<Columns, Swiglu, true>(call, work, packed, row, t.sum);
      } else {
        store_f32<Columns, Swiglu, false>(call, work, packed, row, t.sum);
      }
    });
  }
}

}  // namespace oriel::detail
