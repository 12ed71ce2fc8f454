// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Items of work that belong to owners (sequences, groups of rows) whose sizes are known on the
/// device alone: a table of the items before each owner, and who owns an item.
#pragma once

#include <oriel/device/host_device.cuh>

#include <cstdint>

namespace oriel::detail {

/// The owner of item `item`: the last one whose items begin at or before it. O(log n).
/// @pre item_begin[n] > item
[[nodiscard]] ORIEL_HOST_DEVICE inline std::uint32_t owner_of_item(const std::uint32_t* item_begin,
                                                                   std::uint32_t n,
                                                                   std::uint32_t item) {
  std::uint32_t low = 0, high = n;  // item_begin[low] <= item < item_begin[high]
  while (high - low > 1) {
    const std::uint32_t middle = (low + high) / 2;
    if (item_begin[middle] <= item) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

#ifdef __CUDACC__
/// table[0..n] becomes its exclusive prefix sum; table[n] the total. One warp: each lane adds up a
/// run of the table, of odd length, so that lanes meet different banks.
__device__ __forceinline__ void scan_in_place(std::uint32_t* table, std::uint32_t n) {
  constexpr std::uint32_t lanes = 32;
  const std::uint32_t lane = threadIdx.x % lanes, run = (n + lanes) / lanes | 1;
  const std::uint32_t begin = lane * run, end = begin + run;
  std::uint32_t own = 0;
  for (std::uint32_t i = begin; i < end && i < n; ++i) {
    own += table[i];
  }
  std::uint32_t sum = own;
  for (std::uint32_t step = 1; step < lanes; step *= 2) {
    const std::uint32_t other = __shfl_up_sync(0xFFFFFFFFu, sum, step);
    sum += lane >= step ? other : 0;
  }
  std::uint32_t before = sum - own;
  for (std::uint32_t i = begin; i < end && i <= n; ++i) {
    const std::uint32_t x = i < n ? table[i] : 0;
    table[i] = before;
    before += x;
  }
}
#endif

}  // namespace oriel::detail
