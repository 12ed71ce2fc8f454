// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/for_rows.hpp"
#include "detail/row_kernels.hpp"

#include <oriel/kernels/moe_route.hpp>

namespace oriel::host {

result<moe_route_plan> plan_moe_route(const moe_route_shape& shape, isa path) noexcept {
  const bool counts = shape.experts >= 1 && shape.experts <= max_experts && shape.top_k >= 1 &&
                      shape.top_k <= 64 && shape.groups >= 1 && shape.experts % shape.groups == 0 &&
                      shape.kept_groups >= 1 && shape.kept_groups <= shape.groups;
  if (!counts || shape.experts / shape.groups * shape.kept_groups < shape.top_k) {
    return failure{errc::unsupported_shape, 0, "moe_route: experts, top_k or groups out of range"};
  }
  if (!is_supported(path)) {
    return failure{errc::unsupported_shape, 0, "moe_route: this CPU lacks the path"};
  }
  return moe_route_plan{.shape = shape, .path = path};
}

void run_moe_route(const moe_route_plan& plan,
                   const moe_route_args& args,
                   executor_ref executor) noexcept {
  const detail::row_kernels& kernels = detail::row_kernels_for(plan.path);
  const std::uint32_t top_k = plan.shape.top_k;
  // One pass to score (an exponential, a division), one per chosen expert.
  const std::uint64_t work = std::uint64_t{plan.shape.experts} * (4 + top_k / 2);
  detail::for_rows(executor, args.tokens, work, [&](std::uint32_t begin, std::uint32_t end) {
    for (std::size_t token = begin; token < end; ++token) {
      kernels.route(plan.shape,
                    args.logits + token * args.logits_stride,
                    args.correction_bias,
                    args.ids + token * top_k,
                    args.weights + token * top_k);
    }
  });
}

}  // namespace oriel::host
