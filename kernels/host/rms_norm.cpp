// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/for_rows.hpp"
#include "detail/row_kernels.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/kernels/rms_norm.hpp>

namespace oriel::host {

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
  const detail::row_kernels& kernels = detail::row_kernels_for(plan.path);
  detail::for_rows(
      executor, args.rows, plan.shape.width, [&](std::uint32_t begin, std::uint32_t end) {
        for (std::size_t row = begin; row < end; ++row) {
          const std::size_t at = row * args.x_stride;
          kernels.rms_norm({.out = args.out + row * args.out_stride,
                            .x = args.x + at,
                            .add = args.add != nullptr ? args.add + at : nullptr,
                            .sum = args.add != nullptr ? args.sum + at : nullptr,
                            .weight = args.weight,
                            .width = plan.shape.width,
                            .eps = plan.shape.eps,
                            .bf16 = plan.shape.activation == dtype::bf16});
        }
      });
}

}  // namespace oriel::host
