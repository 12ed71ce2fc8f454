// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Plans of the row kernels: what is refused, and how much shared memory a row takes.
#include "detail/quantize_rows_agent.cuh"
#include "detail/rms_norm_agent.cuh"

#include <oriel/kernels/embed.hpp>
#include <oriel/kernels/gather_rows.hpp>
#include <oriel/kernels/swiglu.hpp>

namespace oriel::cuda {

result<embed_plan> plan_embed(const embed_shape& shape) noexcept {
  if (shape.vocabulary == 0 || shape.width == 0 || shape.table == dtype::e4m3) {
    return failure{errc::unsupported_shape, 0, "embed: empty table or e4m3 table"};
  }
  return embed_plan{.shape = shape};
}

result<gather_rows_plan> plan_gather_rows(const gather_rows_shape& shape) noexcept {
  if (shape.width == 0 || shape.divisor == 0) {
    return failure{errc::unsupported_shape, 0, "gather_rows: width or divisor is 0"};
  }
  return gather_rows_plan{.shape = shape};
}

result<swiglu_plan> plan_swiglu(const swiglu_shape& shape) noexcept {
  if (shape.inter == 0 || shape.activation == dtype::e4m3) {
    return failure{errc::unsupported_shape, 0, "swiglu: empty row or e4m3 activation"};
  }
  return swiglu_plan{.shape = shape};
}

result<quantize_rows_plan> plan_quantize_rows(const quantize_rows_shape& shape) noexcept {
  if (shape.columns == 0) {
    return failure{errc::unsupported_shape, 0, "quantize_rows: empty row"};
  }
  return quantize_rows_plan{.shape = shape};
}

result<rms_norm_plan> plan_rms_norm(const rms_norm_shape& shape) noexcept {
  constexpr std::uint32_t width_max =
      56'000;  // 227 KiB of shared memory hold a row of so many f32.
  if (shape.width == 0 || shape.width > width_max || shape.activation == dtype::e4m3) {
    return failure{
        errc::unsupported_shape, 0, "rms_norm: row empty or above 56,000, or e4m3 activation"};
  }
  const auto floats = detail::rms_norm_lanes + shape.width;
  return rms_norm_plan{.shape = shape,
                       .shared_bytes = static_cast<std::uint32_t>(floats * sizeof(float))};
}

}  // namespace oriel::cuda
