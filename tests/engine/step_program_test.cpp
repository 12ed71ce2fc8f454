// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Step programs, run on the host in the memory that they plan, give the host runner's bits.
#include "engine/with_blocks.hpp"
#include "support/device_kv.hpp"
#include "support/host_backend.hpp"

#include <oriel/core/random.hpp>
#include <oriel/kv/dual_pool.hpp>

#include <catch2/catch.hpp>
#include <engine/engine.hpp>
#include <engine/engine_pools.hpp>
#include <engine/program_runner.hpp>
#include <engine/step_program.hpp>
#include <engine/table_mirror.hpp>

#include <algorithm>
#include <bit>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

using namespace oriel;
using namespace oriel::engine;
using namespace engine_life;

namespace {

program_model model_of(const model_geometry& geometry,
                       const host_pools& pools,
                       dtype compute,
                       std::uint32_t page_size,
                       std::uint32_t context) {
  program_model m{.geometry = &geometry,
                  .compute = compute,
                  .kv = compute,
                  .page_size = page_size,
                  .context_tokens = context};
  for (const pool_layer& layer : layer_homes(pools)) {
    m.pool_of.push_back(to_index(layer.pool));
  }
  m.mtp_blocks = m.layers() - static_cast<std::uint32_t>(geometry.layers.size());
  return m;
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::ranges::equal(
                                     a,
                                     b,
                                     {},
                                     [](float x) { return std::bit_cast<std::uint32_t>(x); },
                                     [](float x) { return std::bit_cast<std::uint32_t>(x); });
}

}  // namespace

TEST_CASE("buffers of a program that are in use at once lie apart") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 12)));
  library books = with_blocks({0, 16, 16, 0, 32}, seed % 2 == 0, 16, 5);
  engine_options o{.sequences_max = 8, .context_tokens = 512};
  o.speculation.drafter = drafter_kind::mtp;
  o.prefix_cache = false;
  const host_pools pools = make_pools(books.model, o, dtype::bf16);
  const program_model model =
      model_of(books.model, pools, seed % 3 == 0 ? dtype::f32 : dtype::bf16, 16, 512);
  random_stream random(seed, 120);
  program_shape shape{.kind = static_cast<program_kind>(seed % 3),
                      .sequences = 1 + random.next_below(8),
                      .rows = 16 + random.next_below(100),
                      .logit_rows = random.next_below(8),
                      .block = random.next_below(3),
                      .drafts_next = random.next_below(2) == 0};
  if (shape.kind == program_kind::decode) {
    shape.drafts = random.next_below(4);
    shape.rows = shape.logit_rows = shape.sequences * (1 + shape.drafts);
  } else {
    shape.drafts_next = false;
  }
  const step_program p = make_program(model, shape);
  std::vector<std::size_t> touched(p.buffers.size());
  for (std::size_t i = 0; i < p.operations.size(); ++i) {
    visit_buffers(p.operations[i], [&](buffer_id id) {
      REQUIRE(id != no_buffer);
      const program_buffer& b = p[id];
      ++touched[static_cast<std::size_t>(id)];
      REQUIRE((b.first_use <= i && i <= b.last_use));
    });
  }
  for (std::size_t a = 0; a < p.buffers.size(); ++a) {
    const program_buffer& x = p.buffers[a];
    INFO("buffer " << a << ", " << x.name);
    REQUIRE(x.offset_bytes % 256 == 0);
    REQUIRE(x.offset_bytes + x.size_bytes <= p.memory_bytes);
    REQUIRE((touched[a] != 0 || x.role != buffer_role::scratch));
    const std::size_t end = p.input_bytes + p.output_bytes;
    switch (x.role) {
      case buffer_role::input:
        REQUIRE(x.offset_bytes + x.size_bytes <= p.input_bytes);
        break;
      case buffer_role::output:
        REQUIRE((p.input_bytes <= x.offset_bytes && x.offset_bytes + x.size_bytes <= end));
        break;
      case buffer_role::scratch:
        REQUIRE(x.offset_bytes >= end);
        break;
    }
    for (std::size_t b = 0; b < a; ++b) {
      const program_buffer& y = p.buffers[b];
      const bool at_once = x.first_use <= y.last_use && y.first_use <= x.last_use;
      const bool apart = x.offset_bytes + x.size_bytes <= y.offset_bytes ||
                         y.offset_bytes + y.size_bytes <= x.offset_bytes;
      REQUIRE((!at_once || apart));
    }
  }
}

TEST_CASE("a bucket holds what it is asked for, and there are few of them") {
  random_stream random(3, 121);
  const program_shape most{.sequences = 40, .rows = 700, .logit_rows = 160};
  std::set<program_shape> decoding, prompts;
  for (int i = 0; i < 20'000; ++i) {
    program_shape wanted{.sequences = 1 + random.next_below(40)};
    wanted.rows = wanted.sequences + random.next_below(700 - wanted.sequences + 1);
    wanted.logit_rows = random.next_below(std::min(wanted.rows, 160u) + 1);
    const program_shape held = bucket_of(wanted, most);
    REQUIRE((held.sequences >= wanted.sequences && held.sequences <= most.sequences));
    REQUIRE((held.rows >= wanted.rows && held.rows <= most.rows));
    REQUIRE((held.logit_rows >= wanted.logit_rows && held.logit_rows <= most.logit_rows));
    REQUIRE(bucket_of(held, most) == held);
    prompts.insert(held);
    wanted.kind = program_kind::decode;
    wanted.drafts = random.next_below(4);
    const program_shape graph = bucket_of(wanted, most);
    REQUIRE((graph.sequences >= wanted.sequences && graph.drafts == wanted.drafts));
    REQUIRE(graph.rows == graph.sequences * (1 + graph.drafts));
    decoding.insert({.sequences = graph.sequences, .drafts = graph.drafts});
    REQUIRE(
        bucket_of(
            {.kind = program_kind::decode, .sequences = graph.sequences, .drafts = graph.drafts},
            most) == graph);
  }
  CHECK(decoding.size() == 8 * 4);  // 1, 2, 4, 8, 16, 24, 32, 40 sequences; 0 to 3 drafts
  CHECK(prompts.size() <= 8 * 7 * 9);
}

TEST_CASE("a device's page tables are those of the batch, and what did not change is not sent") {
  random_stream random(4, 122);
  const std::vector<std::uint32_t> pages_max{40, 9};
  table_mirror mirror(pages_max, 5);
  std::vector<std::uint32_t> device(mirror.entries().size());
  std::vector<std::vector<std::uint32_t>> tables(10);
  for (int step = 0; step < 2'000; ++step) {
    std::size_t changed = 0;
    for (std::uint32_t t = 0; t < tables.size(); ++t) {
      std::vector<std::uint32_t>& table = tables[t];
      const std::uint32_t pool = t / 5, most = pages_max[pool];
      if (random.next_below(40) == 0) {
        table.clear();
      }
      if (table.size() < most && random.next_below(3) == 0) {
        table.push_back(random.next_below(1'000));
        ++changed;
      }
      if (!table.empty() && random.next_below(10) == 0) {
        table[random.next_below(static_cast<std::uint32_t>(table.size()))] =
            random.next_below(8) == 0 ? to_index(null_page) : random.next_below(1'000);
        ++changed;
      }
      mirror.set(pool, t % 5, {table, 0});
    }
    std::size_t ranges = 0;
    for (const table_range& range : mirror.changes()) {
      std::copy_n(mirror.entries().begin() + static_cast<std::ptrdiff_t>(range.first),
                  range.count,
                  device.begin() + static_cast<std::ptrdiff_t>(range.first));
      ++ranges;
    }
    mirror.forget_changes();
    REQUIRE(ranges <= changed);
    for (std::uint32_t t = 0; t < tables.size(); ++t) {
      const std::size_t at = mirror.index_of(t / 5, t % 5);
      REQUIRE(std::equal(
          tables[t].begin(), tables[t].end(), device.begin() + static_cast<std::ptrdiff_t>(at)));
      for (const std::uint32_t page : tables[t]) {
        REQUIRE((page == to_index(null_page) || page < mirror.pages_in_use(t / 5)));
      }
    }
  }
}

TEST_CASE("a table that names page 0 alone needs it") {
  const std::vector<std::uint32_t> pages_max{4, 2};
  table_mirror mirror(pages_max, 2);
  const std::vector<std::uint32_t> first{0}, ring{0, to_index(null_page)};
  mirror.set(0, 0, {first, 0});
  mirror.set(1, 0, {ring, 0});
  CHECK(mirror.pages_in_use(0) == 1);
  CHECK(mirror.pages_in_use(1) == 1);
}

namespace {

constexpr std::uint32_t context = 160, members = 5;

/// Two runners over pools of their own, and sequences that have the same pages in both.
struct two_runners {
  explicit two_runners(library& b, dtype compute)
      : books(b),
        pools{make_pools(b.model, options(b), compute), make_pools(b.model, options(b), compute)},
        host(b.model, b.weights, layer_homes(pools[0]), 16, compute, limits(), serial),
        backend(b.model, b.weights, layer_homes(pools[1])),
        device(model_of(b.model, pools[1], compute, 16, context),
               limits(),
               pages_max(pools[1].plan()),
               3,
               backend) {}

  static engine_options options(const library& b) {
    engine_options o{.chunk_tokens = 64, .sequences_max = members, .context_tokens = context};
    o.prefix_cache = false;
    o.speculation.drafter = b.weights.mtp.empty() ? drafter_kind::none : drafter_kind::mtp;
    return o;
  }
  static runner_limits limits() {
    return {.rows_max = 200,
            .logit_rows_max = members * 4,
            .sequences_max = members,
            .context_tokens = context};
  }
  static std::vector<std::uint32_t> pages_max(const pool_plan& plan) {
    std::vector<std::uint32_t> pages{plan.pages_for(full_pool, context)};
    for (std::uint32_t kind = 0; kind < plan.window_kinds(); ++kind) {
      pages.push_back(plan.ring(kind).ring_pages());
    }
    return pages;
  }

  library& books;
  serial_executor serial;
  host_pools pools[2];
  model_runner host;
  oriel::test::host_backend backend;
  program_runner device;
};

struct twin {
  host_pools::sequence_type kv[2];
  std::vector<token_id> tokens;  // known
};

twin admit(two_runners& r) {
  return {{*r.pools[0].try_admit({.tokens_now = 0, .tokens_max = context}),
           *r.pools[1].try_admit({.tokens_now = 0, .tokens_max = context})},
          {}};
}

std::vector<block_table_view> tables_of(const host_pools::sequence_type& kv) {
  std::vector<block_table_view> tables;
  for (std::uint32_t pool = 0; pool <= kv.window_kinds(); ++pool) {
    tables.push_back(kv.table(pool_id{pool}));
  }
  return tables;
}

}  // namespace

TEST_CASE("programs give the bits of the host's runner for prompts in chunks and mixed batches") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 6)));
  INFO("seed " << seed);
  const dtype compute = seed % 3 == 0 ? dtype::f32 : dtype::bf16;
  library books{.model = toy_model({0, 16, 32, 0, 16, 16}, seed % 2 == 0),
                .weights = {},
                .tokens = no_text()};
  books.weights = random_weights(books.model, compute, seed);
  two_runners r(books, compute);
  random_stream random(seed, 123);
  std::vector<twin> running;
  for (int step = 0; step < 25; ++step) {
    std::erase_if(running, [&](const twin& t) {
      return t.kv[0].length() + 40 > context || random.next_below(15) == 0;
    });
    while (running.size() < members && random.next_below(2) == 0) {
      running.push_back(admit(r));
    }
    if (running.empty()) {
      continue;
    }
    std::vector<step_rows> batch[2];
    std::vector<std::vector<block_table_view>> tables[2];
    tables[0].reserve(members);
    tables[1].reserve(members);
    for (twin& t : running) {
      const std::uint32_t rows = random.next_below(3) == 0 ? 1 + random.next_below(38) : 1;
      t.tokens.resize(t.kv[0].length());
      for (std::uint32_t i = 0; i < rows; ++i) {
        t.tokens.push_back(token_id{random.next_below(books.model.vocabulary)});
      }
      const std::uint32_t logit_rows = random.next_below(std::min(rows, 4u) + 1);
      for (int side = 0; side < 2; ++side) {
        REQUIRE(t.kv[side].reserve(rows));
        tables[side].push_back(tables_of(t.kv[side]));
        batch[side].push_back({.tokens = std::span(t.tokens).last(rows),
                               .first_position = t.kv[side].length(),
                               .tables = tables[side].back(),
                               .logit_rows = logit_rows});
      }
    }
    const std::span<const float> expected = r.host.forward(batch[0]);
    const std::span<const float> found = r.device.forward(batch[1]);
    REQUIRE(same_bits(found, expected));
    for (std::size_t i = 0; i < running.size(); ++i) {
      for (auto& kv : running[i].kv) {
        kv.accept(static_cast<std::uint32_t>(batch[0][i].tokens.size()));
        kv.slide_out();
      }
    }
  }
  CHECK(r.backend.runs > 10);
  CHECK(r.backend.graph_runs == 0);
}

namespace {

/// What requests got from an engine.
struct answers {
  std::map<std::uint64_t, std::vector<token_id>> tokens;
  std::map<std::uint64_t, draft_counts> drafts;
  std::uint64_t missing_mtp_rows = 0, healed_tokens = 0;
};

answers serve(const library& books,
              engine_options o,
              std::span<const request> requests,
              std::uint64_t seed,
              const std::function<std::unique_ptr<step_runner>(const runner_setup&)>& maker) {
  o.make_runner = maker;
  serial_executor serial;
  engine::engine e(books.model, books.weights, books.tokens, o, serial);
  random_stream random(seed, 125);
  answers result;
  std::size_t next = 0;
  while (next < requests.size() || !e.idle()) {
    while (next < requests.size() && random.next_below(3) == 0) {
      REQUIRE(e.submit(requests[next++]));
    }
    for (const event& happened : e.step()) {
      const std::uint64_t id = static_cast<std::uint64_t>(happened.id);
      if (happened.token) {
        result.tokens[id].push_back(*happened.token);
      }
      result.drafts[id] = happened.drafts;
    }
  }
  result.missing_mtp_rows = e.metrics().missing_mtp_rows.value();
  result.healed_tokens = e.metrics().healed_tokens.value();
  return result;
}

}  // namespace

TEST_CASE("an engine gives the same tokens and drafts when its steps are programs") {
  static std::uint64_t healed_tokens = 0;  // of all seeds
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 8)));
  INFO("seed " << seed);
  library books = with_blocks({0, 16, 16, 0}, seed % 2 == 0, 16, 60 + seed);
  random_stream random(seed, 124);
  engine_options o{.chunk_tokens = 24, .sequences_max = 4, .context_tokens = context};
  o.prefix_cache = seed % 4 < 2;
  o.now_us = ticking_us;
  o.speculation.drafter = seed == 7   ? drafter_kind::none
                          : seed == 6 ? drafter_kind::lookup
                                      : drafter_kind::mtp;
  o.speculation.drafts_max = 1 + static_cast<std::uint32_t>(seed) % 3;
  o.speculation.chain = seed % 4 == 3 ? mtp_chain::previous_hidden : mtp_chain::main_hidden;
  std::vector<request> requests;
  for (std::uint64_t id = 0; id < 9; ++id) {
    request r;
    r.id = request_id{id};
    if (id % 2 != 0) {  // Parts anywhere from the one before: a hit, and sometimes a heal.
      const auto& other = requests.back().prompt;
      r.prompt.assign(other.begin(),
                      other.begin() + random.next_below(static_cast<std::uint32_t>(other.size())));
    }
    const std::uint32_t length =
        1 + random.next_below(90 - static_cast<std::uint32_t>(r.prompt.size()));
    for (std::uint32_t i = 0; i < length; ++i) {
      r.prompt.push_back(token_id{random.next_below(8)});
    }
    r.max_new_tokens = 1 + random.next_below(60);
    r.sampling = {.temperature = random.next_below(2) == 0 ? 0.0f : 0.8f,
                  .top_k = random.next_below(2) * 5,
                  .seed = id};
    if (seed == 1 && id % 4 == 3) {  // Such steps come in pieces.
      r.sampling.presence_penalty = 0.5f;
    }
    requests.push_back(std::move(r));
  }
  std::optional<oriel::test::device_kv> kv;
  std::optional<oriel::test::host_backend> backend;
  const auto by_programs = [&](const runner_setup& setup) -> std::unique_ptr<step_runner> {
    program_model m = model_of(
        setup.model, setup.pools, books.weights.compute, setup.page_size, o.context_tokens);
    m.chains_hidden = setup.chains_hidden;
    kv.emplace(setup.pools);
    backend.emplace(setup.model, books.weights, kv->layers());
    return std::make_unique<program_runner>(
        m, setup.limits, two_runners::pages_max(setup.pools.plan()), setup.drafts_max, *backend);
  };
  const answers expected = serve(books, o, requests, seed, {});
  const answers found = serve(books, o, requests, seed, by_programs);
  REQUIRE(found.tokens == expected.tokens);
  REQUIRE(found.drafts == expected.drafts);
  CHECK(found.missing_mtp_rows == expected.missing_mtp_rows);
  CHECK(found.healed_tokens == expected.healed_tokens);
  healed_tokens += found.healed_tokens;
  CHECK((seed != 7 || healed_tokens != 0));
  CHECK(backend->graph_runs > 20);
  CHECK((o.speculation.drafter != drafter_kind::mtp || backend->drafting_runs > 10));
}
