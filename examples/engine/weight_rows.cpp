// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/quantize.hpp>

#include <engine/weight_rows.hpp>

#include <algorithm>
#include <cstring>
#include <utility>

namespace oriel::engine {
namespace {

constexpr std::size_t run_bytes = std::size_t{4} << 20;
constexpr std::uint32_t run_rows_multiple = 64;  ///< so that runs end where packed panels end

template <class T>
T load(const std::byte* from) noexcept {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

void round_to_bf16(const std::byte* from, std::size_t count, std::byte* to) noexcept {
  for (std::size_t i = 0; i < count; ++i) {
    const bf16 x = to_bf16(load<float>(from + 4 * i));
    std::memcpy(to + 2 * i, &x, sizeof x);
  }
}

void widen(const std::byte* from, std::size_t count, std::byte* to) noexcept {
  for (std::size_t i = 0; i < count; ++i) {
    const float x = to_float(load<bf16>(from + 2 * i));
    std::memcpy(to + 4 * i, &x, sizeof x);
  }
}

bool is_aligned(const std::byte* p, std::size_t to) noexcept {
  return reinterpret_cast<std::uintptr_t>(p) % to == 0;
}

}  // namespace

std::uint32_t weight_rows::run_rows(const row_range& range, dtype to) noexcept {
  const std::size_t row_bytes = range.columns * std::max(size_bytes(to), std::size_t{4});
  const auto rows = static_cast<std::uint32_t>(std::max(run_bytes / row_bytes, std::size_t{1}));
  return rows < run_rows_multiple ? rows : rows / run_rows_multiple * run_rows_multiple;
}

std::span<const std::byte> weight_rows::stored(const row_range& range,
                                               std::uint32_t first,
                                               std::uint32_t count) const noexcept {
  const std::size_t row_bytes = range.columns * size_bytes(*range.weight->type);
  return tensors_.bytes(*range.weight)
      .subspan((range.first_row + first) * row_bytes, count * row_bytes);
}

const void* weight_rows::read(const row_range& range,
                              std::uint32_t first,
                              std::uint32_t count,
                              dtype to) {
  const std::byte* const from = stored(range, first, count).data();
  const std::size_t elements = std::size_t{count} * range.columns;
  const dtype type = *range.weight->type;
  if (type == dtype::e4m3 && to != dtype::e4m3) {
    return dequantised(range, first, count, to);
  }
  if (type == to && is_aligned(from, size_bytes(type))) {
    return from;
  }
  run_.resize(elements * size_bytes(to));
  if (type == to) {
    std::memcpy(run_.data(), from, run_.size());
  } else if (type == dtype::f32) {
    round_to_bf16(from, elements, run_.data());
  } else {
    widen(from, elements, run_.data());
  }
  return run_.data();
}

const void* weight_rows::dequantised(const row_range& range,
                                     std::uint32_t first,
                                     std::uint32_t count,
                                     dtype to) {
  if (grid_of_ != range.scale) {  // Copied, since nothing aligns it in the file.
    grid_ = vector_of(*range.scale);
    grid_of_ = range.scale;
  }
  const std::uint64_t scale_columns = range.scale->shape[1];
  const std::size_t elements = std::size_t{count} * range.columns;
  const block_scaled_rows rows{
      .values = reinterpret_cast<const e4m3*>(stored(range, first, count).data()),
      .value_stride = range.columns,
      .scales = grid_.data() + range.grid_scale_row * scale_columns,
      .scale_stride = scale_columns,
      .grid_row = static_cast<std::uint32_t>(range.first_row + first - range.grid_first_row),
      .rows = count,
      .columns = range.columns};
  dequantised_.resize(elements);
  host::dequantize_block_scaled(rows, dequantised_.data(), range.columns);
  if (to == dtype::bf16) {
    return dequantised_.data();
  }
  run_.resize(elements * size_bytes(to));
  widen(reinterpret_cast<const std::byte*>(dequantised_.data()), elements, run_.data());
  return run_.data();
}

bool weight_rows::is_e4m3(const matrix_rows& matrix) noexcept {
  return std::ranges::all_of(
      matrix, [](const row_range& range) { return *range.weight->type == dtype::e4m3; });
}

bool weight_rows::is_e4m3(const moe_layout& layer) noexcept {
  return std::ranges::all_of(
      layer.experts, [](const ffn_layout& e) { return is_e4m3(e.gate_up) && is_e4m3(e.down); });
}

scale_places weight_rows::places_of(const matrix_rows& matrix) {
  scale_places places;
  std::vector<std::uint64_t> begins;  // [grids] in rows of all grids
  std::uint64_t grid_rows = 0;
  bool is_plain = true;
  for (const row_range& range : matrix) {
    const auto grid = std::ranges::find(places.grids, range.scale);
    const auto index = static_cast<std::size_t>(grid - places.grids.begin());
    if (grid == places.grids.end()) {
      places.grids.push_back(range.scale);
      begins.push_back(grid_rows);
      grid_rows += range.scale->shape[0];
      places.scales += range.scale->shape[0] * range.scale->shape[1];
    }
    const std::uint64_t first = begins[index] + range.grid_scale_row;
    for (std::uint32_t r = 0; r < range.rows; ++r) {
      const std::uint64_t row = first + (range.first_row + r - range.grid_first_row) / scale_block;
      is_plain = is_plain && row == places.rows.size() / scale_block;
      places.rows.push_back(static_cast<std::uint32_t>(row));
    }
  }
  if (is_plain) {
    places.rows.clear();
  }
  return places;
}

scale_grid weight_rows::grid_of(const matrix_rows& matrix) const {
  scale_places places = places_of(matrix);
  scale_grid grid{.scales = {}, .rows = std::move(places.rows)};
  for (const tensor_entry* const entry : places.grids) {
    const std::vector<float> scales = vector_of(*entry);
    grid.scales.insert(grid.scales.end(), scales.begin(), scales.end());
  }
  return grid;
}

void weight_rows::release(const row_range& range, std::uint32_t first, std::uint32_t count) {
  tensors_.drop(*range.weight);
  progress_.done_bytes += stored(range, first, count).size();
  if (report_) {
    report_(progress_);
  }
}

std::vector<float> weight_rows::vector_of(const tensor_entry& entry) const {
  const std::span<const std::byte> from = tensors_.bytes(entry);
  std::vector<float> values(from.size() / size_bytes(*entry.type));
  auto* const to = reinterpret_cast<std::byte*>(values.data());
  if (*entry.type == dtype::f32) {
    std::memcpy(to, from.data(), from.size());
  } else {
    widen(from.data(), values.size(), to);
  }
  tensors_.drop(entry);
  return values;
}

std::vector<float> weight_rows::vector(const tensor_entry* entry) {
  if (entry == nullptr) {
    return {};
  }
  progress_.done_bytes += entry->size_bytes;
  return vector_of(*entry);
}

}  // namespace oriel::engine
