// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// From an operand in brackets to bytes of this process, with all that can be wrong with an address.
#pragma once

#include "warp.hpp"

#include <ptx_machine/block/shared_watch.hpp>

namespace oriel::ptx_machine {

enum class space : std::uint32_t { generic, global, shared, local, parameter };

/// The address of each lane, in the space of its instruction.
void compute_addresses(const warp& w, const slot& memory, std::uint64_t (&to)[warp_lanes]);

/// Offsets into shared memory; 32 bits, as its window has.
/// @throws machine_error  beyond the block's shared memory, or not aligned to `bytes`
void shared_offsets(const warp& w,
                    const decoded& d,
                    std::uint32_t lanes,
                    const slot& memory,
                    std::uint32_t bytes,
                    std::uint32_t (&to)[warp_lanes]);

/// Where the bytes are. Tells the watch of shared memory.
/// @throws machine_error  outside the space, or not aligned to `bytes`
void locate(warp& w,
            const decoded& d,
            std::uint32_t lanes,
            space where,
            const slot& memory,
            std::uint32_t bytes,
            access kind,
            std::byte* (&to)[warp_lanes]);

}  // namespace oriel::ptx_machine
