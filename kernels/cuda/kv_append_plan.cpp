// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/kv_append_agent.cuh"

namespace oriel::cuda {

result<kv_append_plan> plan_kv_append(const attention_shape& shape,
                                      std::uint32_t rows_max) noexcept {
  if (shape.page_size == 0 || shape.page_size % kv_tile_tokens != 0) {
    return failure{errc::unsupported_shape, 0, "kv_append: page_size is a multiple of 16"};
  }
  constexpr std::uint32_t grid_y_max = 65535;  // CUDA's limit
  if (shape.kv_heads == 0 || shape.kv_heads > grid_y_max) {
    return failure{errc::unsupported_shape, 0, "kv_append: 1 to 65535 KV heads"};
  }
  const std::uint32_t blocks =
      rows_max / detail::kv_append_rows + (rows_max % detail::kv_append_rows != 0 ? 1u : 0u);
  return kv_append_plan{.shape = shape, .row_blocks = blocks};
}

}  // namespace oriel::cuda
