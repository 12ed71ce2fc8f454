// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/for_rows.hpp"
#include "detail/row_kernels.hpp"

#include <oriel/kernels/swiglu.hpp>

namespace oriel::host {

result<swiglu_plan> plan_swiglu(const swiglu_shape& shape, isa path) noexcept {
  if (shape.inter == 0 || shape.activation == dtype::e4m3 || !is_supported(path)) {
    return failure{
        errc::unsupported_shape, 0, "swiglu: empty row, e4m3 activation or missing path"};
  }
  return swiglu_plan{.shape = shape, .path = path};
}

void run_swiglu(const swiglu_plan& plan, const swiglu_args& args, executor_ref executor) noexcept {
  const detail::row_kernels& kernels = detail::row_kernels_for(plan.path);
  const std::uint32_t inter = plan.shape.inter;
  // An exponential and a division: each element counts for four of a plain row.
  detail::for_rows(
      executor, args.rows, std::uint64_t{inter} * 4, [&](std::uint32_t begin, std::uint32_t end) {
        for (std::size_t row = begin; row < end; ++row) {
          const float* gate = args.gate_up + row * args.gate_up_stride;
          kernels.swiglu(args.out + row * args.out_stride,
                         gate,
                         gate + inter,
                         inter,
                         plan.shape.activation == dtype::bf16);
        }
      });
}

}  // namespace oriel::host
