// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The router's product on a device: logits[token, expert] = sum over k of x[token, k] * w[expert,
/// k], x in bf16 and w in f32, neither rounded any further. Behind it stands moe_route.hpp.
///
/// Order-fixed: a logit's bits depend on its token's row and its expert's weights alone, whatever
/// the number of tokens, their companions and the tile (docs/arithmetic.md#router-on-a-device). On
/// the host this is gemm.hpp with weights in f32, and reference::gemm is the oracle.
#pragma once

#include <oriel/core/dtype.hpp>
#include <oriel/core/result.hpp>

#include <cstddef>
#include <cstdint>

struct CUstream_st;  // cudaStream_t is a pointer to it; no CUDA header is needed to name one.

namespace oriel {

struct router_logits_shape {
  std::uint32_t experts;  ///< 1 to max_experts (moe_route.hpp)
  std::uint32_t hidden;   ///< k: 1 to 2^20
};

/// Arguments of one call; device memory throughout.
struct router_logits_args {
  float* logits;              ///< [tokens, experts]
  std::size_t logits_stride;  ///< elements from one token's logits to the next
  const bf16* x;              ///< [tokens, hidden]
  std::size_t x_stride;       ///< elements from one row of x to the next
  const float* weights;       ///< [experts, hidden], side by side, as in a checkpoint; finite
  std::uint32_t tokens;
};

namespace cuda {

/// What a block of threads computes, tokens x experts. All give the same bits.
enum class router_tile : std::uint8_t {
  few,   ///< 16 x 8: the most blocks
  some,  ///< 64 x 16
  many   ///< 128 x 128: the fewest bytes
};

/// A decided launch. Plain data.
struct router_logits_plan {
  router_logits_shape shape;
  router_tile tile;
};

/// Pure host arithmetic; needs no device.
/// @param tokens_max  of a call; more of them are computed as well, by a tile that is not theirs: up to 2^20 - 16
/// @returns errc::unsupported_shape for a shape outside the ranges above
[[nodiscard]] result<router_logits_plan> plan_router_logits(const router_logits_shape& shape,
                                                            std::uint32_t tokens_max) noexcept;

/// Enqueues the product. Needs no workspace. Where x, its stride or the weights are no multiples of
/// 16 bytes, or hidden is no multiple of 4, the tile is `few` whatever the plan says, and slower.
/// @param token_count  in device memory: tokens beyond it stay as they are; null: all
/// @returns errc::device_failure
status run_router_logits(const router_logits_plan& plan,
                         const router_logits_args& args,
                         CUstream_st* stream,
                         const std::uint32_t* token_count = nullptr) noexcept;

}  // namespace cuda
}  // namespace oriel
