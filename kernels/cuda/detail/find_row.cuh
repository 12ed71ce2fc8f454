// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Where a row of a batch belongs.
#pragma once

#include <oriel/device/host_device.cuh>
#include <oriel/kernels/paged_kv.hpp>

#include <span>

namespace oriel::detail {

struct row_home {
  const paged_sequence* sequence;  ///< null: the batch has no such row
  std::uint32_t position;
};

/// Sequences are few and every thread of a block walks the same ones. O(sequences).
ORIEL_HOST_DEVICE inline row_home find_row(std::span<const paged_sequence> sequences,
                                           std::uint32_t row) {
  const paged_sequence* sequence = sequences.data();
  const paged_sequence* end = sequence + sequences.size();
  for (; sequence != end; ++sequence) {
    if (row < sequence->rows) {
      return {sequence, sequence->first_position + row};
    }
    row -= sequence->rows;
  }
  return {nullptr, 0};
}

}  // namespace oriel::detail
