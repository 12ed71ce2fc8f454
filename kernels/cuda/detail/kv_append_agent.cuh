// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a block of the KV append kernel does.
///
///     block (x, head)   rows [16 x, 16 x + 16) of the batch, one KV head; 256 threads
///     rows              a scan over the sequences' row counts, a sequence a thread, tells the
///                       block whose its rows are
///     places            a thread a row looks its page up, while numbers are under way
///     scales            e4m3: 8 threads a row
///     K                 a thread has 8 dims of a row, which lie side by side in bf16 and e4m3.
///                       8 neighbouring threads have 8 rows: 128 bytes of a tile in bf16.
///     V                 a thread has a dim of 8 rows. Where these are the 8 keys of a group, they
///                       lie side by side; else each is stored by itself.
///
/// So that a long part's groups of keys are whole wherever its rows begin in the batch, V of a
/// group is the block's that has its first row: the block skips the rows of a group begun before
/// it, and goes on behind its last row to the end of the group.
#pragma once

#include "row_vector.cuh"
#include "thread_group.cuh"

#include <oriel/core/mutation.hpp>
#include <oriel/device/paged_kv_view.cuh>
#include <oriel/kernels/kv_append.hpp>

#include <bit>

namespace oriel::detail {

inline constexpr std::uint32_t kv_append_rows = kv_tile_tokens;  // per block
inline constexpr std::uint32_t kv_append_threads = 256;
/// The block's rows and those behind, of which V may be its own.
inline constexpr std::uint32_t kv_append_span = kv_append_rows + kv_group_tokens;

/// Where a row goes.
struct kv_append_place {
  static constexpr std::uint32_t none = UINT32_MAX;

  std::size_t k_tile;  ///< byte offsets, as paged_kv_view's
  std::size_t v_tile;
  std::uint32_t key;           ///< of both tiles; `none`: nothing is to be written
  std::uint32_t begins_group;  ///< this row and 7 more are the keys of a group
};

/// Shared memory of a block.
struct kv_append_shared {
  kv_append_place place[kv_append_span];
  std::uint64_t warp_sums[kv_append_threads / 32];
  std::uint64_t rows_seen;  ///< of the sequences that were looked at
  std::uint32_t sequence[kv_append_span];
  std::uint32_t position[kv_append_span];
  std::uint32_t v_first;  ///< V: rows [v_first, v_last) are the block's
  std::uint32_t v_last;
  float k_inverse[kv_append_rows];  ///< e4m3: 1 / scale
  float v_inverse[kv_append_span];
};

/// What a thread has under way: 8 dims of two rows' K, and 8 rows of a dim of V.
struct kv_append_numbers {
  row_vector<kv_group_tokens> k[2];
  row_vector<kv_group_tokens> v;
};

template <dtype Kv>
struct kv_append_agent {
  attention_shape shape;
  kv_append_args args;

  /// `Group` has kv_append_threads.
  template <class Group>
  ORIEL_HOST_DEVICE void operator()(Group g,
                                    std::uint32_t block,
                                    std::uint32_t head,
                                    kv_append_shared& shared) const {
    static_assert(Group::threads == kv_append_threads);
    const view_type view(shape, args.kv);
    find_rows(g, std::uint64_t{block} * kv_append_rows, shared);
    const float* k = args.k + std::size_t{block} * kv_append_rows * args.k_stride +
                     std::size_t{head} * shape.head_dim_qk;
    const float* v = args.v + std::size_t{block} * kv_append_rows * args.v_stride +
                     std::size_t{head} * shape.head_dim_vo;
    if constexpr (Kv == dtype::e4m3) {
      find_places(g, view, head, shared);
      scale_k(g, view, k, shared);
      scale_v(g, view, v, shared);
      g.sync();
    }
    if (is_wide(k)) {
      append<true>(g, view, k, v, head, shared);
    } else {
      append<false>(g, view, k, v, head, shared);
    }
  }

 private:
  using view_type = paged_kv_view<Kv>;
  using element = typename view_type::element;
  static constexpr std::uint32_t none = kv_append_place::none;
  static constexpr std::uint32_t side = kv_group_tokens;  // of 8 x 8 numbers side by side

  /// Which sequence each row belongs to, and its position there.
  template <class Group>
  ORIEL_HOST_DEVICE void find_rows(Group& g,
                                   std::uint64_t first_row,
                                   kv_append_shared& shared) const {
    const paged_sequence* const sequences = args.sequences.data();
    const auto count = static_cast<std::uint32_t>(args.sequences.size());
    const std::uint64_t last_row = first_row + kv_append_span;
    g.each([&](std::uint32_t thread) {
      if (thread < kv_append_span) {
        shared.sequence[thread] = none;
      }
      if (thread == 0) {
        shared.rows_seen = 0;
        shared.v_first = 0;
        shared.v_last = kv_append_rows;
      }
    });
    g.sync();
    typename Group::template var<std::uint64_t> rows;
    for (std::uint32_t first = 0; first < count && shared.rows_seen < last_row;
         first += kv_append_threads) {
      const std::uint64_t seen = shared.rows_seen;
      g.each([&](std::uint32_t thread) {
        rows[thread] = first + thread < count ? sequences[first + thread].rows : 0;
      });
      const auto before = scan_group(g, rows, shared.warp_sums);
      g.each([&](std::uint32_t thread) {
        const std::uint64_t begin = seen + before[thread], end = begin + rows[thread];
        if (rows[thread] != 0 && begin < last_row && end > first_row) {
          put_rows(first + thread, begin, end, first_row, shared);
        }
        if (thread == kv_append_threads - 1) {
          shared.rows_seen = end;
        }
      });
      g.sync();
    }
  }

  /// Sequence `index` has the batch's rows [begin, end), of which the block has some.
  ORIEL_HOST_DEVICE void put_rows(std::uint32_t index,
                                  std::uint64_t begin,
                                  std::uint64_t end,
                                  std::uint64_t first_row,
                                  kv_append_shared& shared) const {
    // Positions of the block's row 0, were it the sequence's, and so on.
    const std::uint32_t base =
        args.sequences.data()[index].first_position + static_cast<std::uint32_t>(first_row - begin);
    const auto from = static_cast<std::uint32_t>(begin > first_row ? begin - first_row : 0);
    const auto to = static_cast<std::uint32_t>(end < first_row + kv_append_span ? end - first_row
                                                                                : kv_append_span);
    for (std::uint32_t row = from; row < to; ++row) {
      shared.sequence[row] = index;
      shared.position[row] = base + row;
    }
    // Rows from `row` on of a group that began before it.
    const auto begun = [&](std::uint32_t row) -> std::uint32_t {
      const std::uint32_t to_border = (0u - (base + row)) % side;
      const std::uint64_t to_end = end - (first_row + row);
      return begin == first_row + row ? 0
             : to_border < to_end     ? to_border
                                      : static_cast<std::uint32_t>(to_end);
    };
    if (from == 0) {
      shared.v_first = begun(0);
    }
    if (from <= kv_append_rows && to > kv_append_rows) {
      shared.v_last = kv_append_rows +
                      (ORIEL_MUTANT(append_leaves_groups_unfinished) ? 0 : begun(kv_append_rows));
    }
  }

  template <class Group>
  ORIEL_HOST_DEVICE void find_places(Group& g,
                                     const view_type& view,
                                     std::uint32_t head,
                                     kv_append_shared& shared) const {
    g.each([&](std::uint32_t thread) {
      if (thread >= kv_append_span) {
        return;
      }
      kv_append_place place{0, 0, none, 0};
      if (shared.sequence[thread] != none) {
        const paged_sequence sequence = args.sequences.data()[shared.sequence[thread]];
        const std::uint32_t position = shared.position[thread];
        if (position >= sequence.first_key ||
            (Kv == dtype::e4m3 && ORIEL_MUTANT(e4m3_append_writes_cached_rows))) {
          const bool is_group = position % side == 0 && thread + side <= kv_append_span &&
                                shared.sequence[thread + side - 1] == shared.sequence[thread];
          place = {view.k_tile(sequence, position, head),
                   view.v_tile(sequence, position, head),
                   position % kv_tile_tokens,
                   is_group ? 1u : 0u};
        }
      }
      shared.place[thread] = place;
    });
    g.sync();
  }

  // ---- e4m3: scales ----------------------------------------------------------------------------

  /// The scale of 8 threads' row, whose numbers are x * factor. @param x  null: there is none
  template <class Group>
  ORIEL_HOST_DEVICE static typename Group::template var<std::uint32_t> largest_of_rows(
      Group& g,
      const typename Group::template var<const float*>& x,
      std::uint32_t dims,
      float factor) {
    typename Group::template var<std::uint32_t> largest;
    g.each([&](std::uint32_t thread) {
      std::uint32_t bits = 0;  // Of |x|: they are in its order, and a NaN's are the largest.
      const std::uint32_t end = x[thread] != nullptr ? dims : 0;
      for (std::uint32_t first = thread % side; first < end; first += side * side) {
        row_vector<side> v;  // Loads first: under way together.
        ORIEL_UNROLL
        for (std::uint32_t i = 0; i < side; ++i) {
          v.lane[i] = first + i * side < end ? x[thread][first + i * side] : 0.0f;
        }
        ORIEL_UNROLL
        for (const float lane : v.lane) {
          const std::uint32_t b = std::bit_cast<std::uint32_t>(lane * factor) & 0x7FFF'FFFFu;
          bits = b > bits ? b : bits;
        }
      }
      largest[thread] = bits;
    });
    return g.template max_over<side>(largest);
  }

  template <class Group>
  ORIEL_HOST_DEVICE void scale_k(Group& g,
                                 const view_type& view,
                                 const float* k,
                                 kv_append_shared& shared) const {
    typename Group::template var<const float*> x;
    g.each([&](std::uint32_t thread) {
      const std::uint32_t row = thread / side;
      const bool is_row = row < kv_append_rows && shared.place[row].key != none;
      x[thread] = is_row ? k + row * args.k_stride : nullptr;
    });
    const auto largest = largest_of_rows(g, x, shape.head_dim_qk, 1.0f);
    g.each([&](std::uint32_t thread) {
      if (x[thread] != nullptr && thread % side == 0) {
        const float scale = kv_scale_of(std::bit_cast<float>(largest[thread]));
        const kv_append_place& at = shared.place[thread / side];
        view.k_scale_in(at.k_tile, at.key) = scale;
        shared.k_inverse[thread / side] = 1.0f / scale;
      }
    });
  }

  template <class Group>
  ORIEL_HOST_DEVICE void scale_v(Group& g,
                                 const view_type& view,
                                 const float* v,
                                 kv_append_shared& shared) const {
    typename Group::template var<const float*> x;
    g.each([&](std::uint32_t thread) {
      const std::uint32_t row = thread / side;
      const bool is_row =
          row >= shared.v_first && row < shared.v_last && shared.place[row].key != none;
      x[thread] = is_row ? v + row * args.v_stride : nullptr;
    });
    const auto largest = largest_of_rows(g, x, shape.head_dim_vo, args.v_scale);
    g.each([&](std::uint32_t thread) {
      if (x[thread] != nullptr && thread % side == 0) {
        const float scale = kv_scale_of(std::bit_cast<float>(largest[thread]));
        const kv_append_place& at = shared.place[thread / side];
        view.v_scale_in(at.v_tile, at.key) = scale;
        shared.v_inverse[thread / side] = 1.0f / scale;
      }
    });
  }

  // ---- numbers ---------------------------------------------------------------------------------

  ORIEL_HOST_DEVICE static element stored(float x) {
    if constexpr (Kv == dtype::bf16) {
      return nearest_bf16(x);
    } else if constexpr (Kv == dtype::e4m3) {
      return static_cast<e4m3>(to_e4m3_pair(x, 0.0f) & 0xFFu);
    } else {
      return x;
    }
  }

  /// 8 numbers side by side. `to` is the first's place.
  ORIEL_HOST_DEVICE static void store_side(element* to, const row_vector<side>& x) {
    if constexpr (Kv == dtype::bf16) {
      words16 w;
      ORIEL_UNROLL
      for (std::uint32_t i = 0; i < 4; ++i) {
        w.word[i] = nearest_bf16_pair(x.lane[2 * i], x.lane[2 * i + 1]);
      }
      store_global_words(to, w);
    } else if constexpr (Kv == dtype::e4m3) {  // Of four numbers the order is 0 2 1 3.
      const auto four = [&](std::uint32_t i) {
        return to_e4m3_pair(x.lane[i], x.lane[i + 2]) |
               (to_e4m3_pair(x.lane[i + 1], x.lane[i + 3]) << 16);
      };
      const std::uint64_t bytes = four(0) | (std::uint64_t{four(4)} << 32);
#ifdef __CUDA_ARCH__
      *reinterpret_cast<std::uint64_t*>(to) = bytes;
#else
      ORIEL_EXPECTS(reinterpret_cast<std::uintptr_t>(to) % sizeof bytes == 0);
      std::memcpy(to, &bytes, sizeof bytes);
#endif
    }
  }

  /// Are 8 dims of K 32 aligned bytes in memory, and side by side in their tile?
  ORIEL_HOST_DEVICE bool is_wide(const float* k) const {
    return Kv != dtype::f32 && shape.head_dim_qk % side == 0 &&
           reinterpret_cast<std::uintptr_t>(k) % 16 == 0 && args.k_stride % 4 == 0;
  }

  /// All rows. In each step a thread has two pieces of K, of 8 dims of a row each, and a dim of 8
  /// rows of V: all of head dims 192 and 128. Of bf16 and f32, pages are looked up while the first
  /// step's numbers are under way.
  template <bool Wide, class Group>
  ORIEL_HOST_DEVICE void append(Group& g,
                                const view_type& view,
                                const float* k,
                                const float* v,
                                std::uint32_t head,
                                kv_append_shared& shared) const {
    const std::uint32_t pieces = 2 * chunks();
    const std::uint32_t windows = (shared.v_last - shared.v_first + side - 1) / side;
    const std::uint32_t columns = windows * view.stored_dims_vo();
    typename Group::template var<kv_append_numbers> x;
    for (std::uint32_t step = 0;
         step * 2 * piece_threads < pieces || step * kv_append_threads < columns;
         ++step) {
      g.each([&](std::uint32_t thread) {
        load_k<Wide>(k, step, thread, shared, x[thread]);
        load_v(view, v, step, thread, shared, x[thread]);
      });
      if (step == 0 && Kv != dtype::e4m3) {
        find_places(g, view, head, shared);
      }
      g.each([&](std::uint32_t thread) {
        store_k<Wide>(view, step, thread, shared, x[thread]);
        store_v(view, step, thread, shared, x[thread]);
      });
    }
  }

  static constexpr std::uint32_t piece_threads = kv_append_threads / side;

  /// Pieces of a row of K.
  ORIEL_HOST_DEVICE std::uint32_t chunks() const {
    return (view_type::stored_dims(shape.head_dim_qk) + side - 1) / side;
  }

  /// 8 dims of a row of K.
  struct k_piece {
    std::uint32_t row;  ///< `none`: there is no such piece
    std::uint32_t dim;
  };
  ORIEL_HOST_DEVICE k_piece piece_of(std::uint32_t step,
                                     std::uint32_t j,
                                     std::uint32_t thread) const {
    const std::uint32_t i = (step * 2 + j) * piece_threads + thread / side, per_row = chunks();
    const std::uint32_t half = i < per_row ? 0u : 1u;
    return {.row = i < 2 * per_row ? half * side + thread % side : none,
            .dim = (i - half * per_row) * side};
  }

  template <bool Wide>
  ORIEL_HOST_DEVICE void load_k(const float* k,
                                std::uint32_t step,
                                std::uint32_t thread,
                                const kv_append_shared& shared,
                                kv_append_numbers& x) const {
    ORIEL_UNROLL
    for (std::uint32_t j = 0; j < 2; ++j) {
      const k_piece at = piece_of(step, j, thread);
      if (at.row == none || shared.sequence[at.row] == none) {
        continue;
      }
      const float* from = k + at.row * args.k_stride + at.dim;
      if constexpr (Wide) {
        x.k[j] = load_vector<side>(from);
      } else {
        ORIEL_UNROLL
        for (std::uint32_t i = 0; i < side; ++i) {
          x.k[j].lane[i] = at.dim + i < shape.head_dim_qk ? from[i] : 0.0f;
        }
      }
    }
  }

  template <bool Wide>
  ORIEL_HOST_DEVICE void store_k(const view_type& view,
                                 std::uint32_t step,
                                 std::uint32_t thread,
                                 const kv_append_shared& shared,
                                 kv_append_numbers& x) const {
    const std::uint32_t dims = view_type::stored_dims(shape.head_dim_qk);
    ORIEL_UNROLL
    for (std::uint32_t j = 0; j < 2; ++j) {
      const k_piece at = piece_of(step, j, thread);
      if (at.row == none || shared.place[at.row].key == none) {
        continue;
      }
      const kv_append_place place = shared.place[at.row];
      scale_by(x.k[j], Kv == dtype::e4m3 ? shared.k_inverse[at.row] : 1.0f);
      if constexpr (Wide) {
        store_side(&view.k_in(place.k_tile, place.key, at.dim), x.k[j]);
      } else {
        ORIEL_UNROLL
        for (std::uint32_t i = 0; i < side; ++i) {
          if (at.dim + i < dims) {
            view.k_in(place.k_tile, place.key, at.dim + i) = stored(x.k[j].lane[i]);
          }
        }
      }
    }
  }

  ORIEL_HOST_DEVICE static void scale_by(row_vector<side>& x, float factor) {
    if constexpr (Kv == dtype::e4m3) {
      ORIEL_UNROLL
      for (float& lane : x.lane) {
        lane = lane * factor;
      }
    }
  }

  /// A dim of 8 rows of V.
  struct v_column {
    std::uint32_t row;
    std::uint32_t dim;
  };
  ORIEL_HOST_DEVICE static v_column column_of(const view_type& view,
                                              std::uint32_t step,
                                              std::uint32_t thread,
                                              const kv_append_shared& shared) {
    const std::uint32_t i = step * kv_append_threads + thread, dims = view.stored_dims_vo();
    const std::uint32_t window = i / dims;
    return {.row = shared.v_first + window * side, .dim = i - window * dims};
  }

  ORIEL_HOST_DEVICE void load_v(const view_type& view,
                                const float* v,
                                std::uint32_t step,
                                std::uint32_t thread,
                                const kv_append_shared& shared,
                                kv_append_numbers& x) const {
    const v_column at = column_of(view, step, thread, shared);
    const float* from = v + at.row * args.v_stride + at.dim;
    ORIEL_UNROLL
    for (std::uint32_t j = 0; j < side; ++j) {
      const bool is_there = at.row + j < shared.v_last && shared.sequence[at.row + j] != none &&
                            at.dim < shape.head_dim_vo;
      x.v.lane[j] = is_there ? from[j * args.v_stride] : 0.0f;
    }
  }

  ORIEL_HOST_DEVICE void store_v(const view_type& view,
                                 std::uint32_t step,
                                 std::uint32_t thread,
                                 const kv_append_shared& shared,
                                 kv_append_numbers& x) const {
    const v_column at = column_of(view, step, thread, shared);
    if (at.row >= shared.v_last) {
      return;
    }
    ORIEL_UNROLL
    for (std::uint32_t j = 0; j < side; ++j) {
      x.v.lane[j] = x.v.lane[j] * args.v_scale;
      if (Kv == dtype::e4m3 && at.row + j < shared.v_last) {
        x.v.lane[j] = x.v.lane[j] * shared.v_inverse[at.row + j];
      }
    }
    const kv_append_place first = shared.place[at.row];
    if (Kv != dtype::f32 && first.begins_group != 0) {
      store_side(&view.v_in(first.v_tile, first.key, at.dim), x.v);
      return;
    }
    ORIEL_UNROLL
    for (std::uint32_t j = 0; j < side; ++j) {
      if (at.row + j < shared.v_last && shared.place[at.row + j].key != none) {
        const kv_append_place& place = shared.place[at.row + j];
        view.v_in(place.v_tile, place.key, at.dim) = stored(x.v.lane[j]);
      }
    }
  }
};

}  // namespace oriel::detail
