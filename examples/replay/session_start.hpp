// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `session_start_s`: where a session with a clock of its own begins in a common window.
#pragma once

#include <string_view>

namespace oriel::replay {

/// Seconds into a window of `hours` hours, in [0, hours * 3600): u / 2^32 of it, where u is the
/// number that the first 8 hex digits of SHA-256(id) spell.
[[nodiscard]] double session_start_s(std::string_view id, double hours);

}  // namespace oriel::replay
