// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/rms_norm_agent.cuh"

namespace oriel::cuda {

result<rms_norm_plan> plan_rms_norm(const rms_norm_shape& shape) noexcept {
  if (shape.width == 0 || shape.activation == dtype::e4m3) {
    return failure{errc::unsupported_shape, 0, "rms_norm: empty row or e4m3 activation"};
  }
  return rms_norm_plan{.shape = shape, .rows_per_block = detail::rms_norm_rows_per_block};
}

}  // namespace oriel::cuda
