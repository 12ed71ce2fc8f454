// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What the files of node_worker share.
#pragma once

#include <oriel/sim/worker.hpp>

namespace oriel::sim {

/// Hears of one tier's tree, and knows which page of the workload is in which of its pages.
class node_worker::tier_listener {
 public:
  tier_listener(worker_listener& to, std::uint32_t worker, std::uint8_t tier, std::uint32_t pages)
      : to_(to), worker_(worker), tier_(tier), ids_(pages) {}
  void on_event(const cache_event& event) noexcept {
    if (event.kind == cache_event_kind::stored && event.pool == 0) {
      ids_[to_index(event.handle.id)] = to_index(event.tokens[0]);
    }
    const bool has_parent = static_cast<bool>(event.parent_full);
    const cache_event told{.kind = event.kind,
                           .tier = tier_,
                           .pool = event.pool,
                           .page = event.page,
                           .space = event.space,
                           .tokens = event.tokens};
    to_.on_cache(worker_, told, has_parent ? ids_[to_index(event.parent_full.id)] : 0);
  }

 private:
  worker_listener& to_;
  std::uint32_t worker_;
  std::uint8_t tier_;
  std::vector<std::uint32_t> ids_;  // [full pages of the tier]
};

}  // namespace oriel::sim
