// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Functions of one number by a device's approximate instructions: one each. Their bits are not the
/// host's.
#pragma once

#include <oriel/device/host_device.cuh>

#ifdef __CUDACC__
#include "ptx.cuh"
#endif

#include <math.h>

namespace oriel::detail {

/// 2^x within 2^-22 of it, 1 / x within 2^-23 (PTX ISA, ex2, rcp); what would be subnormal is zero.
[[nodiscard]] ORIEL_HOST_DEVICE_INLINE float near_exp2(float x) {
#ifdef __CUDA_ARCH__
  return ptx::exp2_approx(x);
#else
  const float y = ::exp2f(x);
  return y < 0x1p-126f ? 0.0f : y;
#endif
}
[[nodiscard]] ORIEL_HOST_DEVICE_INLINE float near_reciprocal(float x) {
#ifdef __CUDA_ARCH__
  return ptx::reciprocal_approx(x);
#else
  const float y = 1.0f / x;
  return y < 0x1p-126f ? 0.0f : y;
#endif
}

}  // namespace oriel::detail
