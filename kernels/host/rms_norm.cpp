// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/for_rows.hpp"
#include "detail/row_kernels.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/kernels/rms_norm.hpp>

#include <algorithm>
#include <span>

namespace oriel::host {
namespace {

/// One group of columns in the forms that a product reads.
void write_operand(const rms_norm_args& args,
                   std::size_t row,
                   std::uint32_t first,
                   std::span<const float> y) {
  if (args.rounded != nullptr) {
    bf16* const to = args.rounded + row * args.rounded_stride + first;
    std::ranges::transform(y, to, [](float v) { return to_bf16(v); });
  }
  if (args.quantized.values != nullptr) {
    quantized_rows to = args.quantized;
    to.values += row * to.stride + first;
    to.scales += row * to.scale_row_stride + first / quantize_group * to.scale_group_stride;
    reference::quantize_rows({static_cast<std::uint32_t>(y.size())},
                             {.out = to, .x = y.data(), .x_stride = 0, .rows = 1});
  }
}

void write_row(const rms_norm_plan& plan,
               const rms_norm_args& args,
               std::size_t row,
               const float* h,
               float scale) {
  const auto columns = detail::row_kernels_for(plan.path).rms_norm_columns;
  const bool in_bf16 = plan.shape.activation == dtype::bf16;
  const std::uint32_t width = plan.shape.width;
  float* const out = args.out != nullptr ? args.out + row * args.out_stride : nullptr;
  if (args.rounded == nullptr && args.quantized.values == nullptr) {
    columns(out, h, args.weight, scale, width, in_bf16);
    return;
  }
  float group[quantize_group];
  for (std::uint32_t first = 0; first < width; first += quantize_group) {
    const std::uint32_t n = std::min(quantize_group, width - first);
    float* const y = out != nullptr ? out + first : group;
    columns(y, h + first, args.weight + first, scale, n, in_bf16);
    write_operand(args, row, first, {y, n});
  }
}

}  // namespace

result<rms_norm_plan> plan_rms_norm(const rms_norm_shape& shape, isa path) noexcept {
  if (shape.width == 0 || shape.activation == dtype::e4m3 || !is_supported(path)) {
    return failure{
        errc::unsupported_shape, 0, "rms_norm: empty row, e4m3 activation or missing path"};
  }
  return rms_norm_plan{.shape = shape, .path = path};
}

void run_rms_norm(const rms_norm_plan& plan,
                  const rms_norm_args& args,
                  executor_ref executor) noexcept {
  ORIEL_EXPECTS(args.add == nullptr || args.sum != nullptr);
  ORIEL_EXPECTS(args.out != nullptr || args.rounded != nullptr ||
                args.quantized.values != nullptr || args.rows == 0);
  const detail::row_kernels& kernels = detail::row_kernels_for(plan.path);
  detail::for_rows(
      executor, args.rows, plan.shape.width, [&](std::uint32_t begin, std::uint32_t end) {
        for (std::size_t row = begin; row < end; ++row) {
          const std::size_t at = row * args.x_stride;
          const bool adds = args.add != nullptr;
          const float scale =
              kernels.rms_norm_scale({.x = args.x + at,
                                      .add = adds ? args.add + at : nullptr,
                                      .sum = adds ? args.sum + at : nullptr,
                                      .width = plan.shape.width,
                                      .eps = plan.shape.eps,
                                      .bf16 = plan.shape.activation == dtype::bf16});
          write_row(plan, args, row, adds ? args.sum + at : args.x + at, scale);
        }
      });
}

}  // namespace oriel::host
