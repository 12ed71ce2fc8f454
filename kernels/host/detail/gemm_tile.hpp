// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The tile product, written once over a SIMD traits struct. Included by the units gemm_<isa>.cpp,
/// whose traits live in an anonymous namespace, so that no two units share code by accident.
///
/// Traits `T`:
///   vec, width          accumulator of `width` floats; zero(), load(), store(), add()
///   weights             one step of `width` output features; load_weights(const std::byte*)
///   operand             one step of one row of x, in all lanes; broadcast(const std::uint32_t*)
///   mac(acc, x, w)      the arithmetic of one step
///   panel_vectors, rows_max, k_per_step, x_lanes_per_step, panels_together(rows)
///   pack_lanes(const float* x, std::uint32_t* lanes)   one full chunk of x
#pragma once

#include <host/detail/gemm_kernel.hpp>

#include <cstring>
#include <utility>

namespace oriel::host::detail {

// Bytes of weights in flight between memory and the multiply-adds: latency times bandwidth, and
// some.
inline constexpr std::size_t stream_bytes = 8192;

/// Rows * Panels * T::panel_vectors accumulators stay in registers from the first step to the last.
template <class T, std::size_t Rows, std::size_t Panels>
struct tile_product {
  static constexpr std::size_t vectors = Panels * T::panel_vectors;
  static constexpr std::size_t panel_width = T::panel_vectors * T::width;
  static constexpr std::size_t step_bytes = panel_width * sizeof(std::uint32_t);
  static constexpr std::uint32_t chunk_steps = chunk_lanes / T::x_lanes_per_step;

  typename T::vec acc[Rows][vectors];

  [[gnu::always_inline]] void clear() noexcept {
#pragma GCC unroll 16
    for (std::size_t r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
      for (std::size_t v = 0; v < vectors; ++v) {
        acc[r][v] = T::zero();
      }
    }
  }

  [[gnu::always_inline]] void step(const std::uint32_t* x,
                                   const std::byte* w,
                                   std::size_t panel_bytes) noexcept {
    const auto load = [&](std::size_t v) {
      const std::byte* panel = w + v / T::panel_vectors * panel_bytes;
      return T::load_weights(panel + v % T::panel_vectors * T::width * sizeof(std::uint32_t));
    };
    // The smaller operand waits in registers, the other passes by.
    if constexpr (Rows < vectors) {
      typename T::operand operands[Rows];
#pragma GCC unroll 16
      for (std::size_t r = 0; r < Rows; ++r) {
        operands[r] = T::broadcast(x + r * chunk_lanes);
      }
#pragma GCC unroll 16
      for (std::size_t v = 0; v < vectors; ++v) {
        const typename T::weights weights = load(v);
#pragma GCC unroll 16
        for (std::size_t r = 0; r < Rows; ++r) {
          acc[r][v] = T::mac(acc[r][v], operands[r], weights);
        }
      }
    } else {
      typename T::weights weights[vectors];
#pragma GCC unroll 16
      for (std::size_t v = 0; v < vectors; ++v) {
        weights[v] = load(v);
      }
#pragma GCC unroll 16
      for (std::size_t r = 0; r < Rows; ++r) {
        const typename T::operand operand = T::broadcast(x + r * chunk_lanes);
#pragma GCC unroll 16
        for (std::size_t v = 0; v < vectors; ++v) {
          acc[r][v] = T::mac(acc[r][v], operand, weights[v]);
        }
      }
    }
  }

  // Asks for one step of each panel, to be there `stream_bytes` later.
  [[gnu::always_inline]] static void prefetch_step(const std::byte* ahead,
                                                   std::size_t panel_bytes) noexcept {
#pragma GCC unroll 4
    for (std::size_t p = 0; p < Panels; ++p) {
#pragma GCC unroll 4
      for (std::size_t line = 0; line < step_bytes; line += 64) {
        __builtin_prefetch(ahead + p * panel_bytes + line);
      }
    }
  }

  [[gnu::always_inline]] void multiply(const gemm_tile& tile) noexcept {
    constexpr std::uint32_t ahead_steps = stream_bytes / (Panels * step_bytes);
    const std::size_t panel_bytes = tile.steps * step_bytes;
    const std::uint32_t* x = tile.x;
    const std::byte* w = tile.panel;
    const std::byte* next = tile.next;
    for (std::uint32_t left = tile.steps; left > 0;) {
      const std::uint32_t steps = left < chunk_steps ? left : chunk_steps;
      // What follows the end of a panel is the next one; of several, the next after all of them.
      const std::size_t wrap = left <= ahead_steps ? (Panels - 1) * panel_bytes : 0;
      const std::byte* ahead = w + ahead_steps * step_bytes + wrap;
      for (std::uint32_t s = 0; s < steps; ++s) {
        prefetch_step(ahead + s * step_bytes, panel_bytes);
        step(x + s * T::x_lanes_per_step, w, panel_bytes);
        w += step_bytes;
      }
      for (std::uint32_t line = 0; line < tile.next_lines; ++line, next += 64) {
        __builtin_prefetch(next, 0, 2);  // To the L2 cache.
      }
      x += Rows * chunk_lanes;
      left -= steps;
    }
  }

  /// Adds what is there where asked, and writes the accumulators out.
  [[gnu::always_inline]] void store(float* out, std::size_t stride, bool accumulate) noexcept {
#pragma GCC unroll 16
    for (std::size_t r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
      for (std::size_t v = 0; v < vectors; ++v) {
        float* const to = out + r * stride + v * T::width;
        T::store(to, accumulate ? T::add(T::load(to), acc[r][v]) : acc[r][v]);
      }
    }
  }

  static void run(const gemm_tile& tile) noexcept {
    constexpr std::size_t columns = Panels * panel_width;
    tile_product product;
    product.clear();
    for (std::size_t r = 0; r < Rows; ++r) {  // The out rows lie far apart: ask for them now.
      for (std::size_t line = 0; line < columns; line += 16) {
        __builtin_prefetch(tile.out + r * tile.out_stride + line, 1);
      }
    }
    product.multiply(tile);
    if (tile.columns == columns) {
      product.store(tile.out, tile.out_stride, tile.accumulate);
      return;
    }
    // The last panel is partly padding: by way of a full tile on the stack.
    alignas(64) float full[Rows][columns];
    for (std::size_t r = 0; r < Rows; ++r) {
      std::memcpy(full[r], tile.out + r * tile.out_stride, tile.columns * sizeof(float));
    }
    product.store(full[0], columns, tile.accumulate);
    for (std::size_t r = 0; r < Rows; ++r) {
      std::memcpy(tile.out + r * tile.out_stride, full[r], tile.columns * sizeof(float));
    }
  }
};

/// One panel at a time where there are many rows; several for few rows: enough independent
/// accumulators to hide the latency of a multiply-add, and several streams from memory.
template <class T, std::size_t Rows>
void multiply_rows(const gemm_tile& tile) noexcept {
  constexpr std::size_t panel_width = T::panel_vectors * T::width;
  constexpr std::size_t together = T::panels_together(Rows);
  const std::size_t panel_bytes = tile.steps * tile_product<T, Rows, 1>::step_bytes;
  gemm_tile part = tile;
  for (std::uint32_t left = tile.columns; left > 0;) {
    if (left >= together * panel_width) {
      part.columns = static_cast<std::uint32_t>(together * panel_width);
      tile_product<T, Rows, together>::run(part);
    } else {
      part.columns = left < panel_width ? left : static_cast<std::uint32_t>(panel_width);
      tile_product<T, Rows, 1>::run(part);
    }
    left -= part.columns;
    part.out += part.columns;
    part.panel += part.columns / panel_width * panel_bytes;
  }
}

template <class T>
void multiply_tile(const gemm_tile& tile) noexcept {
  using function = void (*)(const gemm_tile&) noexcept;
  static constexpr auto table = []<std::size_t... R>(std::index_sequence<R...>) {
    struct {
      function of[T::rows_max];
    } functions{{&multiply_rows<T, R + 1>...}};
    return functions;
  }
  (std::make_index_sequence<T::rows_max>{});
  table.of[tile.rows - 1](tile);
}

/// Rounds or copies rows of x into a block's chunks; k's remainder is padded with zeros.
template <class T>
void pack_block(const float* x,
                std::size_t stride,
                std::uint32_t rows,
                std::uint32_t k,
                std::uint32_t* block) noexcept {
  constexpr std::uint32_t chunk_k = chunk_lanes / T::x_lanes_per_step * T::k_per_step;
  for (std::uint32_t r = 0; r < rows; ++r) {
    const float* from = x + r * stride;
    std::uint32_t* lanes = block + r * chunk_lanes;
    std::uint32_t done = 0;
    for (; done + chunk_k <= k; done += chunk_k, lanes += rows * chunk_lanes) {
      T::pack_lanes(from + done, lanes);
    }
    if (done < k) {
      float last[chunk_k] = {};
      std::memcpy(last, from + done, (k - done) * sizeof(float));
      T::pack_lanes(last, lanes);
    }
  }
}

template <class T>
constexpr gemm_kernel make_gemm_kernel() noexcept {
  return {.rows_max = T::rows_max,
          .panel_width = T::panel_vectors * T::width,
          .k_per_step = T::k_per_step,
          .x_lanes_per_step = T::x_lanes_per_step,
          .pack_block = &pack_block<T>,
          .multiply = &multiply_tile<T>};
}

}  // namespace oriel::host::detail
