// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// A forward pass whose cached pages arrive while it runs: bit for bit what it is when they were
// always there. Every page is poisoned; a layer's bytes are there from its gate to the next one.
#include "support/scale.hpp"
#include "support/toy_model.hpp"

#include <oriel/core/random.hpp>
#include <oriel/core/thread_pool.hpp>
#include <oriel/kv/dual_pool.hpp>
#include <oriel/prefix/heal.hpp>
#include <oriel/tier/detail/page_copies.hpp>
#include <oriel/tier/layer_loader_thread.hpp>
#include <oriel/tier/memory_store.hpp>

#include <catch2/catch.hpp>
#include <engine/model_runner.hpp>
#include <engine/weight_loader.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

namespace layer_gate_test {

using namespace oriel;

namespace {

constexpr std::uint32_t page_tokens = 16, context = 256, rows_max = 160;

/// A cached prefix, its bytes kept aside, and a runner.
class gated_world {
 public:
  using sequence = dual_pool<>::sequence_type;

  gated_world(const std::vector<std::uint32_t>& windows, bool moe, std::uint64_t seed)
      : model_(toy_model(windows, moe)),
        weights_(engine::random_weights(model_, dtype::bf16, seed)),
        windows_(windows),
        pools_(make_pools()),
        runner_(model_,
                weights_,
                layers_kv(),
                page_tokens,
                dtype::bf16,
                {.rows_max = rows_max,
                 .logit_rows_max = rows_max,
                 .sequences_max = 4,
                 .context_tokens = context},
                threads_) {
    random_stream draw(seed, 51);
    for (std::uint32_t i = 0; i < context; ++i) {
      tokens_.push_back(token_id{draw.next_below(model_.vocabulary)});
    }
    for (const std::uint32_t w : windows) {
      if (w != 0 && std::ranges::find(kinds_, w) == kinds_.end()) {
        kinds_.push_back(w);
      }
    }
  }

  /// Computes the prefix and `rows` behind it, cold; keeps the pages and the rows' logits.
  void run_cold(std::uint32_t prefix, std::uint32_t rows) {
    length_ = prefix;
    cold_.emplace(admit({.tokens_now = 0, .tokens_max = context}));
    forward(*cold_, prefix, nullptr, {});
    full_.clear();
    windows_kept_.clear();
    for (std::uint32_t j = 0; j < prefix / page_tokens; ++j) {
      full_.push_back(cold_->share(full_pool, j));
    }
    for (std::uint32_t kind = 0; kind < kinds_.size(); ++kind) {
      const std::uint32_t behind = std::min(prefix, kinds_[kind] - 1);
      windows_kept_.emplace_back();
      for (std::uint32_t j = (prefix - behind) / page_tokens; j < prefix / page_tokens; ++j) {
        windows_kept_.back().push_back(cold_->share(window_pool(kind), j));
      }
    }
    keep_bytes();
    expected = forward(*cold_, rows, nullptr, {});
  }

  /// A sequence that resumes behind the prefix, or heals it.
  sequence resume(const heal_plan* heal = nullptr) {
    borrowed_prefix prefix{.length = length_, .full = full_};
    const std::vector<std::span<const page_handle>> lent(windows_kept_.begin(),
                                                         windows_kept_.end());
    std::vector<std::uint32_t> first_shared;
    if (heal == nullptr) {
      prefix.windows = lent;
    } else {
      for (const std::uint32_t window : kinds_) {
        first_shared.push_back(heal->first_healed_page(window));
      }
      prefix.heal = heal_start{heal->first_row(), first_shared};
    }
    return admit({.tokens_now = length_, .tokens_max = context, .prefix = prefix});
  }
  sequence stranger() { return admit({.tokens_now = 0, .tokens_max = context}); }

  /// Runs the next rows of a sequence; returns the logits of those behind the prefix.
  std::vector<float> forward(sequence& s,
                             std::uint32_t rows,
                             const heal_plan* heal,
                             layer_gate_ref gate) {
    rows_of_batch r = rows_for(s, rows, gate);
    r.step.heal = heal;
    const auto logits = runner_.forward({&r.step, 1});
    s.commit(rows);
    return {logits.begin(), logits.end()};
  }

  struct rows_of_batch {
    std::vector<block_table_view> tables;
    engine::step_rows step;
  };
  rows_of_batch rows_for(sequence& s, std::uint32_t rows, layer_gate_ref gate) {
    if (!s.reserve(rows)) {
      throw std::runtime_error("the test's pools are too small");
    }
    rows_of_batch r;
    for (std::uint32_t pool = 0; pool < pools_.pools(); ++pool) {
      r.tables.push_back(s.table(pool_id{pool}));
    }
    const std::uint32_t first = s.length();
    r.step = {.tokens = std::span(tokens_).subspan(first, rows),
              .first_position = first,
              .tables = r.tables,
              .logit_rows = first + rows - std::max(first, std::min(length_, first + rows)),
              .gate = gate};
    return r;
  }

  /// Pages of the prefix: poison in the slices of one layer, or what they held.
  void poison(std::uint32_t layer, std::byte with = std::byte{0xCB}) {
    visit(layer, [&](std::span<std::byte> slice, const std::vector<std::byte>&) {
      std::ranges::fill(slice, with);
    });
  }
  void fill(std::uint32_t layer) {
    visit(layer, [&](std::span<std::byte> slice, const std::vector<std::byte>& kept) {
      std::ranges::copy(kept, slice.begin());
    });
  }
  void poison_all(std::byte with = std::byte{0xCB}) {
    for (std::uint32_t l = 0; l < layers(); ++l) {
      poison(l, with);
    }
  }
  void fill_all() {
    for (std::uint32_t l = 0; l < layers(); ++l) {
      fill(l);
    }
  }

  /// The prefix's pages: pool, handle, slices and what they held.
  struct kept_page {
    std::uint32_t pool = 0, page = 0;
    std::vector<std::span<std::byte>> slices = {};
    std::vector<std::vector<std::byte>> bytes = {};
    page_identity identity = {};
    page_key key = {};
  };

  [[nodiscard]] std::uint32_t layers() const { return pools_.plan().layers(); }
  [[nodiscard]] const std::vector<std::uint32_t>& windows() const { return windows_; }
  [[nodiscard]] engine::model_runner& runner() { return runner_; }
  [[nodiscard]] dual_pool<>& pools() { return pools_; }
  [[nodiscard]] std::uint32_t vocabulary() const { return model_.vocabulary; }
  [[nodiscard]] std::uint32_t length() const { return length_; }
  [[nodiscard]] std::vector<kept_page>& kept() { return kept_; }
  [[nodiscard]] std::span<const token_id> tokens() const { return tokens_; }

  std::vector<float> expected;

 private:
  dual_pool<> make_pools() const {
    const auto plan = pool_plan::make(kv_shapes_of(model_.layers, dtype::bf16),
                                      {.page_size = page_tokens, .step_tokens = rows_max});
    pool_sizes sizes;
    for (std::uint32_t pool = 0; pool < plan->pools(); ++pool) {
      sizes.pages.push_back(6 * plan->pages_for(pool_id{pool}, context));
    }
    return *dual_pool<>::make(*plan, sizes);
  }
  [[nodiscard]] std::vector<pool_layer> layers_kv() const {
    std::vector<pool_layer> homes;
    for (std::uint32_t l = 0; l < pools_.plan().layers(); ++l) {
      homes.push_back(pools_.layer(l));
    }
    return homes;
  }
  sequence admit(const admission& wanted) {
    auto admitted = pools_.try_admit(wanted);
    if (!admitted) {
      throw std::runtime_error("the test's pools are too small");
    }
    return std::move(*admitted);
  }
  void keep_bytes() {
    kept_.clear();
    const auto keep = [&](std::uint32_t pool, std::uint32_t logical, page_handle page) {
      kept_page& k = kept_.emplace_back(kept_page{.pool = pool, .page = logical});
      detail::slices_of(pools_.pool(pool_id{pool}), page, k.slices);
      for (const auto& slice : k.slices) {
        k.bytes.emplace_back(slice.begin(), slice.end());
      }
    };
    const std::uint32_t pages = length_ / page_tokens;
    for (std::uint32_t j = 0; j < pages; ++j) {
      keep(0, j, full_[j]);
    }
    for (std::uint32_t kind = 0; kind < kinds_.size(); ++kind) {
      const auto count = static_cast<std::uint32_t>(windows_kept_[kind].size());
      for (std::uint32_t j = 0; j < count; ++j) {
        keep(kind + 1, pages - count + j, windows_kept_[kind][j]);
      }
    }
  }
  template <class Visit>
  void visit(std::uint32_t layer, Visit&& visit) {
    const layer_home home = pools_.plan().home(layer);
    for (kept_page& k : kept_) {
      if (k.pool == to_index(home.pool)) {
        visit(k.slices[home.slot], k.bytes[home.slot]);
      }
    }
  }

  model_geometry model_;
  engine::model_weights weights_;
  std::vector<std::uint32_t> windows_, kinds_;
  thread_pool threads_{2};
  dual_pool<> pools_;
  engine::model_runner runner_;
  std::vector<token_id> tokens_;
  std::uint32_t length_ = 0;
  std::optional<sequence> cold_;
  std::vector<page_handle> full_;
  std::vector<std::vector<page_handle>> windows_kept_;
  std::vector<kept_page> kept_;
};

/// Layers arrive in an order of their own, each at the latest within its own wait. What a layer has
/// read is poisoned again at the next gate: nothing is read before its gate or after the next.
struct late_gate {
  late_gate(gated_world& w, std::uint64_t seed) : world(w), draw(seed, 52), is_there(w.layers()) {
    world.poison_all();
  }
  bool wait(std::uint32_t layer) {
    CHECK((asked.empty() || asked.back() < layer));
    for (const std::uint32_t before : asked) {
      world.poison(before);
    }
    asked.push_back(layer);
    arrive(layer);
    for (std::uint32_t n = draw.next_below(3); n > 0; --n) {  // Others come before their turn.
      const std::uint32_t early = draw.next_below(world.layers());
      if (early > layer) {
        arrive(early);
      }
    }
    return true;
  }
  void arrive(std::uint32_t layer) {
    if (!is_there[layer]) {
      world.fill(layer);
      is_there[layer] = true;
    }
  }

  gated_world& world;
  random_stream draw;
  std::vector<bool> is_there;
  std::vector<std::uint32_t> asked;
};

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

const std::vector<std::uint32_t> hybrid{0, 16, 16, 40, 0, 16, 40, 0};

}  // namespace

TEST_CASE("a forward pass whose layers arrive late has the same bits") {
  for (std::uint64_t seed = 0; seed < scaled(40); ++seed) {
    CAPTURE(seed);
    random_stream draw(seed, 53);
    gated_world world(hybrid, seed % 2 == 0, seed);
    world.run_cold(page_tokens * (1 + draw.next_below(8)), 1 + draw.next_below(24));
    auto s = world.resume();
    const auto rows = static_cast<std::uint32_t>(world.expected.size() / world.vocabulary());
    const std::uint32_t first = 1 + draw.next_below(rows);
    late_gate gate(world, seed);
    std::vector<float> logits = world.forward(s, first, nullptr, gate);
    REQUIRE(gate.asked.size() == world.layers());
    world.fill_all();
    if (first < rows) {  // The next step has everything, and no gate.
      const auto rest = world.forward(s, rows - first, nullptr, {});
      logits.insert(logits.end(), rest.begin(), rest.end());
    }
    REQUIRE(same_bits(logits, world.expected));
  }
}

TEST_CASE("the test above can fail: a layer that is not there shows") {
  gated_world world(hybrid, false, 3);
  world.run_cold(64, 5);
  struct early_gate {
    bool wait(std::uint32_t layer) {
      if (layer != missing) {
        world.fill(layer);
      }
      return true;
    }
    gated_world& world;
    std::uint32_t missing;
  };
  for (std::uint32_t l = 0; l <= world.layers(); ++l) {
    CAPTURE(l);
    world.poison_all();
    early_gate gate{world, l};
    auto s = world.resume();
    CHECK(same_bits(world.forward(s, 5, nullptr, gate), world.expected) == (l == world.layers()));
  }
}

TEST_CASE("a heal whose full pages arrive late has the same bits") {
  gated_world world({0, 16, 16, 16, 0, 16, 16, 16}, false, 4);
  world.run_cold(128, 10);
  const heal_plan plan =
      plan_heal({world.windows(), page_tokens}, {.full_length = 128, .prompt_tokens = 138});
  REQUIRE(plan.first_row() < plan.length);
  late_gate gate(world, 4);
  auto s = world.resume(&plan);
  CHECK(same_bits(world.forward(s, 138 - plan.first_row(), &plan, gate), world.expected));
}

TEST_CASE("a sequence whose pages do not come leaves the batch, and nobody notices") {
  gated_world world(hybrid, true, 5);
  world.run_cold(64, 6);
  struct failing_gate {
    bool wait(std::uint32_t layer) {
      asked.push_back(layer);
      if (layer < failing) {
        world.fill(layer);
      }
      return layer < failing;
    }
    gated_world& world;
    std::uint32_t failing;
    std::vector<std::uint32_t> asked = {};
  };
  std::vector<float> alone;
  {
    auto s = world.stranger();
    auto r = world.rows_for(s, 70, {});
    const auto logits = world.runner().forward({&r.step, 1});
    alone.assign(logits.begin(), logits.end());
  }
  for (std::uint32_t failing = 0; failing < world.layers(); ++failing) {
    CAPTURE(failing);
    world.poison_all(std::byte{0xFF});  // NaN, wherever it is read.
    failing_gate gate{world, failing};
    auto before = world.stranger(), mine = world.resume(), behind = world.stranger();
    auto a = world.rows_for(before, 70, {}), b = world.rows_for(mine, 6, gate),
         c = world.rows_for(behind, 70, {});
    const engine::step_rows batch[]{a.step, b.step, c.step};
    const auto logits = world.runner().forward(batch);
    const std::size_t mine_count = 6 * world.vocabulary();
    REQUIRE(logits.size() == 2 * alone.size() + mine_count);
    CHECK(same_bits(logits.first(alone.size()), alone));
    CHECK(same_bits(logits.last(alone.size()), alone));
    CHECK(std::ranges::all_of(logits.subspan(alone.size(), mine_count),
                              [](float x) { return x == 0.0f; }));
    CHECK(world.runner().is_cut_off(1));
    CHECK(!world.runner().is_cut_off(0));
    CHECK(!world.runner().is_cut_off(2));
    CHECK(gate.asked.size() == failing + 1);  // Once it said no, it is not asked again.
    // Computed without those pages, in the next step, the sequence has its bits.
    auto again = world.stranger();
    (void)world.forward(again, world.length(), nullptr, {});
    CHECK(same_bits(world.forward(again, 6, nullptr, {}), world.expected));
  }
  world.fill_all();
  auto s = world.resume();
  CHECK(same_bits(world.forward(s, 6, nullptr, {}), world.expected));
  CHECK(!world.runner().is_cut_off(0));
}

TEST_CASE("a loader thread fills the pages of a forward pass from a store") {
  gated_world world(hybrid, false, 6);
  world.run_cold(128, 7);
  memory_store_options memory{.page_size = page_tokens, .capacity_bytes = 8 << 20};
  memory.slice_bytes.resize(world.pools().pools());
  std::vector<layer_home> homes;
  for (std::uint32_t l = 0; l < world.layers(); ++l) {
    homes.push_back(world.pools().plan().home(l));
  }
  page_digest space;
  std::vector<layer_page> pages;
  for (auto& k : world.kept()) {
    k.key.link.bytes[0] = std::byte(static_cast<std::uint8_t>(k.page + 1));
    k.key.pool = k.pool;
    k.identity = {.name_space = space,
                  .parent = space,
                  .first_token = k.page * page_tokens,
                  .tokens = world.tokens().subspan(k.page * page_tokens, page_tokens)};
    memory.slice_bytes[k.pool].clear();
    for (const auto& slice : k.slices) {
      memory.slice_bytes[k.pool].push_back(slice.size());
    }
    pages.push_back({.key = k.key, .identity = &k.identity, .slices = k.slices});
  }
  memory_store<> store(memory);
  for (const layer_page& p : pages) {
    const store_item put{
        .op = store_op::put, .key = p.key, .identity = p.identity, .slices = p.slices};
    REQUIRE(store.submit({&put, 1}, no_deadline) == 1);
    store_completion done;
    REQUIRE(store.poll({&done, 1}) == 1);
    REQUIRE(done.outcome == store_outcome::done);
  }
  layer_loader_thread<memory_store<>> loader({&store}, {.read_bytes_min = 1'000});
  for (std::uint64_t n = 0; n < scaled(20); ++n) {
    world.poison_all();
    loader.begin(homes, pages);
    auto s = world.resume();
    REQUIRE(same_bits(world.forward(s, 7, nullptr, loader), world.expected));
    loader.finish();
  }
  CHECK(loader.counters().failed_loads == 0);
}

}  // namespace layer_gate_test
