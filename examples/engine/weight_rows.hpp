// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `weight_rows`: reads ranges of a checkpoint's rows as f32, bf16 or, as they are, e4m3, run by
/// run, and lets go of the file's pages behind itself, so that resident memory stays at one run
/// beside the packed weights.
#pragma once

#include <oriel/core/dtype.hpp>

#include <engine/checkpoint_layout.hpp>
#include <engine/safetensors.hpp>
#include <engine/weights.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace oriel::engine {

/// Bytes of tensors read so far, and of all tensors.
struct load_progress {
  std::uint64_t done_bytes = 0;
  std::uint64_t total_bytes = 0;
};

/// The grids of a matrix's tensors, one behind the other, and where each row finds itself in them.
struct scale_places {
  std::vector<const tensor_entry*> grids;
  std::vector<std::uint32_t> rows;  ///< as scale_grid::rows
  std::uint64_t scales = 0;         ///< of all grids
};

class weight_rows {
 public:
  weight_rows(const safetensors_store& tensors, std::function<void(const load_progress&)> report)
      : tensors_(tensors), report_(std::move(report)) {
    progress_.total_bytes = tensors.size_bytes();
  }

  /// Calls `sink(rows, first_row, count)` for runs of the matrix's rows, in order, as elements of
  /// `to`. Quantised weights are rounded once to bf16, or stay as they are where `to` is e4m3.
  template <class Sink>
  void for_each_run(const matrix_rows& matrix, dtype to, Sink&& sink) {
    std::uint32_t done = 0;
    for (const row_range& range : matrix) {
      const std::uint32_t run = run_rows(range, to);
      for (std::uint32_t r = 0; r < range.rows; r += run) {
        const std::uint32_t count = std::min(run, range.rows - r);
        sink(read(range, r, count, to), done + r, count);
        release(range, r, count);
      }
      done += range.rows;
    }
  }

  /// Is the whole matrix stored in e4m3?
  [[nodiscard]] static bool is_e4m3(const matrix_rows& matrix) noexcept;
  /// Is every expert?
  [[nodiscard]] static bool is_e4m3(const moe_layout& layer) noexcept;
  /// Where such a matrix has its scales. Reads nothing.
  [[nodiscard]] static scale_places places_of(const matrix_rows& matrix);
  /// The scales of such a matrix.
  [[nodiscard]] scale_grid grid_of(const matrix_rows& matrix) const;

  /// A vector as f32; empty for null.
  [[nodiscard]] std::vector<float> vector(const tensor_entry* entry);

 private:
  static std::uint32_t run_rows(const row_range& range, dtype to) noexcept;
  /// Rows [first, first + count) of the range; valid until the next call.
  const void* read(const row_range& range, std::uint32_t first, std::uint32_t count, dtype to);
  const void* dequantised(const row_range& range,
                          std::uint32_t first,
                          std::uint32_t count,
                          dtype to);
  std::vector<float> vector_of(const tensor_entry& entry) const;
  void release(const row_range& range, std::uint32_t first, std::uint32_t count);
  std::span<const std::byte> stored(const row_range& range,
                                    std::uint32_t first,
                                    std::uint32_t count) const noexcept;

  const safetensors_store& tensors_;
  std::function<void(const load_progress&)> report_;
  load_progress progress_;
  std::vector<std::byte> run_;  ///< converted rows
  std::vector<bf16> dequantised_;
  std::vector<float> grid_;  ///< the scales of `grid_of_`
  const tensor_entry* grid_of_ = nullptr;
};

}  // namespace oriel::engine
