// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `host_step_memory`: the memory of a step program that runs on the host, and its operands in it.
#pragma once

#include <oriel/core/dtype.hpp>
#include <oriel/kernels/quantize_rows.hpp>

#include <catch2/catch.hpp>
#include <engine/aligned_bytes.hpp>
#include <engine/step_program.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <variant>
#include <vector>

namespace oriel::test {

class host_step_memory {
 public:
  using slice = engine::matrix_slice;

  void take(std::size_t size_bytes) { memory_ = engine::aligned_bytes(size_bytes); }
  [[nodiscard]] std::byte* data() noexcept { return memory_.data(); }

  /// Operands are that program's from now on.
  void begin(const engine::step_program& program) { p_ = &program; }
  [[nodiscard]] const engine::step_program& program() const noexcept { return *p_; }

  /// All that an operation here could take for written: not the 32 MiB that a device's products work in.
  void poison() {
    const engine::step_program& program = *p_;
    std::vector<bool> is_read(program.buffers.size(), true);
    for (const engine::operation& op : program.operations) {
      if (const auto* product = std::get_if<engine::gemm_op>(&op)) {
        is_read[static_cast<std::size_t>(product->workspace)] = false;
      }
      if (const auto* product = std::get_if<engine::scaled_gemm_op>(&op)) {
        is_read[static_cast<std::size_t>(product->workspace)] = false;
      }
    }
    for (std::size_t i = 0; i < is_read.size(); ++i) {
      const engine::program_buffer& b = program.buffers[i];
      if (is_read[i]) {
        std::memset(memory_.data() + b.offset_bytes, 0xFF, b.size_bytes);
      }
    }
  }

  template <class T>
  std::span<T> buffer(engine::buffer_id id) {
    const engine::program_buffer& b = (*p_)[id];
    return {reinterpret_cast<T*>(memory_.data() + b.offset_bytes), b.size_bytes / sizeof(T)};
  }
  std::uint32_t count_of(engine::row_set rows) {
    return buffer<std::uint32_t>(p_->inputs.row_counts)[static_cast<std::size_t>(rows)];
  }
  float* floats(const slice& s) {
    REQUIRE(s.type == dtype::f32);
    return buffer<float>(s.buffer).data() + s.offset;
  }
  /// Rows of a slice, side by side, in f32.
  std::vector<float> widened(const slice& s, std::size_t rows, std::size_t width) {
    std::vector<float> values(rows * width);
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t i = 0; i < width; ++i) {
        const std::size_t at = s.offset + r * s.stride + i;
        values[r * width + i] = s.type == dtype::f32 ? buffer<float>(s.buffer)[at]
                                                     : to_float(buffer<bf16>(s.buffer)[at]);
      }
    }
    return values;
  }
  void store(std::span<const float> values, const slice& s, std::size_t rows, std::size_t width) {
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t i = 0; i < width; ++i) {
        const std::size_t at = s.offset + r * s.stride + i;
        if (s.type == dtype::f32) {
          buffer<float>(s.buffer)[at] = values[r * width + i];
        } else {
          buffer<bf16>(s.buffer)[at] = to_bf16(values[r * width + i]);
        }
      }
    }
  }
  /// Where a kernel leaves rows in e4m3.
  quantized_rows quantized(const engine::operand_slice& s) {
    REQUIRE(s.values.type == dtype::e4m3);
    return {.values = buffer<e4m3>(s.values.buffer).data() + s.values.offset,
            .stride = s.values.stride,
            .scales = buffer<float>(s.scales).data(),
            .scale_row_stride = 1,
            .scale_group_stride = s.scale_stride};
  }
  /// Rows that lie side by side to e4m3, by the reference.
  void quantise(std::span<const float> x,
                std::uint32_t width,
                const engine::operand_slice& out,
                std::uint32_t rows) {
    reference::quantize_rows(
        {width}, {.out = quantized(out), .x = x.data(), .x_stride = width, .rows = rows});
  }
  /// For a kernel of the host, until the next one asks.
  std::span<std::byte> scratch(std::size_t bytes) {
    if (scratch_.size() < bytes) {
      scratch_ = engine::aligned_bytes(bytes);
    }
    return {scratch_.data(), scratch_.size()};
  }

 private:
  const engine::step_program* p_ = nullptr;
  engine::aligned_bytes memory_, scratch_;
};

}  // namespace oriel::test
