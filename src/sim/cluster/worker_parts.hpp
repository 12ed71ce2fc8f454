// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What the files of node_worker share.
#pragma once

#include <oriel/sim/worker.hpp>

namespace oriel::sim {

/// Hears of one tier's tree.
class node_worker::tier_listener {
 public:
  tier_listener(node_worker& worker, std::uint8_t tier) noexcept : worker_(worker), tier_(tier) {}
  void on_event(const cache_event& event) noexcept { worker_.take_event(tier_, event); }

 private:
  node_worker& worker_;
  std::uint8_t tier_;
};

}  // namespace oriel::sim
