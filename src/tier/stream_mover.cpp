// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/tier/stream_mover.hpp>

namespace oriel {

std::uint32_t page_stages_of(const pool_plan& plan) noexcept {
  std::uint32_t most = 1;
  for (std::uint32_t pool = 0; pool < plan.pools(); ++pool) {
    most = std::max(most, plan.layout(pool_id{pool}).slots());
  }
  return most;
}

std::size_t stage_bytes_of(const pool_plan& plan) noexcept {
  constexpr std::size_t alignment = 4096;  // What a disk may write straight from memory.
  std::size_t most = 1;
  for (std::uint32_t pool = 0; pool < plan.pools(); ++pool) {
    const page_layout& layout = plan.layout(pool_id{pool});
    for (std::uint32_t slot = 0; slot < layout.slots(); ++slot) {
      most = std::max(most, layout.slice_bytes(slot));
    }
  }
  return (most + alignment - 1) / alignment * alignment;
}

std::uint32_t stages_of(const pool_plan& plan, const stream_mover_options& options) noexcept {
  return static_cast<std::uint32_t>(std::max<std::uint64_t>(
      options.stage_bytes_max / stage_bytes_of(plan), options.pages_min * page_stages_of(plan)));
}

std::uint64_t mover_bytes_of(const pool_plan& plan, const stream_mover_options& options) noexcept {
  const std::uint64_t pairs_bytes = stream_moves_max * sizeof(kv_page_pair);
  return std::uint64_t{2} * stages_of(plan, options) * (stage_bytes_of(plan) + pairs_bytes);
}

result<moved_layers> plan_moved_layers(const pool_plan& plan,
                                       std::span<const kv_layer_shape> shapes,
                                       std::span<const moved_pool> pools,
                                       move_way way,
                                       const stream_mover_options& options,
                                       std::byte* stages) {
  ORIEL_EXPECTS(shapes.size() == plan.layers() && pools.size() == plan.pools());
  const std::size_t stride = stage_bytes_of(plan);
  const bool goes_up = way == move_way::up;
  moved_layers moved;
  for (std::uint32_t pool = 0; pool < plan.pools(); ++pool) {
    moved.layer_in.emplace_back(plan.layout(pool_id{pool}).slots());
  }
  for (std::uint32_t layer = 0; layer < plan.layers(); ++layer) {
    const kv_layer_shape& s = shapes[layer];
    const layer_home home = plan.home(layer);
    const page_layout& layout = plan.layout(home.pool);
    const auto copy = cuda::plan_kv_copy({.layer = {.q_heads = s.kv_heads,
                                                    .kv_heads = s.kv_heads,
                                                    .head_dim_qk = s.head_dim_qk,
                                                    .head_dim_vo = s.head_dim_vo,
                                                    .page_size = layout.page_size(),
                                                    .window_tokens = 0,
                                                    .kv = s.kv},
                                          .from = goes_up ? kv_order::host : options.order,
                                          .to = goes_up ? options.order : kv_order::host},
                                         options.copies);
    if (!copy) {
      return copy.error();
    }
    const std::size_t v = layout.v_offset_bytes(home.slot) - layout.k_offset_bytes(home.slot);
    const kv_layer_view staged{stages, stages + v, stride};
    const kv_layer_view there = layout.layer(home.slot, pools[to_index(home.pool)].device);
    const std::size_t k_end = k_bytes_per_page(layout.page_size(), s.kv_heads, s.head_dim_qk, s.kv);
    const std::size_t v_end =
        v + v_bytes_per_page(layout.page_size(), s.kv_heads, s.head_dim_vo, s.kv);
    moved.gaps.push_back({std::pair{k_end, v}, {v_end, layout.slice_bytes(home.slot)}});
    moved.plans.push_back(*copy);
    moved.views.push_back(goes_up ? kv_copy_layer{staged, there} : kv_copy_layer{there, staged});
    moved.layer_in[to_index(home.pool)][home.slot] = layer;
  }
  return moved;
}

}  // namespace oriel
