// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What routers and workers tell each other through a state_store, as bytes: little-endian frames
/// of a version, a kind and fixed fields. Whoever reads believes nothing: a frame with a field out
/// of range, too short or too long is no record.
///
/// Times travel as ages: clocks of different machines have nothing in common but their pace.
#pragma once

#include <oriel/route/router.hpp>
#include <oriel/route/worker_event.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace oriel {

enum class fleet_record_kind : std::uint8_t {
  event,         ///< `event`
  load,          ///< `load`, `profile` and `is_draining`: a worker's heartbeat
  placed,        ///< a router has placed `seconds` of work at `worker`
  left,          ///< `worker` is gone for good
  wants_replay,  ///< a router wants all that `worker` has
  beat,          ///< a router measures how far behind its mirror is: `sent_s` on its own clock
};

struct fleet_record {
  fleet_record_kind kind = fleet_record_kind::beat;
  worker_id worker = {};
  std::uint64_t sender = 0;  ///< a router's own random number
  worker_event event = {};   ///< its links point into the bytes that were decoded
  load_report load = {};     ///< at_s is set from age_s
  worker_profile profile = {};
  bool is_draining = false;
  double seconds = 0.0;
  double age_s = 0.0;   ///< of what is told, when the record was made
  double sent_s = 0.0;  ///< of beat
};

/// Appends one frame. O(links). @pre the event has at most 4096 links
void encode(const fleet_record& record, std::vector<std::byte>& out);

/// Reads the frame at the front of `in`, and cuts it off. The links are copied to `links`.
/// @param stored_s  when the record was stored, on the reader's clock
/// @returns nothing: this is no frame, and what follows cannot be found either
[[nodiscard]] std::optional<fleet_record> decode(std::span<const std::byte>& in,
                                                 double stored_s,
                                                 std::vector<chain_hash>& links);

}  // namespace oriel
