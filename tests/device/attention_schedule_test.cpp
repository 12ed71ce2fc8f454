// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Plans, the items that thread blocks find, and the ring of stages; nothing is multiplied here.
#include <oriel/core/random.hpp>

#include <device/attention_machine.hpp>
#include <device/barrier_model.hpp>

#include <array>
#include <numeric>
#include <set>
#include <utility>

namespace attention_schedule_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

constexpr attention_shape full_attention{16, 2, 192, 128, 64, 0, dtype::bf16};
constexpr cuda::attention_limits decode{
    .sequences_max = 256, .rows_max = 256, .rows_per_sequence_max = 1, .keys_max = 131072};

/// Counts, for each row and KV head, the keys that items show it, and for each thread block the
/// tiles that it works on.
struct coverage {
  std::vector<std::uint64_t> keys_of_row;  ///< [rows, kv_heads]
  std::vector<std::uint64_t> tiles_of_block;
};

coverage cover(const detail::attention_call& call, std::uint32_t blocks) {
  const item_tables tables(call);
  const std::uint32_t heads = call.shape.kv_heads;
  coverage c{std::vector<std::uint64_t>(std::size_t{tables.rows.back()} * heads),
             std::vector<std::uint64_t>(blocks)};
  for (std::uint32_t block = 0; block < blocks; ++block) {
    const auto count = [&](const detail::attention_work& work) {
      REQUIRE(work.kv_head < heads);
      REQUIRE(work.tokens <= call.tokens_per_tile * call.warpgroups);
      c.tiles_of_block[block] += work.last_tile() - work.first_tile();
      for (std::uint32_t token = 0; token < work.tokens; ++token) {
        const std::uint32_t position = work.position + token;
        const std::uint32_t first = std::max(
            work.key_begin, detail::first_seen(call.shape.window_tokens, work.first_key, position));
        const std::uint32_t end = std::min(work.key_end, position + 1);
        c.keys_of_row.at(std::size_t{work.batch_row + token} * heads + work.kv_head) +=
            end > first ? end - first : 0;
      }
    };
    detail::for_each_item(call, tables.items.data(), tables.rows.data(), block, blocks, count);
  }
  return c;
}

detail::attention_call call_for(const attention_shape& shape,
                                const cuda::attention_limits& limits,
                                std::span<const paged_sequence> sequences) {
  basic_attention_args<bf16> args{};
  args.sequences = sequences;
  return detail::make_attention_call(*cuda::plan_attention(shape, limits), args, nullptr);
}

}  // namespace

TEST_CASE("items show each row of the call each of its keys once, whatever the lengths") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 60)));
  random_stream random(seed, 61);
  attention_shape shape = full_attention;
  const std::uint32_t group = 1 + random.next_below(16);
  shape.q_heads = 2 * group;
  shape.window_tokens = random.next_below(2) ? 0 : 1 + random.next_below(1100);
  const std::uint32_t rows_most = random.next_below(2) ? 8 : 300;
  // Half of the calls leave the shortest or the longest sequences to another one.
  const bool is_part = random.next_below(2) == 0;
  const std::uint32_t rows_least = is_part ? 1 + random.next_below(5) : 1;
  const std::uint32_t longest = is_part ? rows_most + 20 : rows_most;
  std::vector<paged_sequence> sequences;
  for (std::uint32_t i = 0; i < 1 + random.next_below(40); ++i) {
    paged_sequence s{};
    s.rows = random.next_below(longest + 1);
    // Lengths skewed 1 to 1,000, and borders of tiles and splits.
    s.first_position = random.next_below(3) == 0 ? random.next_below(60000) : random.next_below(60);
    s.first_position =
        random.next_below(4) == 0 ? s.first_position / 1024 * 1024 : s.first_position;
    s.first_key = random.next_below(3) == 0 ? random.next_below(s.first_position + 1) : 0;
    sequences.push_back(s);
  }
  const auto call = call_for(shape,
                             {.sequences_max = 64,
                              .rows_max = 20000,
                              .rows_per_sequence_max = rows_most,
                              .keys_max = 70000,
                              .rows_per_sequence_min = rows_least},
                             sequences);
  CHECK((call.splits_max != 0) == (shape.window_tokens == 0 && rows_most == 8));
  const coverage c = cover(call, 1 + random.next_below(140));
  std::uint32_t row = 0;
  for (const paged_sequence& s : sequences) {
    for (std::uint32_t r = 0; r < s.rows; ++r, ++row) {
      const std::uint32_t position = s.first_position + r;
      const std::uint32_t first = detail::first_seen(shape.window_tokens, s.first_key, position);
      const bool is_served = s.rows >= rows_least && s.rows <= rows_most;
      const std::uint32_t keys = is_served ? position + 1 - first : 0;
      INFO("seed " << seed << " row " << row << " position " << position);
      REQUIRE(c.keys_of_row[row * 2] == keys);
      REQUIRE(c.keys_of_row[row * 2 + 1] == keys);
    }
  }
}

TEST_CASE("skewed lengths: no thread block has two splits more than its share") {
  std::vector<paged_sequence> sequences(64);
  for (std::uint32_t i = 0; i < sequences.size(); ++i) {
    sequences[i].first_position = i % 16 == 0 ? 99999 : 99;
    sequences[i].rows = 1;
  }
  const coverage c = cover(call_for(full_attention, decode, sequences), 132);
  std::uint64_t all = 0, most = 0;
  for (const std::uint64_t tiles : c.tiles_of_block) {
    all += tiles;
    most = std::max(most, tiles);
  }
  CHECK(most <= all / 132 + 1 + 2 * detail::split_keys / detail::tile_keys);
}

TEST_CASE("the rows of a prompt are dealt out evenly") {
  const std::uint32_t kv_heads = GENERATE(1u, 4u, 8u);
  const std::uint32_t tokens = GENERATE(2048u, 4096u, 8192u, 16384u, 32768u);
  attention_shape shape = full_attention;
  shape.kv_heads = kv_heads;
  shape.q_heads = 16 * kv_heads;
  paged_sequence sequences[3]{};  // One of them is this call's.
  sequences[0].rows = sequences[2].rows = 1;
  sequences[1].rows = tokens;
  const coverage c = cover(call_for(shape,
                                    {.sequences_max = 3,
                                     .rows_max = tokens + 2,
                                     .rows_per_sequence_max = tokens,
                                     .keys_max = tokens,
                                     .rows_per_sequence_min = 2},
                                    sequences),
                           132);
  const auto all = std::accumulate(c.tiles_of_block.begin(), c.tiles_of_block.end(), 0.0);
  const auto most = static_cast<double>(*std::ranges::max_element(c.tiles_of_block));
  INFO(kv_heads << " KV heads, " << tokens << " tokens");
  CHECK(most <= 1.05 * all / 132);
}

TEST_CASE("items that run together read the same keys, no more than the L2 cache keeps") {
  const auto of =
      GENERATE(std::array{4u, 8192u, 4u}, std::array{8u, 32768u, 1u}, std::array{8u, 12000u, 4u});
  const std::uint32_t kv_heads = of[0], tokens = of[1], together = of[2];
  constexpr std::uint32_t blocks = 132;
  attention_shape shape = full_attention;
  shape.kv_heads = kv_heads;
  shape.q_heads = 16 * kv_heads;
  paged_sequence sequence{};
  sequence.rows = tokens;
  const auto call = call_for(
      shape,
      {.sequences_max = 1, .rows_max = tokens, .rows_per_sequence_max = tokens, .keys_max = tokens},
      {&sequence, 1});
  CHECK(detail::heads_together(call, sequence) == together);
  struct round {
    std::set<std::uint32_t> heads;
    std::uint32_t least = ~0u, most = 0;  ///< tiles of an item
  };
  const item_tables tables(call);
  std::vector<round> rounds(tokens / 8 * kv_heads / blocks + 1);
  for (std::uint32_t block = 0; block < blocks; ++block) {
    std::size_t i = 0;
    const auto count = [&](const detail::attention_work& work) {
      round& r = rounds.at(i++);
      const std::uint32_t tiles = work.last_tile() - work.first_tile();
      r.heads.insert(work.kv_head / together);
      r.least = std::min(r.least, tiles);
      r.most = std::max(r.most, tiles);
    };
    detail::for_each_item(call, tables.items.data(), tables.rows.data(), block, blocks, count);
  }
  std::size_t borders = 0;  // Rounds in which some heads end and the next begin.
  for (const round& r : rounds) {
    CHECK(r.heads.size() <= 2);
    borders += r.heads.size() == 2;
    CHECK((r.heads.size() == 2 || r.most - r.least <= blocks / together / 8 + 1));
  }
  CHECK(borders <= kv_heads / together - 1);
}

TEST_CASE("a window's first key counts the query itself") {
  CHECK(detail::first_seen(0, 0, 500) == 0);
  CHECK(detail::first_seen(1, 0, 500) == 500);
  CHECK(detail::first_seen(128, 0, 127) == 0);
  CHECK(detail::first_seen(128, 0, 128) == 1);
  CHECK(detail::first_seen(128, 7, 128) == 7);
}

TEST_CASE("pieces of a tile are its keys, page by page") {
  const std::uint32_t page_size = GENERATE(16u, 32u, 48u, 64u, 80u, 128u);
  const dtype kv = GENERATE(dtype::bf16, dtype::e4m3);
  const std::uint32_t group = kv == dtype::bf16 ? 8 : 16;
  std::vector<std::uint32_t> table(64);
  for (std::uint32_t i = 0; i < table.size(); ++i) {
    table[i] = 1000 + i;
  }
  attention_shape shape = full_attention;
  shape.page_size = page_size;
  shape.kv = kv;
  const paged_sequence sequence{table.data(), 0, 700, 3};
  const auto call = call_for(shape, decode, {&sequence, 1});
  detail::attention_work work{};
  work.sequence = &sequence;
  for (work.key_begin = 0; work.key_begin < 200; work.key_begin += 7) {
    for (work.key_end = work.key_begin + 1; work.key_end < 300; work.key_end += 13) {
      std::uint32_t next = work.key_begin / group * group;
      for (std::uint32_t tile = work.first_tile(); tile < work.last_tile(); ++tile) {
        for (std::uint32_t lane = 0; lane < 32; ++lane) {
          const auto piece = detail::piece_of(call, work, tile, lane);
          if (piece.keys != 0) {
            REQUIRE(piece.key == next);
            REQUIRE(piece.page == 1000 + piece.key / page_size);
            REQUIRE(piece.key % page_size + piece.keys <= page_size);
            REQUIRE(piece.key / 64 == tile);
            REQUIRE((piece.key + piece.keys - 1) / 64 == tile);
            next += piece.keys;
          }
        }
      }
      REQUIRE(next == (work.key_end + group - 1) / group * group);
    }
  }
}

namespace {

/// Tiles of splits, 1 to 16 each: where splits end, by tile.
std::vector<bool> random_splits(random_stream& random, std::uint32_t tiles) {
  std::vector<bool> ends(tiles);
  for (std::uint32_t tile = 0; tile < tiles; tile += 1 + random.next_below(16)) {
    ends[tile] = true;
  }
  ends.back() = true;
  return ends;
}

/// A consumer warp: it waits for a tile while it holds the one before, gives that back, and gives
/// back the last tile of a split before it waits for more.
template <std::uint32_t Stages>
struct ring_consumer {
  detail::stage_ring<Stages> next, held;
  std::uint32_t waited = 0, released = 0;  ///< tiles

  [[nodiscard]] bool wants_tile(const std::vector<bool>& ends) const {
    return waited < ends.size() &&
           (waited == released || (waited == released + 1 && !ends[released]));
  }
  [[nodiscard]] bool gives_back(const std::vector<bool>& ends) const {
    return waited != released && !wants_tile(ends);
  }
};

/// Tiles that all have given back.
template <std::uint32_t Stages>
std::uint32_t slowest(const std::vector<ring_consumer<Stages>>& consumers) {
  return std::ranges::min_element(consumers, {}, &ring_consumer<Stages>::released)->released;
}

/// A copy under way.
struct copy {
  std::uint32_t stage, tile;
  bool is_v;
};

}  // namespace

TEST_CASE("the ring of stages: no tile is lost, read early or overwritten, in any interleaving") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 20)));
  random_stream random(seed, 62);
  constexpr std::uint32_t stages =
      detail::attention_stages(detail::attention_dims<192, 128>::stage_bytes);
  constexpr std::uint32_t tiles = 200, warps = 8;
  std::vector<barrier_model> full_k(stages, barrier_model(1)), full_v(stages, barrier_model(1)),
      free(stages, barrier_model(warps));
  std::vector<std::uint32_t> k(stages, ~0u), v(stages, ~0u);  // which tile
  std::vector<copy> under_way;
  detail::stage_ring<stages> producer;
  std::vector<ring_consumer<stages>> consumers(warps);
  const auto ends = random_splits(random, tiles);
  std::uint32_t produced = 0, idle = 0;
  bool is_ahead = false;  // Two tiles are on their way, or there, behind two that are held.
  while (slowest(consumers) < tiles) {
    REQUIRE(++idle < 10000);  // Nobody can move: a deadlock.
    const std::uint32_t who = random.next_below(warps + 2);
    if (who == warps && produced < tiles && free[producer.stage].has_passed(producer.parity ^ 1)) {
      full_k[producer.stage].arrive(64);
      full_v[producer.stage].arrive(48);
      under_way.push_back({producer.stage, produced, false});
      under_way.push_back({producer.stage, produced++, true});
      producer.advance();
      idle = 0;
    } else if (who == warps + 1 && !under_way.empty()) {  // Copies end in any order.
      const auto n = static_cast<std::uint32_t>(under_way.size());
      std::swap(under_way[random.next_below(n)], under_way.back());
      const copy c = under_way.back();
      under_way.pop_back();
      (c.is_v ? v : k)[c.stage] = c.tile;
      c.is_v ? full_v[c.stage].complete(48) : full_k[c.stage].complete(64);
      idle = 0;
    } else if (who < warps) {
      auto& c = consumers[who];
      if (c.wants_tile(ends) && full_k[c.next.stage].has_passed(c.next.parity)) {
        REQUIRE(k[c.next.stage] == c.waited++);
        c.next.advance();
        REQUIRE(k[c.next.before().stage] == c.waited - 1);  // Where its V is looked for.
        idle = 0;
      } else if (c.gives_back(ends) && full_v[c.held.stage].has_passed(c.held.parity)) {
        REQUIRE(v[c.held.stage] == c.released);
        REQUIRE(k[c.held.stage] == c.released++);
        free[c.held.stage].arrive();
        c.held.advance();
        idle = 0;
      }
      is_ahead |= c.waited == c.released + 2 && produced >= c.waited + 2;
    }
  }
  CHECK(is_ahead);
}

TEST_CASE("items are handed on with their queries, in any interleaving") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 20)));
  random_stream random(seed, 64);
  constexpr std::uint32_t items = 100, warps = 8, loaders = 5;
  barrier_model full(loaders + 1), free(warps);
  std::uint32_t item = ~0u;                          // The one in shared memory; `items` ends all.
  std::vector<std::uint32_t> queries(loaders, ~0u);  // Whose, by who copies them.
  std::vector<std::uint32_t> handed(loaders);        // Items, by each loader.
  std::vector<std::pair<std::uint32_t, std::uint32_t>> copies;  // Under way: loader, item.
  struct consumer {
    std::uint32_t next = 0;
    bool multiplies = false;  // The item's queries.
    bool is_done = false;
  };
  std::vector<consumer> consumers(warps);
  std::uint32_t idle = 0;
  bool is_ahead = false;  // Queries come while a consumer has not yet asked for the item.
  const auto has_all = [&](std::uint32_t i) {
    return item == i && std::count(queries.begin(), queries.end(), i) == loaders;
  };
  while (!std::ranges::all_of(consumers, &consumer::is_done)) {
    REQUIRE(++idle < 10000);  // Nobody can move: a deadlock.
    const std::uint32_t who = random.next_below(warps + loaders + 1);
    if (who < warps) {
      consumer& c = consumers[who];
      if (c.multiplies) {
        REQUIRE(has_all(c.next));
        free.arrive();
        c.multiplies = false;
        ++c.next;
        idle = 0;
      } else if (!c.is_done && full.has_passed(c.next & 1)) {
        c.is_done = c.next == items;
        c.multiplies = !c.is_done;
        REQUIRE((c.is_done ? item == items : has_all(c.next)));
        idle = 0;
      }
    } else if (who < warps + loaders) {
      const std::uint32_t loader = who - warps, i = handed[loader];
      if (i <= items && free.has_passed((i & 1) ^ 1)) {
        if (loader == 0) {
          item = i;
          full.arrive();
        }
        queries[loader] = ~0u;
        copies.emplace_back(loader, i);
        ++handed[loader];
        idle = 0;
      }
    } else if (!copies.empty()) {
      const auto n = static_cast<std::uint32_t>(copies.size());
      std::swap(copies[random.next_below(n)], copies.back());
      const auto [loader, i] = copies.back();
      copies.pop_back();
      queries[loader] = i;
      full.arrive();
      is_ahead |= i != 0 && i <= items && consumers[0].next == i && !consumers[0].multiplies;
      idle = 0;
    }
  }
  CHECK(is_ahead);
}

TEST_CASE("e4m3: two rings of stages, and the converters between them, in any interleaving") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 20)));
  random_stream random(seed, 63);
  using dims = detail::attention_dims<192, 128, dtype::e4m3>;  // The fewest raw stages of all.
  constexpr std::uint32_t raw_stages =
      detail::attention_raw_stages(dims::raw_bytes, 2 * dims::query_bytes, dims::stage_bytes);
  constexpr std::uint32_t stages = detail::converted_stages, tiles = 200;
  constexpr std::uint32_t warps = 8, converters = 3;  // A thread of each converter warp.
  static_assert(raw_stages == 2);
  std::vector<barrier_model> raw_full(raw_stages, barrier_model(2)),
      raw_free(raw_stages, barrier_model(converters)), full(stages, barrier_model(converters)),
      free(stages, barrier_model(warps));
  std::vector<std::uint32_t> raw_k(raw_stages, ~0u), raw_v(raw_stages, ~0u);  // which tile
  std::vector<std::vector<std::uint32_t>> made(stages, std::vector<std::uint32_t>(converters, ~0u));
  std::vector<copy> under_way;
  detail::stage_ring<raw_stages> producer;
  std::vector<detail::stage_ring<raw_stages>> from(converters);
  std::vector<detail::stage_ring<stages>> to(converters);
  std::vector<ring_consumer<stages>> consumers(warps);
  const auto ends = random_splits(random, tiles);
  std::vector<std::uint32_t> converted(converters);
  std::uint32_t produced = 0, idle = 0;
  bool is_ahead = false;  // A tile is made while two are held.
  const auto is_made = [&](std::uint32_t stage, std::uint32_t tile) {
    return std::count(made[stage].begin(), made[stage].end(), tile) == converters;
  };
  while (slowest(consumers) < tiles) {
    REQUIRE(++idle < 10000);  // Nobody can move: a deadlock.
    const std::uint32_t who = random.next_below(warps + converters + 2);
    if (who < warps) {
      auto& c = consumers[who];
      if (c.wants_tile(ends) && full[c.next.stage].has_passed(c.next.parity)) {
        REQUIRE(is_made(c.next.stage, c.waited++));
        c.next.advance();
        REQUIRE(is_made(c.next.before().stage, c.waited - 1));  // Where its scales are looked for.
        idle = 0;
      } else if (c.gives_back(ends)) {
        REQUIRE(is_made(c.held.stage, c.released++));
        free[c.held.stage].arrive();
        c.held.advance();
        idle = 0;
      }
      is_ahead |= c.waited == c.released + 2 && converted[0] > c.waited;
    } else if (who < warps + converters) {
      const std::uint32_t c = who - warps;
      if (converted[c] < tiles && raw_full[from[c].stage].has_passed(from[c].parity) &&
          free[to[c].stage].has_passed(to[c].parity ^ 1)) {
        REQUIRE(raw_k[from[c].stage] == converted[c]);
        REQUIRE(raw_v[from[c].stage] == converted[c]);
        made[to[c].stage][c] = converted[c]++;
        full[to[c].stage].arrive();
        raw_free[from[c].stage].arrive();
        from[c].advance();
        to[c].advance();
        idle = 0;
      }
    } else if (who == warps + converters) {
      if (produced < tiles && raw_free[producer.stage].has_passed(producer.parity ^ 1)) {
        raw_full[producer.stage].arrive(40);  // K's bytes, then V's.
        raw_full[producer.stage].arrive(24);
        under_way.push_back({producer.stage, produced, false});
        under_way.push_back({producer.stage, produced++, true});
        producer.advance();
        idle = 0;
      }
    } else if (!under_way.empty()) {
      const auto n = static_cast<std::uint32_t>(under_way.size());
      std::swap(under_way[random.next_below(n)], under_way.back());
      const copy c = under_way.back();
      under_way.pop_back();
      (c.is_v ? raw_v : raw_k)[c.stage] = c.tile;
      raw_full[c.stage].complete(c.is_v ? 24 : 40);
      idle = 0;
    }
  }
  CHECK(is_ahead);
}

TEST_CASE("each attention kernel has stages beyond the two that a consumer holds") {
  for (const std::uint32_t warpgroups : {1u, 2u}) {
    for (const auto& [qk, vo] : {std::pair{192u, 128u}, {128u, 128u}, {64u, 64u}}) {
      INFO(qk << " " << vo << " " << warpgroups);
      const std::uint32_t stage = 64 * 2 * (qk + vo), raw = 64 * (qk + vo + 8);
      CHECK((detail::attention_stages(stage) - 2) * stage >= 64 * 1024);
      const std::uint32_t queries = warpgroups * 64 * 2 * qk;
      // One raw stage is converted, the others are on their way.
      const std::uint32_t raws = detail::attention_raw_stages(raw, queries, stage + 512);
      CHECK((raws - 1) * raw >= (warpgroups == 1 ? 33'000u : 20'000u));
      const attention_shape shape{16, 1, qk, vo, 64, 0, dtype::e4m3};
      CHECK(detail::attention_shared_bytes(shape, warpgroups, 1024) <= 227 * 1024);
    }
  }
}

TEST_CASE("plan_attention chooses unit, warpgroups and splits") {
  const auto plan = *cuda::plan_attention(full_attention, decode);
  CHECK(plan.unit == cuda::attention_unit::tensor_core);
  CHECK(plan.warpgroups == 1);
  CHECK(plan.splits_max == 128);
  CHECK(plan.blocks == 132);
  CHECK(plan.shared_bytes <= 227 * 1024);
  CHECK(plan.workspace_bytes >= std::size_t{256} * 16 * 128 * (128 + 2) * 4);

  cuda::attention_limits limits = decode;
  limits.rows_max = 100000;  // Shares of splits are of 256 sequences of one row all the same.
  CHECK(cuda::plan_attention(full_attention, limits)->workspace_bytes == plan.workspace_bytes);
  limits.rows_per_sequence_max = 8;  // 8 rows x 8 heads: one tile of 64.
  CHECK(cuda::plan_attention(full_attention, limits)->warpgroups == 1);
  limits.rows_per_sequence_max = 9;  // Not verification any more: rows keep their splits.
  CHECK(cuda::plan_attention(full_attention, limits)->warpgroups == 2);
  CHECK(cuda::plan_attention(full_attention, limits)->splits_max == 0);
  CHECK(cuda::plan_attention(full_attention, limits)->workspace_bytes == 0);
  limits.sequences_max = 1024;
  CHECK(cuda::plan_attention(full_attention, limits)->shared_bytes <= 227 * 1024);

  attention_shape shape = full_attention;
  shape.window_tokens = 128;
  CHECK(cuda::plan_attention(shape, decode)->splits_max == 0);
  shape = full_attention;
  shape.head_dim_vo = 192;
  CHECK(cuda::plan_attention(shape, decode)->unit == cuda::attention_unit::generic);
  shape = full_attention;
  shape.kv = dtype::f32;
  CHECK(cuda::plan_attention(shape, decode)->unit == cuda::attention_unit::generic);
  shape.kv = dtype::e4m3;
  CHECK(cuda::plan_attention(shape, decode)->unit == cuda::attention_unit::tensor_core);
}

TEST_CASE("plan_attention refuses what no kernel does") {
  const auto refused = [](attention_shape shape, cuda::attention_limits limits) {
    const auto plan = cuda::plan_attention(shape, limits);
    return !plan && plan.error().code == errc::unsupported_shape;
  };
  attention_shape shape = full_attention;
  shape.q_heads = 17;
  CHECK(refused(shape, decode));
  shape.q_heads = 34;
  CHECK(refused(shape, decode));
  shape = full_attention;
  shape.head_dim_qk = 257;
  CHECK(refused(shape, decode));
  shape.head_dim_qk = 0;
  CHECK(refused(shape, decode));
  shape = full_attention;
  shape.page_size = 24;
  CHECK(refused(shape, decode));
  cuda::attention_limits limits = decode;
  limits.sequences_max = 1025;
  CHECK(refused(full_attention, limits));
  limits.sequences_max = 0;
  CHECK(refused(full_attention, limits));
  limits = decode;
  limits.keys_max = 0;
  CHECK(refused(full_attention, limits));
  limits = decode;
  limits.rows_per_sequence_min = 0;
  CHECK(refused(full_attention, limits));
  limits.rows_per_sequence_min = 2;
  CHECK(refused(full_attention, limits));
}

}  // namespace attention_schedule_test
