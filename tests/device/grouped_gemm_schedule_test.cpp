// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Plans, the items that thread blocks find, and the ring of stages; nothing is multiplied here.
#include <device/barrier_model.hpp>
#include <device/grouped_gemm_case.hpp>
#include <device/grouped_gemm_machine.hpp>

#include <cmath>
#include <deque>

namespace grouped_gemm_schedule_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

/// The experts of MiMo-V2.5-Pro.
constexpr grouped_gemm_shape gate_up{384, 2048, 6144, dtype::bf16, true};
constexpr grouped_gemm_shape down{384, 6144, 2048, dtype::e4m3};

std::vector<std::uint32_t> offsets_of(const std::vector<std::uint32_t>& rows) {
  std::vector<std::uint32_t> offsets(rows.size() + 1);
  std::inclusive_scan(rows.begin(), rows.end(), offsets.begin() + 1);
  return offsets;
}

detail::grouped_gemm_call call_for(const cuda::grouped_gemm_plan& plan,
                                   const std::vector<std::uint32_t>& offsets) {
  grouped_gemm_args<float> args{};
  args.offsets = offsets.data();
  args.rows = offsets.back();
  return detail::make_grouped_gemm_call(plan, args);
}

/// Columns that wgmma computes for an item, in 16ths of a tile's rows.
std::uint32_t columns_of(std::uint32_t rows) {
  return rows <= 16 ? 16 : rows <= 64 ? 64 : rows <= 128 ? 128 : 256;
}

}  // namespace

TEST_CASE("items cover each row and feature tile once, whatever the groups") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 40)));
  random_stream random(seed, 81);
  const grouped_gemm_shape shape{.groups = 1 + random.next_below(40),
                                 .n = 1 + random.next_below(900),
                                 .k = 64,
                                 .weights = random.next_below(2) ? dtype::bf16 : dtype::e4m3,
                                 .swiglu = random.next_below(2) != 0};
  std::vector<std::uint32_t> rows = random_groups(shape.groups, 9000, random);
  const auto offsets = offsets_of(rows);
  const auto plan = *cuda::plan_grouped_gemm(
      shape, {.rows_max = offsets.back(), .multiprocessors = 1 + random.next_below(140)});
  const auto call = call_for(plan, offsets);
  const auto items = items_before(call);
  std::vector<int> found(std::size_t{offsets.back()} * plan.feature_tiles);
  for (std::uint32_t block = 0; block < plan.blocks; ++block) {
    detail::for_each_item(
        call, {items.data(), plan.blocks, block}, [&](const detail::grouped_gemm_work& work) {
          REQUIRE(work.rows - 1 < plan.tile_rows);
          REQUIRE(work.first_row >= offsets[work.group]);
          REQUIRE(work.first_row + work.rows <= offsets[work.group + 1]);
          REQUIRE(work.feature_tile < plan.feature_tiles);
          for (std::uint32_t r = 0; r < work.rows; ++r) {
            ++found[std::size_t{work.first_row + r} * plan.feature_tiles + work.feature_tile];
          }
        });
  }
  CHECK(std::count(found.begin(), found.end(), 1) == static_cast<long>(found.size()));
}

TEST_CASE("Zipf-skewed experts: no thread block has 5 % more than its share of columns") {
  std::vector<std::uint32_t> rows(384);
  for (std::uint32_t e = 0; e < rows.size(); ++e) {  // 32,768 tokens, top-8; the first has 1 in 10.
    rows[(e * 151) % rows.size()] =
        static_cast<std::uint32_t>(262144.0 / std::pow(e + 4.0, 0.9) / 12.3);
  }
  const auto offsets = offsets_of(rows);
  CHECK(*std::max_element(rows.begin(), rows.end()) >
        50 * *std::min_element(rows.begin(), rows.end()));
  for (const grouped_gemm_shape& shape : {gate_up, down}) {
    const auto plan =
        *cuda::plan_grouped_gemm(shape, {.rows_max = offsets.back(), .multiprocessors = 132});
    const auto call = call_for(plan, offsets);
    const auto items = items_before(call);
    std::vector<std::uint64_t> columns(plan.blocks);
    for (std::uint32_t block = 0; block < plan.blocks; ++block) {
      detail::for_each_item(
          call, {items.data(), plan.blocks, block}, [&](const detail::grouped_gemm_work& work) {
            columns[block] += columns_of(work.rows);
          });
    }
    const std::uint64_t all = std::accumulate(columns.begin(), columns.end(), std::uint64_t{0});
    CHECK(static_cast<double>(*std::max_element(columns.begin(), columns.end())) <=
          1.05 * static_cast<double>(all) / plan.blocks);
  }
}

TEST_CASE("neighbouring items of a group share a piece of weights") {
  const auto plan = *cuda::plan_grouped_gemm({1, 1024, 64, dtype::bf16},
                                             {.rows_max = 256 * 20, .multiprocessors = 8});
  REQUIRE(plan.tile_rows == 256);
  const std::vector<std::uint32_t> offsets{0, 256 * 20};
  const auto call = call_for(plan, offsets);
  for (std::uint32_t i = 0; i < 20 * plan.feature_tiles; ++i) {
    const auto work = detail::work_of(call, 0, i);
    const std::uint32_t band = i / (8 * plan.feature_tiles), width = band < 2 ? 8 : 4;
    CHECK(work.feature_tile == i % (8 * plan.feature_tiles) / width);
    CHECK(work.first_row / 256 / 8 == band);
  }
}

TEST_CASE("the ring of a grouped product: no tile is lost, read early or overwritten") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 20)));
  random_stream random(seed, 82);
  constexpr std::uint32_t stages = 4, tiles = 120, threads = 6, warps = 8;
  constexpr std::int64_t piece = 64;
  // A producer's thread arrives when its copies have ended; the first announces the piece, too. A
  // stage's parts: one for each thread's chunks, and the piece of weights.
  std::vector<barrier_model> full(stages, barrier_model(threads + 1)),
      free(stages, barrier_model(warps));
  std::vector<std::vector<std::uint32_t>> holds(stages,
                                                std::vector<std::uint32_t>(threads + 1, ~0u));
  struct copy {
    std::uint32_t stage, part, tile;
  };
  std::vector<std::deque<copy>> chunks(threads);  // Of one thread in order; threads in any.
  std::deque<copy> pieces;
  std::vector<detail::stage_ring<stages>> producer(threads), waited(warps), released(warps);
  std::vector<std::uint32_t> produced(threads), consumed(warps), given_back(warps);
  std::uint32_t idle = 0;
  while (*std::min_element(given_back.begin(), given_back.end()) < tiles) {
    REQUIRE(++idle < 20000);  // Nobody can move: a deadlock.
    const std::uint32_t who = random.next_below(2 * threads + warps + 1);
    if (who < threads && produced[who] < tiles) {
      auto& ring = producer[who];
      if (free[ring.stage].has_passed(ring.parity ^ 1)) {
        if (who == 0) {
          full[ring.stage].arrive(piece);
          pieces.push_back({ring.stage, threads, produced[who]});
        }
        chunks[who].push_back({ring.stage, who, produced[who]++});
        ring.advance();
        idle = 0;
      }
    } else if (who >= threads && who < 2 * threads && !chunks[who - threads].empty()) {
      const copy c = chunks[who - threads].front();
      chunks[who - threads].pop_front();
      holds[c.stage][c.part] = c.tile;
      full[c.stage].arrive();
      idle = 0;
    } else if (who == 2 * threads + warps && !pieces.empty()) {
      holds[pieces.front().stage][threads] = pieces.front().tile;
      full[pieces.front().stage].complete(piece);
      pieces.pop_front();
      idle = 0;
    } else if (who >= 2 * threads && who < 2 * threads + warps) {
      const std::uint32_t warp = who - 2 * threads;
      // One tile under way: the stage before is given back when the next one is multiplied.
      const bool may_wait = consumed[warp] < tiles && consumed[warp] - given_back[warp] < 2;
      if (may_wait && full[waited[warp].stage].has_passed(waited[warp].parity)) {
        for (const std::uint32_t tile : holds[waited[warp].stage]) {
          REQUIRE(tile == consumed[warp]);
        }
        ++consumed[warp];
        waited[warp].advance();
        idle = 0;
      } else if (consumed[warp] - given_back[warp] == 2 ||
                 (consumed[warp] == tiles && given_back[warp] < tiles)) {
        for (const std::uint32_t tile : holds[released[warp].stage]) {
          REQUIRE(tile == given_back[warp]);
        }
        free[released[warp].stage].arrive();
        ++given_back[warp];
        released[warp].advance();
        idle = 0;
      }
    }
  }
}

TEST_CASE("plan_grouped_gemm sizes items by the shape") {
  const auto prefill = *cuda::plan_grouped_gemm(gate_up, {262144, 132});
  CHECK(prefill.tile_rows == 256);
  CHECK(prefill.feature_tiles == 32);
  CHECK(prefill.k_tiles == 96);
  CHECK(prefill.packed_bytes == std::size_t{4096} * 6144 * 2);
  CHECK(prefill.shared_bytes <= 227 * 1024);
  const auto fp8 = *cuda::plan_grouped_gemm(down, {512, 132});
  CHECK(fp8.tile_rows == 128);
  CHECK(fp8.k_tiles == 16);
  CHECK(fp8.shared_bytes <= 227 * 1024);
  // 16 feature tiles of one group: rows are cut until 132 multiprocessors have work.
  CHECK(cuda::plan_grouped_gemm({1, 2048, 64, dtype::bf16}, {2048, 132})->tile_rows == 128);
  CHECK(cuda::plan_grouped_gemm({1, 2048, 64, dtype::bf16}, {600, 132})->tile_rows == 64);
  CHECK(cuda::plan_grouped_gemm({1, 2048, 64, dtype::bf16}, {64, 132})->tile_rows == 16);
  CHECK(cuda::plan_grouped_gemm({1, 20480, 64, dtype::bf16}, {1, 132})->tile_rows == 256);
}

TEST_CASE("plan_grouped_gemm refuses what no kernel does") {
  const auto refused = [](grouped_gemm_shape shape, cuda::grouped_gemm_limits limits) {
    const auto plan = cuda::plan_grouped_gemm(shape, limits);
    return !plan && plan.error().code == errc::unsupported_shape;
  };
  grouped_gemm_shape shape = gate_up;
  shape.groups = 1025;
  CHECK(refused(shape, {64, 132}));
  shape.groups = 0;
  CHECK(refused(shape, {64, 132}));
  shape = gate_up;
  shape.weights = dtype::f32;
  CHECK(refused(shape, {64, 132}));
  shape = gate_up;
  shape.n = 1u << 30;
  CHECK(refused(shape, {64, 132}));
  shape.n = 1u << 29;
  CHECK(refused(shape, {1u << 29, 132}));
  CHECK(refused(gate_up, {0, 132}));
  CHECK(refused(gate_up, {64, 0}));
}

}  // namespace grouped_gemm_schedule_test
