// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The attention kernel's program: what the producer and a consumer warpgroup do for one item, in
/// which order. A `Machine` says how: on a device with barriers, bulk copies and wgmma
/// (attention_kernel.cuh), in tests/device with loops over the threads and a model of wgmma.
///
///     shared memory   [warpgroups] queries, [stages] of (K tile, V tile), barriers, the item at
///                     hand, item tables
///     producer        one warp; for each tile: wait for a free stage, announce its bytes, start
///                     the copies. It runs ahead, across items, as far as there are stages.
///     loaders         three warps; for each item: find it, wait until the consumers have
///                     multiplied the queries of the one before with its last keys, hand it on
///                     with its queries: they come while softmax, last product and outputs of the
///                     one before are computed
///     consumer        a warpgroup per 64 rows; for each tile: scores = Q K^T, weights = softmax
///                     so far, out = out x shrink + weights x V. While the softmax of a tile is
///                     computed, the product of the tile before runs: a consumer holds two stages
///     turns           of two consumers one starts its products of a tile while the other computes
///                     the softmax of what it has started before: the tensor cores have work then,
///                     which they had not if both came to their softmax together
///     converters      e4m3 alone, between the two, the loaders' warps: a tile as it was copied
///                     becomes one of bf16 (attention_convert.cuh)
#pragma once

#include "attention_rows.cuh"
#include "stage_ring.cuh"

#include <oriel/core/mutation.hpp>

namespace oriel::detail {

/// Copies a lane's piece of a tile into the stage. `piece` by piece_of(..., lane).
template <class Dims, class Machine>
ORIEL_HOST_DEVICE_INLINE void copy_piece(const attention_call& call,
                                         const attention_work& work,
                                         std::uint32_t tile,
                                         const tile_piece& piece,
                                         Machine& machine) {
  if (piece.keys == 0) {
    return;
  }
  const std::size_t in_head = std::size_t{work.kv_head} * call.shape.page_size +
                              piece.key % call.shape.page_size;  // keys of the page before it
  const std::size_t page = piece.page * call.args.kv.page_stride_bytes;
  const std::uint32_t in_tile = piece.key - tile * tile_keys;
  constexpr std::uint32_t k_bytes = Dims::k_key_bytes, v_bytes = Dims::v_key_bytes;
  machine.copy_k(
      in_tile * k_bytes, call.args.kv.k + page + in_head * k_bytes, piece.keys * k_bytes);
  machine.copy_v(
      in_tile * v_bytes, call.args.kv.v + page + in_head * v_bytes, piece.keys * v_bytes);
}

/// Starts scores = Q K^T over the head dim, ascending. `queries`, `k`: addresses in the shared
/// window.
template <class Dims, class Machine>
ORIEL_HOST_DEVICE_INLINE void multiply_scores(std::uint32_t queries,
                                              std::uint32_t k,
                                              Machine& machine) {
  constexpr std::uint32_t row_stride = Dims::qk / core_side * core_bytes;
  constexpr std::uint32_t step_bytes = mma_depth / core_side * core_bytes;
  machine.begin_scores();
  ORIEL_UNROLL
  for (std::uint32_t step = 0; step < Dims::qk / mma_depth; ++step) {
    machine.add_scores(operand_descriptor(queries + step * step_bytes, core_bytes, row_stride),
                       operand_descriptor(k + step * step_bytes, core_bytes, row_stride),
                       step != 0);
  }
  machine.commit_multiply();
}

/// Starts out += weights x V over the keys of the tile, ascending. `v`: address in the shared
/// window.
template <class Dims, class Machine>
ORIEL_HOST_DEVICE_INLINE void multiply_values(std::uint32_t v, Machine& machine) {
  constexpr std::uint32_t k_stride = Dims::vo / core_side * core_bytes;  // K of wgmma: keys
  machine.begin_values();
  ORIEL_UNROLL
  for (std::uint32_t step = 0; step < tile_keys / mma_depth; ++step) {
    machine.add_values(
        step,
        operand_descriptor(v + step * (mma_depth / core_side) * k_stride, k_stride, core_bytes));
  }
  machine.commit_multiply();
}

/// Whether each row of a warpgroup sees each key of the tile; rows that do not exist do not count.
[[nodiscard]] ORIEL_HOST_DEVICE inline bool all_seen(const attention_call& call,
                                                     const attention_work& work,
                                                     std::uint32_t warpgroup,
                                                     std::uint32_t tile) {
  const std::uint32_t token = warpgroup * call.tokens_per_tile;
  const std::uint32_t end = token + call.tokens_per_tile;
  const std::uint32_t last = (end < work.tokens ? end : work.tokens) - 1;
  const std::uint32_t begin = tile * tile_keys;
  return token < work.tokens && begin + tile_keys - 1 <= work.position + token &&
         begin >= first_seen(call.shape.window_tokens, work.first_key, work.position + last);
}

/// What no row of the block sees of a tile's V becomes zero, while its scores are computed: well
/// before its product is started. With e4m3 it did when the tile became bf16.
template <class Dims, class Machine>
ORIEL_HOST_DEVICE_INLINE void clear_unseen(const attention_call& call,
                                           const attention_work& work,
                                           std::uint32_t warpgroup,
                                           std::uint32_t tile,
                                           Machine& machine) {
  if (Dims::is_scaled ||
      (tile * tile_keys >= work.key_begin && (tile + 1) * tile_keys <= work.key_end)) {
    return;
  }
  std::byte* const v = machine.wait_values();
  machine.each([&](std::uint32_t thread, attention_thread<Dims>&) {
    clear_values<Dims>(
        work, tile, warpgroup * warpgroup_threads + thread, call.warpgroups * warpgroup_threads, v);
  });
  machine.publish_to_all();
}

/// One tile, up to its weights. Its softmax is computed while the product of the tile before runs;
/// the first of a split has none before it.
template <class Dims, bool IsFirst, class Machine>
ORIEL_HOST_DEVICE_INLINE void attend_tile(const attention_call& call,
                                          const attention_work& work,
                                          std::uint32_t warpgroup,
                                          std::uint32_t tile,
                                          Machine& machine) {
  using thread_state = attention_thread<Dims>;
  const std::uint32_t k = machine.wait_k(), queries = machine.queries_address();
  machine.take_turn();
  multiply_scores<Dims>(queries, k, machine);
  if constexpr (!IsFirst) {
    multiply_values<Dims>(machine.wait_v(), machine);
  }
  machine.pass_turn();
  if (IsFirst && tile == work.first_tile()) {  // While the scores are computed.
    machine.each([&](std::uint32_t thread, thread_state& t) {
      begin_rows(call, work, warpgroup, thread, t);
    });
  }
  clear_unseen<Dims>(call, work, warpgroup, tile, machine);
  if (ORIEL_MUTANT(attention_queries_go_back_under_their_product) && tile + 1 == work.last_tile()) {
    machine.release_queries();
  }
  machine.template wait_multiply<IsFirst ? 0 : 1>();
  if (tile + 1 == work.last_tile()) {
    machine.release_queries();
  }
  const bool unmasked = all_seen(call, work, warpgroup, tile);
  machine.each([&](std::uint32_t thread, thread_state& t) {
    if constexpr (Dims::is_scaled) {
      scale_scores(thread, machine.scales(), t);
    }
    if (!unmasked) {
      mask_scores(thread, tile, t);
    }
    find_largest(t);
  });
  machine.quad_max(&thread_state::tile_max);
  machine.each([&](std::uint32_t, thread_state& t) { weigh(call.args.scale * log2_e, t); });
  const auto shrink = [&] {
    machine.each_in_warps_with([](const thread_state& t) { return shrinks(t); },
                               [](thread_state& t) { shrink_out(t); });
  };
  const auto pack = [&](std::uint32_t thread, thread_state& t) {
    pack_weights(thread, Dims::is_scaled ? machine.scales() + tile_keys : nullptr, t);
  };
  if constexpr (!IsFirst) {  // Before the first tile `out` is zero.
    if (ORIEL_MUTANT(attention_out_shrinks_under_a_product)) {
      shrink();
    }
    if (ORIEL_MUTANT(attention_weights_are_packed_under_a_product)) {
      machine.each(pack);
    }
    if (ORIEL_MUTANT(attention_stage_goes_back_under_its_product)) {
      machine.release();
    }
    machine.finish_weights();
    machine.template wait_multiply<0>();
    if (!ORIEL_MUTANT(attention_stage_goes_back_under_its_product)) {
      machine.release();
    }
    if (!ORIEL_MUTANT(attention_out_shrinks_under_a_product)) {
      shrink();
    }
  }
  machine.each(pack);
}

/// Tiles [tile, end) of a split.
template <class Dims, class Machine>
ORIEL_HOST_DEVICE_INLINE void attend_split(const attention_call& call,
                                           const attention_work& work,
                                           std::uint32_t warpgroup,
                                           std::uint32_t tile,
                                           std::uint32_t end,
                                           Machine& machine) {
  using thread_state = attention_thread<Dims>;
  machine.each([&](std::uint32_t, thread_state& t) { begin_split(t); });
  attend_tile<Dims, true>(call, work, warpgroup, tile, machine);
  while (++tile < end) {
    attend_tile<Dims, false>(call, work, warpgroup, tile, machine);
  }
  multiply_values<Dims>(machine.wait_v(), machine);
  machine.template wait_multiply<0>();
  machine.release();
  machine.quad_sum(&thread_state::split_sum);
  machine.each([&](std::uint32_t, thread_state& t) { fold_rows(t); });
}

/// The end of an item: stores what it has computed.
template <class Dims, class Machine>
ORIEL_HOST_DEVICE_INLINE void end_item(const attention_call& call,
                                       const attention_work& work,
                                       std::uint32_t warpgroup,
                                       Machine& machine) {
  using thread_state = attention_thread<Dims>;
  if (call.splits_max != 0 || call.out_bf16 == nullptr) {
    machine.each(
        [&](std::uint32_t thread, thread_state& t) { end_rows(call, work, warpgroup, thread, t); });
  }
  if (call.out_bf16 == nullptr) {
    return;
  }
  ORIEL_UNROLL
  for (std::uint32_t half = 0; half < 2; ++half) {
    machine.each([&](std::uint32_t, thread_state& t) {
      pack_row(is_whole_row(call, work, half, t), half, t);
    });
    machine.exchange_in_quads();
    machine.each([&](std::uint32_t thread, thread_state& t) {
      if (is_whole_row(call, work, half, t)) {
        store_packed_row(call, work, warpgroup, thread, half, t);
      }
    });
  }
}

/// One consumer warpgroup, one item. @pre its queries are there
template <class Dims, class Machine>
ORIEL_HOST_DEVICE_INLINE void attend_item(const attention_call& call,
                                          const attention_work& work,
                                          std::uint32_t warpgroup,
                                          Machine& machine) {
  using thread_state = attention_thread<Dims>;
  machine.each([](std::uint32_t, thread_state& t) {
    ORIEL_UNROLL
    for (float& x : t.kept) {
      x = 0.0f;
    }
  });
  constexpr std::uint32_t tiles_per_split = split_keys / tile_keys;
  const std::uint32_t last_tile = work.last_tile();
  for (std::uint32_t tile = work.first_tile(); tile < last_tile;) {
    const std::uint32_t border = (tile / tiles_per_split + 1) * tiles_per_split;
    const std::uint32_t end = border < last_tile ? border : last_tile;
    attend_split<Dims>(call, work, warpgroup, tile, end, machine);
    tile = end;
  }
  end_item<Dims>(call, work, warpgroup, machine);
}

}  // namespace oriel::detail
