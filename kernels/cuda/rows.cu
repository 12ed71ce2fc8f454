// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Embedding, row gather, SwiGLU, the sum over experts: kernels whose elements do not depend on each
// other.
#include "detail/launch.cuh"
#include "detail/row_agents.cuh"

namespace oriel::cuda {
namespace {

using detail::launch_rows;
using detail::row_vector_width;

template <class T, class Table>
status embed_as(const embed_plan& plan,
                const basic_embed_args<T>& args,
                CUstream_st* stream,
                const std::uint32_t* row_count) noexcept {
  using vectors = detail::embed_agent<T, Table, row_vector_width>;
  using elements = detail::embed_agent<T, Table, 1>;
  constexpr const char* what = "embed: launch";
  return vectors::fits(plan.shape, args)
             ? launch_rows(vectors{plan.shape, args}, stream, row_count, what)
             : launch_rows(elements{plan.shape, args}, stream, row_count, what);
}

/// With 16-byte accesses if the rows are aligned for them.
template <template <class, std::uint32_t> class Agent, class T, class Plan, class Args>
status run_rows(const Plan& plan,
                const Args& args,
                CUstream_st* stream,
                const std::uint32_t* row_count,
                const char* what) noexcept {
  using vectors = Agent<T, row_vector_width>;
  using elements = Agent<T, 1>;
  return vectors::fits(plan.shape, args)
             ? launch_rows(vectors{plan.shape, args}, stream, row_count, what)
             : launch_rows(elements{plan.shape, args}, stream, row_count, what);
}

}  // namespace

status run_embed(const embed_plan& plan,
                 const embed_args& args,
                 CUstream_st* stream,
                 const std::uint32_t* row_count) noexcept {
  return plan.shape.table == dtype::bf16 ? embed_as<float, bf16>(plan, args, stream, row_count)
                                         : embed_as<float, float>(plan, args, stream, row_count);
}

status run_embed(const embed_plan& plan,
                 const basic_embed_args<bf16>& args,
                 CUstream_st* stream,
                 const std::uint32_t* row_count) noexcept {
  ORIEL_EXPECTS(plan.shape.table == dtype::bf16);
  return embed_as<bf16, bf16>(plan, args, stream, row_count);
}

status run_gather_rows(const gather_rows_plan& plan,
                       const gather_rows_args& args,
                       CUstream_st* stream,
                       const std::uint32_t* row_count) noexcept {
  return run_rows<detail::gather_rows_agent, float>(
      plan, args, stream, row_count, "gather_rows: launch");
}

status run_gather_rows(const gather_rows_plan& plan,
                       const basic_gather_rows_args<bf16>& args,
                       CUstream_st* stream,
                       const std::uint32_t* row_count) noexcept {
  return run_rows<detail::gather_rows_agent, bf16>(
      plan, args, stream, row_count, "gather_rows: launch");
}

status run_swiglu(const swiglu_plan& plan,
                  const swiglu_args& args,
                  CUstream_st* stream,
                  const std::uint32_t* row_count) noexcept {
  return run_rows<detail::swiglu_agent, float>(plan, args, stream, row_count, "swiglu: launch");
}

status run_swiglu(const swiglu_plan& plan,
                  const basic_swiglu_args<bf16>& args,
                  CUstream_st* stream,
                  const std::uint32_t* row_count) noexcept {
  ORIEL_EXPECTS(plan.shape.activation == dtype::bf16);
  return run_rows<detail::swiglu_agent, bf16>(plan, args, stream, row_count, "swiglu: launch");
}

status run_moe_combine(const moe_combine_plan& plan,
                       const moe_combine_args& args,
                       CUstream_st* stream,
                       const std::uint32_t* token_count) noexcept {
  return run_rows<detail::moe_combine_agent, float>(
      plan, args, stream, token_count, "moe_combine: launch");
}

status run_moe_combine(const moe_combine_plan& plan,
                       const basic_moe_combine_args<bf16>& args,
                       CUstream_st* stream,
                       const std::uint32_t* token_count) noexcept {
  return run_rows<detail::moe_combine_agent, bf16>(
      plan, args, stream, token_count, "moe_combine: launch");
}

}  // namespace oriel::cuda
