// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A limit of the device, for plans and launches alike.
#pragma once

#include <cstdint>

namespace oriel::detail {

/// The most shared memory that a block may have on sm_90.
inline constexpr std::uint32_t block_shared_bytes_max = 227 * 1024;

}  // namespace oriel::detail
