// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `workload_of`: a trace as a fleet gets it, session by session.
#pragma once

#include <oriel/sim/workload.hpp>

#include <replay/trace.hpp>

#include <cstdint>
#include <vector>

namespace oriel::replay {

/// A trace that does not tell sessions apart is chained: a request goes on from the one before it
/// that has the longest input whose whole pages, two at least, its own begins with, if none has
/// gone on from that yet and there is room for its output less a page. What goes on from nothing
/// begins a session. Such a trace has no durations either, so a gap is the time between two
/// arrivals. All its sessions are in one name space.
///
/// O(pages). Memory: some 60 bytes a distinct page, and 20 a page where requests part.
/// @throws std::bad_alloc
[[nodiscard]] sim::workload workload_of(const trace& requests);

/// [requests] tokens of each input that a cache without end would have: of its whole pages those
/// that requests before it in the trace had, or were answered, up to the first that is new. What
/// any policy's caches have plays no part. O(pages + requests log requests). @throws std::bad_alloc
[[nodiscard]] std::vector<std::uint32_t> ideal_hit_tokens(const sim::workload& work);

}  // namespace oriel::replay
