// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a block of the kernel for activation quantisation does: 16 neighbouring threads have one
/// group of 128 columns, 8 columns each, so that a thread moves 16 bytes and writes 8. Kernels that
/// compute rows and quantise them on the way use `quantize_columns`, too.
#pragma once

#include "row_vector.cuh"
#include "thread_group.cuh"

#include <oriel/kernels/quantize_rows.hpp>

namespace oriel::detail {

inline constexpr std::uint32_t quantize_threads = 256;
inline constexpr std::uint32_t quantize_per_thread = 8;
inline constexpr std::uint32_t quantize_threads_per_group = quantize_group / quantize_per_thread;
inline constexpr std::uint32_t quantize_columns_per_block = quantize_threads * quantize_per_thread;

/// Can 8 neighbouring elements of a row be stored together?
[[nodiscard]] inline bool takes_whole_stores(const quantized_rows& out) noexcept {
  return reinterpret_cast<std::uintptr_t>(out.values) % 8 == 0 && out.stride % 8 == 0;
}

/// One thread's 8 columns, from `column` on, times `inverse`.
/// @tparam Whole  all are there, aligned; else each is looked at
template <bool Whole>
ORIEL_HOST_DEVICE void store_e4m3(e4m3* out,
                                  std::uint32_t column,
                                  std::uint32_t columns,
                                  const row_vector<quantize_per_thread>& v,
                                  float inverse) {
  std::uint32_t pair[quantize_per_thread / 2];
  for (std::uint32_t j = 0; j < quantize_per_thread / 2; ++j) {
    pair[j] = to_e4m3_pair(v.lane[2 * j] * inverse, v.lane[2 * j + 1] * inverse);
  }
  if constexpr (Whole) {
    if (column < columns) {
      const std::uint64_t low = pair[0] | (pair[1] << 16);
      const std::uint64_t high = pair[2] | (pair[3] << 16);
      *reinterpret_cast<std::uint64_t*>(out + column) = low | (high << 32);
    }
  } else {
    for (std::uint32_t j = 0; j < quantize_per_thread && column + j < columns; ++j) {
      out[column + j] = static_cast<e4m3>((pair[j / 2] >> (8 * (j % 2))) & 0xFFu);
    }
  }
}

/// Quantises columns [2048 * block, 2048 * (block + 1)) of a row.
/// @param load  load(thread, column): the 8 columns from there on; zeros beyond the row, which
///     change no scale
template <bool Whole, class Group, class Load>
ORIEL_HOST_DEVICE void quantize_columns(Group g,
                                        const quantized_rows& out,
                                        std::uint32_t columns,
                                        std::uint32_t row,
                                        std::uint32_t block,
                                        Load&& load) {
  static_assert(Group::threads == quantize_threads);
  using floats = row_vector<quantize_per_thread>;
  typename Group::template var<floats> x;
  typename Group::template var<std::uint32_t> largest;
  const auto column_of = [&](std::uint32_t thread) {
    return block * quantize_columns_per_block + thread * quantize_per_thread;
  };
  g.each([&](std::uint32_t thread) {
    x[thread] = load(thread, column_of(thread));
    std::uint32_t bits = 0;  // Of |x|: they are in its order.
    for (const float lane : x[thread].lane) {
      const std::uint32_t b = std::bit_cast<std::uint32_t>(lane) & 0x7FFF'FFFFu;
      bits = b > bits && b <= 0x7F80'0000u ? b : bits;
    }
    largest[thread] = bits;
  });
  largest = g.template max_over<quantize_threads_per_group>(largest);
  g.each([&](std::uint32_t thread) {
    const std::uint32_t column = column_of(thread);
    const float limit = std::bit_cast<float>(largest[thread]) / 448.0f;
    const float scale = limit > 0x1p-126f ? limit : 0x1p-126f;
    store_e4m3<Whole>(out.values + row * out.stride, column, columns, x[thread], 1.0f / scale);
    if (thread % quantize_threads_per_group == 0 && column < columns) {
      out.scales[row * out.scale_row_stride + column / quantize_group * out.scale_group_stride] =
          scale;
    }
  });
}

template <class T, bool Whole>
struct quantize_rows_agent {
  quantize_rows_shape shape;
  basic_quantize_rows_args<T> args;

  [[nodiscard]] static bool fits(const quantize_rows_shape& shape,
                                 const basic_quantize_rows_args<T>& args) {
    return shape.columns % quantize_per_thread == 0 && is_vector_aligned(args.x, args.x_stride) &&
           takes_whole_stores(args.out);
  }

  template <class Group>
  ORIEL_HOST_DEVICE void operator()(Group g, std::uint32_t row, std::uint32_t block) const {
    quantize_columns<Whole>(
        g, args.out, shape.columns, row, block, [&](std::uint32_t, std::uint32_t column) {
          return load(row, column);
        });
  }

 private:
  ORIEL_HOST_DEVICE row_vector<quantize_per_thread> load(std::uint32_t row,
                                                         std::uint32_t column) const {
    const T* x = args.x + row * args.x_stride;
    row_vector<quantize_per_thread> v = {};
    if constexpr (Whole) {
      if (column < shape.columns) {
        v = load_vector<quantize_per_thread>(x + column);
      }
    } else {
      for (std::uint32_t j = 0; j < quantize_per_thread; ++j) {
        v.lane[j] = column + j < shape.columns ? as_float(x[column + j]) : 0.0f;
      }
    }
    return v;
  }
};

}  // namespace oriel::detail
