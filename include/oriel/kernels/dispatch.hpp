// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `dispatch_static`: a run-time value becomes a compile-time one, without macros.
#pragma once

#include <cstdint>
#include <type_traits>

namespace oriel {

/// Calls `f(std::integral_constant<std::uint32_t, V>{})` for the V equal to `value`.
/// Returns false, having called nothing, when `value` is none of `Values`.
template <std::uint32_t... Values, class F>
constexpr bool dispatch_static(std::uint32_t value, F&& f) {
  return ((value == Values && (f(std::integral_constant<std::uint32_t, Values>{}), true)) || ...);
}

}  // namespace oriel
