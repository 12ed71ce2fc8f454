// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The forms in which a norm may leave its rows, with gaps behind the rows, and the same rows made
/// by a norm and a kernel behind it.
#pragma once

#include <oriel/kernels/quantize_rows.hpp>
#include <oriel/kernels/rms_norm.hpp>

#include <support/arrays.hpp>

#include <cstring>
#include <span>
#include <type_traits>

/// Which forms: any sum of these.
enum norm_form : unsigned { plain_rows = 1, bf16_rows = 2, e4m3_rows = 4, all_rows = 7 };

/// @tparam T  of the norm's rows: float or bf16
template <class T>
class norm_forms {
 public:
  norm_forms(std::uint32_t rows, std::uint32_t width, std::size_t stride)
      : rows_(rows),
        width_(width),
        stride_(stride),
        out_(rows * stride * sizeof(T)),
        rounded_(rows * stride * sizeof(oriel::bf16)),
        values_(rows * stride),
        scales_((width / oriel::quantize_group + 1) * (rows + 1) * sizeof(float)) {}

  void ask(oriel::basic_rms_norm_args<T>& args, unsigned forms) {
    args.out = forms & plain_rows ? at<T>(out_) : nullptr;
    args.out_stride = stride_;
    args.rounded = forms & bf16_rows ? at<oriel::bf16>(rounded_) : nullptr;
    args.rounded_stride = stride_;
    args.quantized = forms & e4m3_rows ? quantized() : oriel::quantized_rows{};
  }

  /// What the kernels behind a norm would make of its rows.
  /// @param y  [rows, stride]
  void make(std::span<const float> y, unsigned forms) {
    for (std::size_t row = 0; row < rows_; ++row) {
      for (std::size_t i = row * stride_; i < row * stride_ + width_; ++i) {
        if (forms & plain_rows) {
          at<T>(out_)[i] = stored(y[i]);
        }
        if (forms & bf16_rows) {
          at<oriel::bf16>(rounded_)[i] = oriel::to_bf16(y[i]);
        }
      }
    }
    if (forms & e4m3_rows) {
      oriel::reference::quantize_rows(
          {width_}, {.out = quantized(), .x = y.data(), .x_stride = stride_, .rows = rows_});
    }
  }

  /// Gaps, and forms that nobody asked for, too.
  [[nodiscard]] bool has_bits_of(norm_forms& other) {
    return same(out_, other.out_) && same(rounded_, other.rounded_) &&
           same(values_, other.values_) && same(scales_, other.scales_);
  }

 private:
  template <class U>
  static U* at(workspace_bytes& bytes) {
    return reinterpret_cast<U*>(bytes.span().data());
  }
  static bool same(workspace_bytes& a, workspace_bytes& b) {
    return a.span().size() == b.span().size() &&
           std::memcmp(a.span().data(), b.span().data(), a.span().size()) == 0;
  }
  static T stored(float x) {
    if constexpr (std::is_same_v<T, float>) {
      return x;
    } else {
      return oriel::to_bf16(x);
    }
  }
  oriel::quantized_rows quantized() {
    return {.values = at<oriel::e4m3>(values_),
            .stride = stride_,
            .scales = at<float>(scales_),
            .scale_row_stride = 1,
            .scale_group_stride = rows_ + 1};
  }

  std::uint32_t rows_, width_;
  std::size_t stride_;
  workspace_bytes out_, rounded_, values_, scales_;
};
