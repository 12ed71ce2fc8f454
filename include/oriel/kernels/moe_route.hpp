// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Which experts serve a token, and with what weight (docs/model.md#routing):
///
///     s      = sigmoid(logit)                    scores
///     choice = s + correction_bias               decides, but never weighs
///     groups: keep the kept_groups groups with the largest sum of their two best choices
///     ids    = the top_k largest choices among the kept groups, in ascending expert id
///     weight = s / (sum of the chosen s + 1e-20) if normalize, times scale
///
/// Ties go to the lowest expert id (and group). A logit or bias that is NaN makes the expert's
/// choice -infinity: it loses against every number, is taken only when too few others are left, and
/// a NaN score weighs 0. So ids are always distinct and in range, whatever the logits hold.
#pragma once

#include <oriel/core/executor.hpp>
#include <oriel/core/result.hpp>
#include <oriel/kernels/isa.hpp>

#include <cstddef>
#include <cstdint>

struct CUstream_st;  // cudaStream_t is a pointer to it; no CUDA header is needed to name one.

namespace oriel {

/// The most experts that one router may have.
inline constexpr std::uint32_t max_experts = 1'024;

/// One router.
struct moe_route_shape {
  std::uint32_t experts;          ///< 1 to max_experts
  std::uint32_t top_k;            ///< experts per token, 1 to 64
  std::uint32_t groups = 1;       ///< n_group: divides experts
  std::uint32_t kept_groups = 1;  ///< topk_group: 1 to groups; their experts number at least top_k
  bool normalize = true;          ///< norm_topk_prob
  float scale = 1.0f;             ///< routed_scaling_factor
};

/// Arguments of one call.
struct moe_route_args {
  std::uint32_t* ids;            ///< [tokens, top_k] expert ids, ascending within a token
  float* weights;                ///< [tokens, top_k]
  const float* logits;           ///< [tokens, experts]
  std::size_t logits_stride;     ///< elements from one token's logits to the next
  const float* correction_bias;  ///< [experts] e_score_correction_bias, or null: zeros
  std::uint32_t tokens;
};

namespace reference {

/// By sorting; the sigmoid in double precision, rounded to f32. O(tokens * experts * log experts).
void moe_route(const moe_route_shape& shape, const moe_route_args& args);

}  // namespace reference

namespace host {

/// A decided launch. Plain data.
struct moe_route_plan {
  moe_route_shape shape;
  isa path;
};

/// @returns errc::unsupported_shape for a shape outside the ranges above or a path this CPU lacks.
[[nodiscard]] result<moe_route_plan> plan_moe_route(const moe_route_shape& shape,
                                                    isa path = best_isa()) noexcept;

/// Needs no workspace. O(tokens * experts * top_k / 16). Bits are the same on every path.
void run_moe_route(const moe_route_plan& plan,
                   const moe_route_args& args,
                   executor_ref executor) noexcept;

}  // namespace host

namespace cuda {

/// A decided launch. Plain data.
struct moe_route_plan {
  moe_route_shape shape;
  std::uint32_t scores_per_lane;  ///< of a warp, which has one token: 8, 12, 16 or 32
};

/// Pure host arithmetic; needs no device.
/// @returns errc::unsupported_shape for a shape outside the ranges above.
[[nodiscard]] result<moe_route_plan> plan_moe_route(const moe_route_shape& shape) noexcept;

/// Enqueues the tokens, a warp each; every pointer in `args` is device memory. The same bits as the
/// host's.
/// @param token_count  in device memory: tokens beyond it stay as they are; null: all
/// @returns errc::device_failure
status run_moe_route(const moe_route_plan& plan,
                     const moe_route_args& args,
                     CUstream_st* stream,
                     const std::uint32_t* token_count = nullptr) noexcept;

}  // namespace cuda
}  // namespace oriel
