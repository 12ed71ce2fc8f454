// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/gather_rows.hpp>

#include <algorithm>

void oriel::reference::gather_rows(const gather_rows_shape& shape, const gather_rows_args& args) {
  for (std::size_t r = 0; r < args.rows.size(); ++r) {
    const float* from = args.x + args.rows[r] / shape.divisor * args.x_stride;
    std::copy_n(from, shape.width, args.out + r * args.out_stride);
  }
}
