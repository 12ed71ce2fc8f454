// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/kv_copy_agent.cuh"

namespace oriel::cuda {
namespace {

kv_part part_of(const attention_shape& layer, std::size_t tile_bytes) {
  const auto bytes = static_cast<std::uint32_t>(tile_bytes);
  kv_part part{};
  part.tile_bytes = bytes;
  part.dims = static_cast<std::uint32_t>((bytes / kv_tile_tokens - kv_scale_bytes(layer.kv)) /
                                         size_bytes(layer.kv));
  part.tiles = layer.kv_heads * (layer.page_size / kv_tile_tokens);
  // Pieces of about one size: the last should not be a scrap.
  const std::uint32_t most = detail::kv_stage_bytes / bytes;
  part.pieces = (part.tiles - 1) / most + 1;
  part.tiles_per_piece = (part.tiles - 1) / part.pieces + 1;
  part.pieces = (part.tiles - 1) / part.tiles_per_piece + 1;
  return part;
}

}  // namespace

result<kv_copy_plan> plan_kv_copy(const kv_copy_shape& shape,
                                  const kv_copy_options& options) noexcept {
  const attention_shape& layer = shape.layer;
  if (layer.page_size == 0 || layer.page_size % kv_tile_tokens != 0) {
    return failure{errc::unsupported_shape, 0, "kv_copy: page_size is a multiple of 16"};
  }
  constexpr std::uint32_t dims_max = 256;  // so that a tile fits a stage
  constexpr std::uint64_t tiles_max = std::uint64_t{1} << 24;
  const std::uint64_t tiles = std::uint64_t{layer.kv_heads} * (layer.page_size / kv_tile_tokens);
  if (layer.head_dim_qk == 0 || layer.head_dim_qk > dims_max || layer.head_dim_vo == 0 ||
      layer.head_dim_vo > dims_max || tiles == 0 || tiles > tiles_max) {
    return failure{errc::unsupported_shape, 0, "kv_copy: head dims are 1 to 256, tiles < 2^24"};
  }
  if (options.multiprocessors == 0 || options.multiprocessors > 65535) {
    return failure{errc::invalid_argument, 0, "kv_copy: 1 to 65535 multiprocessors"};
  }
  kv_copy_plan plan{};
  plan.shape = shape;
  plan.permutes = layer.kv == dtype::bf16 && shape.from != shape.to;
  plan.k = part_of(layer, k_bytes_per_page(kv_tile_tokens, 1, layer.head_dim_qk, layer.kv));
  plan.v = part_of(layer, v_bytes_per_page(kv_tile_tokens, 1, layer.head_dim_vo, layer.kv));
  plan.blocks = options.multiprocessors;
  plan.way = options.way;
  if (options.way == kv_copy_way::by_size) {
    const std::uint64_t bytes = tiles * (plan.k.tile_bytes + plan.v.tile_bytes);
    plan.way = plan.permutes || bytes < options.engine_bytes_min ? kv_copy_way::multiprocessors
                                                                 : kv_copy_way::engine;
  }
  if (plan.way == kv_copy_way::engine && plan.permutes) {
    return failure{errc::unsupported_shape, 0, "kv_copy: a copy engine cannot permute"};
  }
  return plan;
}

}  // namespace oriel::cuda
