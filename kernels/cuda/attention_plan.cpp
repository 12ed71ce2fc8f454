// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/attention_units.hpp"
#include "detail/row_vector.cuh"
#include "detail/shared_memory.hpp"

#include <oriel/core/contract.hpp>

#include <type_traits>

namespace oriel::cuda {
namespace {

using detail::attention_call;
using detail::attention_partials;

constexpr std::uint32_t block_rows_of_warpgroup = 64;
constexpr std::uint32_t rows_that_verify_max = 8;

const char* problem_with(const attention_shape& s) noexcept {
  if (s.kv_heads == 0 || s.q_heads == 0 || s.q_heads % s.kv_heads != 0) {
    return "attention: kv_heads does not divide q_heads";
  }
  if (s.q_heads / s.kv_heads > 16) {
    return "attention: more than 16 query heads per KV head";
  }
  if (s.head_dim_qk - 1 > 255 || s.head_dim_vo - 1 > 255) {
    return "attention: a head dim is outside 1 to 256";
  }
  if (s.page_size == 0 || s.page_size % kv_tile_tokens != 0) {
    return "attention: page_size is no multiple of 16";
  }
  return nullptr;
}

const char* problem_with(const attention_limits& limits) noexcept {
  if (limits.sequences_max - 1 > 1023) {
    return "attention: 1 to 1024 sequences in a call";
  }
  if (limits.rows_max == 0 || limits.rows_per_sequence_min == 0 || limits.keys_max == 0 ||
      limits.multiprocessors == 0) {
    return "attention: a limit is 0";
  }
  if (limits.rows_per_sequence_max < limits.rows_per_sequence_min) {
    return "attention: rows_per_sequence_max is below rows_per_sequence_min";
  }
  constexpr std::uint32_t keys_most = 1u << 30;  // Positions and their neighbours fit 32 bits.
  return limits.keys_max > keys_most ? "attention: keys_max is above 2^30" : nullptr;
}

bool has_tensor_core_unit(const attention_shape& s) noexcept {
  const auto is = [&](std::uint32_t qk, std::uint32_t vo) {
    return s.head_dim_qk == qk && s.head_dim_vo == vo;
  };
  return s.kv != dtype::f32 && (is(192, 128) || is(128, 128) || is(64, 64));
}

/// Pieces of the workspace; with a null base it only counts.
attention_partials carve(const attention_plan& plan, std::byte* base, std::size_t& bytes) noexcept {
  bytes = 0;
  const auto take = [&]<class T>(T*& piece, std::size_t n) {
    piece = base != nullptr ? reinterpret_cast<T*>(base + bytes) : nullptr;
    bytes += (n * sizeof(T) + 255) / 256 * 256;
  };
  attention_partials p{};
  const std::size_t slots =
      std::size_t{plan.limits.sequences_max} * plan.limits.rows_per_sequence_max;
  const std::size_t shares = slots * plan.shape.q_heads * plan.splits_max;
  if (shares != 0) {
    take(p.out, shares * plan.shape.head_dim_vo);
    take(p.weights, shares);
    take(p.batch_rows, slots);
  }
  return p;
}

}  // namespace

result<attention_plan> plan_attention(const attention_shape& shape,
                                      const attention_limits& limits) noexcept {
  if (const char* problem = problem_with(shape)) {
    return failure{errc::unsupported_shape, 0, problem};
  }
  if (const char* problem = problem_with(limits)) {
    return failure{errc::unsupported_shape, 0, problem};
  }
  attention_plan plan{.shape = shape,
                      .limits = limits,
                      .unit = attention_unit::generic,
                      .q_type = shape.kv == dtype::f32 ? dtype::f32 : dtype::bf16,
                      .warpgroups = 1,
                      .splits_max = 0,
                      .blocks = 0,
                      .shared_bytes = 0,
                      .workspace_bytes = 0};
  const std::uint32_t group = shape.q_heads / shape.kv_heads;
  if (!has_tensor_core_unit(shape)) {
    const std::uint64_t warps = std::uint64_t{limits.rows_max} * shape.q_heads;
    const std::uint64_t blocks = (warps - 1) / detail::generic_warps_per_block + 1, most = 1u << 20;
    plan.blocks = static_cast<std::uint32_t>(blocks < most ? blocks : most);
    return plan;
  }
  plan.unit = attention_unit::tensor_core;
  plan.warpgroups = limits.rows_per_sequence_max > block_rows_of_warpgroup / group ? 2 : 1;
  // A prompt has rows enough for the device, and a window few keys: their rows keep their splits.
  if (shape.window_tokens == 0 && limits.rows_per_sequence_max <= rows_that_verify_max) {
    plan.splits_max = (limits.keys_max - 1) / detail::split_keys + 1;
    plan.splits_max = plan.splits_max == 1 ? 0 : plan.splits_max;
  }
  plan.blocks = limits.multiprocessors;
  plan.shared_bytes = detail::attention_shared_bytes(shape, plan.warpgroups, limits.sequences_max);
  if (plan.shared_bytes > detail::block_shared_bytes_max) {
    return failure{errc::unsupported_shape, 0, "attention: tables exceed shared memory"};
  }
  carve(plan, nullptr, plan.workspace_bytes);
  return plan;
}

}  // namespace oriel::cuda

namespace oriel::detail {

template <class T, class Out>
attention_call make_attention_call(const cuda::attention_plan& plan,
                                   const basic_attention_args<T, Out>& args,
                                   std::byte* workspace) noexcept {
  constexpr bool is_q_bf16 = std::is_same_v<T, bf16>, is_out_bf16 = std::is_same_v<Out, bf16>;
  ORIEL_EXPECTS(plan.q_type == (is_q_bf16 ? dtype::bf16 : dtype::f32));
  ORIEL_EXPECTS(plan.unit == cuda::attention_unit::generic ||
                is_vector_aligned(args.q, args.q_stride));
  std::size_t bytes = 0;
  const std::uint32_t group = plan.shape.q_heads / plan.shape.kv_heads;
  attention_call call{.shape = plan.shape,
                      .args = {.out = nullptr,
                               .q = nullptr,
                               .q_stride = args.q_stride,
                               .kv = args.kv,
                               .sequences = args.sequences,
                               .sinks = args.sinks,
                               .scale = args.scale},
                      .q_bf16 = nullptr,
                      .out_bf16 = nullptr,
                      .partials = cuda::carve(plan, workspace, bytes),
                      .group = group,
                      .tokens_per_tile = cuda::block_rows_of_warpgroup / group,
                      .warpgroups = plan.warpgroups,
                      .splits_max = plan.splits_max,
                      .sequence_rows_min = plan.limits.rows_per_sequence_min,
                      .sequence_rows_max = plan.limits.rows_per_sequence_max};
  if constexpr (is_q_bf16) {
    call.q_bf16 = args.q;
  } else {
    call.args.q = args.q;
  }
  if constexpr (is_out_bf16) {
    call.out_bf16 = args.out;
  } else {
    call.args.out = args.out;
  }
  return call;
}

template attention_call make_attention_call(const cuda::attention_plan&,
                                            const basic_attention_args<float>&,
                                            std::byte*) noexcept;
template attention_call make_attention_call(const cuda::attention_plan&,
                                            const basic_attention_args<float, bf16>&,
                                            std::byte*) noexcept;
template attention_call make_attention_call(const cuda::attention_plan&,
                                            const basic_attention_args<bf16>&,
                                            std::byte*) noexcept;
template attention_call make_attention_call(const cuda::attention_plan&,
                                            const basic_attention_args<bf16, float>&,
                                            std::byte*) noexcept;

}  // namespace oriel::detail
