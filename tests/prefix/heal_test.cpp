// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Heal against an oracle that knows, for every layer and position, whether K and V are there and
// exact, and that runs the rows of a plan one by one.
#include "support/death.hpp"

#include <oriel/core/random.hpp>
#include <oriel/kv/pool_plan.hpp>
#include <oriel/model/presets.hpp>
#include <oriel/prefix/heal.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <vector>

namespace heal_test {

using namespace oriel;

namespace {

using i64 = std::int64_t;

/// A flag for each position, or page, of a sequence.
class flags {
 public:
  explicit flags(i64 count = 0, bool value = false)
      : values_(static_cast<std::size_t>(count), value) {}

  [[nodiscard]] i64 count() const { return static_cast<i64>(values_.size()); }
  [[nodiscard]] bool operator[](i64 i) const { return values_[static_cast<std::size_t>(i)]; }
  void set(i64 i, bool value) { values_[static_cast<std::size_t>(i)] = value; }
  void set_range(i64 first, i64 last) {
    for (i64 i = first; i < last; ++i) {
      set(i, true);
    }
  }
  [[nodiscard]] bool all(i64 first, i64 last) const {
    return std::all_of(values_.begin() + first, values_.begin() + last, [](bool x) { return x; });
  }

 private:
  std::vector<bool> values_;
};

/// One case: a model, what is cached of a prompt, and the tree's window pages.
struct heal_case {
  std::vector<std::uint32_t> windows;
  std::uint32_t page_size = 1, slack_pages = 0;
  heal_bounds bounds = {};
  std::vector<flags> cached = {};  ///< [layer]: which window pages the tree has

  [[nodiscard]] std::size_t layers() const { return windows.size(); }
  [[nodiscard]] heal_model model() const { return {windows, page_size, slack_pages}; }
  [[nodiscard]] i64 length() const {
    return std::min<i64>(bounds.full_length, i64{bounds.prompt_tokens} - 1) / page_size * page_size;
  }
};

/// The frontiers of the specification, signed and as they are written there.
std::vector<i64> slow_frontiers(const heal_case& c) {
  const i64 t = c.length(), p = c.page_size, s = c.bounds.safe_length;
  std::vector<i64> a(c.layers() + 1, t);
  for (std::size_t l = c.layers(); l-- > 0;) {
    const i64 w = c.windows[l];
    const i64 floor = std::max<i64>(0, t - (w - 1) - c.slack_pages * p) / p * p;
    a[l] = w == 0 ? a[l + 1] : std::min(a[l + 1], std::max(s, std::min(a[l + 1] - (w - 1), floor)));
  }
  return a;
}

/// What went wrong when a plan was run.
struct verdict {
  std::uint64_t bad_reads = 0;   ///< rows that read K, V or an input that is absent or not exact
  std::uint64_t torn_pages = 0;  ///< published pages with a row that is not exact
  std::uint64_t bad_reuse = 0;   ///< window-safe boundaries, by their pages, that would read one
  std::uint64_t rows = 0;        ///< layer-rows below T that were computed beyond their K and V

  [[nodiscard]] bool clean() const { return bad_reads + torn_pages + bad_reuse == 0; }
};

/// Runs the rows that `frontier` names. A value is exact, or it is not: what was never written, and
/// what was computed from something inexact, are alike.
class oracle {
 public:
  oracle(const heal_case& c, const std::vector<i64>& frontier)
      : case_(c),
        frontier_(frontier),
        length_(c.length()),
        tokens_(c.bounds.prompt_tokens),
        kv_(c.layers(), flags(tokens_)),
        input_(tokens_, true) {}  // Embeddings are exact.

  verdict run() {
    for (std::size_t l = 0; l < case_.layers(); ++l) {
      borrow(l);
      run_layer(l);
      if (window(l) != 0) {
        publish(l);
      }
    }
    return verdict_;
  }

 private:
  [[nodiscard]] i64 window(std::size_t layer) const { return case_.windows[layer]; }

  /// Full KV below F; the last window pages before S, if the plan reaches S.
  void borrow(std::size_t l) {
    const i64 s = case_.bounds.safe_length;
    if (window(l) == 0) {
      kv_[l].set_range(0, std::min<i64>(case_.bounds.full_length, tokens_));
    } else if (frontier_[0] == s) {
      kv_[l].set_range(std::max<i64>(0, s - (window(l) - 1)) / case_.page_size * case_.page_size,
                       s);
    }
  }

  void run_layer(std::size_t l) {
    for (i64 p = window(l) == 0 ? length_ : frontier_[l]; p < tokens_; ++p) {
      kv_[l].set(p, input_[p]);
    }
    flags output(tokens_);
    for (i64 p = frontier_[l + 1]; p < tokens_; ++p) {
      const i64 oldest = window(l) == 0 ? 0 : std::max<i64>(0, p - window(l) + 1);
      output.set(p, input_[p] && kv_[l].all(oldest, p + 1));
      verdict_.bad_reads += output[p] ? 0u : 1u;
      verdict_.rows += p < length_ ? 1u : 0u;
    }
    input_ = output;
  }

  /// The pages of need(T) and the slack go to the tree, beside what it has; then every boundary
  /// that looks window-safe by its pages must be so.
  void publish(std::size_t l) {
    const i64 page = case_.page_size, pages = length_ / page;
    const i64 behind = window(l) - 1 + i64{case_.slack_pages} * page;
    flags present = case_.cached[l], exact = case_.cached[l];
    // Pages in front of S are the tree's already.
    i64 j = std::max(std::max<i64>(0, length_ - behind) / page, case_.bounds.safe_length / page);
    for (; j < pages; ++j) {
      const bool whole = kv_[l].all(j * page, (j + 1) * page);
      verdict_.torn_pages += whole ? 0u : 1u;
      exact.set(j, present[j] ? exact[j] : whole);
      present.set(j, true);
    }
    for (i64 boundary = 1; boundary <= pages; ++boundary) {
      const i64 oldest = std::max<i64>(0, boundary * page - (window(l) - 1)) / page;
      verdict_.bad_reuse += present.all(oldest, boundary) && !exact.all(oldest, boundary) ? 1u : 0u;
    }
  }

  const heal_case& case_;
  const std::vector<i64>& frontier_;
  i64 length_, tokens_;
  std::vector<flags> kv_;  // [layer][position], this sequence's own view
  flags input_;            // [position] of the next layer
  verdict verdict_;
};

std::vector<i64> as_signed(const std::vector<std::uint32_t>& v) {
  return {v.begin(), v.end()};
}

heal_case random_case(random_stream& draw) {
  heal_case c;
  c.page_size = 1 + draw.next_below(24);
  c.slack_pages = draw.next_below(3) == 0 ? 1 + draw.next_below(2) : 0;
  const std::uint32_t kinds = 1 + draw.next_below(3);
  std::vector<std::uint32_t> windows;
  for (std::uint32_t k = 0; k < kinds; ++k) {
    windows.push_back(draw.next_below(8) == 0 ? 1 : 2 + draw.next_below(40));
  }
  const std::uint32_t layers = 1 + draw.next_below(10), full_share = draw.next_below(4);
  for (std::uint32_t l = 0; l < layers; ++l) {
    c.windows.push_back(draw.next_below(4) < full_share ? 0 : windows[draw.next_below(kinds)]);
  }
  c.bounds.prompt_tokens = 1 + draw.next_below(300);
  c.bounds.full_length = draw.next_below(320);
  const auto pages = static_cast<std::uint32_t>(c.length()) / c.page_size;
  const bool has_safe = draw.next_below(2) == 0;
  c.bounds.safe_length = has_safe ? draw.next_below(pages + 1) * c.page_size : 0;
  // What the tree has: the window of S, and pages anywhere. Layers of one window share pages.
  for (const i64 w : c.windows) {
    flags cached(pages);
    random_stream of_kind(static_cast<std::uint64_t>(w), pages);
    for (i64 j = 0; j < pages; ++j) {
      const i64 safe = c.bounds.safe_length, end = (j + 1) * c.page_size;
      cached.set(j, (end <= safe && end > safe - (w - 1)) || of_kind.next_below(3) != 0);
    }
    c.cached.push_back(cached);
  }
  return c;
}

/// Without the term that makes pages whole.
std::vector<i64> frontiers_without_floor(const heal_case& c) {
  const i64 t = c.length(), s = c.bounds.safe_length;
  std::vector<i64> a(c.windows.size() + 1, t);
  for (std::size_t l = c.windows.size(); l-- > 0;) {
    const i64 w = c.windows[l];
    a[l] = w == 0 ? a[l + 1] : std::max(s, std::max<i64>(0, a[l + 1] - (w - 1)));
  }
  return a;
}

heal_model preset_model(const std::vector<std::uint32_t>& windows) {
  return {.windows = windows, .page_size = 64};
}

}  // namespace

TEST_CASE("a heal's rows are exact, its pages whole, its count the formula's") {
  std::uint64_t cut_at_safe = 0, empty_start = 0, unaligned = 0, two_windows = 0;
  for (std::uint64_t seed = 0; seed < 4'000; ++seed) {
    CAPTURE(seed);
    random_stream draw(seed, 1);
    const heal_case c = random_case(draw);
    const heal_plan plan = plan_heal(c.model(), c.bounds);
    const std::vector<i64> frontier = as_signed(plan.frontier);
    REQUIRE(frontier == slow_frontiers(c));
    REQUIRE(plan.length == c.length());
    const verdict v = oracle(c, frontier).run();
    REQUIRE(v.bad_reads == 0);
    REQUIRE(v.torn_pages == 0);
    REQUIRE(v.bad_reuse == 0);
    REQUIRE(v.rows == plan.layer_rows);
    REQUIRE(measure_heal(c.model(), c.bounds) ==
            heal_size{plan.length, plan.first_row(), plan.layer_rows});
    cut_at_safe += plan.reads_window_at_safe_length() && plan.length > plan.safe_length ? 1u : 0u;
    empty_start +=
        plan.safe_length == 0 && plan.first_row() > 0 && plan.length > plan.first_row() ? 1u : 0u;
    unaligned += plan.first_row() % c.page_size != 0 ? 1u : 0u;
    two_windows += std::set<std::uint32_t>(c.windows.begin(), c.windows.end()).size() > 2 ? 1u : 0u;
  }
  // The draws met what they are for.
  CHECK(cut_at_safe > 200);
  CHECK(empty_start > 200);
  CHECK(unaligned > 200);
  CHECK(two_windows > 200);
}

TEST_CASE("no frontier could be higher") {
  std::uint64_t raised = 0;
  for (std::uint64_t seed = 0; seed < 2'000; ++seed) {
    CAPTURE(seed);
    random_stream draw(seed, 2);
    heal_case c = random_case(draw);
    for (auto& cached : c.cached) {
      cached = flags(cached.count());
    }
    const std::vector<i64> frontier = slow_frontiers(c);
    for (std::size_t l = 0; l < c.windows.size(); ++l) {
      if (c.windows[l] == 0 || frontier[l] == c.length()) {
        continue;
      }
      std::vector<i64> higher = frontier;
      ++higher[l];
      ++raised;
      CAPTURE(l);
      REQUIRE_FALSE(oracle(c, higher).run().clean());
    }
  }
  CHECK(raised > 2'000);
}

TEST_CASE("without the floor the oracle finds torn pages") {
  std::uint64_t torn = 0, reused = 0;
  for (std::uint64_t seed = 0; seed < 1'000; ++seed) {
    random_stream draw(seed, 3);
    const heal_case c = random_case(draw);
    const verdict v = oracle(c, frontiers_without_floor(c)).run();
    CHECK(v.bad_reads == 0);  // T itself would be served well.
    torn += v.torn_pages != 0 ? 1u : 0u;
    reused += v.bad_reuse != 0 ? 1u : 0u;
  }
  CHECK(torn > 300);
  CHECK(reused > 50);
}

// Case 43: P = 4, W = 8. Pages 8 and 9 are lost, page 7 is not. Heal at 40, then diverge at 36.
TEST_CASE("a request that diverges inside a healed window finds whole pages") {
  heal_case c{.windows = {8, 0, 8},
              .page_size = 4,
              .bounds = {.full_length = 40, .prompt_tokens = 50},
              .cached = std::vector(3, flags(10))};
  for (auto& cached : c.cached) {
    cached.set(7, true);
  }
  const heal_plan plan = plan_heal(c.model(), c.bounds);
  CHECK(plan.length == 40);
  CHECK(plan.frontier == std::vector<std::uint32_t>{25, 32, 32, 40});
  CHECK(first_healed_page(c.model(), 8, 40) == 8);
  CHECK(oracle(c, as_signed(plan.frontier)).run().clean());

  // W - 1 positions, not whole pages: row 32 is unwritten, and boundary 36 reads 29 .. 35.
  CHECK(frontiers_without_floor(c) == std::vector<i64>{26, 33, 33, 40});
  CHECK(oracle(c, frontiers_without_floor(c)).run().bad_reuse > 0);

  c.slack_pages = 1;
  CHECK(plan_heal(c.model(), c.bounds).frontier == std::vector<std::uint32_t>{21, 28, 28, 40});
  CHECK(first_healed_page(c.model(), 8, 40) == 7);
}

TEST_CASE("edges of a plan") {
  const std::vector<std::uint32_t> windows{16, 0, 1, 0};
  const heal_model model{.windows = windows, .page_size = 16};
  SECTION("nothing to heal") {
    const heal_plan none = plan_heal(model, {.full_length = 15, .prompt_tokens = 100});
    CHECK(none.length == 0);
    CHECK(none.layer_rows == 0);
    CHECK(none.first_row() == 0);
    const heal_bounds safe{.full_length = 64, .prompt_tokens = 100, .safe_length = 64};
    CHECK(measure_heal(model, safe) == heal_size{64, 64, 0});
  }
  SECTION("a whole prompt is capped at its last token") {
    CHECK(measure_heal(model, {.full_length = 64, .prompt_tokens = 64}).length == 48);
    CHECK(measure_heal(model, {.full_length = 64, .prompt_tokens = 65}).length == 64);
  }
  SECTION("S = 0 and a window as long as the prefix: from position 0 on") {
    const heal_plan plan = plan_heal(model, {.full_length = 16, .prompt_tokens = 20});
    CHECK(plan.frontier == std::vector<std::uint32_t>{0, 16, 16, 16, 16});
    CHECK_FALSE(plan.reads_window_at_safe_length());
  }
  SECTION("only full layers, or windows of one token: no row at all") {
    const std::vector<std::uint32_t> narrow{0, 1, 0, 1};
    const heal_bounds bounds{.full_length = 640, .prompt_tokens = 700};
    CHECK(measure_heal({.windows = narrow, .page_size = 16}, bounds) == heal_size{640, 640, 0});
  }
  SECTION("contracts") {
    CHECK(aborts([&] { (void)measure_heal(model, {.full_length = 64, .prompt_tokens = 0}); }));
    CHECK(aborts([&] {
      (void)measure_heal(model, {.full_length = 64, .prompt_tokens = 99, .safe_length = 80});
    }));
    CHECK(aborts([&] {
      (void)measure_heal(model, {.full_length = 64, .prompt_tokens = 99, .safe_length = 10});
    }));
  }
}

TEST_CASE("a heal costs half the sum of W - 1, whatever the prefix") {
  struct figure {
    const char* name;
    double token_equivalents;
  };
  for (const figure f : {figure{"mimo-v2.5-pro", 3'810}, figure{"mimo-v2.5", 2'477}}) {
    CAPTURE(f.name);
    const model_geometry geometry = *preset(f.name);
    const std::vector<std::uint32_t> windows = layer_windows(geometry);
    double half_sum = 0;
    for (const std::uint32_t w : windows) {
      half_sum += w == 0 ? 0.0 : (w - 1) / 2.0;
    }
    CHECK(half_sum == Approx(f.token_equivalents).margin(0.5));
    const heal_size at_16k =
        measure_heal(preset_model(windows), {.full_length = 16'384, .prompt_tokens = 20'000});
    const heal_size at_1m =
        measure_heal(preset_model(windows), {.full_length = 1'000'000, .prompt_tokens = 1'048'576});
    CHECK(at_16k.layer_rows == at_1m.layer_rows);
    // Exactly, full layers lie where they lie and the topmost frontiers at a page's edge.
    CHECK(token_equivalents(at_1m.layer_rows, windows.size()) == Approx(half_sum).epsilon(0.02));
  }
  const std::vector<std::uint32_t> pro = layer_windows(*preset("mimo-v2.5-pro"));
  const heal_size size =
      measure_heal(preset_model(pro), {.full_length = 500'032, .prompt_tokens = 500'100});
  CHECK(size.layer_rows == 262'577);
  CHECK(size.length - size.first_row == 59 * 127 + 128);
}

TEST_CASE("the planner takes the fewest seconds and says why") {
  const model_geometry pro = *preset("mimo-v2.5-pro");
  const heal_model model{.windows = layer_windows(pro), .page_size = 64};  // It owns them.
  const compute_rates node{.linear_flops_per_s = 2.69e15, .attention_flops_per_s = 4.13e15};
  const heal_bounds lost{.full_length = 500'032, .prompt_tokens = 500'100};

  const reuse_choice heal = choose_reuse(pro, model, lost, node);
  CHECK(heal.way == reuse_way::heal);
  CHECK(heal.seconds.heal / heal.seconds.recompute == Approx(0.013).margin(0.002));
  CHECK(std::string(heal.why).size() > 10);

  CHECK(choose_reuse(pro, model, lost, node, heal.seconds.heal * 0.99).way == reuse_way::fetch);
  CHECK(choose_reuse(pro, model, lost, node, heal.seconds.heal * 1.01).way == reuse_way::heal);

  const heal_bounds whole{.full_length = 500'032, .prompt_tokens = 500'100, .safe_length = 500'032};
  CHECK(choose_reuse(pro, model, whole, node).way == reuse_way::recompute);
  CHECK(choose_reuse(pro, model, whole, node).seconds.recompute == 0.0);

  // One page behind: a heal runs fewer layer-rows still, down to none above the last window.
  const heal_bounds near{.full_length = 500'032, .prompt_tokens = 500'100, .safe_length = 499'968};
  const reuse_choice choice = choose_reuse(pro, model, near, node);
  CHECK(choice.seconds.heal <= choice.seconds.recompute);
  const heal_size size = measure_heal(model, near);
  CHECK(size.first_row == near.safe_length);
  CHECK(size.layer_rows <= 64 * model.windows.size());

  // Only full layers behind the window layer: the seconds are of one layer's K and V.
  model_geometry two = pro;
  two.layers = {pro.layers[1], pro.layers[0]};
  const std::vector<std::uint32_t> window_first = layer_windows(two);
  const heal_bounds bounds{.full_length = 6'400, .prompt_tokens = 7'000};
  CHECK(heal_flops(two, {.windows = window_first, .page_size = 64}, bounds) ==
        flop_count{.linear = kv_projection_flops(two, 0, 128), .attention = 0});
  CHECK(std::string(name_of(reuse_way::heal)) == "heal");
  CHECK(std::string(name_of(reuse_way::fetch)) == "fetch");
}

TEST_CASE("heals of a model in a plan's pools: a layer has the window that its pool keeps") {
  model_geometry model = *preset("mimo-v2.5-pro");
  model.layers.resize(8);
  std::vector<kv_layer_shape> shapes = kv_shapes_of(model.layers, dtype::bf16);
  shapes.push_back(shapes.back());  // Drafts, behind the model.
  shapes.back().window_tokens = 64;
  shapes.back().is_soft = true;
  const pool_options pages{.page_size = 32, .slack_pages = 2};
  const heal_model made = heal_model_of(model, *pool_plan::make(shapes, pages));
  CHECK(made.windows == layer_windows(model));
  CHECK(made.page_size == 32);
  CHECK(made.slack_pages == 2);
  for (kv_layer_shape& shape : shapes) {
    shape.window_tokens = 0;
    shape.is_soft = false;
  }
  const pool_plan uniform = *pool_plan::make(shapes, pages);
  CHECK(heal_model_of(model, uniform).windows == std::vector<std::uint32_t>(8));
  model.layers.resize(10, model.layers[0]);
  CHECK(aborts([&] { static_cast<void>(heal_model_of(model, uniform)); }));
}

}  // namespace heal_test
