// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The grouped product's program: what the producer warpgroup and a consumer warpgroup do for one
/// item, in which order. A `Machine` says how: on a device with barriers, copies and wgmma
/// (grouped_gemm_kernel.cuh), in tests/device with loops over the threads and a model of wgmma.
///
///     stage      weights: a piece of 16 KiB; x: [rows / 8][8 chunks][8 rows][16 bytes]; for e4m3 a
///                scale for each row of x and for each packed row of the weights
///     producer   128 threads; for each k tile: wait for a free stage, start the copy of the piece
///                (one thread) and of the rows' chunks (all), which arrive at the stage's barrier
///     consumer   a warpgroup per 64 packed rows: D [64 features, rows] += w x^T
///
/// Features are wgmma's M and rows its N, so few rows cost few columns: 16, 64, 128 or 256 of them.
/// Rows that do not exist are not copied; what lies in their place changes no other column.
#pragma once

#include "grouped_gemm_epilogue.cuh"
#include "grouped_gemm_work.cuh"
#include "stage_ring.cuh"

#include <oriel/core/mutation.hpp>

#include <math.h>

namespace oriel::detail {

/// Sizes by the type of the operands. bf16: 128 accumulators a thread; e4m3: 64, and 64 of a part.
template <dtype Type>
struct gemm_tile;
template <>
struct gemm_tile<dtype::bf16> {
  static constexpr bool is_scaled = false;
  static constexpr std::uint32_t rows = 256, stages = 4;
};
template <>
struct gemm_tile<dtype::e4m3> {
  static constexpr bool is_scaled = true;
  static constexpr std::uint32_t rows = 128, stages = 6;
};

/// Offsets into a stage, and its size.
template <dtype Type>
struct gemm_stage {
  static constexpr std::uint32_t rows = gemm_tile<Type>::rows;
  static constexpr std::uint32_t x = gemm_piece_bytes;
  static constexpr std::uint32_t x_scales = x + rows * gemm_k_tile_bytes;
  static constexpr std::uint32_t w_scales = x_scales + (gemm_tile<Type>::is_scaled ? rows * 4 : 0);
  static constexpr std::uint32_t bytes =
      w_scales + (gemm_tile<Type>::is_scaled ? gemm_feature_tile * 4 : 0);
  static_assert(bytes % core_bytes == 0);
};

// ---- The producer ------------------------------------------------------------------------------

/// What a thread of the producer knows of an item.
template <dtype Type>
struct gemm_producer_thread {
  static constexpr std::uint32_t rows = gemm_tile<Type>::rows / gemm_run;
  std::uint32_t source[rows];  ///< where in x the rows begin that it copies a chunk of each of, in
                               ///< units of 16 bytes; no_row: no such row
  std::uint32_t scale_source;  ///< the row of x whose scale it copies
  std::uint32_t scale_row;     ///< of the grid: the row whose scale it copies
};

/// From where and to where a thread copies chunks of a k tile.
struct gemm_chunks {
  std::uint32_t to;
  const std::byte* from;
};

/// The row of a tile that thread `thread` copies as its i-th, and the chunk that it copies of each.
/// A warp has 8 rows x 4 chunks at a time: it reads runs of 64 bytes, and each 8 of its threads
/// fill one core matrix.
[[nodiscard]] ORIEL_HOST_DEVICE constexpr std::uint32_t copied_row(std::uint32_t thread,
                                                                   std::uint32_t i) {
  return i * gemm_run + thread / 64 * core_side + thread % core_side;
}
[[nodiscard]] ORIEL_HOST_DEVICE constexpr std::uint32_t copied_chunk(std::uint32_t thread) {
  return thread / warp_threads % 2 * 4 + thread % warp_threads / core_side;
}

/// Row `row` of an item as row_index has it, or no_row.
[[nodiscard]] ORIEL_HOST_DEVICE_INLINE std::uint32_t indexed_row(const grouped_gemm_call& call,
                                                                 const grouped_gemm_work& work,
                                                                 std::uint32_t row) {
  if (row >= work.rows) {
    return no_row;
  }
  row += work.first_row;
  return call.args.row_index != nullptr ? call.args.row_index[row] : row;
}
/// The row of x that it is, or no_row.
[[nodiscard]] ORIEL_HOST_DEVICE_INLINE std::uint32_t source_row(const grouped_gemm_call& call,
                                                                std::uint32_t indexed) {
  return indexed == no_row || call.args.row_index == nullptr ? indexed
                                                             : indexed / call.args.row_divisor;
}

/// Row of the group's grid of scales for packed row `packed` of the group, or no_row.
[[nodiscard]] ORIEL_HOST_DEVICE_INLINE std::uint32_t grid_row(const grouped_gemm_call& call,
                                                              std::uint32_t packed) {
  const grouped_gemm_shape& shape = call.shape;
  const std::uint32_t row = weight_row_of_packed(shape, packed);
  if (row == no_row || call.args.weight_scale_rows != nullptr) {
    return row == no_row ? no_row : call.args.weight_scale_rows[row];
  }
  return row < shape.n ? row / scale_block
                       : shape.plain_grid_rows() / 2 + (row - shape.n) / scale_block;
}

/// Asks for the indices of a thread's rows; find_rows needs them. What lies between does not wait.
template <dtype Type>
ORIEL_HOST_DEVICE_INLINE void ask_for_rows(const grouped_gemm_call& call,
                                           const grouped_gemm_work& work,
                                           std::uint32_t thread,
                                           gemm_producer_thread<Type>& t) {
  ORIEL_UNROLL
  for (std::uint32_t i = 0; i < t.rows; ++i) {
    t.source[i] = indexed_row(call, work, copied_row(thread, i));
  }
  if constexpr (gemm_tile<Type>::is_scaled) {
    static_assert(gemm_tile<Type>::rows == warpgroup_threads);
    static_assert(gemm_feature_tile == warpgroup_threads);
    t.scale_source = indexed_row(call, work, thread);
    t.scale_row = grid_row(call, work.feature_tile * gemm_feature_tile + thread);
  }
}

template <dtype Type>
ORIEL_HOST_DEVICE_INLINE void find_rows(const grouped_gemm_call& call,
                                        gemm_producer_thread<Type>& t) {
  const auto units =
      static_cast<std::uint32_t>(call.args.x_stride * call.element_bytes() / gemm_chunk_bytes);
  ORIEL_UNROLL
  for (std::uint32_t i = 0; i < t.rows; ++i) {
    const std::uint32_t row = source_row(call, t.source[i]);
    t.source[i] = row == no_row ? no_row : row * units;
  }
  if constexpr (gemm_tile<Type>::is_scaled) {
    t.scale_source = source_row(call, t.scale_source);
  }
}

/// A thread's chunks of k tile `k_tile`, and its scales. `Whole`: the tile ends within k.
template <dtype Type, bool Whole, class Machine>
ORIEL_HOST_DEVICE_INLINE void copy_rows(const grouped_gemm_call& call,
                                        const grouped_gemm_work& work,
                                        std::uint32_t k_tile,
                                        std::uint32_t thread,
                                        const gemm_producer_thread<Type>& t,
                                        Machine& machine) {
  using stage = gemm_stage<Type>;
  const std::uint32_t row_bytes = call.shape.k * call.element_bytes(), chunk = copied_chunk(thread);
  const std::uint32_t at = k_tile * gemm_k_tile_bytes + chunk * gemm_chunk_bytes;
  const std::uint32_t left = at < row_bytes ? row_bytes - at : 0;
  const std::uint32_t bytes = left < gemm_chunk_bytes ? left : gemm_chunk_bytes;
  const auto* const x = static_cast<const std::byte*>(call.args.x) + (Whole || bytes != 0 ? at : 0);
  constexpr std::uint32_t step = gemm_run / core_side * gemm_core_rows_bytes;
  const auto chunks = machine.chunks(stage::x + gemm_chunk_offset(copied_row(thread, 0), chunk), x);
  ORIEL_UNROLL
  for (std::uint32_t i = 0; i < t.rows; ++i) {
    if (t.source[i] != no_row) {
      if constexpr (Whole) {
        machine.copy_whole_chunk(chunks, i * step, t.source[i]);
      } else {
        machine.copy_chunk(chunks, i * step, t.source[i], bytes);
      }
    }
  }
  if constexpr (gemm_tile<Type>::is_scaled) {
    const grouped_gemm_args<float>& args = call.args;
    if (t.scale_source != no_row) {
      machine.copy_scale(stage::x_scales + thread * 4,
                         args.x_scales + t.scale_source * args.x_scale_row_stride +
                             k_tile * args.x_scale_column_stride);
    }
    if (t.scale_row != no_row) {
      machine.copy_scale(stage::w_scales + thread * 4,
                         args.weight_scales + work.group * args.weight_scale_group_stride +
                             t.scale_row * args.weight_scale_stride + k_tile);
    }
  }
}

/// The producer, one item. Its first piece of weights is asked for before its rows are known.
template <dtype Type, class Machine>
ORIEL_HOST_DEVICE_INLINE void produce_item(const grouped_gemm_call& call,
                                           const grouped_gemm_work& work,
                                           Machine& machine) {
  using thread_state = gemm_producer_thread<Type>;
  machine.each([&](std::uint32_t thread, thread_state& t) { ask_for_rows(call, work, thread, t); });
  const std::size_t tile = std::size_t{work.group} * call.feature_tiles + work.feature_tile;
  const std::byte* piece = call.args.weights + tile * call.k_tiles * gemm_piece_bytes;
  const std::uint32_t whole_tiles = call.shape.k * call.element_bytes() / gemm_k_tile_bytes;
  for (std::uint32_t k_tile = 0; k_tile < call.k_tiles; ++k_tile, piece += gemm_piece_bytes) {
    machine.begin_stage();
    machine.copy_piece(piece);
    machine.each([&](std::uint32_t thread, thread_state& t) {
      if (k_tile == 0) {
        find_rows(call, t);
      }
      if (k_tile < whole_tiles || ORIEL_MUTANT(gemm_last_tile_is_copied_whole)) {
        copy_rows<Type, true>(call, work, k_tile, thread, t, machine);
      } else {
        copy_rows<Type, false>(call, work, k_tile, thread, t, machine);
      }
    });
    machine.end_stage();
  }
}

// ---- A consumer --------------------------------------------------------------------------------

/// The registers of one thread of a consumer. Fragments as in mma_fragment.cuh.
template <dtype Type>
struct gemm_thread {
  static constexpr std::uint32_t size = gemm_tile<Type>::rows / 2;
  float sum[size];
  float part[gemm_tile<Type>::is_scaled ? size : 1];  ///< of 128 columns of e4m3
  std::uint32_t pair[2 * gemm_store_blocks];          ///< two bf16 each, on their way out
  std::uint32_t late[size / 2];  ///< an item's sums, rounded, while the next one is multiplied
  bf16* late_to;                 ///< where they go: gemm_place
  std::uint32_t late_rows;
};

/// The four instructions of a k tile. `to`: member that accumulates; `fresh`: from zero.
template <std::uint32_t Columns, class Machine, class Member>
ORIEL_HOST_DEVICE_INLINE void multiply_stage(
    std::uint32_t weights, std::uint32_t x, Member to, bool fresh, Machine& machine) {
  constexpr std::uint32_t step_bytes = 2 * core_bytes;  // 32 bytes of k
  ORIEL_UNROLL
  for (std::uint32_t step = 0; step < gemm_row_chunks / 2; ++step) {
    machine.template add<Columns>(
        to,
        operand_descriptor(weights + step * step_bytes, core_bytes, gemm_core_rows_bytes),
        operand_descriptor(x + step * step_bytes, core_bytes, gemm_core_rows_bytes),
        !(fresh && step == 0));
  }
}

/// bf16: one accumulation over all of k. The products of a stage are under way while the next stage
/// is waited for: then meanwhile() is called, and under the last ones at_end().
template <std::uint32_t Columns, class Machine, class Meanwhile, class AtEnd>
ORIEL_HOST_DEVICE_INLINE void multiply_item(const grouped_gemm_call& call,
                                            std::uint32_t warpgroup,
                                            Machine& machine,
                                            gemm_thread<dtype::bf16>*,
                                            Meanwhile&& meanwhile,
                                            AtEnd&& at_end) {
  using thread_state = gemm_thread<dtype::bf16>;
  machine.template forget_sums<Columns>();
  for (std::uint32_t k_tile = 0; k_tile < call.k_tiles; ++k_tile) {
    const std::uint32_t stage = machine.wait_stage();
    machine.template begin_multiply<Columns>();
    multiply_stage<Columns>(stage + warpgroup * mma_rows * gemm_k_tile_bytes,
                            stage + gemm_stage<dtype::bf16>::x,
                            &thread_state::sum,
                            k_tile == 0,
                            machine);
    machine.commit_multiply();
    if (k_tile != 0) {
      if (!ORIEL_MUTANT(gemm_stage_goes_back_under_its_products)) {
        machine.template wait_multiply<Columns, 1>();
      }
      machine.release();
    }
    meanwhile();
  }
  at_end();
  machine.template wait_multiply<Columns, 0>();
  machine.release();
}

/// sum += part * scales. The scales lie in the stage.
template <std::uint32_t Columns>
ORIEL_HOST_DEVICE_INLINE void promote_part(std::uint32_t warpgroup,
                                           std::uint32_t thread,
                                           const std::byte* stage,
                                           gemm_thread<dtype::e4m3>& t) {
  using layout = gemm_stage<dtype::e4m3>;
  const auto* const x_scales = reinterpret_cast<const float*>(stage + layout::x_scales);
  const auto* const w_scales =
      reinterpret_cast<const float*>(stage + layout::w_scales) + warpgroup * mma_rows;
  const float w[2] = {w_scales[fragment_row(thread, 0)], w_scales[fragment_row(thread, 1)]};
  ORIEL_UNROLL
  for (std::uint32_t r = 0; r < Columns / 2; ++r) {
    const float scale = x_scales[fragment_column(thread, r)] * w[fragment_half(r)];
    t.sum[r] = ::fmaf(t.part[r], scale, t.sum[r]);
  }
}

/// e4m3: sums of 128 columns start at zero and are added up in f32.
template <std::uint32_t Columns, class Machine, class Meanwhile, class AtEnd>
ORIEL_HOST_DEVICE_INLINE void multiply_item(const grouped_gemm_call& call,
                                            std::uint32_t warpgroup,
                                            Machine& machine,
                                            gemm_thread<dtype::e4m3>*,
                                            Meanwhile&& meanwhile,
                                            AtEnd&& at_end) {
  using thread_state = gemm_thread<dtype::e4m3>;
  machine.each([&](std::uint32_t, thread_state& t) {
    ORIEL_UNROLL
    for (std::uint32_t r = 0; r < Columns / 2; ++r) {
      t.sum[r] = 0.0f;
      t.part[r] = 0.0f;  // Or those of the item before would lie in registers while it is stored.
    }
  });
  for (std::uint32_t k_tile = 0; k_tile < call.k_tiles; ++k_tile) {
    const std::uint32_t stage = machine.wait_stage();
    machine.template begin_multiply<Columns>();
    multiply_stage<Columns>(stage + warpgroup * mma_rows * gemm_k_tile_bytes,
                            stage + gemm_stage<dtype::e4m3>::x,
                            &thread_state::part,
                            true,
                            machine);
    machine.commit_multiply();
    meanwhile();
    if (k_tile + 1 == call.k_tiles) {
      at_end();
    }
    if (!ORIEL_MUTANT(gemm_part_is_added_before_it_is_there)) {
      machine.template wait_multiply<Columns, 0>();
    }
    if (ORIEL_MUTANT(gemm_stage_goes_back_with_its_scales)) {
      machine.release();
    }
    machine.each([&](std::uint32_t thread, thread_state& t) {
      promote_part<Columns>(warpgroup, thread, machine.stage_bytes(), t);
    });
    if (!ORIEL_MUTANT(gemm_stage_goes_back_with_its_scales)) {
      machine.release();
    }
  }
}

/// An item with as many columns as its rows need. Accumulators of different widths do not meet after
/// the products: ptxas would have wgmma wait (C7515).
template <dtype Type, bool Swiglu, dtype Out, std::uint32_t Columns, class Machine, class AtEnd>
ORIEL_HOST_DEVICE_INLINE void consume_item(const grouped_gemm_call& call,
                                           const grouped_gemm_work& work,
                                           std::uint32_t warpgroup,
                                           Machine& machine,
                                           AtEnd&& at_end) {
  using thread_state = gemm_thread<Type>;
  if constexpr (Columns < gemm_tile<Type>::rows) {
    if (work.rows > Columns) {
      constexpr std::uint32_t more = Columns == 16 ? 64 : Columns * 2;
      consume_item<Type, Swiglu, Out, more>(call, work, warpgroup, machine, at_end);
      return;
    }
  }
  constexpr bool is_late = Out == dtype::bf16 && Columns == gemm_tile<Type>::rows;
  const auto meanwhile = [&] {
    if constexpr (is_late) {
      store_late_part<Swiglu, thread_state>(call, machine);
    }
  };
  multiply_item<Columns>(
      call, warpgroup, machine, static_cast<thread_state*>(nullptr), meanwhile, at_end);
  store_item<Columns, Swiglu, Out, is_late, thread_state>(call, work, warpgroup, machine);
}

/// One consumer warpgroup. The next item is found under the last products of the one before, and
/// what that has left is stored under the first ones of the next, or before them where they are few.
template <dtype Type, bool Swiglu, dtype Out, class Machine>
ORIEL_HOST_DEVICE_INLINE void consume_items(const grouped_gemm_call& call,
                                            gemm_items items,
                                            std::uint32_t warpgroup,
                                            Machine& machine) {
  using thread_state = gemm_thread<Type>;
  grouped_gemm_work work = items.next(call);
  while (work.rows != 0) {
    if constexpr (Out == dtype::bf16) {
      const bool is_narrow = work.rows <= gemm_tile<Type>::rows / 2;
      if (is_narrow || (call.k_tiles < gemm_late_parts<Swiglu, thread_state> &&
                        !ORIEL_MUTANT(gemm_late_parts_are_lost_where_k_is_short))) {
        store_late_parts<Swiglu, thread_state>(call, machine);
      }
    }
    grouped_gemm_work next;
    consume_item<Type, Swiglu, Out, 16>(
        call, work, warpgroup, machine, [&] { next = items.next(call); });
    work = next;
  }
  if constexpr (Out == dtype::bf16) {
    if (!ORIEL_MUTANT(gemm_last_item_is_kept)) {
      store_late_parts<Swiglu, thread_state>(call, machine);
    }
  }
}

}  // namespace oriel::detail
