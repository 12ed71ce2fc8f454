// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/launch.cuh"
#include "detail/rope_agent.cuh"

namespace oriel::cuda {
namespace {

template <class T, std::uint32_t N>
status rotate(const rope_plan& plan,
              const basic_rope_args<T>& args,
              const float* table,
              CUstream_st* stream,
              const std::uint32_t* row_count) noexcept {
  const detail::rope_agent<T, N> agent{plan.shape.head_dim, plan.pairs, args, table};
  return detail::launch_rows(agent, stream, row_count, "rope: launch");
}

template <class T>
status run_as(const rope_plan& plan,
              const basic_rope_args<T>& args,
              std::span<const float> table,
              CUstream_st* stream,
              const std::uint32_t* row_count) noexcept {
  ORIEL_EXPECTS(table.size() >= plan.table_size(args.positions.size()));
  constexpr std::uint32_t vector = detail::row_vector_width;
  return detail::rope_agent<T, vector>::fits(plan, args, table.data())
             ? rotate<T, vector>(plan, args, table.data(), stream, row_count)
             : rotate<T, 1>(plan, args, table.data(), stream, row_count);
}

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
  return run_as(plan, args, table, stream, row_count);
}

status run_rope(const rope_plan& plan,
                const basic_rope_args<bf16>& args,
                std::span<const float> table,
                CUstream_st* stream,
                const std::uint32_t* row_count) noexcept {
  return run_as(plan, args, table, stream, row_count);
}

}  // namespace oriel::cuda
