// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The machine's memory: asked before something large is taken, so that a refusal says why.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace oriel::engine {

/// All of it; ~0: unknown.
[[nodiscard]] std::uint64_t machine_memory_bytes() noexcept;

/// What programs can have now without others being swapped out (Linux's MemAvailable); where the
/// system does not tell, machine_memory_bytes. A limit of a control group is not asked for.
[[nodiscard]] std::uint64_t available_memory_bytes();

/// Of the text of /proc/meminfo; nothing: it does not say.
[[nodiscard]] std::optional<std::uint64_t> available_bytes_in(std::string_view meminfo) noexcept;

}  // namespace oriel::engine
