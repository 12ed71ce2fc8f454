// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/weight_rows.hpp>

#include <array>
#include <cstring>

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

std::array<float, 256> all_e4m3() noexcept {
  std::array<float, 256> values{};
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = to_float(static_cast<e4m3>(i));
  }
  return values;
}

/// One row: each run of 128 columns has its scale. The product is exact in f32 up to one rounding,
/// and bf16 is then rounded from it.
void dequantize_row(const std::byte* from,
                    const std::byte* scales,
                    std::uint32_t columns,
                    dtype to,
                    std::byte* out) noexcept {
  static const std::array<float, 256> values = all_e4m3();
  for (std::uint32_t c = 0; c < columns; ++c) {
    const float scale = load<float>(scales + std::size_t{c / scale_block} * sizeof(float));
    const bf16 x = to_bf16(values[static_cast<std::size_t>(from[c])] * scale);
    if (to == dtype::bf16) {
      std::memcpy(out + 2 * std::size_t{c}, &x, sizeof x);
    } else {
      const float wide = to_float(x);
      std::memcpy(out + 4 * std::size_t{c}, &wide, sizeof wide);
    }
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
  if (type == to && is_aligned(from, size_bytes(type))) {
    return from;
  }
  run_.resize(elements * size_bytes(to));
  if (type == to) {
    std::memcpy(run_.data(), from, run_.size());
  } else if (type == dtype::f32) {
    round_to_bf16(from, elements, run_.data());
  } else if (type == dtype::bf16) {
    widen(from, elements, run_.data());
  } else {
    const std::byte* const scales = tensors_.bytes(*range.scale).data();
    const std::size_t scale_row_bytes = range.scale->shape[1] * sizeof(float);
    for (std::uint32_t r = 0; r < count; ++r) {
      const std::uint64_t grid_row = range.first_row + first + r - range.grid_first_row;
      dequantize_row(from + std::size_t{r} * range.columns,
                     scales + (range.grid_scale_row + grid_row / scale_block) * scale_row_bytes,
                     range.columns,
                     to,
                     run_.data() + std::size_t{r} * range.columns * size_bytes(to));
    }
  }
  return run_.data();
}

void weight_rows::release(const row_range& range, std::uint32_t first, std::uint32_t count) {
  const std::span<const std::byte> part = stored(range, first, count);
  tensors_.drop(*range.weight, part);
  progress_.done_bytes += part.size();
  if (report_) {
    report_(progress_);
  }
}

std::vector<float> weight_rows::vector(const tensor_entry* entry) {
  if (entry == nullptr) {
    return {};
  }
  const std::span<const std::byte> from = tensors_.bytes(*entry);
  std::vector<float> values(entry->shape[0]);
  auto* const to = reinterpret_cast<std::byte*>(values.data());
  if (*entry->type == dtype::f32) {
    std::memcpy(to, from.data(), from.size());
  } else {
    widen(from.data(), values.size(), to);
  }
  tensors_.drop(*entry, from);
  progress_.done_bytes += from.size();
  return values;
}

}  // namespace oriel::engine
