// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Arrays of an activation dtype, as the reference kernels read and round them.
#pragma once

#include <oriel/core/dtype.hpp>

namespace oriel::detail {

/// `x` as a tensor of type `t` (f32 or bf16) would hold it.
[[nodiscard]] constexpr float round_to(dtype t, float x) noexcept {
  return t == dtype::bf16 ? round_to_bf16(x) : x;
}

/// Element `i` of a plain array of f32 or bf16.
[[nodiscard]] inline float element(const void* array, dtype t, std::size_t i) noexcept {
  return t == dtype::bf16 ? to_float(static_cast<const bf16*>(array)[i])
                          : static_cast<const float*>(array)[i];
}

}  // namespace oriel::detail
