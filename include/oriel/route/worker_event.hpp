// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a worker tells a router about the KV pages it has: `cache_event` of its tree
/// (prefix/events.hpp), many pages in one, in an envelope that survives loss, order and restarts.
#pragma once

#include <oriel/core/hash.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

namespace oriel {

/// A worker, in [0, prefix_index_options::workers). Whoever knows names gives them numbers.
enum class worker_id : std::uint32_t {};

[[nodiscard]] constexpr std::uint32_t to_index(worker_id id) noexcept {
  return static_cast<std::uint32_t>(id);
}

/// Where a worker can have a page, nearest first: 0 device, 1 host, 2 disk, 3 remote.
inline constexpr std::size_t page_tiers = 4;

enum class worker_event_kind : std::uint8_t {
  stored,        ///< `links` can be found on `tier`
  removed,       ///< they no longer can
  cleared,       ///< nothing can on `tier`; the pages have no events of their own
  replay_begin,  ///< what follows, marked `is_replay`, is all that the worker has
  replay_end,    ///< that was all; it is the state after event `sequence`
};

/// One change of what a worker has: consecutive pages of one chain, of one pool, on one tier.
///
/// Sequence numbers are the worker's: 1, 2, ... from its start, one for each event that is no part
/// of a replay. A worker that starts anew, with nothing or with other pages, takes a larger epoch.
/// Namespaces need no field: every link commits to one.
struct worker_event {
  worker_id worker = {};
  worker_event_kind kind = worker_event_kind::stored;
  std::uint8_t tier = 0;         ///< below page_tiers
  bool is_replay = false;        ///< part of a replay: `stored`, and no sequence number
  std::uint32_t pool = 0;        ///< 0: full pages; 1 + window kind
  std::uint32_t first_page = 0;  ///< logical page of links[0] in its prompt
  std::uint64_t epoch = 0;
  std::uint64_t sequence = 0;
  std::uint64_t replay_events = 0;  ///< of replay_end: `stored` events since replay_begin
  chain_hash parent = {};           ///< link of the page before links[0]; of no matter for page 0
  std::span<const chain_hash> links = {};  ///< valid during the call
};

}  // namespace oriel
