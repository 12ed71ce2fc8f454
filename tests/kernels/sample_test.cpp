// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/thread_pool.hpp>
#include <oriel/kernels/sample.hpp>

#include <catch2/catch.hpp>
#include <support/arrays.hpp>
#include <support/chi_squared.hpp>
#include <support/death.hpp>

#include <algorithm>
#include <cmath>

namespace sample_test {

using oriel::isa;
using oriel::sample_filters;
using oriel::sample_row;
using oriel::sampled_token;
using oriel::token_distribution;
using oriel::token_id;

namespace {

constexpr float quiet_nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

// A distribution that owns its arrays; a dense one is written out.
struct kept_tokens {
  std::vector<std::uint32_t> ids;
  std::vector<float> weights;
  std::uint64_t total;

  explicit kept_tokens(const token_distribution& d)
      : ids(d.ids.begin(), d.ids.end()),
        weights(d.weights.begin(), d.weights.end()),
        total(d.total) {
    for (std::uint32_t i = 0; d.ids.empty() && i < weights.size(); ++i) {
      ids.push_back(i);
    }
  }
};

kept_tokens filter(const std::vector<float>& logits,
                   const sample_filters& f,
                   isa path = oriel::best_isa()) {
  const auto plan = oriel::host::plan_sample(static_cast<std::uint32_t>(logits.size()), 1, path);
  REQUIRE(plan);
  workspace_bytes workspace(plan->filter_bytes);
  return kept_tokens(oriel::host::filter_logits(*plan, logits.data(), f, workspace.span()));
}

kept_tokens expected_of(const std::vector<float>& logits, const sample_filters& f) {
  std::vector<std::uint32_t> ids(logits.size());
  std::vector<float> weights(logits.size());
  return kept_tokens(oriel::reference::filter_logits(logits, f, ids, weights));
}

// A dense result lists tokens without mass; the reference leaves NaN and -infinity out.
void drop_massless(kept_tokens& k) {
  std::size_t kept = 0;
  for (std::size_t i = 0; i < k.ids.size(); ++i) {
    if (oriel::mass_of(k.weights[i]) != 0) {
      k.ids[kept] = k.ids[i];
      k.weights[kept++] = k.weights[i];
    }
  }
  k.ids.resize(kept);
  k.weights.resize(kept);
}

void check_against_reference(const std::vector<float>& logits, const sample_filters& f) {
  kept_tokens expected = expected_of(logits, f), got = filter(logits, f);
  std::uint64_t sum = 0;
  for (const float w : got.weights) {
    sum += oriel::mass_of(w);
  }
  REQUIRE(got.total == sum);
  for (const isa path : supported_paths()) {
    const kept_tokens other = filter(logits, f, path);
    REQUIRE(other.ids == got.ids);
    REQUIRE(same_bits(other.weights, got.weights));
    REQUIRE(other.total == got.total);
  }
  drop_massless(expected);
  drop_massless(got);
  REQUIRE(got.ids == expected.ids);
  for (std::size_t i = 0; i < got.weights.size(); ++i) {
    REQUIRE(std::abs(got.weights[i] - expected.weights[i]) <= 4e-7f * expected.weights[i]);
  }
}

// Sum of uniforms: roughly normal, as logits are.
std::vector<float> random_logits(std::size_t n, oriel::random_stream& random, float spread) {
  std::vector<float> logits(n);
  for (float& l : logits) {
    l = spread *
        (random.next_uniform(-1, 1) + random.next_uniform(-1, 1) + random.next_uniform(-1, 1));
  }
  return logits;
}

sample_filters random_filters(oriel::random_stream& random, std::uint32_t vocabulary) {
  const float temperatures[] = {0.0f, 0.3f, 0.7f, 1.0f, 1.0f, 1.5f, 4.0f};
  const float top_ps[] = {1.0f, 1.0f, 0.99f, 0.95f, 0.5f, 0.01f};
  const float min_ps[] = {0.0f, 0.0f, 0.02f, 0.3f, 1.0f};
  const std::uint32_t top_ks[] = {0, 0, 1, 2, 40, vocabulary - 1, vocabulary, vocabulary + 9};
  return {.temperature = temperatures[random.next_below(7)],
          .top_k = random.next_below(2) == 0 ? top_ks[random.next_below(8)]
                                             : random.next_below(vocabulary + 1),
          .top_p = top_ps[random.next_below(6)],
          .min_p = min_ps[random.next_below(5)]};
}

// Draws `draws` tokens at positions 0, 1, ... and compares their counts with the distribution.
template <class Draw>
pearson test_draws(const token_distribution& d,
                   std::uint32_t vocabulary,
                   int draws,
                   Draw&& draw_at) {
  std::vector<int> counts(vocabulary);
  for (int i = 0; i < draws; ++i) {
    ++counts[oriel::to_index(draw_at(static_cast<std::uint64_t>(i)))];
  }
  std::vector<double> expected;
  for (std::uint32_t id = 0; id < vocabulary; ++id) {
    expected.push_back(draws * double{probability_of(d, token_id{id})});
  }
  const pearson p = test_counts<int>(counts, expected);
  REQUIRE(p.is_possible);
  return p;
}

}  // namespace

// A mass that ends exactly on top_p could fall either way; these seeds have none.
TEST_CASE("filters keep what the reference keeps, with the same bits on every path") {
  oriel::random_stream random(1);
  for (int round = 0; round < 400; ++round) {
    const std::uint32_t vocabulary = 1 + random.next_below(round % 4 == 0 ? 5'000 : 300);
    const auto logits = random_logits(vocabulary, random, round % 3 == 0 ? 0.1f : 4.0f);
    const sample_filters f = random_filters(random, vocabulary);
    INFO("round " << round << ": vocabulary " << vocabulary << ", T " << f.temperature << ", top_k "
                  << f.top_k << ", top_p " << f.top_p << ", min_p " << f.min_p);
    check_against_reference(logits, f);
  }
}

TEST_CASE("equal logits are kept by lowest id") {
  oriel::random_stream random(2);
  const std::vector<float> equal(1'000, 1.5f);
  const kept_tokens five = filter(equal, {.top_k = 5});
  CHECK(five.ids == std::vector<std::uint32_t>{0, 1, 2, 3, 4});
  CHECK(filter(equal, {.top_p = 0.0995f}).ids.size() == 100);
  CHECK(filter(equal, {.min_p = 1.0f}).ids.size() == 1'000);
  CHECK(filter({-0.0f, 0.0f, -0.0f}, {.top_k = 2}).ids == std::vector<std::uint32_t>{0, 1});
  for (int round = 0; round < 200; ++round) {
    const std::uint32_t vocabulary = 2 + random.next_below(800);
    std::vector<float> logits(vocabulary);
    for (float& l : logits) {
      l = 0.61f * static_cast<float>(random.next_below(4));
    }
    const sample_filters f = random_filters(random, vocabulary);
    INFO("round " << round << ": vocabulary " << vocabulary << ", T " << f.temperature << ", top_k "
                  << f.top_k << ", top_p " << f.top_p << ", min_p " << f.min_p);
    check_against_reference(logits, f);
  }
}

TEST_CASE("filters at the size of a real vocabulary, peaked and flat") {
  oriel::random_stream random(3);
  for (const float spread : {0.05f, 2.0f, 8.0f}) {
    const auto logits = random_logits(152'576, random, spread);
    for (const sample_filters& f : {sample_filters{},
                                    sample_filters{.top_k = 50},
                                    sample_filters{.top_k = 10'000, .top_p = 0.9f},
                                    sample_filters{.temperature = 0.6f, .top_p = 0.95f},
                                    sample_filters{.top_p = 0.999f},
                                    sample_filters{.min_p = 0.05f}}) {
      INFO("spread " << spread << ", top_k " << f.top_k << ", top_p " << f.top_p);
      check_against_reference(logits, f);
    }
  }
}

TEST_CASE("the order of the filters: top_p measures what top_k left, min_p comes last") {
  // Masses 8 : 4 : 2 : 1 : 1.
  const float two = std::log(2.0f);
  const std::vector<float> logits{3 * two, 2 * two, two, 0.0f, 0.0f};
  CHECK(filter(logits, {.top_p = 0.74f}).ids.size() == 2);
  CHECK(filter(logits, {.top_p = 0.76f}).ids.size() == 3);
  CHECK(filter(logits, {.top_k = 2, .top_p = 0.66f}).ids.size() == 1);
  CHECK(filter(logits, {.top_k = 2, .top_p = 0.68f}).ids.size() == 2);
  CHECK(filter(logits, {.top_p = 0.76f, .min_p = 0.4f}).ids.size() == 2);
  CHECK(filter(logits, {.temperature = 0.5f, .min_p = 0.2f}).ids.size() == 2);
}

TEST_CASE("NaN and infinities: what is kept") {
  const std::vector<float> mixed{quiet_nan, -infinity, 1.0f, quiet_nan, 2.0f, -infinity};
  for (const sample_filters& f : {sample_filters{},
                                  sample_filters{.top_k = 4},
                                  sample_filters{.top_p = 0.999f},
                                  sample_filters{.min_p = 0.01f}}) {
    check_against_reference(mixed, f);
  }
  CHECK(filter(mixed, {.temperature = 0.0f}).ids == std::vector<std::uint32_t>{4});
  CHECK(filter({1.0f, infinity, quiet_nan, infinity}, {.top_p = 0.9f}).ids ==
        std::vector<std::uint32_t>{1, 3});
  for (const sample_filters& f : {sample_filters{},
                                  sample_filters{.temperature = 0.0f},
                                  sample_filters{.top_k = 2, .top_p = 0.5f, .min_p = 0.1f}}) {
    CHECK(filter({quiet_nan, -infinity, quiet_nan}, f).total == 0);
  }
  // A temperature whose inverse is infinite, and one that flattens everything.
  CHECK(filter({1.0f, 2.0f, 2.0f}, {.temperature = 1e-42f, .min_p = 0.5f}).ids ==
        std::vector<std::uint32_t>{1, 2});
  CHECK(filter({1.0f, 2.0f, 3.0f}, {.temperature = 1e38f}).weights == std::vector<float>{1, 1, 1});
}

TEST_CASE("greedy takes the largest logit, the lowest id among equals, and no NaN") {
  oriel::random_stream random(4);
  for (const isa path : supported_paths()) {
    for (int round = 0; round < 100; ++round) {
      const std::uint32_t vocabulary = 1 + random.next_below(20'000);
      std::vector<float> logits(vocabulary);
      for (float& l : logits) {
        l = random.next_below(50) == 0 ? quiet_nan : static_cast<float>(random.next_below(5'000));
      }
      std::uint32_t best = vocabulary;
      for (std::uint32_t i = 0; i < vocabulary; ++i) {
        if (logits[i] == logits[i] && (best == vocabulary || logits[i] > logits[best])) {
          best = i;
        }
      }
      const auto plan = oriel::host::plan_sample(vocabulary, 1, path);
      const sampled_token got = oriel::host::greedy_token(*plan, logits.data());
      INFO("round " << round << ", " << oriel::name_of(path));
      REQUIRE(oriel::to_index(got.id) == (best == vocabulary ? 0 : best));
      REQUIRE(got.probability == (best == vocabulary ? 0.0f : 1.0f));
    }
  }
}

TEST_CASE("draws follow the distribution, and never leave it") {
  oriel::random_stream random(5);
  const std::uint32_t vocabulary = 9'000;
  auto logits = random_logits(vocabulary, random, 1.5f);
  logits[17] = quiet_nan;
  logits[18] = -infinity;
  const auto plan = oriel::host::plan_sample(vocabulary, 1);
  workspace_bytes workspace(plan->filter_bytes);
  for (const sample_filters& f : {sample_filters{},
                                  sample_filters{.temperature = 0.4f},
                                  sample_filters{.top_k = 30},
                                  sample_filters{.temperature = 0.5f, .top_p = 0.8f},
                                  sample_filters{.min_p = 0.2f}}) {
    const auto d = oriel::host::filter_logits(*plan, logits.data(), f, workspace.span());
    const pearson p = test_draws(d, vocabulary, 60'000, [&](std::uint64_t position) {
      return draw(d, oriel::sample_random(7, position));
    });
    INFO("T " << f.temperature << ": statistic " << p.statistic << ", freedom " << p.freedom);
    CHECK(p.freedom >= 10);
    CHECK(std::abs(p.as_normal()) < 4.0);
  }
}

TEST_CASE("draw_without follows what is left") {
  const std::vector<std::uint32_t> ids{3, 5, 8, 9};
  const std::vector<float> weights{0.25f, 1.0f, 0.5f, 0.125f};
  const auto total_of = [](const std::vector<float>& w) {
    std::uint64_t total = 0;
    for (const float x : w) {
      total += oriel::mass_of(x);
    }
    return total;
  };
  const token_distribution all{.ids = ids, .weights = weights, .total = total_of(weights)};
  for (std::size_t hole = 0; hole < ids.size(); ++hole) {
    std::vector<std::uint32_t> left_ids = ids;
    std::vector<float> left_weights = weights;
    left_ids.erase(left_ids.begin() + static_cast<std::ptrdiff_t>(hole));
    left_weights.erase(left_weights.begin() + static_cast<std::ptrdiff_t>(hole));
    const token_distribution left{
        .ids = left_ids, .weights = left_weights, .total = total_of(left_weights)};
    const pearson p = test_draws(left, 10, 20'000, [&](std::uint64_t position) {
      return draw_without(all,
                          token_id{ids[hole]},
                          oriel::sample_random(1, position, oriel::random_purpose::residual));
    });
    CHECK(std::abs(p.as_normal()) < 4.0);
  }
  // A token that was not kept takes nothing away.
  CHECK(draw_without(all, token_id{4}, 12'345) == draw(all, 12'345));
}

TEST_CASE("draws at the ends of the random numbers") {
  const std::vector<float> weights{0.0f, 0.5f, 1.0f, 0x1p-60f};
  const token_distribution d{
      .ids = {}, .weights = weights, .total = oriel::mass_of(0.5f) + oriel::mass_of(1.0f)};
  CHECK(draw(d, 0) == token_id{1});
  CHECK(draw(d, UINT64_MAX) == token_id{2});
  CHECK(draw_without(d, token_id{1}, 0) == token_id{2});
  CHECK(draw_without(d, token_id{2}, UINT64_MAX) == token_id{1});
  CHECK(probability_of(d, token_id{0}) == 0.0f);
  CHECK(probability_of(d, token_id{2}) == Approx(2.0f / 3.0f));
  CHECK(probability_of(d, token_id{4'000'000}) == 0.0f);
}

TEST_CASE("a seed gives the same tokens whatever else is in the batch") {
  oriel::thread_pool pool(2);
  oriel::serial_executor serial;
  oriel::random_stream random(6);
  const std::uint32_t vocabulary = 3'000, rows = 40;
  const auto logits = random_logits(std::size_t{vocabulary} * rows, random, 3.0f);
  std::vector<sample_row> all(rows);
  for (std::uint32_t r = 0; r < rows; ++r) {
    all[r] = {.filters = random_filters(random, vocabulary), .seed = r % 5, .position = r};
  }
  const auto plan = oriel::host::plan_sample(vocabulary, 2);
  workspace_bytes workspace(plan->workspace_bytes);
  const auto run = [&](std::uint32_t first, std::uint32_t count, oriel::executor_ref executor) {
    std::vector<sampled_token> out(count);
    oriel::host::run_sample(*plan,
                            {.out = out,
                             .logits = logits.data() + std::size_t{first} * vocabulary,
                             .logits_stride = vocabulary,
                             .rows = std::span(all).subspan(first, count)},
                            workspace.span(),
                            executor);
    return out;
  };
  const auto together = run(0, rows, pool);
  for (std::uint32_t r = 0; r < rows; ++r) {
    const auto alone = run(r, 1, serial);
    REQUIRE(alone[0].id == together[r].id);
    REQUIRE(alone[0].probability == together[r].probability);
    REQUIRE(alone[0].probability > 0.0f);
    // The probability is that of the distribution a verifier would ask for.
    const auto d = filter_logits(
        *plan, logits.data() + std::size_t{r} * vocabulary, all[r].filters, workspace.span());
    REQUIRE(probability_of(d, alone[0].id) == alone[0].probability);
  }
}

TEST_CASE("seeds, positions and purposes draw independently") {
  CHECK(oriel::sample_random(1, 2) == oriel::sample_random(1, 2));
  CHECK(oriel::sample_random(1, 2) != oriel::sample_random(2, 2));
  CHECK(oriel::sample_random(1, 2) != oriel::sample_random(1, 3));
  CHECK(oriel::sample_random(1, 2) != oriel::sample_random(1, 2, oriel::random_purpose::accept));
  CHECK(oriel::sample_random(1, 2) != oriel::sample_random(1, 2 + (1ull << 32)));
  CHECK(oriel::sample_random(1, 2) != oriel::sample_random(1 + (1ull << 32), 2));
}

TEST_CASE("sampling refuses what it cannot do") {
  CHECK_FALSE(oriel::host::plan_sample(0, 1));
  CHECK_FALSE(oriel::host::plan_sample((1u << 19) + 1, 1));
  CHECK_FALSE(oriel::host::plan_sample(10, 0));
  const auto plan = oriel::host::plan_sample(10, 1);
  const std::vector<float> logits(10);
  workspace_bytes workspace(plan->filter_bytes);
  for (const sample_filters& f : {sample_filters{.temperature = -1.0f},
                                  sample_filters{.temperature = quiet_nan},
                                  sample_filters{.top_p = 0.0f},
                                  sample_filters{.min_p = 1.5f}}) {
    CHECK(aborts(
        [&] { (void)oriel::host::filter_logits(*plan, logits.data(), f, workspace.span()); }));
  }
}

}  // namespace sample_test
