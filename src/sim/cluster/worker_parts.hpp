// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What the files of node_worker share.
#pragma once

#include <oriel/sim/worker.hpp>

namespace oriel::sim {

/// Of a request that the guard does not know (any more).
inline constexpr wait_guard::place no_place = ~wait_guard::place{0};

/// Hears of one tier.
class tier_listener final : public page_listener {
 public:
  tier_listener(worker_listener& to, std::uint32_t worker, std::uint8_t tier) noexcept
      : to_(to), worker_(worker), tier_(tier) {}
  void on_page(const page_id_event& event) noexcept override {
    to_.on_cache(worker_, tier_, event);
  }
  void on_stretch(const page_id_stretch& stretch) noexcept override {
    to_.on_cache(worker_, tier_, stretch);
  }

 private:
  worker_listener& to_;
  std::uint32_t worker_;
  std::uint8_t tier_;
};

}  // namespace oriel::sim
