// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Tiers below the pools of a device: pages go down and come up with their bytes, and a request
// whose prefix comes from host memory answers as one whose prefix was still there.
#include "support/no_text.hpp"
#include "support/scale.hpp"
#include "support/toy_geometry.hpp"

#include <oriel/core/executor.hpp>
#include <oriel/core/random.hpp>
#include <oriel/device/memory.hpp>
#include <oriel/tier/stream_mover.hpp>

#include <cuda_runtime_api.h>

#include <catch2/catch.hpp>
#include <engine/engine.hpp>
#include <engine/engine_tiers.hpp>
#include <engine/weight_loader.hpp>
#include <engine_cuda/cuda_runner.hpp>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

namespace tiers_test {

using namespace oriel;          // NOLINT: a test
using namespace oriel::engine;  // NOLINT

namespace {

struct no_commit {
  status operator()(std::uint32_t, std::uint32_t) const noexcept { return {}; }
};

struct answered {
  std::vector<token_id> tokens;
  request_usage usage;
};

answered serve(oriel::engine::engine& e, std::uint64_t id, const std::vector<token_id>& prompt) {
  request r;
  r.id = request_id{id};
  r.prompt = prompt;
  r.max_new_tokens = 8;
  r.sampling.temperature = 0.0f;
  REQUIRE(e.submit(std::move(r)));
  answered a;
  while (!e.idle()) {
    for (const event& happened : e.step()) {
      a.usage = happened.usage;
      if (happened.token) {
        a.tokens.push_back(*happened.token);
      }
    }
  }
  return a;
}

}  // namespace

TEST_CASE("cuda engine: pages that go down and come up have their bytes") {
  const std::vector<kv_layer_shape> shapes{
      {.kv_heads = 2, .head_dim_qk = 192, .head_dim_vo = 128, .kv = dtype::bf16},
      {.kv_heads = 1, .head_dim_qk = 64, .head_dim_vo = 64, .window_tokens = 64, .kv = dtype::f32},
      {.kv_heads = 2, .head_dim_qk = 192, .head_dim_vo = 128, .kv = dtype::bf16},
      {.kv_heads = 2, .head_dim_qk = 192, .head_dim_vo = 128, .kv = dtype::e4m3}};
  const pool_plan plan = *pool_plan::make(shapes, {.page_size = 64});
  constexpr std::uint32_t pages = 4;
  std::vector<cuda::device_memory> memory;
  std::vector<moved_pool> sides;
  std::vector<std::vector<std::byte>> names;
  random_stream random(1, 140);
  for (std::uint32_t pool = 0; pool < plan.pools(); ++pool) {
    const std::size_t bytes = plan.layout(pool_id{pool}).page_bytes() * pages;
    memory.push_back(*cuda::device_memory::reserve(bytes));
    names.emplace_back(bytes);
    for (std::byte& b : names.back()) {
      b = static_cast<std::byte>(random.next_below(256));
    }
    REQUIRE(cudaMemcpy(memory.back().base(), names.back().data(), bytes, cudaMemcpyHostToDevice) ==
            cudaSuccess);
    sides.push_back({names.back().data(), memory.back().base()});
  }
  // A copy from memory that is not pinned may be under way when it returns, and these streams do not wait for it.
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  std::array<cudaStream_t, 3> streams{};
  for (cudaStream_t& s : streams) {
    REQUIRE(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking) == cudaSuccess);
  }
  {
    auto mover = stream_mover<cuda::device_streams, cuda::pinned_memory, no_commit>::make(
        plan,
        shapes,
        sides,
        {.compute = streams[0], .up = streams[1], .down = streams[2]},
        no_commit{},
        {.stage_bytes_max = 1 << 20});
    REQUIRE(mover);
    page_mover& m = **mover;
    REQUIRE(m.mark());
    for (std::uint32_t l = 0; l < plan.layers(); ++l) {  // Page 0 down, and up into page 3.
      const layer_home home = plan.home(l);
      std::array<std::uint32_t, 1> up{}, down{};
      REQUIRE((m.try_take(move_way::up, up) && m.try_take(move_way::down, down)));
      page_slice from{to_index(home.pool), 0, home.slot, down[0]};
      page_slice to{to_index(home.pool), 3, home.slot, up[0]};
      const page_move taken = m.begin(move_way::down, {&from, 1});
      REQUIRE((taken.is_whole && m.finish(taken)));
      const auto bytes = m.bytes_of(move_way::down, from);
      std::memcpy(m.bytes_of(move_way::up, to).data(), bytes.data(), bytes.size());
      const page_move brought = m.begin(move_way::up, {&to, 1});
      REQUIRE((brought.is_whole && m.finish(brought) && *m.is_done(brought)));
    }
  }
  for (std::uint32_t pool = 0; pool < plan.pools(); ++pool) {  // Parts have no gaps here.
    const std::size_t page = plan.layout(pool_id{pool}).page_bytes();
    std::vector<std::byte> found(page);
    REQUIRE(
        cudaMemcpy(found.data(), memory[pool].base() + 3 * page, page, cudaMemcpyDeviceToHost) ==
        cudaSuccess);
    CHECK(std::memcmp(found.data(), names[pool].data(), page) == 0);
  }
  for (const cudaStream_t s : streams) {
    cudaStreamDestroy(s);
  }
}

TEST_CASE("cuda engine: a prefix from host memory is the one that was on the device") {
  model_geometry model = toy_geometry({0, 16, 16, 0}, true);
  model.hidden = 64;
  const cuda_device device = find_cuda_device();
  const model_weights packed = random_weights(model, dtype::bf16, 2);
  const auto uploaded = upload_weights(
      model,
      random_weights(
          model, dtype::bf16, 2, best_isa(), host::gemm_backend::automatic, weight_form::plain),
      device);
  engine_options o{.chunk_tokens = 64, .sequences_max = 1, .context_tokens = 256};
  const dtype kv = GENERATE(dtype::bf16, dtype::e4m3);
  o.kv = kv;
  o.make_runner = cuda_runners(uploaded, device);
  o.tier_moves.fetch_us_min = 10'000'000;
  o.tier_moves.fetch_us_max = 10'000'000;
  std::vector<tier> tiers = make_tiers({.host_bytes = 64 << 20}, kv_page_shape(model, o, kv));
  tiers[0].rates = {.latency_s = 0.0, .bytes_per_s = 1e15};  // On paper: it is asked.
  serial_executor serial;
  const tokenizer tokens = no_text();
  oriel::engine::engine e(model, packed, tokens, o, serial, std::move(tiers));
  random_stream random(8, 141);
  for (std::uint64_t i = 0; i < std::max<std::uint64_t>(2, scaled(8)); ++i) {
    std::vector<token_id> prompt;
    for (std::uint32_t t = 0; t < 200; ++t) {
      prompt.push_back(token_id{random.next_below(model.vocabulary)});
    }
    (void)serve(e, 3 * i, prompt);
    const answered hit = serve(e, 3 * i + 1, prompt);
    REQUIRE(e.cache()->tiers()->finish(no_deadline));
    e.cache()->tree().evict_full(e.cache()->tree().evictable_full_pages(), steady_now_us());
    const answered fetched = serve(e, 3 * i + 2, prompt);
    CHECK(fetched.usage.fetched_tokens[0] != 0);
    CHECK(fetched.usage.cached_tokens == hit.usage.cached_tokens);
    CHECK(fetched.tokens == hit.tokens);  // The same rows in the same buckets.
  }
}

}  // namespace tiers_test
