// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/kernels/kv_append.hpp>

#include <cstring>

namespace oriel::host {
namespace {

constexpr std::uint32_t rows_per_task = 16;

/// Two neighbours of a bf16 tile as they lie in memory: the first in the lower half.
std::uint32_t pack_pair(float first, float second) noexcept {
  const auto low = static_cast<std::uint32_t>(to_bf16(first));
  const auto high = static_cast<std::uint32_t>(to_bf16(second));
  return low | (high << 16);
}

/// Writes column `key` of a K tile: one word (a dim, or a pair of dims) per line of 16 keys.
void write_k(dtype kv, const float* k, std::uint32_t dims, std::byte* tile, std::uint32_t key) {
  std::byte* word = tile + std::size_t{key} * 4;
  constexpr std::size_t line_bytes = kv_tile_tokens * 4;
  if (kv == dtype::f32) {
    for (std::uint32_t d = 0; d < dims; ++d, word += line_bytes) {
      std::memcpy(word, k + d, 4);
    }
    return;
  }
  std::uint32_t d = 0;
  for (; d + 1 < dims; d += 2, word += line_bytes) {
    const std::uint32_t pair = pack_pair(k[d], k[d + 1]);
    std::memcpy(word, &pair, 4);
  }
  if (d < dims) {
    const std::uint32_t pair = pack_pair(k[d], 0.0f);
    std::memcpy(word, &pair, 4);
  }
}

/// Writes row `key` of a V tile; in bf16, its half of each pair.
void write_v(
    dtype kv, const float* v, float scale, std::uint32_t dims, std::byte* tile, std::uint32_t key) {
  if (kv == dtype::f32) {
    std::byte* row = tile + std::size_t{key} * dims * 4;
    for (std::uint32_t d = 0; d < dims; ++d) {
      const float scaled = v[d] * scale;
      std::memcpy(row + std::size_t{d} * 4, &scaled, 4);
    }
    return;
  }
  std::byte* half = tile + std::size_t{key / 2} * dims * 4 + key % 2 * 2;
  for (std::uint32_t d = 0; d < dims; ++d) {
    const bf16 scaled = to_bf16(v[d] * scale);
    std::memcpy(half + std::size_t{d} * 4, &scaled, 2);
  }
}

/// Writes all heads of one row.
void append_row(const attention_shape& shape,
                const kv_append_args& args,
                const paged_sequence& sequence,
                std::uint32_t position,
                std::size_t row) {
  const std::uint32_t dk = shape.head_dim_qk, dv = shape.head_dim_vo;
  const std::size_t page = page_at(sequence, position / shape.page_size);
  const std::uint32_t tile = position % shape.page_size / kv_tile_tokens;
  const std::uint32_t tiles = shape.page_size / kv_tile_tokens;
  const std::uint32_t key = position % kv_tile_tokens;
  const std::size_t k_tile_bytes = k_bytes_per_page(kv_tile_tokens, 1, dk, shape.kv);
  const std::size_t v_tile_bytes = v_bytes_per_page(kv_tile_tokens, 1, dv, shape.kv);
  for (std::uint32_t head = 0; head < shape.kv_heads; ++head) {
    const std::size_t tile_index = std::size_t{head} * tiles + tile;
    const std::size_t page_offset = page * args.kv.page_stride_bytes;
    write_k(shape.kv,
            args.k + row * args.k_stride + std::size_t{head} * dk,
            dk,
            args.kv.k + page_offset + tile_index * k_tile_bytes,
            key);
    write_v(shape.kv,
            args.v + row * args.v_stride + std::size_t{head} * dv,
            args.v_scale,
            dv,
            args.kv.v + page_offset + tile_index * v_tile_bytes,
            key);
  }
}

/// Writes rows [first, last) of the batch.
void append_rows(const attention_shape& shape,
                 const kv_append_args& args,
                 std::size_t first,
                 std::size_t last) {
  std::size_t begin = 0;  // Of the sequence, in rows of the batch.
  for (const paged_sequence& sequence : args.sequences) {
    const std::size_t end = begin + sequence.rows;
    for (std::size_t row = first > begin ? first : begin; row < end && row < last; ++row) {
      const auto position = sequence.first_position + static_cast<std::uint32_t>(row - begin);
      if (position >= sequence.first_key) {
        append_row(shape, args, sequence, position, row);
      }
    }
    begin = end;
    if (begin >= last) {
      return;
    }
  }
}

}  // namespace

void run_kv_append(const attention_shape& shape,
                   const kv_append_args& args,
                   executor_ref executor) noexcept {
  ORIEL_EXPECTS(shape.kv != dtype::e4m3 && shape.page_size % kv_tile_tokens == 0);
  std::size_t rows = 0;
  for (const paged_sequence& sequence : args.sequences) {
    rows += sequence.rows;
  }
  const auto tasks = static_cast<std::uint32_t>((rows + rows_per_task - 1) / rows_per_task);
  executor.for_each(tasks, [&](std::uint32_t task, std::uint32_t) {
    const std::size_t first = std::size_t{task} * rows_per_task;
    append_rows(shape, args, first, first + rows_per_task);
  });
}

}  // namespace oriel::host
