// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The pools of an engine whose KV lies on a device: they count pages, and take no memory for them.
#include "conformance/kv_memory_suite.hpp"
#include "engine/toy_server.hpp"
#include "support/resident.hpp"

#include <oriel/core/executor.hpp>

#include <catch2/catch.hpp>
#include <engine/engine_pools.hpp>
#include <engine/step_runner.hpp>

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace host_pools_test {

using namespace toy_engine;

namespace {

/// Computes nothing: every token is the first one.
class idle_runner final : public step_runner {
 public:
  idle_runner(const runner_limits& limits, std::uint32_t vocabulary)
      : limits_(limits), vocabulary_(vocabulary) {}

  std::span<const float> forward(std::span<const step_rows> batch) override {
    std::size_t rows = 0;
    for (const step_rows& s : batch) {
      rows += s.logit_rows;
    }
    logits_.assign(rows * vocabulary_, 0.0f);
    return logits_;
  }
  std::span<const float> forward_mtp(std::uint32_t, std::span<const step_rows>, mtp_rows) override {
    return {};
  }
  hidden_rows hidden_of(std::size_t) const noexcept override { return {}; }
  hidden_rows mtp_hidden_of(std::size_t) const noexcept override { return {}; }
  bool is_cut_off(std::size_t) const noexcept override { return false; }
  const runner_limits& limits() const noexcept override { return limits_; }
  const runner_counts& counts() const noexcept override { return counts_; }
  std::uint64_t workspace_bytes() const noexcept override { return 0; }

 private:
  runner_limits limits_;
  std::uint32_t vocabulary_;
  std::vector<float> logits_;
  runner_counts counts_;
};

}  // namespace

TEST_CASE("engine_memory is a kv_memory") {
  check_kv_memory<engine_memory>();
}

TEST_CASE("addresses of an engine_memory name pages and take nothing") {
  constexpr std::size_t bytes = std::size_t{1} << 40;
  auto memory = engine_memory::reserve_addresses(bytes);
  REQUIRE(memory);
  CHECK(memory->base() != nullptr);
  CHECK(memory->size_bytes() == bytes);
  CHECK(memory->commit(bytes));
  CHECK(memory->committed_bytes() == 0);
  CHECK_FALSE(engine_memory::reserve_addresses(std::size_t{1} << 60));
}

TEST_CASE("an engine whose KV lies on a device starts with more of it than the host has memory") {
  constexpr std::uint64_t tib = std::uint64_t{1} << 40, mib = std::uint64_t{1} << 20;
  model_geometry model = the_toy().model;
  for (layer_geometry& layer : model.layers) {
    layer.attention.kv_heads = 8;
    layer.attention.head_dim_qk = 192;
    layer.attention.head_dim_vo = 128;
  }
  engine_options o = options_of(2, 64);
  o.page_tokens = 1 << 11;
  o.kv_tokens = std::uint64_t{1} << 27;
  o.cache_tokens = 0;
  o.make_runner = [](const runner_setup& setup) -> std::unique_ptr<step_runner> {
    return std::make_unique<idle_runner>(setup.limits, setup.model.vocabulary);
  };
  const std::uint64_t before = resident_bytes();
  serial_executor serial;
  oriel::engine::engine e(model, the_toy().weights, the_toy().tokens, o, serial);
  const auto& pool = e.kv_pools().pool(full_pool);
  CHECK(std::uint64_t{pool.capacity()} * pool.layout().page_bytes() >= tib);
  std::size_t tokens = 0;
  for (std::uint64_t id = 1; id <= 2; ++id) {
    request r;
    r.id = request_id{id};
    r.prompt = prompt_of(id, 100);
    r.max_new_tokens = 8;
    REQUIRE(e.submit(std::move(r)));
  }
  while (!e.idle()) {
    tokens += e.step().size();
  }
  CHECK(tokens == 16);
  CHECK(resident_bytes() - before < 64 * mib);
}

}  // namespace host_pools_test
