// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The runs of bytes that a copy engine moves: parts that lie side by side on both sides are one.
#pragma once

#include <oriel/kernels/kv_copy.hpp>

#include <cstddef>
#include <cstdint>

namespace oriel::detail {

struct kv_copy_run {
  const std::byte* from;
  std::byte* to;
  std::size_t bytes;
};

/// Calls visit(run) for each. Pages go in their order, in each its layers, in each K before V:
/// neighbours where a page has its layers side by side, as page_layout has.
/// O(pages * layers), no allocation.
/// @pre !plan.permutes, and args.page_count is null
template <class Visit>
void for_each_run(const cuda::kv_copy_plan& plan, const kv_copy_args& args, Visit&& visit) {
  const std::size_t k_bytes = std::size_t{plan.k.tiles} * plan.k.tile_bytes;
  const std::size_t v_bytes = std::size_t{plan.v.tiles} * plan.v.tile_bytes;
  kv_copy_run run{};
  const auto take = [&](const std::byte* from, std::byte* to, std::size_t bytes) {
    if (run.bytes != 0 && run.from + run.bytes == from && run.to + run.bytes == to) {
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
