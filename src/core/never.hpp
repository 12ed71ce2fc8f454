// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A time that does not come.
#pragma once

#include <limits>

namespace oriel {

inline constexpr double never_s = std::numeric_limits<double>::infinity();

}  // namespace oriel
