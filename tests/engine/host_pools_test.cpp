// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The pools of an engine whose KV lies on a device: they count pages, and take no memory for them.
#include "conformance/kv_memory_suite.hpp"
#include "engine/toy_server.hpp"
#include "support/resident.hpp"

#include <catch2/catch.hpp>
#include <engine/engine_pools.hpp>
#include <engine/step_runner.hpp>

#include <memory>
#include <vector>

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
  engine_options o = options_of(2, 64);
  o.page_tokens = 1 << 16;
  o.kv_tokens = std::uint64_t{1} << 33;
  o.cache_windows = 4;
  o.make_runner = [](const runner_setup& setup) -> std::unique_ptr<step_runner> {
    return std::make_unique<idle_runner>(setup.limits, setup.model.vocabulary);
  };
  const std::uint64_t before = resident_bytes();
  server s(o);
  const auto& pool = s.engine.kv_pools().pool(full_pool);
  CHECK(std::uint64_t{pool.capacity()} * pool.layout().page_bytes() >= tib);
  CHECK(s.serve(prompt_of(1, 100), 8).answer.size() == 8);
  CHECK(s.serve(prompt_of(2, 100), 8).answer.size() == 8);
  CHECK(resident_bytes() - before < 64 * mib);
}
