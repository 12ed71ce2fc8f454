// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `device_kv`: the bytes of an engine's pools where a test plays the device: its host pools only
/// count. What nobody wrote is NaN.
#pragma once

#include <oriel/kv/dual_pool.hpp>

#include <engine/aligned_bytes.hpp>
#include <engine/host_pools.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace oriel::test {

class device_kv {
 public:
  explicit device_kv(const engine::host_pools& pools) : plan_(&pools.plan()) {
    for (std::uint32_t i = 0; i < pools.plan().pools(); ++i) {
      const auto& pool = pools.pool(pool_id{i});
      bytes_.emplace_back(pool.layout().page_bytes() * pool.capacity());
      std::memset(bytes_.back().data(), 0xFF, bytes_.back().size());
    }
  }

  /// First byte of a pool's pages.
  [[nodiscard]] std::byte* base(std::uint32_t pool) { return bytes_[pool].data(); }
  /// [layers], as a host_backend wants them.
  [[nodiscard]] std::vector<pool_layer> layers() {
    std::vector<pool_layer> layers;
    for (std::uint32_t l = 0; l < plan_->layers(); ++l) {
      const layer_home home = plan_->home(l);
      layers.push_back(
          {home.pool, plan_->layout(home.pool).layer(home.slot, base(to_index(home.pool)))});
    }
    return layers;
  }

 private:
  const pool_plan* plan_;
  std::vector<engine::aligned_bytes> bytes_;  // [pools]
};

}  // namespace oriel::test
