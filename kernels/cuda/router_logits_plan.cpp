// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/moe_route.hpp>
#include <oriel/kernels/router_logits.hpp>

namespace oriel::cuda {

result<router_logits_plan> plan_router_logits(const router_logits_shape& shape,
                                              std::uint32_t tokens_max) noexcept {
  constexpr std::uint32_t hidden_max = 1u << 20;
  if (shape.experts == 0 || shape.experts > max_experts || shape.hidden == 0 ||
      shape.hidden > hidden_max || tokens_max == 0) {
    return failure{errc::unsupported_shape, 0, "router_logits: empty, or too large a router"};
  }
  // By arithmetic (docs/kernels-gemm.md#router): where the next tile is no slower.
  constexpr std::uint32_t few_max = 32, some_max = 2'048;
  return router_logits_plan{.shape = shape,
                            .tile = tokens_max <= few_max    ? router_tile::few
                                    : tokens_max <= some_max ? router_tile::some
                                                             : router_tile::many};
}

}  // namespace oriel::cuda
