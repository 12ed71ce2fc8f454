// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A place in a ring of stages in shared memory, for producers and consumers that meet at barriers.
#pragma once

#include <oriel/device/host_device.cuh>

#include <cstdint>

namespace oriel::detail {

/// A place in the ring of stages; `parity` changes each time round. Who waits for a stage to be
/// full waits for `parity`; who waits for it to be free waits for the other one, which a barrier
/// fresh from init counts as passed.
template <std::uint32_t Stages>
struct stage_ring {
  std::uint32_t stage = 0;
  std::uint32_t parity = 0;
  ORIEL_HOST_DEVICE void advance() {
    if (++stage == Stages) {
      stage = 0;
      parity ^= 1;
    }
  }
  /// The place before this one.
  [[nodiscard]] ORIEL_HOST_DEVICE stage_ring before() const {
    return stage == 0 ? stage_ring{Stages - 1, parity ^ 1} : stage_ring{stage - 1, parity};
  }
};

}  // namespace oriel::detail
