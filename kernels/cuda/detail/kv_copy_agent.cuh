// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The program of the KV copy kernel: what a block does with its pieces, in which order. A
/// `Machine` says how: on a device with bulk copies and barriers (kv_copy.cu), in tests/device with
/// copies that come when they like.
///
///     piece    whole tiles of K or of V of one layer in one page, at most 16 KiB. Numbered layer
///              by layer, page by page; block b of B takes b, b + B, b + 2 B, ...
///     mover    the first warp. Its lanes read the next 32 pairs of pages with one access, 32
///              pieces ahead: a pair in the host's memory is more than a microsecond away.
///     stages   6 of 16 KiB.   as they are:  load into stage i % 6, store from it; 4 loads ahead,
///                                           at most 2 stores whose stage is still being read
///                             permuted:     load into stage i % 4, all threads permute it into
///                                           stage 4 + i % 2, store from there
#pragma once

#include "row_vector.cuh"

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/device/paged_kv_view.cuh>
#include <oriel/kernels/kv_copy.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace oriel::detail {

using cuda::kv_part;

inline constexpr std::uint32_t kv_stage_bytes = 16 * 1024;
inline constexpr std::uint32_t kv_stages = 6;
inline constexpr std::uint32_t kv_loads_ahead = 4;
inline constexpr std::uint32_t kv_stages_out = kv_stages - kv_loads_ahead;
inline constexpr std::uint32_t kv_pairs_ahead = 32;   // the lanes of a warp
inline constexpr std::uint32_t kv_copy_layers = 16;   // of one launch
inline constexpr std::uint32_t kv_copy_threads = 32;  // where nothing is permuted
inline constexpr std::uint32_t kv_permute_threads = 256;

/// What happens to a tile on its way.
enum class kv_permutation : std::uint8_t { none, to_device, to_host };

/// All that a kernel is told.
struct kv_copy_call {
  kv_copy_layer layers[kv_copy_layers];
  std::uint32_t layer_count;
  const kv_page_pair* pages;
  std::uint32_t pages_max;
  const std::uint32_t* page_count;  ///< null: all
  kv_part k, v;
};

/// @pre layers.size() <= kv_copy_layers, and as run_kv_copy
[[nodiscard]] inline kv_copy_call make_kv_copy_call(const cuda::kv_copy_plan& plan,
                                                    const kv_copy_args& args,
                                                    std::span<const kv_copy_layer> layers) {
  ORIEL_EXPECTS(layers.size() <= kv_copy_layers);
  ORIEL_EXPECTS(std::uint64_t{args.pages.size()} * layers.size() *
                    (plan.k.pieces + plan.v.pieces) <=
                0xFFFF'FFFFu);
  kv_copy_call call{};
  for (const kv_copy_layer& layer : layers) {
    call.layers[call.layer_count++] = layer;
  }
  call.pages = args.pages.data();
  call.pages_max = static_cast<std::uint32_t>(args.pages.size());
  call.page_count = args.page_count;
  call.k = plan.k;
  call.v = plan.v;
  return call;
}

/// What the block must know of a piece between its load and its store. In shared memory, by stage.
struct kv_piece_target {
  std::byte* to;
  std::uint32_t bytes;
  std::uint32_t tiles;
  bool is_k;
};

struct kv_piece {
  const std::byte* from;
  kv_piece_target target;
};

/// The pieces of one block.
class kv_pieces {
 public:
  ORIEL_HOST_DEVICE kv_pieces(const kv_copy_call& call, std::uint32_t block, std::uint32_t blocks)
      : call_(call), block_(block), blocks_(blocks), pages_(call.pages_max) {
    if (call.page_count != nullptr && *call.page_count < pages_) {
      pages_ = *call.page_count;
    }
    per_page_ = call.k.pieces + call.v.pieces;
    const std::uint32_t all = call.layer_count * pages_ * per_page_;
    count_ = block < all ? (all - block - 1) / blocks + 1 : 0;
  }

  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t count() const { return count_; }

  /// The pages of the block's piece i; of no piece: anything.
  [[nodiscard]] ORIEL_HOST_DEVICE kv_page_pair pages_of(std::uint32_t i) const {
    return i < count_ ? call_.pages[number(i) / per_page_ % pages_] : kv_page_pair{};
  }

  /// @pre i < count(), pair is pages_of(i)
  [[nodiscard]] ORIEL_HOST_DEVICE kv_piece at(std::uint32_t i, kv_page_pair pair) const {
    const std::uint32_t in_page = number(i) % per_page_;
    const kv_copy_layer& layer = call_.layers[number(i) / per_page_ / pages_];
    const bool is_k = in_page < call_.k.pieces;
    const kv_part& part = is_k ? call_.k : call_.v;
    const std::uint32_t tile = (is_k ? in_page : in_page - call_.k.pieces) * part.tiles_per_piece;
    const std::uint32_t left = part.tiles - tile;
    const std::uint32_t tiles = left < part.tiles_per_piece ? left : part.tiles_per_piece;
    const std::size_t offset = std::size_t{tile} * part.tile_bytes;
    return {
        (is_k ? layer.from.k : layer.from.v) + pair.from * layer.from.page_stride_bytes + offset,
        {(is_k ? layer.to.k : layer.to.v) + pair.to * layer.to.page_stride_bytes + offset,
         tiles * part.tile_bytes,
         tiles,
         is_k}};
  }

 private:
  [[nodiscard]] ORIEL_HOST_DEVICE std::uint32_t number(std::uint32_t i) const {
    return block_ + i * blocks_;
  }

  const kv_copy_call& call_;
  std::uint32_t block_, blocks_, pages_, per_page_, count_;
};

// ---- permutation -------------------------------------------------------------------------------
// Both orders keep a pair side by side: of dims in K, of keys in V. So a tile is permuted by words
// of 4 bytes. A row of a core matrix, 16 bytes, has 4 of them; the host has them `stride` apart.

/// One row of a core matrix, in words of its tile.
struct kv_tile_row {
  std::uint32_t device;  ///< its first word in the device's order; the others follow
  std::uint32_t host;    ///< its first word in the host's
  std::uint32_t stride;  ///< from one to the next there
  std::uint32_t words;   ///< 4, or fewer in the last dims of K
};

/// Rows of a tile: of K 16 keys a chunk of 8 dims, of V two a dim.
[[nodiscard]] ORIEL_HOST_DEVICE inline std::uint32_t kv_rows_per_tile(const kv_part& part,
                                                                      bool is_k) {
  return is_k ? (part.dims + 7) / 8 * kv_tile_tokens : part.dims * 2;
}

[[nodiscard]] ORIEL_HOST_DEVICE inline kv_tile_row kv_row_of(std::uint32_t dims,
                                                             bool is_k,
                                                             std::uint32_t row) {
  if (is_k) {  // Device: [2 key groups][chunks][8 keys][<= 4 pairs]; host: [pairs][16 keys].
    const std::uint32_t in_group = (dims + 7) / 8 * kv_group_tokens;
    const std::uint32_t group = row < in_group ? 0 : 1;
    const std::uint32_t chunk = (row - group * in_group) / kv_group_tokens;
    const std::uint32_t key = row % kv_group_tokens;
    const std::uint32_t left = dims / 2 - chunk * 4, words = left < 4 ? left : 4;
    return {group * dims * 4 + chunk * 4 * kv_group_tokens + key * words,
            chunk * 4 * kv_tile_tokens + group * kv_group_tokens + key,
            kv_tile_tokens,
            words};
  }  // Device: [2 key groups][dims][4 pairs]; host: [8 pairs][dims].
  const std::uint32_t group = row < dims ? 0 : 1;
  return {row * 4, group * 3 * dims + row, dims, 4};
}

[[nodiscard]] ORIEL_HOST_DEVICE inline std::uint32_t load_word(const std::byte* p) {
#ifdef __CUDA_ARCH__
  return *reinterpret_cast<const std::uint32_t*>(p);
#else
  std::uint32_t w;
  std::memcpy(&w, p, sizeof w);
  return w;
#endif
}

ORIEL_HOST_DEVICE inline void store_word(std::byte* p, std::uint32_t w) {
#ifdef __CUDA_ARCH__
  *reinterpret_cast<std::uint32_t*>(p) = w;
#else
  std::memcpy(p, &w, sizeof w);
#endif
}

/// This thread's rows of a piece, of `threads`. @pre 16-byte aligned stages
template <kv_permutation P>
ORIEL_HOST_DEVICE void permute_rows(const kv_part& part,
                                    const kv_piece_target& piece,
                                    const std::byte* from,
                                    std::byte* to,
                                    std::uint32_t thread,
                                    std::uint32_t threads) {
  const std::uint32_t rows = kv_rows_per_tile(part, piece.is_k);
  for (std::uint32_t r = thread; r < piece.tiles * rows; r += threads) {
    const std::uint32_t tile = r / rows * part.tile_bytes;
    const kv_tile_row row = kv_row_of(part.dims, piece.is_k, r % rows);
    const std::uint32_t device = tile + row.device * 4, host = tile + row.host * 4;
    if (row.words == 4) {
      if constexpr (P == kv_permutation::to_device) {
        words16 w;
        ORIEL_UNROLL
        for (std::uint32_t i = 0; i < 4; ++i) {
          w.word[i] = load_word(from + host + i * row.stride * 4);
        }
        store_words(to + device, w);
      } else {
        const words16 w = load_words(from + device);
        ORIEL_UNROLL
        for (std::uint32_t i = 0; i < 4; ++i) {
          store_word(to + host + i * row.stride * 4, w.word[i]);
        }
      }
    } else {
      for (std::uint32_t i = 0; i < row.words; ++i) {
        const std::uint32_t at_device = device + i * 4, at_host = host + i * row.stride * 4;
        if constexpr (P == kv_permutation::to_device) {
          store_word(to + at_device, load_word(from + at_host));
        } else {
          store_word(to + at_host, load_word(from + at_device));
        }
      }
    }
  }
}

// ---- the pipe ----------------------------------------------------------------------------------

/// Starts the loads of a block's pieces, in order.
///
///     M::var<T>            a value that each lane of the mover has one of
///     m.lanes(f)           a var of f(lane); m.lane(var, i) what lane i has
///     m.load(stage, piece) the mover: notes the target, announces the bytes, starts the copy
///     m.wait_load(stage, parity)    every thread of the block waits
///     m.target(stage)      what was noted; m.stage(i) its bytes
///     m.store(stage, to, bytes)     the mover: starts the copy, a group of its own
///     m.wait_read<N>()     the mover: of all but the last N stores the stage has been read
///     m.wait_written()     the mover: all stores are in memory
///     m.move(f)            the mover calls f
///     m.each(f)            every thread calls f(thread, threads)
///     m.meet()             a barrier; m.publish() one, and bulk copies see what threads wrote
template <class M>
class kv_loader {
 public:
  ORIEL_HOST_DEVICE kv_loader(const kv_pieces& pieces, M& machine)
      : pieces_(pieces), machine_(machine), ahead_(fetch(0)) {}

  /// Piece i, the one after the last. @pre the stage is free
  ORIEL_HOST_DEVICE void load(std::uint32_t i, std::uint32_t stage) {
    if (i % kv_pairs_ahead == 0) {
      now_ = ahead_;
      ahead_ = fetch(i + kv_pairs_ahead);
    }
    machine_.load(stage, pieces_.at(i, machine_.lane(now_, i % kv_pairs_ahead)));
  }

 private:
  using pairs = typename M::template var<kv_page_pair>;

  [[nodiscard]] ORIEL_HOST_DEVICE pairs fetch(std::uint32_t first) const {
    return machine_.lanes([&](std::uint32_t lane) { return pieces_.pages_of(first + lane); });
  }

  const kv_pieces& pieces_;
  M& machine_;
  pairs now_{}, ahead_;
};

/// Pieces as they are. Only the mover is there.
template <class M>
ORIEL_HOST_DEVICE void copy_pieces(const kv_pieces& pieces, M& machine) {
  kv_loader<M> loader(pieces, machine);
  const std::uint32_t count = pieces.count();
  for (std::uint32_t i = 0; i < kv_loads_ahead && i < count; ++i) {
    loader.load(i, i % kv_stages);
  }
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t stage = i % kv_stages;
    if (!ORIEL_MUTANT(stage_is_stored_before_it_is_full)) {
      machine.wait_load(stage, i / kv_stages % 2);
    }
    machine.store(stage, machine.target(stage).to, machine.target(stage).bytes);
    if (const std::uint32_t next = i + kv_loads_ahead; next < count) {
      if (!ORIEL_MUTANT(stage_is_loaded_while_it_is_read)) {  // Its store was that of i - 2.
        machine.template wait_read<kv_stages_out>();
      }
      loader.load(next, next % kv_stages);
    }
  }
  if (!ORIEL_MUTANT(block_leaves_before_its_stores)) {
    machine.wait_written();
  }
}

/// Pieces whose tiles are permuted, by all threads of the block.
template <kv_permutation P, class M>
ORIEL_HOST_DEVICE void permute_pieces(const kv_copy_call& call,
                                      const kv_pieces& pieces,
                                      M& machine) {
  kv_loader<M> loader(pieces, machine);
  const std::uint32_t count = pieces.count();
  machine.move([&] {
    for (std::uint32_t i = 0; i < kv_loads_ahead && i < count; ++i) {
      loader.load(i, i);
    }
  });
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t in = i % kv_loads_ahead, out = kv_loads_ahead + i % kv_stages_out;
    machine.move([&] {  // `out` was stored from two pieces ago.
      if (!ORIEL_MUTANT(stage_is_permuted_into_while_it_is_read)) {
        machine.template wait_read<kv_stages_out - 1>();
      }
    });
    if (!ORIEL_MUTANT(threads_do_not_wait_for_the_mover)) {
      machine.meet();
    }
    machine.wait_load(in, i / kv_loads_ahead % 2);
    const kv_piece_target target = machine.target(in);
    machine.each([&](std::uint32_t thread, std::uint32_t threads) {
      permute_rows<P>(target.is_k ? call.k : call.v,
                      target,
                      machine.stage(in),
                      machine.stage(out),
                      thread,
                      threads);
    });
    if (!ORIEL_MUTANT(permuted_stage_is_not_published)) {
      machine.publish();
    }
    machine.move([&] {  // Nobody reads `in` any more.
      machine.store(out, target.to, target.bytes);
      if (i + kv_loads_ahead < count) {
        loader.load(i + kv_loads_ahead, in);
      }
    });
  }
  machine.move([&] { machine.wait_written(); });
}

}  // namespace oriel::detail
