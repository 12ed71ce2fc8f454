// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/launch.cuh"
#include "detail/rope_agent.cuh"

namespace oriel::cuda {
namespace {

/// `Agent<N>`: for vectors of N elements.
template <template <std::uint32_t> class Agent, class Args>
status run_as(const rope_plan& plan,
              const Args& args,
              std::span<const float> table,
              CUstream_st* stream,
              const std::uint32_t* row_count) noexcept {
  ORIEL_EXPECTS(table.size() >= plan.table_size(args.positions.size()));
  const auto rotate = [&]<std::uint32_t N>() {
    const Agent<N> agent{plan.shape.head_dim, plan.pairs, args, table.data()};
    return detail::launch_rows(agent, stream, row_count, "rope: launch");
  };
  constexpr std::uint32_t vector = detail::row_vector_width;
  return Agent<vector>::fits(plan, args, table.data()) ? rotate.template operator()<vector>()
                                                       : rotate.template operator()<1>();
}

template <std::uint32_t N>
using agent_of_f32 = detail::rope_agent<float, N>;
template <std::uint32_t N>
using agent_of_bf16 = detail::rope_agent<bf16, N>;

}  // namespace

status fill_rope_table(const rope_plan& plan,
                       std::span<const std::uint32_t> positions,
                       std::span<float> table,
                       CUstream_st* stream,
                       const std::uint32_t* row_count) noexcept {
  ORIEL_EXPECTS(table.size() >= plan.table_size(positions.size()));
  const detail::rope_table_agent agent{
      plan, positions.data(), static_cast<std::uint32_t>(positions.size()), table.data()};
  return detail::launch_rows(agent, stream, row_count, "rope table: launch");
}

status run_rope(const rope_plan& plan,
                const rope_args& args,
                std::span<const float> table,
                CUstream_st* stream,
                const std::uint32_t* row_count) noexcept {
  return run_as<agent_of_f32>(plan, args, table, stream, row_count);
}

status run_rope(const rope_plan& plan,
                const basic_rope_args<bf16>& args,
                std::span<const float> table,
                CUstream_st* stream,
                const std::uint32_t* row_count) noexcept {
  return run_as<agent_of_bf16>(plan, args, table, stream, row_count);
}

status run_rope(const rope_plan& plan,
                const rope_qk_args& args,
                std::span<const float> table,
                CUstream_st* stream,
                const std::uint32_t* row_count) noexcept {
  return run_as<detail::rope_qk_agent>(plan, args, table, stream, row_count);
}

}  // namespace oriel::cuda
