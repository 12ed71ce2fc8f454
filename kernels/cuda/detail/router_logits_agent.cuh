// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a block of the router's product does with its tile of tokens x experts, in two ways that
/// give the same bits. A logit is, in both:
///
///     limbs     a weight is three bf16 numbers, exactly: its 8 leading bits, the next 8, the rest
///     step      16 columns of k: three mma.sync (low, middle, high limbs), into one accumulator
///     slice     128 columns, at absolute multiples of 128: the chain of its 8 steps, from zero
///     logit     0 + slice 0 + slice 1 + ...: rounded f32 sums
///
/// Columns behind the last are zeros in all of it. Within a step element 4q + e of the 16 stands
/// where mma.sync has column 2q + e (e < 2) or 2q + 8 + e - 2: then a thread's elements lie side by
/// side, 16 bytes of weights and 8 of x, and four threads read whole sectors of a row.
///
///     router_slices_agent   the slices of a round of 8 belong to 8 warps, which load what they
///                           multiply straight into registers, a chunk ahead; the slices' sums meet
///                           in shared memory. Nobody reads a byte twice.
///     router_tile_agent     warps share what a ring of stages in shared memory has, and go through
///                           all slices, one after the other.
#pragma once

#include "row_vector.cuh"
#include "warp_mma.cuh"

#include <oriel/core/mutation.hpp>
#include <oriel/kernels/router_logits.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>

namespace oriel::detail {

inline constexpr std::uint32_t router_threads = 256;  // of a block
inline constexpr std::uint32_t router_warps = router_threads / 32;
inline constexpr std::uint32_t router_step = 16, router_slice = 128;  // columns of k
inline constexpr std::uint32_t router_slice_steps = router_slice / router_step;
inline constexpr std::uint32_t router_limbs = 3;

[[nodiscard]] ORIEL_HOST_DEVICE_INLINE std::uint32_t router_slices(std::uint32_t hidden) {
  return (hidden - 1) / router_slice + 1;
}

/// The tokens of a call that exist.
[[nodiscard]] ORIEL_HOST_DEVICE_INLINE std::uint32_t router_tokens(
    const router_logits_args& args, const std::uint32_t* token_count) {
  return token_count != nullptr && *token_count < args.tokens ? *token_count : args.tokens;
}

/// Four weights of a thread as B of three mma: limb 0 is the lowest.
ORIEL_HOST_DEVICE_INLINE void split_weights(const float (&w)[4],
                                            std::uint32_t (&limb)[router_limbs][2]) {
  constexpr std::uint32_t leading = 0xFFFF'0000u;
  ORIEL_UNROLL
  for (std::uint32_t pair = 0; pair < 2; ++pair) {
    float first = w[2 * pair], second = w[2 * pair + 1];
    ORIEL_UNROLL
    for (std::uint32_t l = router_limbs; l-- > 0;) {
      const auto low = std::bit_cast<std::uint32_t>(first);
      const auto high = std::bit_cast<std::uint32_t>(second);
      limb[l][pair] = low >> 16 | (high & leading);
      first -= std::bit_cast<float>(low & leading);  // What is left: exact.
      second -= std::bit_cast<float>(high & leading);
    }
  }
}

/// Elements p[0, 4) of which `left` exist; the others are zero. @tparam Whole  all or none of them
/// exist, and p is 16-byte aligned
template <bool Whole>
ORIEL_HOST_DEVICE_INLINE void load_weights(const float* p, std::uint32_t left, float (&w)[4]) {
  if constexpr (Whole) {
    words16 words = {};
    if (left != 0) {
      words = load_words(p);
    }
    ORIEL_UNROLL
    for (std::uint32_t i = 0; i < 4; ++i) {
      w[i] = std::bit_cast<float>(words.word[i]);
    }
  } else {
    ORIEL_UNROLL
    for (std::uint32_t i = 0; i < 4; ++i) {
      w[i] = i < left ? p[i] : 0.0f;
    }
  }
}

/// The same of x, two in a register. @tparam Whole  and p is 8-byte aligned
template <bool Whole>
ORIEL_HOST_DEVICE_INLINE void load_x(const bf16* p,
                                     std::uint32_t left,
                                     std::uint32_t& first,
                                     std::uint32_t& second) {
  first = second = 0;
  if constexpr (Whole) {
    if (left != 0) {
#ifdef __CUDA_ARCH__
      const uint2 words = *reinterpret_cast<const uint2*>(p);
      first = words.x;
      second = words.y;
#else
      std::memcpy(&first, p, 4);
      std::memcpy(&second, p + 2, 4);
#endif
    }
  } else {
    const auto element = [&](std::uint32_t i) {
      return i < left ? static_cast<std::uint32_t>(static_cast<std::uint16_t>(p[i])) : 0u;
    };
    first = element(0) | element(1) << 16;
    second = element(2) | element(3) << 16;
  }
}

/// Low, middle and high limbs of a step into the accumulators: blocks of 16 tokens x 8 experts.
/// @param pick  pick(state, limb, m, n): warp_mma_operands
template <std::uint32_t M, std::uint32_t N, class Group, class Var, class Pick>
ORIEL_HOST_DEVICE_INLINE void multiply_step(Group& g, Var& threads, Pick&& pick) {
  ORIEL_UNROLL
  for (std::uint32_t l = 0; l < router_limbs; ++l) {
    ORIEL_UNROLL
    for (std::uint32_t m = 0; m < M; ++m) {
      ORIEL_UNROLL
      for (std::uint32_t n = 0; n < N; ++n) {
        multiply_by_warps(g, threads, [&](auto& t) { return pick(t, l, m, n); });
      }
    }
  }
}

// ---- Slices of k by warps ----------------------------------------------------------------------

/// @tparam M, N   the tile: 16 M tokens x 8 N experts
/// @tparam Steps  of a chunk, which is what a thread loads ahead: divides router_slice_steps
/// @tparam Whole  hidden is a multiple of 4, weights and rows of x are aligned for it
template <std::uint32_t M, std::uint32_t N, std::uint32_t Steps, bool Whole>
struct router_slices_agent {
  static constexpr std::uint32_t tokens = 16 * M, experts = 8 * N;
  static constexpr std::uint32_t outputs = tokens * experts, block = 16 * 8;
  static constexpr std::uint32_t chunks = router_slice_steps / Steps;  // of a slice
  static_assert(router_slice_steps % Steps == 0);

  router_logits_shape shape;
  router_logits_args args;

  struct chunk {
    std::uint32_t x[Steps][M][4];
    float w[Steps][N][4];
  };
  struct thread_state {
    chunk loaded[2];
    std::uint32_t limb[N][router_limbs][2];
    float sum[M][N][4];                                            ///< of a slice
    float total[(outputs + router_threads - 1) / router_threads];  ///< outputs of the fold
  };
  /// The sums of a round: [16-token x 8-expert blocks][16][8].
  struct shared_state {
    float sum[router_warps][outputs];
  };

  /// Nothing where the tile has no tokens. The first weights do not wait for the number of them.
  /// @param count  of the tokens, as router_tokens has it
  template <class Group>
  ORIEL_HOST_DEVICE_INLINE void operator()(Group g,
                                           std::uint32_t tile,
                                           std::uint32_t expert_tile,
                                           const std::uint32_t* count,
                                           shared_state& shared) const {
    static_assert(Group::threads == router_threads);
    const std::uint32_t slices = router_slices(shape.hidden);
    const std::uint32_t chunks_all = (slices + router_warps - 1) / router_warps * chunks;
    const std::uint32_t token = tile * tokens, expert = expert_tile * experts;
    typename Group::template var<thread_state> t;
    g.each([&](std::uint32_t thread) {
      clear(t[thread].sum);
      ORIEL_UNROLL
      for (float& total : t[thread].total) {
        total = 0.0f;
      }
      load_chunk_weights(thread, 0, expert, t[thread].loaded[0]);
    });
    const std::uint32_t token_count = router_tokens(args, count);
    if (token >= token_count) {
      return;
    }
    g.each([&](std::uint32_t thread) {
      load_chunk_x(thread, 0, token, token_count, t[thread].loaded[0]);
    });
    const auto step = [&](auto now, std::uint32_t c) {
      if (c + 1 < chunks_all) {
        g.each([&](std::uint32_t thread) {
          load_chunk_weights(thread, c + 1, expert, t[thread].loaded[1 - now()]);
          load_chunk_x(thread, c + 1, token, token_count, t[thread].loaded[1 - now()]);
        });
      }
      multiply<now()>(g, t);
      if (c % chunks == chunks - 1) {
        fold(g, t, shared, slices - c / chunks * router_warps);
      }
    };
    for (std::uint32_t c = 0; c < chunks_all; c += 2) {
      step(std::integral_constant<std::uint32_t, 0>(), c);
      if (c + 1 < chunks_all) {
        step(std::integral_constant<std::uint32_t, 1>(), c + 1);
      }
    }
    g.each([&](std::uint32_t thread) { store(thread, token, expert, token_count, t[thread]); });
  }

 private:
  ORIEL_HOST_DEVICE_INLINE static void clear(float (&sum)[M][N][4]) {
    ORIEL_UNROLL
    for (auto& of_m : sum) {
      ORIEL_UNROLL
      for (auto& of_n : of_m) {
        ORIEL_UNROLL
        for (float& x : of_n) {
          x = 0.0f;
        }
      }
    }
  }

  /// The first column of the thread's in chunk `c` of its warp: of its slice of round c / chunks.
  [[nodiscard]] ORIEL_HOST_DEVICE_INLINE static std::uint32_t first_column(std::uint32_t thread,
                                                                           std::uint32_t c) {
    return (c / chunks * router_warps + thread / 32) * router_slice +
           c % chunks * (Steps * router_step) + thread % 4 * 4;
  }
  /// How many columns there are from `k` on.
  [[nodiscard]] ORIEL_HOST_DEVICE_INLINE std::uint32_t left_of(std::uint32_t k) const {
    return k < shape.hidden ? shape.hidden - k : 0;
  }

  ORIEL_HOST_DEVICE_INLINE void load_chunk_weights(std::uint32_t thread,
                                                   std::uint32_t c,
                                                   std::uint32_t expert,
                                                   chunk& to) const {
    ORIEL_UNROLL
    for (std::uint32_t s = 0; s < Steps; ++s) {
      const std::uint32_t k = first_column(thread, c) + s * router_step;
      ORIEL_UNROLL
      for (std::uint32_t n = 0; n < N; ++n) {
        const std::uint32_t row = expert + n * 8 + thread % 32 / 4;
        load_weights<Whole>(args.weights + std::size_t{row} * shape.hidden + k,
                            row < shape.experts ? left_of(k) : 0,
                            to.w[s][n]);
      }
    }
  }

  ORIEL_HOST_DEVICE_INLINE void load_chunk_x(std::uint32_t thread,
                                             std::uint32_t c,
                                             std::uint32_t token,
                                             std::uint32_t token_count,
                                             chunk& to) const {
    ORIEL_UNROLL
    for (std::uint32_t s = 0; s < Steps; ++s) {
      const std::uint32_t k = first_column(thread, c) + s * router_step;
      ORIEL_UNROLL
      for (std::uint32_t m = 0; m < M; ++m) {
        ORIEL_UNROLL
        for (std::uint32_t half = 0; half < 2; ++half) {
          const std::uint32_t row = token + m * 16 + half * 8 + thread % 32 / 4;
          load_x<Whole>(args.x + row * args.x_stride + k,
                        row < token_count ? left_of(k) : 0,
                        to.x[s][m][half],
                        to.x[s][m][half + 2]);
        }
      }
    }
  }

  template <std::uint32_t Now, class Group, class Var>
  ORIEL_HOST_DEVICE_INLINE static void multiply(Group& g, Var& t) {
    ORIEL_UNROLL
    for (std::uint32_t s = 0; s < Steps; ++s) {
      g.each([&](std::uint32_t thread) {
        ORIEL_UNROLL
        for (std::uint32_t n = 0; n < N; ++n) {
          split_weights(t[thread].loaded[Now].w[s][n], t[thread].limb[n]);
        }
      });
      multiply_step<M, N>(
          g, t, [&](thread_state& of, std::uint32_t l, std::uint32_t m, std::uint32_t n) {
            return warp_mma_operands{of.sum[m][n], of.loaded[Now].x[s][m], of.limb[n][l]};
          });
    }
  }

  /// The round's slices, of which `left` exist, into the totals, in ascending order.
  template <class Group, class Var>
  ORIEL_HOST_DEVICE_INLINE static void fold(Group& g,
                                            Var& t,
                                            shared_state& shared,
                                            std::uint32_t left) {
    g.each([&](std::uint32_t thread) {
      float* const to = shared.sum[thread / 32] + thread % 32 * 2;  // Row g, columns 2q and + 1.
      ORIEL_UNROLL
      for (std::uint32_t m = 0; m < M; ++m) {
        ORIEL_UNROLL
        for (std::uint32_t n = 0; n < N; ++n) {
          ORIEL_UNROLL
          for (std::uint32_t r = 0; r < 4; ++r) {
            to[(m * N + n) * block + r / 2 * 64 + r % 2] = t[thread].sum[m][n][r];
          }
        }
      }
      clear(t[thread].sum);
    });
    g.sync();
    g.each([&](std::uint32_t thread) {
      ORIEL_UNROLL
      for (std::uint32_t i = 0; i < sizeof(t[thread].total) / sizeof(float); ++i) {
        const std::uint32_t output = i * router_threads + thread;
        ORIEL_UNROLL
        for (std::uint32_t slice = 0; slice < router_warps; ++slice) {
          if (output < outputs && slice < left) {
            t[thread].total[i] += shared.sum[slice][output];
          }
        }
      }
    });
    g.sync();
  }

  ORIEL_HOST_DEVICE_INLINE void store(std::uint32_t thread,
                                      std::uint32_t token,
                                      std::uint32_t expert,
                                      std::uint32_t token_count,
                                      const thread_state& t) const {
    ORIEL_UNROLL
    for (std::uint32_t i = 0; i < sizeof(t.total) / sizeof(float); ++i) {
      const std::uint32_t output = i * router_threads + thread;
      const std::uint32_t m = output / block / N, n = output / block % N;
      const std::uint32_t row = token + m * 16 + output % block / 8;
      const std::uint32_t column = expert + n * 8 + output % 8;
      if (output < outputs && row < token_count && column < shape.experts) {
        args.logits[row * args.logits_stride + column] = t.total[i];
      }
    }
  }
};

// ---- Tiles in shared memory --------------------------------------------------------------------

/// 128 tokens x 128 experts, of which a warp has 64 x 32. Hidden is a multiple of 4; weights, x and
/// its stride are of 16 bytes. A stage has two steps, [2 steps][128 rows] of 32 bytes of x and of
/// 64 of weights: what a warp reads at a time is one contiguous piece, without bank conflicts.
///
/// `Copies` brings chunks of 16 bytes into the stages:
///
///     copies.copy(to, from, units, bytes)   to stages + to come the first `bytes` (0 to 16) that are
///                                           16 x units bytes behind `from`, and zeros behind them
///     copies.commit()                       ends a group of all threads' copies
///     copies.wait<P>()                      all but the last P groups of this thread are there
struct router_tile_agent {
  static constexpr std::uint32_t tokens = 128, experts = 128, M = 4, N = 4;
  static constexpr std::uint32_t stage_steps = 2, stage_columns = stage_steps * router_step;
  static constexpr std::uint32_t x_row_bytes = 2 * router_step, w_row_bytes = 4 * router_step;
  static constexpr std::uint32_t w_offset = stage_steps * tokens * x_row_bytes;
  static constexpr std::uint32_t stage_bytes = w_offset + stage_steps * experts * w_row_bytes;
  static constexpr std::uint32_t stages = 4, shared_bytes = stages * stage_bytes;
  static constexpr std::uint32_t x_copies =
      tokens * x_row_bytes * stage_steps / 16 / router_threads;
  static constexpr std::uint32_t w_copies =
      experts * w_row_bytes * stage_steps / 16 / router_threads;

  router_logits_shape shape;
  router_logits_args args;

  struct thread_state {
    std::uint32_t x[M][4];
    std::uint32_t limb[N][router_limbs][2];
    float sum[M][N][4], total[M][N][4];
  };

  [[nodiscard]] static bool fits(const router_logits_shape& shape, const router_logits_args& args) {
    return shape.hidden % 4 == 0 && is_vector_aligned(args.weights, 0) &&
           is_vector_aligned(args.x, args.x_stride);
  }

  /// @param shared  [shared_bytes], 16-byte aligned
  template <class Group, class Copies>
  ORIEL_HOST_DEVICE_INLINE void operator()(Group g,
                                           Copies copies,
                                           std::uint32_t tile,
                                           std::uint32_t expert_tile,
                                           std::uint32_t token_count,
                                           const std::byte* shared) const {
    static_assert(Group::threads == router_threads);
    constexpr std::uint32_t slice_tiles = router_slice / stage_columns;
    const std::uint32_t k_tiles = router_slices(shape.hidden) * slice_tiles;
    const std::uint32_t token = tile * tokens, expert = expert_tile * experts;
    const auto copy = [&](std::uint32_t k_tile) {
      if (k_tile < k_tiles) {
        g.each([&](std::uint32_t thread) {
          copy_stage(thread, k_tile, token, expert, token_count, copies);
        });
      }
      copies.commit();  // A group of none, too, so that what is waited for is the same each time.
    };
    typename Group::template var<thread_state> t;
    g.each([&](std::uint32_t thread) { clear(t[thread]); });
    for (std::uint32_t k_tile = 0; k_tile + 1 < stages; ++k_tile) {
      copy(k_tile);
    }
    for (std::uint32_t k_tile = 0; k_tile < k_tiles; ++k_tile) {
      if (ORIEL_MUTANT(router_stage_is_read_before_it_is_there)) {
        copies.template wait<stages - 1>();
      } else {
        copies.template wait<stages - 2>();
      }
      g.sync();  // All threads' copies are there, and the stage before this one has been read.
      copy(k_tile + stages - 1);
      const std::byte* const stage = shared + k_tile % stages * stage_bytes;
      ORIEL_UNROLL
      for (std::uint32_t s = 0; s < stage_steps; ++s) {
        g.each([&](std::uint32_t thread) { read_step(thread, stage, s, t[thread]); });
        multiply_step<M, N>(
            g, t, [&](thread_state& of, std::uint32_t l, std::uint32_t m, std::uint32_t n) {
              return warp_mma_operands{of.sum[m][n], of.x[m], of.limb[n][l]};
            });
      }
      if (k_tile % slice_tiles == slice_tiles - 1) {
        g.each([&](std::uint32_t thread) { add_slice(t[thread]); });
      }
    }
    copies.template wait<0>();  // A thread does not leave before its copies have arrived.
    g.each([&](std::uint32_t thread) { store(thread, token, expert, token_count, t[thread]); });
  }

 private:
  template <class F>
  ORIEL_HOST_DEVICE_INLINE static void for_each_sum(F&& f) {
    ORIEL_UNROLL
    for (std::uint32_t m = 0; m < M; ++m) {
      ORIEL_UNROLL
      for (std::uint32_t n = 0; n < N; ++n) {
        ORIEL_UNROLL
        for (std::uint32_t r = 0; r < 4; ++r) {
          f(m, n, r);
        }
      }
    }
  }
  ORIEL_HOST_DEVICE_INLINE static void clear(thread_state& t) {
    for_each_sum([&](std::uint32_t m, std::uint32_t n, std::uint32_t r) {
      t.sum[m][n][r] = t.total[m][n][r] = 0.0f;
    });
  }
  ORIEL_HOST_DEVICE_INLINE static void add_slice(thread_state& t) {
    for_each_sum([&](std::uint32_t m, std::uint32_t n, std::uint32_t r) {
      t.total[m][n][r] += t.sum[m][n][r];
      t.sum[m][n][r] = 0.0f;
    });
  }

  /// A thread's chunks of a stage. Chunks of a row are neighbouring threads'.
  template <class Copies>
  ORIEL_HOST_DEVICE_INLINE void copy_stage(std::uint32_t thread,
                                           std::uint32_t k_tile,
                                           std::uint32_t token,
                                           std::uint32_t expert,
                                           std::uint32_t token_count,
                                           Copies& copies) const {
    const std::uint32_t stage = k_tile % stages * stage_bytes, first = k_tile * stage_columns;
    const auto copy = [&](std::uint32_t to,
                          const void* from,
                          std::size_t row_bytes,
                          std::uint32_t row,
                          bool exists,
                          std::uint32_t column,
                          std::uint32_t element_bytes) {
      const std::uint32_t left =
          exists && column < shape.hidden ? (shape.hidden - column) * element_bytes : 0;
      const auto units =
          static_cast<std::uint32_t>((row * row_bytes + column * element_bytes) / 16);
      copies.copy(stage + to, from, left != 0 ? units : 0, left < 16 ? left : 16);
    };
    ORIEL_UNROLL
    for (std::uint32_t i = 0; i < x_copies; ++i) {
      constexpr std::uint32_t in_step = x_row_bytes / 16, in_row = in_step * stage_steps;
      const std::uint32_t row = (i * router_threads + thread) / in_row, c = thread % in_row;
      copy(c / in_step * (tokens * x_row_bytes) + row * x_row_bytes + c % in_step * 16,
           args.x,
           args.x_stride * sizeof(bf16),
           token + row,
           token + row < token_count,
           first + c * 8,
           sizeof(bf16));
    }
    ORIEL_UNROLL
    for (std::uint32_t i = 0; i < w_copies; ++i) {
      constexpr std::uint32_t in_step = w_row_bytes / 16, in_row = in_step * stage_steps;
      const std::uint32_t row = (i * router_threads + thread) / in_row, c = thread % in_row;
      copy(w_offset + c / in_step * (experts * w_row_bytes) + row * w_row_bytes + c % in_step * 16,
           args.weights,
           shape.hidden * sizeof(float),
           expert + row,
           expert + row < shape.experts,
           first + c * 4,
           sizeof(float));
    }
  }

  /// The first of the warp's 64 tokens and 32 experts, in the tile.
  [[nodiscard]] ORIEL_HOST_DEVICE_INLINE static std::uint32_t warp_token(std::uint32_t thread) {
    return thread / 32 / (experts / (8 * N)) * (16 * M);
  }
  [[nodiscard]] ORIEL_HOST_DEVICE_INLINE static std::uint32_t warp_expert(std::uint32_t thread) {
    return thread / 32 % (experts / (8 * N)) * (8 * N);
  }

  ORIEL_HOST_DEVICE_INLINE static void read_step(std::uint32_t thread,
                                                 const std::byte* stage,
                                                 std::uint32_t step,
                                                 thread_state& t) {
    const std::uint32_t lane = thread % 32;
    const std::byte* const x = stage + step * (tokens * x_row_bytes) +
                               (warp_token(thread) + lane / 4) * x_row_bytes + lane % 4 * 8;
    ORIEL_UNROLL
    for (std::uint32_t m = 0; m < M; ++m) {
      ORIEL_UNROLL
      for (std::uint32_t half = 0; half < 2; ++half) {
        load_x<true>(reinterpret_cast<const bf16*>(x + (m * 16 + half * 8) * x_row_bytes),
                     4,
                     t.x[m][half],
                     t.x[m][half + 2]);
      }
    }
    const std::byte* const weights = stage + w_offset + step * (experts * w_row_bytes) +
                                     (warp_expert(thread) + lane / 4) * w_row_bytes + lane % 4 * 16;
    ORIEL_UNROLL
    for (std::uint32_t n = 0; n < N; ++n) {
      float w[4];
      load_weights<true>(reinterpret_cast<const float*>(weights + n * 8 * w_row_bytes), 4, w);
      split_weights(w, t.limb[n]);
    }
  }

  ORIEL_HOST_DEVICE_INLINE void store(std::uint32_t thread,
                                      std::uint32_t token,
                                      std::uint32_t expert,
                                      std::uint32_t token_count,
                                      const thread_state& t) const {
    const std::uint32_t lane = thread % 32;
    const std::uint32_t first_row = token + warp_token(thread) + lane / 4;
    const std::uint32_t first_column = expert + warp_expert(thread) + lane % 4 * 2;
    for_each_sum([&](std::uint32_t m, std::uint32_t n, std::uint32_t r) {
      const std::uint32_t row = first_row + m * 16 + r / 2 * 8;
      const std::uint32_t column = first_column + n * 8 + r % 2;
      if (row < token_count && column < shape.experts) {
        args.logits[row * args.logits_stride + column] = t.total[m][n][r];
      }
    });
  }
};

/// Which instances there are: of `few`, of `some`, and of rows that are not aligned.
using router_few = router_slices_agent<1, 1, router_slice_steps, true>;
using router_some = router_slices_agent<4, 2, 2, true>;
using router_unaligned = router_slices_agent<1, 1, router_slice_steps, false>;

}  // namespace oriel::detail
