// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The runs of bytes that a copy engine moves: parts that lie side by side on both sides are one.
#pragma once

#include <oriel/core/mutation.hpp>
#include <oriel/kernels/kv_copy.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace oriel::detail {

struct kv_copy_run {
  const std::byte* from;
  std::byte* to;
  std::size_t bytes;
};

/// Do all layers lie in the same pages of one pool? Only there are parts that touch parts of one
/// allocation, which an engine may go through in one copy: two allocations may touch by chance.
/// @param side  &kv_copy_layer::from or &kv_copy_layer::to
[[nodiscard]] inline bool is_one_pool(const kv_copy_args& args,
                                      kv_layer_view kv_copy_layer::*side,
                                      std::size_t k_bytes,
                                      std::size_t v_bytes) {
  std::uintptr_t begin = UINTPTR_MAX, end = 0;
  const std::size_t stride = (args.layers.front().*side).page_stride_bytes;
  for (const kv_copy_layer& layer : args.layers) {
    const kv_layer_view& view = layer.*side;
    const auto k = reinterpret_cast<std::uintptr_t>(view.k);
    const auto v = reinterpret_cast<std::uintptr_t>(view.v);
    begin = std::min({begin, k, v});
    end = std::max({end, k + k_bytes, v + v_bytes});
    if (view.page_stride_bytes != stride) {
      return false;
    }
  }
  return end - begin <= stride || ORIEL_MUTANT(runs_cross_pools);
}

/// Calls visit(run) for each. Pages go in their order, in each its layers, in each K before V:
/// neighbours where a page has its layers side by side, as page_layout has.
/// Layers of several pools, or with an array of pages each, have a run a part.
/// O(pages * layers), no allocation.
/// @pre !plan.permutes, args.page_count is null, and there are layers
template <class Visit>
void for_each_run(const cuda::kv_copy_plan& plan, const kv_copy_args& args, Visit&& visit) {
  const std::size_t k_bytes = std::size_t{plan.k.tiles} * plan.k.tile_bytes;
  const std::size_t v_bytes = std::size_t{plan.v.tiles} * plan.v.tile_bytes;
  const bool may_join = is_one_pool(args, &kv_copy_layer::from, k_bytes, v_bytes) &&
                        is_one_pool(args, &kv_copy_layer::to, k_bytes, v_bytes);
  kv_copy_run run{};
  const auto take = [&](const std::byte* from, std::byte* to, std::size_t bytes) {
    if (may_join && run.bytes != 0 && run.from + run.bytes == from && run.to + run.bytes == to) {
      run.bytes += bytes;
      return;
    }
    if (run.bytes != 0) {
      visit(run);
    }
    run = {from, to, bytes};
  };
  for (const kv_page_pair page : args.pages) {
    for (const kv_copy_layer& layer : args.layers) {
      const std::size_t from = page.from * layer.from.page_stride_bytes;
      const std::size_t to = page.to * layer.to.page_stride_bytes;
      take(layer.from.k + from, layer.to.k + to, k_bytes);
      take(layer.from.v + from, layer.to.v + to, v_bytes);
    }
  }
  if (run.bytes != 0) {
    visit(run);
  }
}

}  // namespace oriel::detail
