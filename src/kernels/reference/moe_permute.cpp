// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/moe_permute.hpp>

#include <algorithm>
#include <numeric>

void oriel::reference::moe_permute(const moe_permute_shape& shape,
                                   std::span<const std::uint32_t> ids,
                                   std::span<std::uint32_t> expert_offsets,
                                   std::span<std::uint32_t> pair_of_row,
                                   std::span<std::uint32_t> row_of_pair) {
  std::iota(pair_of_row.begin(), pair_of_row.end(), 0u);
  std::stable_sort(pair_of_row.begin(), pair_of_row.end(), [&](std::uint32_t a, std::uint32_t b) {
    return ids[a] < ids[b];
  });
  for (std::uint32_t row = 0; row < pair_of_row.size(); ++row) {
    row_of_pair[pair_of_row[row]] = row;
  }
  for (std::uint32_t e = 0; e <= shape.experts; ++e) {
    expert_offsets[e] = static_cast<std::uint32_t>(
        std::count_if(ids.begin(), ids.end(), [e](std::uint32_t id) { return id < e; }));
  }
}
