// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `state_store`: what many routers and workers share: a log that all append to and all read, and
/// leases. A router decides by what it has read (fleet_mirror.hpp), never by asking.
///
/// Records are written so that losing one does no lasting harm: events have sequence numbers and
/// can be replayed, loads are told again, placements are forgotten with the next load. So the log
/// is of bounded length, and a store may lose what it was given when it breaks.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace oriel {

/// A longer record is refused.
inline constexpr std::size_t state_record_bytes_max = 128 * 1024;

struct state_record {
  double stored_s = 0.0;  ///< when the store got it, on the reader's clock
  std::vector<std::byte> bytes;
};

struct state_status {
  bool is_connected = false;     ///< the store answers
  std::uint64_t appended = 0;    ///< accepted by append()
  std::uint64_t dropped = 0;     ///< refused by it, or lost on the way
  std::uint64_t received = 0;    ///< records that poll() gave
  std::uint64_t logs_lost = 0;   ///< times that the log was found to be another one, or empty
  std::uint64_t reconnects = 0;  ///< connections made after the first
};

/// One participant's door to the shared state.
///
/// *Laws* All participants get the records that they get in one order, each at most once, their own
/// too; those of one appender in the order in which it appended them. Who begins to poll gets what
/// the log still has. While a store is well and nobody is further behind than the log is long,
/// nothing is lost. At most one participant holds a lease at any time, by its own clock; it holds
/// it while it asks again before `ttl_s` is over.
///
/// *Thread safety* a participant is of one thread; different ones of one log may be of different
/// threads. Nothing blocks.
template <class S>
concept state_store = requires(S s,
                               const S& c,
                               std::span<const std::byte> bytes,
                               std::vector<state_record>& records,
                               std::string_view name,
                               double seconds) {
  /// To be stored. @returns false: too long, or too much is waiting (counted in `dropped`)
  { s.append(bytes, seconds) } -> std::same_as<bool>;
  /// Sends what waits, and appends the records that have come. (records, now)
  s.poll(records, seconds);
  /// Takes a lease, or keeps it. (name, ttl, now) @returns is it held now? The first answers may be
  /// false until the store has answered: ask again.
  { s.hold(name, seconds, seconds) } -> std::same_as<bool>;
  s.release(name, seconds);
  { c.status() } -> std::same_as<state_status>;
};

}  // namespace oriel
