// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/round_rows.hpp>

void oriel::reference::round_rows(const round_rows_args& args) {
  for (std::size_t row = 0; row < args.rows; ++row) {
    for (std::uint32_t i = 0; i < args.width; ++i) {
      args.out[row * args.out_stride + i] = to_bf16(args.x[row * args.x_stride + i]);
    }
  }
}
