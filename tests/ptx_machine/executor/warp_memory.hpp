// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// From an operand in brackets to bytes of this process, with all that can be wrong with an address.
#pragma once

#include "warp.hpp"

#include <ptx_machine/block/shared_watch.hpp>

namespace oriel::ptx_machine {

enum class space : std::uint32_t { generic, global, shared, local, parameter };

/// Where the window of a cluster has the shared memory of its blocks: the offset in it alone for a block's own, and
/// above these bits one more than the rank for another block's. So a block's own addresses are the same in both windows,
/// and another block's are beyond any shared memory.
inline constexpr std::uint32_t cluster_window_shift = 24;

struct cluster_place {
  std::uint32_t rank = 0;  ///< of the block
  std::uint32_t offset = 0;
};

/// Where an address of the cluster's window is. (Not whether the block has so much shared memory.)
/// @throws machine_error  there is no such block
[[nodiscard]] cluster_place in_cluster(const warp& w,
                                       const decoded& d,
                                       std::uint32_t lane,
                                       std::uint64_t address);

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
