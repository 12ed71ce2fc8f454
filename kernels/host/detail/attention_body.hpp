// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Attention of one block over one split, written once for all paths over a unit
/// (attention_unit.hpp) and its lanes.
///
///     scores   S[row][key]  = sum over dims d ascending of q[row][d] * k[key][d]      lanes = keys
///     softmax  P[row][key]  = 2^(S * c - max), c = scale * log2(e), masked keys = 0
///     values   O[row][dim]  = sum over keys ascending of P[row][key] * v[key][dim]    lanes = dims
///
/// Each element of S and O is one chain of steps in a fixed order, kept in one register lane: the
/// shape of register tiles (rows x columns) changes speed, never bits. A score lane of a masked key
/// may hold anything and is replaced before use; a masked key of V is never multiplied.
#pragma once

#include "attention_task.hpp"
#include "attention_unit.hpp"

#include <oriel/kernels/dispatch.hpp>

#include <algorithm>
#include <cstring>
#include <limits>

namespace oriel::host::detail {

template <class Unit>
class attention_body {
  using lanes = typename Unit::lanes;
  using vec = typename lanes::vec;

  static constexpr std::uint32_t width = lanes::width;
  static constexpr std::uint32_t vectors_per_tile = kv_tile_tokens / width;
  static constexpr std::uint32_t units_per_tile = kv_tile_tokens / Unit::elements;
  /// Keys whose K is reused from the first cache by all rows of a block.
  static constexpr std::uint32_t key_run_tokens = 64;
  /// Keys whose V is added to O at one go: the longer, the less often O is loaded and stored.
  static constexpr std::uint32_t value_run_tokens = 256;
  static constexpr std::uint32_t value_run_tiles = value_run_tokens / kv_tile_tokens;

  /// Memory answers fastest when many places are asked for lines in turn: tiles fetched together.
  static constexpr std::uint32_t streams = 16;
  static constexpr std::uint32_t rounds = split_tiles / streams;
  static constexpr std::uint32_t stream_vectors = streams * vectors_per_tile;
  static constexpr std::uint32_t cache_line_bytes = 64;
  static constexpr std::uint32_t vectors_per_line = cache_line_bytes / (width * 4);

  template <std::uint32_t Rows>
  static constexpr std::uint32_t columns_max = std::min(8u, lanes::accumulators_max / Rows);

  /// Where a split's tiles lie; null where no row of the block looks. While K of this split is
  /// multiplied, K of the next one (`k_ahead`) is fetched, and so with V. Some K is left for the
  /// softmax to fetch, which else would leave the memory idle.
  struct tile_table {
    const std::byte* k[split_tiles];
    const std::byte* v[split_tiles];
    const std::byte* k_ahead[split_tiles];
    const std::byte* v_ahead[split_tiles];
    const std::byte* softmax_ahead[rounds];  ///< K
    bool fetching;                           ///< false: the tiles ahead are null
  };

 public:
  static attention_steps steps() noexcept { return {pack_queries, begin, split, fold, finish}; }

 private:
  /// The tiles of a split that some row of a block sees.
  struct tile_finder {
    tile_finder(const attention_block& block, std::uint32_t split)
        : b(block),
          tiles_per_page(block.shape->page_size / kv_tile_tokens),
          k_bytes(k_bytes_per_page(kv_tile_tokens, 1, block.shape->head_dim_qk, block.shape->kv)),
          v_bytes(v_bytes_per_page(kv_tile_tokens, 1, block.shape->head_dim_vo, block.shape->kv)),
          first(std::max(first_key(block, block.first_position) / kv_tile_tokens,
                         split * split_tiles)),
          last(std::min((block.first_position + block.tokens - 1) / kv_tile_tokens + 1,
                        (split + 1) * split_tiles)) {}

    [[nodiscard]] const std::byte* k(std::uint32_t t) const {
      return b.k + page(t) + t % tiles_per_page * k_bytes;
    }
    [[nodiscard]] const std::byte* v(std::uint32_t t) const {
      return b.v + page(t) + t % tiles_per_page * v_bytes;
    }
    [[nodiscard]] std::size_t page(std::uint32_t t) const {
      return page_at(*b.sequence, t / tiles_per_page) * b.page_stride_bytes;
    }

    const attention_block& b;
    std::uint32_t tiles_per_page;
    std::size_t k_bytes;
    std::size_t v_bytes;
    std::uint32_t first;
    std::uint32_t last;  ///< exclusive
  };

  /// Calls f(first_row, integral_constant rows) for register tiles that cover [first, first + n).
  template <class F>
  static void for_row_tiles(std::uint32_t first, std::uint32_t n, F&& f) {
    while (n > 0) {
      const std::uint32_t rows = std::min(lanes::rows_max,
                                          n >= 8   ? 8u
                                          : n >= 4 ? 4u
                                          : n >= 2 ? 2u
                                                   : 1u);
      if constexpr (lanes::rows_max >= 8) {
        dispatch_static<8, 4, 2, 1>(rows, [&](auto r) { f(first, r); });
      } else {
        dispatch_static<4, 2, 1>(rows, [&](auto r) { f(first, r); });
      }
      first += rows;
      n -= rows;
    }
  }

  /// Fetches as many bytes as `Columns` vectors hold of tiles [0, streams): a line of each in turn.
  /// `vector` counts what was fetched of them before. Into the first cache, though nothing stays
  /// there so long: fetches into the second alone are slower.
  template <std::uint32_t Columns>
  static void fetch(const std::byte* const* tiles, std::uint32_t vector) {
    constexpr std::uint32_t lines = std::max(1u, Columns / vectors_per_line);
    const std::uint32_t line = vector / vectors_per_line / lines * lines;
    const std::byte* const* tile = tiles + line % streams;
    const std::size_t offset = std::size_t{line / streams} * cache_line_bytes;
#pragma GCC unroll 8
    for (std::uint32_t i = 0; i < lines; ++i) {
      __builtin_prefetch(tile[i] + offset);
    }
  }

  static std::uint32_t position_of(const attention_block& b, std::uint32_t row) {
    return b.first_position + row / b.group;
  }

  static std::uint32_t units_of(const attention_shape& s) {
    return (s.head_dim_qk + Unit::elements - 1) / Unit::elements;
  }

  // --- queries ------------------------------------------------------------------------------

  /// A register tile of queries is [unit][row][word], so that its broadcasts read ahead.
  static void pack_queries(const attention_block& b, const attention_scratch& s) noexcept {
    const std::uint32_t dims = b.shape->head_dim_qk;
    for_row_tiles(0, b.rows(), [&](std::uint32_t first, auto rows) {
      float* tile = s.queries + first * query_stride(*b.shape);
      for (std::uint32_t r = 0; r < rows; ++r) {
        const std::uint32_t row = first + r;
        const float* q = b.q + row / b.group * b.q_stride + std::size_t{row % b.group} * dims;
        float* words = tile + std::size_t{r} * Unit::words;
        for (std::uint32_t d = 0; d < dims; d += Unit::elements, words += rows * Unit::words) {
          Unit::pack(words, q + d, dims - d);
        }
      }
    });
  }

  // --- scores -------------------------------------------------------------------------------

  /// Scores of `Rows` rows and `Columns` vectors of keys, from vector `column` of the split.
  template <std::uint32_t Rows, std::uint32_t Columns>
  static void score_tile(const float* q,
                         std::uint32_t units,
                         const tile_table& tiles,
                         std::uint32_t column,
                         bool fetching,
                         float* scores) {
    const std::byte* k[Columns];
    const std::byte* const* ahead = tiles.k_ahead + column / stream_vectors * streams;
    const std::uint32_t fetched = column % stream_vectors * units;
    vec acc[Rows][Columns];
#pragma GCC unroll 8
    for (std::uint32_t c = 0; c < Columns; ++c) {
      const std::uint32_t v = column + c;
      const std::uint32_t tile = v / vectors_per_tile, offset = v % vectors_per_tile * (width * 4);
      k[c] = tiles.k[tile] + offset;
#pragma GCC unroll 8
      for (std::uint32_t r = 0; r < Rows; ++r) {
        acc[r][c] = lanes::set1(0.0f);
      }
    }
    for (std::uint32_t u = 0; u < units; ++u) {
      typename Unit::loaded x[Columns];
#pragma GCC unroll 8
      for (std::uint32_t c = 0; c < Columns; ++c) {
        x[c] = Unit::load(k[c] + std::size_t{u} * (kv_tile_tokens * 4));
      }
      if (fetching) {
        fetch<Columns>(ahead, fetched + u * Columns);
      }
#pragma GCC unroll 8
      for (std::uint32_t r = 0; r < Rows; ++r, q += Unit::words) {
        const auto y = Unit::broadcast(q);
#pragma GCC unroll 8
        for (std::uint32_t c = 0; c < Columns; ++c) {
          acc[r][c] = Unit::step(acc[r][c], x[c], y);
        }
      }
    }
    for (std::uint32_t r = 0; r < Rows; ++r) {
      for (std::uint32_t c = 0; c < Columns; ++c) {
        lanes::store(scores + r * score_stride + std::size_t{column + c} * width, acc[r][c]);
      }
    }
  }

  /// Vectors [column, last) of keys, in tiles of at most `Columns`.
  template <std::uint32_t Rows, std::uint32_t Columns>
  static void score_columns(const float* q,
                            std::uint32_t units,
                            const tile_table& tiles,
                            std::uint32_t column,
                            std::uint32_t last,
                            bool fetching,
                            float* scores) {
    for (; column + Columns <= last; column += Columns) {
      score_tile<Rows, Columns>(q, units, tiles, column, fetching, scores);
    }
    if constexpr (Columns > 1) {
      score_columns<Rows, Columns / 2>(q, units, tiles, column, last, fetching, scores);
    }
  }

  static void compute_scores(const attention_block& b,
                             std::uint32_t split,
                             const attention_scratch& s,
                             const tile_table& tiles) {
    constexpr std::uint32_t run = key_run_tokens / width;
    const std::uint32_t units = units_of(*b.shape);
    const std::uint32_t last_position = b.first_position + b.tokens - 1;
    const std::uint32_t first = keys_in_split(b, b.first_position, split).first / width;
    const std::uint32_t last = keys_in_split(b, last_position, split).last;
    for (std::uint32_t begin = first / run * run; begin * width < last; begin += run) {
      for_row_tiles(0, b.rows(), [&](std::uint32_t row, auto rows) {
        const key_range low = keys_in_split(b, position_of(b, row), split);
        const key_range high = keys_in_split(b, position_of(b, row + rows - 1), split);
        score_columns<rows(), columns_max<rows()>>(
            s.queries + row * query_stride(*b.shape),
            units,
            tiles,
            std::max(begin, low.first / width),
            std::min(begin + run, (high.last + width - 1) / width),
            row == 0 && tiles.fetching,
            s.scores + row * score_stride);
      });
    }
  }

  // --- softmax ------------------------------------------------------------------------------

  /// 2^x for x <= 0 and a little above; 0 below -126.5. Relative error below 2e-7; 2^0 is 1.
  static vec exp2(vec x) {
    constexpr float to_whole = 0x1.8p23f;     // Adding it leaves no bits for a fraction.
    x = lanes::max(lanes::set1(-127.0f), x);  // In this order a NaN stays.
    const vec biased = lanes::add(x, lanes::set1(to_whole));
    const vec f = lanes::sub(x, lanes::sub(biased, lanes::set1(to_whole)));  // In [-0.5, 0.5].
    vec p = lanes::set1(0x1.5bba14p-10f);
    for (const float c : {0x1.3cea88p-7f, 0x1.c6b752p-5f, 0x1.ebf9bcp-3f, 0x1.62e42ap-1f, 1.0f}) {
      p = lanes::fma(p, f, lanes::set1(c));
    }
    return lanes::mul(p, lanes::power_of_two(biased));
  }

  /// Lines of K that the softmax of one row fetches: [line, last), counted across tiles.
  struct softmax_fetch {
    const std::byte* const* tiles;
    std::uint32_t line;
    std::uint32_t last;
  };

  static softmax_fetch softmax_fetch_of(const attention_block& b,
                                        std::uint32_t row,
                                        const tile_table& tiles) {
    constexpr std::uint32_t lines_per_row = split_tokens / width;
    const std::uint32_t lines = tiles.fetching ? rounds * units_of(*b.shape) : 0;
    return {tiles.softmax_ahead, row * lines_per_row, lines};
  }

  /// Turns scores into probabilities in place, zero for the masked keys of the vectors it touches.
  static void softmax_row(softmax_fetch ahead,
                          float* row,
                          key_range keys,
                          float scale,
                          float* max_out,
                          float* sum_out) {
    constexpr float lowest = -std::numeric_limits<float>::infinity();
    const std::uint32_t first = keys.first / width, last = (keys.last + width - 1) / width;
    const auto mask = [&](std::uint32_t v) {
      const std::uint32_t base = v * width;
      const vec x = lanes::load(row + base);
      const std::uint32_t from = keys.first > base ? keys.first - base : 0u;
      lanes::store(row + base, lanes::keep(x, from, std::min(keys.last - base, width), lowest));
    };
    mask(first);
    mask(last - 1);
    vec largest = lanes::set1(lowest);
    for (std::uint32_t v = first; v < last; ++v) {
      largest = lanes::max(largest, lanes::load(row + std::size_t{v} * width));
    }
    const float max = lanes::reduce_max(largest) * scale;
    vec sum = lanes::set1(0.0f);
    for (std::uint32_t v = first; v < last; ++v) {
      const vec x = lanes::load(row + std::size_t{v} * width);
      if (ahead.line < ahead.last) {
        const std::size_t offset = std::size_t{ahead.line / rounds} * cache_line_bytes;
        __builtin_prefetch(ahead.tiles[ahead.line++ % rounds] + offset);
      }
      const vec p = exp2(lanes::fma(x, lanes::set1(scale), lanes::set1(-max)));
      sum = lanes::add(sum, p);
      Unit::store(row, v, p);
    }
    *max_out = max;
    *sum_out = lanes::reduce_add(sum);
  }

  // --- values -------------------------------------------------------------------------------

  /// Adds the keys of units [first, last) of a split to some rows of O.
  struct value_run {
    const float* p;                 ///< probabilities of row 0
    float* out;                     ///< O of row 0
    std::size_t out_stride;         ///< floats
    const std::byte* const* tiles;  ///< V tiles of the split
    const std::byte* const* ahead;  ///< V tiles to fetch meanwhile, or null
    std::uint32_t dims;
    std::uint32_t first;
    std::uint32_t last;
    std::uint32_t mask;  ///< keys of each unit that count
  };

  /// `Whole`: all lanes of all columns are dims, and all keys count.
  template <std::uint32_t Rows, std::uint32_t Columns, bool Whole>
  static void value_tile(const value_run& run, std::uint32_t column) {
    const std::uint32_t last_lanes = std::min(width, run.dims - (column + Columns - 1) * width);
    const std::size_t unit_bytes = std::size_t{run.dims} * 4;
    float* out = run.out + std::size_t{column} * width;
    vec acc[Rows][Columns];
    for (std::uint32_t r = 0; r < Rows; ++r) {
      for (std::uint32_t c = 0; c < Columns; ++c) {
        acc[r][c] = lanes::load(out + r * run.out_stride + c * width);
      }
    }
    const std::uint32_t columns = (run.dims + width - 1) / width;
    const std::uint32_t first_tile = run.first / units_per_tile / value_run_tiles * value_run_tiles;
    const std::byte* const* ahead =
        run.ahead != nullptr ? run.ahead + first_tile / streams * streams : nullptr;
    // Of the run before this tile, less those of units [0, run.first).
    const std::uint32_t fetched =
        units_per_tile * (first_tile % streams * columns + column * value_run_tiles) -
        first_tile * units_per_tile * Columns;
    for (std::uint32_t u = run.first; u < run.last;) {
      const std::uint32_t tile = u / units_per_tile;
      const std::uint32_t tile_end = std::min(run.last, (tile + 1) * units_per_tile);
      const std::size_t offset = u % units_per_tile * unit_bytes + column * (width * 4);
      const std::byte* v = run.tiles[tile] + offset;
      for (; u < tile_end; ++u, v += unit_bytes) {
        typename Unit::loaded x[Columns];
#pragma GCC unroll 8
        for (std::uint32_t c = 0; c < Columns; ++c) {
          if constexpr (Whole) {
            x[c] = Unit::load(v + c * (width * 4));
          } else {
            x[c] = Unit::load_first(
                v + c * (width * 4), c + 1 < Columns ? width : last_lanes, run.mask);
          }
        }
        if (ahead != nullptr) {
          fetch<Columns>(ahead, fetched + u * Columns);
        }
#pragma GCC unroll 8
        for (std::uint32_t r = 0; r < Rows; ++r) {
          const auto y = Unit::broadcast(run.p + r * score_stride + u * Unit::words);
#pragma GCC unroll 8
          for (std::uint32_t c = 0; c < Columns; ++c) {
            acc[r][c] = Unit::step(acc[r][c], x[c], y);
          }
        }
      }
    }
    for (std::uint32_t r = 0; r < Rows; ++r) {
      for (std::uint32_t c = 0; c < Columns; ++c) {
        lanes::store(out + r * run.out_stride + c * width, acc[r][c]);
      }
    }
  }

  template <std::uint32_t Rows, std::uint32_t Columns>
  static void value_columns(const value_run& run, std::uint32_t column) {
    const std::uint32_t columns = (run.dims + width - 1) / width;
    for (; column + Columns <= columns; column += Columns) {
      if (run.mask == both_keys && (column + Columns) * width <= run.dims) {
        value_tile<Rows, Columns, true>(run, column);
      } else {
        value_tile<Rows, Columns, false>(run, column);
      }
    }
    if constexpr (Columns > 1) {
      value_columns<Rows, Columns / 2>(run, column);
    }
  }

  /// Rows [row, row + n): units [first, last), of which the keys in `mask` count.
  static void add_units(value_run run,
                        std::uint32_t row,
                        std::uint32_t n,
                        std::uint32_t first,
                        std::uint32_t last,
                        std::uint32_t mask) {
    if (first >= last) {
      return;
    }
    run.first = first;
    run.last = last;
    run.mask = mask;
    for_row_tiles(row, n, [&](std::uint32_t r, auto rows) {
      value_run tile = run;
      tile.p += r * score_stride;
      tile.out += r * run.out_stride;
      tile.ahead = r == 0 ? run.ahead : nullptr;
      value_columns<rows(), columns_max<rows()>>(tile, 0);
    });
  }

  /// Rows [row, row + n) of one token: all units with keys in [from, to), halves masked.
  static void add_keys(const value_run& run,
                       std::uint32_t row,
                       std::uint32_t n,
                       std::uint32_t from,
                       std::uint32_t to) {
    constexpr std::uint32_t e = Unit::elements;
    if (from >= to) {
      return;
    }
    const std::uint32_t first = (from + e - 1) / e, last = to / e;
    if (first * e != from) {
      add_units(run, row, n, first - 1, first, odd_key);
    }
    add_units(run, row, n, first, last, both_keys);
    if (last * e != to) {
      add_units(run, row, n, last, last + 1, even_key);
    }
  }

  /// Rows [row, row + n) of a register tile: keys of `split` within `run_keys`. The keys that all
  /// its tokens see are added together; what comes before and after, token by token.
  static void add_values(const attention_block& b,
                         std::uint32_t split,
                         const value_run& run,
                         key_range run_keys,
                         std::uint32_t row,
                         std::uint32_t n) {
    constexpr std::uint32_t e = Unit::elements;
    const auto clipped = [&](std::uint32_t r) {
      const key_range keys = keys_in_split(b, position_of(b, r), split);
      return key_range{std::max(keys.first, run_keys.first), std::min(keys.last, run_keys.last)};
    };
    const auto for_each_token = [&](auto&& f) {
      for (std::uint32_t r = row; r < row + n;) {
        const std::uint32_t end = std::min(row + n, (r / b.group + 1) * b.group);
        f(r, end - r, clipped(r));
        r = end;
      }
    };
    const std::uint32_t first = (clipped(row + n - 1).first + e - 1) / e * e;
    const std::uint32_t last = clipped(row).last / e * e;
    if (first >= last) {
      for_each_token([&](std::uint32_t r, std::uint32_t rows, key_range keys) {
        add_keys(run, r, rows, keys.first, keys.last);
      });
      return;
    }
    for_each_token([&](std::uint32_t r, std::uint32_t rows, key_range keys) {
      add_keys(run, r, rows, keys.first, first);
    });
    add_units(run, row, n, first / e, last / e, both_keys);
    for_each_token([&](std::uint32_t r, std::uint32_t rows, key_range keys) {
      add_keys(run, r, rows, last, keys.last);
    });
  }

  static void compute_values(const attention_block& b,
                             std::uint32_t split,
                             const attention_scratch& s,
                             const tile_table& tiles,
                             const attention_rows& partial) {
    const std::uint32_t last_position = b.first_position + b.tokens - 1;
    const std::uint32_t first = keys_in_split(b, b.first_position, split).first;
    const std::uint32_t last = keys_in_split(b, last_position, split).last;
    const value_run run{.p = s.scores,
                        .out = partial.out,
                        .out_stride = out_stride(*b.shape),
                        .tiles = tiles.v,
                        .ahead = tiles.fetching ? tiles.v_ahead : nullptr,
                        .dims = b.shape->head_dim_vo,
                        .first = 0,
                        .last = 0,
                        .mask = both_keys};
    std::fill_n(partial.out, b.rows() * run.out_stride, 0.0f);
    for (std::uint32_t key = first / value_run_tokens * value_run_tokens; key < last;
         key += value_run_tokens) {
      for (std::uint32_t row = 0; row < b.rows(); row += lanes::rows_max) {
        const std::uint32_t n = std::min(lanes::rows_max, b.rows() - row);
        add_values(b, split, run, {key, key + value_run_tokens}, row, n);
      }
    }
  }

  // --- steps --------------------------------------------------------------------------------

  static tile_table find_tiles(const attention_block& b,
                               std::uint32_t split,
                               const attention_ahead& next) {
    const tile_finder here(b, split);
    tile_table table{};
    for (std::uint32_t t = here.first; t < here.last; ++t) {
      table.k[t % split_tiles] = here.k(t);
      table.v[t % split_tiles] = here.v(t);
    }
    table.fetching = next.block != nullptr;
    if (table.fetching) {
      const tile_finder there(*next.block, next.split);
      for (std::uint32_t i = 0; i < split_tiles; ++i) {
        const std::uint32_t t =
            std::clamp(next.split * split_tiles + i, there.first, there.last - 1);
        table.k_ahead[i] = there.k(t);
        table.v_ahead[i] = there.v(t);
      }
    }
    for (std::uint32_t round = 0; round < rounds; ++round) {
      const std::byte** last = table.k_ahead + (round + 1) * streams - 1;
      table.softmax_ahead[round] = *last;
      *last = last[-1];  // Twice the same line: no more traffic.
    }
    return table;
  }

  static void split(const attention_block& b,
                    std::uint32_t index,
                    const attention_ahead& next,
                    const attention_scratch& s,
                    const attention_rows& partial) noexcept {
    const tile_table tiles = find_tiles(b, index, next);
    compute_scores(b, index, s, tiles);
    for (std::uint32_t row = 0; row < b.rows(); ++row) {
      const key_range keys = keys_in_split(b, position_of(b, row), index);
      if (keys.first < keys.last) {
        softmax_row(softmax_fetch_of(b, row, tiles),
                    s.scores + row * score_stride,
                    keys,
                    b.scale_log2e,
                    partial.max + row,
                    partial.sum + row);
      }
    }
    compute_values(b, index, s, tiles, partial);
  }

  static void begin(const attention_block& b, const attention_rows& state) noexcept {
    constexpr float log2e = 0x1.715476p0f;
    for (std::uint32_t row = 0; row < b.rows(); ++row) {
      state.max[row] =
          b.sinks ? b.sinks[row % b.group] * log2e : -std::numeric_limits<float>::infinity();
      state.sum[row] = b.sinks ? 1.0f : 0.0f;
    }
    std::fill_n(state.out, b.rows() * out_stride(*b.shape), 0.0f);
  }

  static void fold(const attention_block& b,
                   std::uint32_t split,
                   const attention_rows& partial,
                   const attention_rows& state) noexcept {
    const std::size_t stride = out_stride(*b.shape);
    for (std::uint32_t row = 0; row < b.rows(); ++row) {
      const key_range keys = keys_in_split(b, position_of(b, row), split);
      if (keys.first >= keys.last) {
        continue;
      }
      const float max = std::max(state.max[row], partial.max[row]);
      const vec old_scale = exp2(lanes::set1(state.max[row] - max));
      const vec new_scale = exp2(lanes::set1(partial.max[row] - max));
      const auto add = [&](float* x, const float* y, std::uint32_t n) {
        const vec scaled = lanes::mul(lanes::load_first(y, n), new_scale);
        lanes::store_first(x, lanes::fma(lanes::load_first(x, n), old_scale, scaled), n);
      };
      add(state.sum + row, partial.sum + row, 1);
      for (std::size_t d = 0; d < stride; d += width) {
        add(state.out + row * stride + d, partial.out + row * stride + d, width);
      }
      state.max[row] = max;
    }
  }

  static void finish(const attention_block& b, const attention_rows& state) noexcept {
    const std::uint32_t dims = b.shape->head_dim_vo;
    const std::size_t token_stride = std::size_t{b.shape->q_heads} * dims;
    for (std::uint32_t row = 0; row < b.rows(); ++row) {
      const vec sum = lanes::set1(state.sum[row]);
      const float* o = state.out + row * out_stride(*b.shape);
      float* out = b.out + row / b.group * token_stride + std::size_t{row % b.group} * dims;
      for (std::uint32_t d = 0; d < dims; d += width) {
        lanes::store_first(out + d, lanes::div(lanes::load(o + d), sum), std::min(width, dims - d));
      }
    }
  }
};

}  // namespace oriel::host::detail
