// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `played_device`: a device for an engine that the host plays. Steps are programs with the host's
/// kernels; KV lies apart from the engine's pools, which only count; operations and copies run as
/// late as streams and events let them.
#pragma once

#include "support/device_kv.hpp"
#include "support/host_backend.hpp"

#include <oriel/kv/memory.hpp>
#include <oriel/tier/stream_mover.hpp>

#include <catch2/catch.hpp>
#include <device/fake_streams.hpp>
#include <engine/engine_pools.hpp>
#include <engine/program_runner.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

namespace oriel::test {

/// Outlives the engine.
class played_device {
 public:
  played_device(const engine::model_weights& weights, std::uint64_t seed)
      : streams(seed, 3), weights_(weights) {}

  /// As engine_options::make_runner.
  std::unique_ptr<engine::step_runner> operator()(const engine::runner_setup& s) {
    constexpr std::uint32_t multiprocessors = 132;
    kv_.emplace(s.pools);
    backend_.emplace(s.model, weights_, kv_->layers());
    backend_->device = &streams;
    if (s.tiers != 0) {
      make_mover(s);
    }
    return std::make_unique<engine::program_runner>(
        engine::program_model_of(s, weights_.compute, multiprocessors),
        s.limits,
        engine::table_entries_of(s.pools.plan(), s.limits.context_tokens),
        s.drafts_max,
        *backend_,
        s.order_fixed);
  }

  [[nodiscard]] host_backend& backend() { return *backend_; }

  fake_device streams;

 private:
  struct commit_pages {
    host_backend* backend;
    status operator()(std::uint32_t pool, std::uint32_t pages) const {
      backend->need_pages(pool, pages);
      return {};
    }
  };
  using mover_type = stream_mover<passing_streams, host_memory, commit_pages>;

  void make_mover(const engine::runner_setup& s) {
    std::vector<moved_pool> sides;
    for (std::uint32_t pool = 0; pool < s.pools.pools(); ++pool) {
      sides.push_back({s.pools.pool(pool_id{pool}).memory().base(), kv_->base(pool)});
    }
    auto made = mover_type::make(s.pools.plan(),
                                 engine::moved_shapes_of(s),
                                 sides,
                                 {.compute = 0, .up = 1, .down = 2},
                                 commit_pages{&*backend_},
                                 {.order = kv_order::host, .stage_bytes_max = 1, .pages_min = 6},
                                 passing_streams{{&streams}});
    REQUIRE(made);
    mover_ = std::move(*made);
    backend_->moves = mover_.get();
  }

  const engine::model_weights& weights_;
  std::optional<device_kv> kv_;
  std::optional<host_backend> backend_;
  std::unique_ptr<mover_type> mover_;
};

}  // namespace oriel::test
