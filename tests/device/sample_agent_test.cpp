// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The device's sampling on the host, block after block and thread after thread: the tokens and
// probabilities of the host's sampler. And its verification, against the verifier of spec/.
#include <oriel/core/executor.hpp>
#include <oriel/kernels/sample.hpp>
#include <oriel/kernels/verify_chains.hpp>
#include <oriel/spec/verifier.hpp>

#include <cuda/detail/sample_agent.cuh>
#include <cuda/detail/verify_agent.cuh>

#include <catch2/catch.hpp>
#include <device/stored_rows.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>

namespace sample_agent_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

serial_executor serial;

/// A cluster's blocks, forwards or backwards, each with shared memory of its own.
class host_cluster {
 public:
  static constexpr std::uint32_t parts = detail::sample_parts;

  host_cluster(std::uint32_t part_tokens, bool backwards) : backwards_(backwards) {
    for (auto& keys : keys_) {
      keys.emplace(part_tokens * sizeof(std::uint32_t));
    }
    std::memset(shared_.data(), 0xFF, sizeof shared_);
  }

  template <class F>
  void each_part(F&& f) {
    for (std::uint32_t i = 0; i < detail::sample_parts; ++i) {
      const std::uint32_t part = backwards_ ? detail::sample_parts - 1 - i : i;
      f(detail::host_group<detail::sample_threads>(backwards_),
        part,
        shared_[part],
        reinterpret_cast<std::uint32_t*>(keys_[part]->span().data()));
    }
  }
  void sync() { ++barriers; }
  [[nodiscard]] const detail::sample_shared& front() const { return shared_[0]; }
  /// At once, over what must be done with by now, or as late as may be, for who does not wait.
  void copy_ahead(void* to, const void* from) {
    are_aligned &=
        (reinterpret_cast<std::uintptr_t>(from) | reinterpret_cast<std::uintptr_t>(to)) % 16 == 0;
    std::memset(to, 0xFF, 16);
    copies_.push_back({to, from});
    if (!backwards_) {
      wait_for_copies();
    }
  }
  void wait_for_copies() {
    for (const auto& [to, from] : copies_) {
      std::memcpy(to, from, 16);
    }
    copies_.clear();
  }

  bool are_aligned = true;  ///< as a device demands
  std::uint32_t barriers = 0;

 private:
  struct copy {
    void* to;
    const void* from;
  };

  bool backwards_;
  std::vector<copy> copies_;
  std::array<detail::sample_shared, detail::sample_parts> shared_;
  std::array<std::optional<workspace_bytes>, detail::sample_parts> keys_;
};

/// @param barriers  of the cluster, for all rows
std::vector<sampled_token> sample_on_host(const cuda::sample_plan& plan,
                                          sample_args args,
                                          bool backwards,
                                          std::uint32_t* barriers = nullptr) {
  std::vector<sampled_token> out(args.rows.size(), {token_id{UINT32_MAX}, -1.0f});
  args.out = out;
  const detail::sample_agent agent{plan.vocabulary, plan.part_tokens, args};
  workspace_bytes workspace(plan.workspace_bytes);
  auto* slots = reinterpret_cast<detail::sample_slot*>(workspace.span().data());
  host_cluster cluster(plan.part_tokens, backwards);
  std::uint32_t turn = 0;
  const auto rows = static_cast<std::uint32_t>(args.rows.size());
  agent.begin(cluster, 0);
  for (std::uint32_t row = 0; row < rows; ++row) {
    agent(cluster, row, std::min(row + 1, rows - 1), slots, turn);
  }
  REQUIRE(cluster.are_aligned);
  if (barriers != nullptr) {
    *barriers = cluster.barriers;
  }
  return out;
}

/// Samples one row of logits in many ways and demands the host's tokens and probabilities.
std::vector<sampled_token> sample_as_host(const float* logits,
                                          std::uint32_t vocabulary,
                                          const std::vector<sample_row>& how,
                                          bool backwards,
                                          std::uint32_t* barriers = nullptr) {
  std::vector<sampled_token> expected(how.size());
  const auto host_plan = host::plan_sample(vocabulary, 1);
  workspace_bytes workspace(host_plan->workspace_bytes);
  const sample_args args{expected, logits, 0, how};
  host::run_sample(*host_plan, args, workspace.span(), serial);
  const auto rows = static_cast<std::uint32_t>(how.size());
  std::vector<sampled_token> found =
      sample_on_host(*cuda::plan_sample(vocabulary, rows), args, backwards, barriers);
  for (std::uint32_t i = 0; i < rows; ++i) {
    INFO("draw " << i);
    REQUIRE(to_index(found[i].id) == to_index(expected[i].id));
    REQUIRE(found[i].probability == expected[i].probability);
  }
  return found;
}

/// Logits of one of six kinds: spread, peaked, few values (ties), one value, with what is no
/// number, nothing but that.
std::vector<float> hard_row(std::uint32_t vocabulary, random_stream& random) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  constexpr float special[] = {infinity, -infinity, std::numeric_limits<float>::quiet_NaN(), -0.0f};
  const std::uint32_t kind = random.next_below(6);
  const bool has_infinity = random.next_below(3) == 0;
  std::vector<float> row(vocabulary);
  for (float& z : row) {
    const float spread = random.next_uniform(-12.0f, 12.0f);
    switch (kind) {
      case 0:
        z = spread;
        break;
      case 1:
        z = spread * spread * spread * 0.01f;
        break;
      case 2:
        z = static_cast<float>(random.next_below(5));
        break;
      case 3:
        z = 1.5f;
        break;
      case 4:
        z = random.next_below(3) == 0 ? special[random.next_below(4)] : spread;
        z = z == infinity && !has_infinity ? 2.0f : z;
        break;
      default:
        z = special[1 + random.next_below(2)];
        break;
    }
  }
  return row;
}

sample_filters random_filters(std::uint32_t vocabulary, random_stream& random) {
  sample_filters f;
  constexpr float temperatures[] = {1.0f, 0.7f, 1.8f, 0.05f, 0.0f, 1e-30f};
  f.temperature = temperatures[random.next_below(6)];
  if (random.next_below(2) == 0) {
    f.top_k = 1 + random.next_below(random.next_below(2) == 0 ? 20 : vocabulary + 5);
  }
  constexpr float top_ps[] = {0.9f, 0.5f, 0.999f, 1e-30f};
  if (random.next_below(2) == 0) {
    f.top_p = top_ps[random.next_below(4)];
  }
  if (random.next_below(3) == 0) {
    f.min_p = random.next_uniform(0.0f, 1.0f) * random.next_uniform(0.0f, 1.0f);
  }
  return f;
}

struct random_adjustments {
  std::vector<token_use> uses;
  std::vector<token_bias> biases;
  logit_adjustments view;

  random_adjustments(std::uint32_t vocabulary, random_stream& random) {
    for (std::uint32_t id = 0; id < vocabulary && uses.size() < 40;
         id += 1 + random.next_below(30)) {
      uses.push_back({token_id{id}, random.next_below(3)});
    }
    const std::uint32_t count = random.next_below(20);
    for (std::uint32_t i = 0; i < count; ++i) {  // Some of one token: they add up in their order.
      const float bias = random.next_below(9) == 0 ? -std::numeric_limits<float>::infinity()
                                                   : random.next_uniform(-9.0f, 9.0f);
      biases.push_back({token_id{random.next_below(std::min(vocabulary, 30u))}, bias});
    }
    view = {1.3f, 0.25f, 0.5f, uses, biases};
  }
};

void check_rows(std::uint32_t vocabulary,
                std::uint32_t rows,
                bool backwards,
                random_stream& random) {
  const std::size_t stride = vocabulary + random.next_below(5);  // Aligned or not.
  stored_rows<float> logits(rows * stride);
  std::vector<sample_row> how(rows);
  std::vector<std::unique_ptr<random_adjustments>> adjustments;
  for (std::uint32_t row = 0; row < rows; ++row) {
    const std::vector<float> z = hard_row(vocabulary, random);
    std::copy(z.begin(), z.end(), logits.data() + row * stride);
    how[row] = {.filters = random_filters(vocabulary, random),
                .seed = random.next_bits(),
                .position = random.next_bits()};
    if (random.next_below(3) == 0) {
      adjustments.push_back(std::make_unique<random_adjustments>(vocabulary, random));
      how[row].adjustments = adjustments.back()->view;
    }
  }
  std::vector<sampled_token> expected(rows);
  const auto host_plan = host::plan_sample(vocabulary, 1);
  REQUIRE(host_plan);
  workspace_bytes workspace(host_plan->workspace_bytes);
  const sample_args args{expected, logits.data(), stride, how};
  host::run_sample(*host_plan, args, workspace.span(), serial);

  const auto plan = cuda::plan_sample(vocabulary, rows);
  REQUIRE(plan);
  const std::vector<sampled_token> found = sample_on_host(*plan, args, backwards);
  for (std::uint32_t row = 0; row < rows; ++row) {
    const sample_filters& f = how[row].filters;
    INFO("vocabulary " << vocabulary << ", row " << row << ", temperature " << f.temperature
                       << ", top_k " << f.top_k << ", top_p " << f.top_p << ", min_p " << f.min_p);
    REQUIRE(to_index(found[row].id) == to_index(expected[row].id));
    REQUIRE(found[row].probability == expected[row].probability);
  }
}

}  // namespace

TEST_CASE("the device's sampling draws the host's tokens") {
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(0, 40)));
  INFO("seed " << seed);
  random_stream random(seed, 100);
  constexpr std::uint32_t vocabularies[] = {1, 2, 9, 64, 300, 1'000, 4'097};
  check_rows(vocabularies[seed % 7], 4, seed % 2 != 0, random);
}

TEST_CASE("the device's sampling draws the host's tokens from a model's vocabulary") {
  const bool backwards = GENERATE(false, true);
  random_stream random(backwards ? 1 : 2, 101);
  check_rows(152'576, 5, backwards, random);
}

TEST_CASE("the device's sampling falls on every token that has mass, and on no other") {
  // One row, one filter, many positions: the boundaries between tokens, blocks and warps.
  constexpr std::uint32_t vocabulary = 40, draws = 400;
  random_stream random(5, 102);
  stored_rows<float> logits(random_floats(vocabulary, random, -2.0f, 2.0f));
  std::vector<sample_row> how(draws);
  for (std::uint32_t i = 0; i < draws; ++i) {
    how[i] = {.filters = {.temperature = 1.0f, .top_p = 0.95f}, .seed = 9, .position = i};
  }
  sample_as_host(logits.data(), vocabulary, how, false);
}

TEST_CASE("top_p reaches tokens far below the first where those near it hold too little") {
  // One token, and 2,999 of which each has 1 / 2,981 or less of its mass: half of all together.
  constexpr std::uint32_t vocabulary = 3'000, draws = 60;
  random_stream random(8, 104);
  stored_rows<float> logits(random_floats(vocabulary, random, -9.0f, -8.0f));
  logits.data()[1'234] = 0.0f;
  std::vector<sample_row> how(draws);
  constexpr float top_ps[] = {0.5f, 0.7f, 0.99f};
  for (std::uint32_t i = 0; i < draws; ++i) {
    how[i] = {.filters = {.temperature = 1.0f, .top_k = i % 2 * 2'000, .top_p = top_ps[i % 3]},
              .seed = 3,
              .position = i};
  }
  const std::vector<sampled_token> found = sample_as_host(logits.data(), vocabulary, how, true);
  std::uint32_t others = 0;
  for (std::uint32_t i = 0; i < draws; ++i) {
    others += to_index(found[i].id) != 1'234 ? 1u : 0u;
  }
  REQUIRE(others > 5);
}

TEST_CASE("the largest vocabulary's masses fit a bin, all in one") {
  // Each but the first has nearly 2^16 in its lowest limb.
  constexpr std::uint32_t vocabulary = 400'000;
  float z = -7.9f;
  while ((mass_of(detail::exp_unfused(z)) & 0xFFFFu) < 0xFC00u) {
    z = std::nextafter(z, 0.0f);
  }
  std::vector<float> row(vocabulary, z);
  row[vocabulary - 1] = 0.0f;
  stored_rows<float> logits(row);
  std::vector<sample_row> how(2);
  how[0] = {.filters = {.temperature = 1.0f, .top_p = 0.4f}, .seed = 1, .position = 1};
  how[1] = {.filters = {.temperature = 1.0f, .top_p = 0.9f}, .seed = 1, .position = 2};
  sample_as_host(logits.data(), vocabulary, how, false);
}

TEST_CASE("rows as models have them are finished by one block, from a list") {
  // A bulk of deviation 2, and a few tokens far above it. Two barriers of the cluster a row.
  constexpr std::uint32_t vocabulary = 152'576;
  random_stream random(11, 105);
  stored_rows<float> logits(vocabulary);
  for (std::uint32_t i = 0; i < vocabulary; ++i) {
    float z = -6.0f;
    for (int j = 0; j < 4; ++j) {
      z += random.next_uniform(0.0f, 3.4f);
    }
    logits.data()[i] = z + (random.next_below(20'000) == 0 ? 12.0f : 0.0f);
  }
  std::vector<sample_row> how;
  const auto add = [&](const sample_filters& f) {
    how.push_back({.filters = f, .seed = 5, .position = how.size()});
  };
  for (const std::uint32_t top_k : {1u, 2u, 16u, 17u, 50u, 200u, 256u, 256u}) {
    add({.temperature = 30.0f, .top_k = top_k});  // Any of them is drawn.
    add({.temperature = 30.0f, .top_k = top_k, .top_p = 0.97f, .min_p = 0.01f});
    add({.temperature = 0.7f, .top_k = top_k, .top_p = 0.9f});
  }
  add({.temperature = 0.7f, .top_p = 0.9f});
  add({.temperature = 1.0f, .top_p = 0.5f, .min_p = 0.1f});
  std::uint32_t barriers = 0;
  sample_as_host(logits.data(), vocabulary, how, false, &barriers);
  CHECK(barriers == 2 * how.size());
}

TEST_CASE("rows whose first tokens are no list are finished by all blocks") {
  constexpr std::uint32_t vocabulary = 152'576;
  random_stream random(12, 106);
  const bool is_even = GENERATE(false, true);  // All alike, or too many near the largest.
  stored_rows<float> logits(is_even ? std::vector<float>(vocabulary, 2.5f)
                                    : random_floats(vocabulary, random, -2.0f, 2.0f));
  std::vector<sample_row> how;
  for (const std::uint32_t top_k : {0u, 100u, 257u, 3'000u}) {
    how.push_back({.filters = {.temperature = 1.0f, .top_k = top_k, .top_p = 0.6f},
                   .seed = 6,
                   .position = how.size()});
  }
  std::uint32_t barriers = 0;
  sample_as_host(logits.data(), vocabulary, how, true, &barriers);
  CHECK(barriers > 2 * how.size());
}

TEST_CASE("masses of far tokens are masses") {
  const detail::sample_scales weights{0.0f, 1.0f, 0.0f};
  std::uint32_t differ = 0;
  const auto last = std::bit_cast<std::uint32_t>(200.0f);
  for (auto bits = std::bit_cast<std::uint32_t>(-detail::far_exponent) + 1; bits <= last;
       bits += 7) {
    const float exponent = -std::bit_cast<float>(bits);
    differ += detail::far_mass(exponent) == weights.mass(exponent) ? 0u : 1u;
  }
  CHECK(differ == 0);
  CHECK(detail::far_mass(-std::numeric_limits<float>::infinity()) == 0);
}

TEST_CASE("the exponential of normal results has the bits of the one of any") {
  const auto same = [](float x) {
    return std::bit_cast<std::uint32_t>(detail::exp_unfused_normal(x)) ==
           std::bit_cast<std::uint32_t>(detail::exp_unfused(x));
  };
  std::uint32_t differ = 0;
  for (std::uint32_t bits = 0; bits <= std::bit_cast<std::uint32_t>(80.0f); bits += 1'009) {
    const auto x = std::bit_cast<float>(bits);
    differ += same(x) && same(-x) ? 0u : 1u;
  }
  CHECK(differ == 0);
  CHECK(same(-80.0f));
  CHECK(detail::exp_unfused_normal(0.0f) == 1.0f);
}

TEST_CASE("what top_k dropped stays dropped under top_p, among equal logits") {
  constexpr std::uint32_t vocabulary = 3'000, draws = 30;
  stored_rows<float> logits(std::vector<float>(vocabulary, 1.5f));
  std::vector<sample_row> how(draws);
  for (std::uint32_t i = 0; i < draws; ++i) {
    how[i] = {.filters = {.temperature = 1.0f, .top_k = 1 + i % 3, .top_p = 0.9f},
              .seed = 4,
              .position = i};
  }
  std::vector<sampled_token> none(draws);
  const std::vector<sampled_token> found =
      sample_on_host(*cuda::plan_sample(vocabulary, draws), {none, logits.data(), 0, how}, false);
  for (std::uint32_t i = 0; i < draws; ++i) {
    REQUIRE(to_index(found[i].id) < how[i].filters.top_k);
  }
}

TEST_CASE("the device's sample plan") {
  const auto plan = cuda::plan_sample(152'576, 256);
  REQUIRE(plan);
  CHECK(plan->part_tokens == 19'072);
  CHECK(2 * (plan->shared_bytes + 1'024) <= 228 * 1'024);  // Two blocks to a multiprocessor.
  CHECK(plan->clusters == 30);
  CHECK(cuda::plan_sample(152'576, 4)->clusters == 4);
  CHECK(cuda::plan_sample(400'000, 1)->shared_bytes <= 227 * 1'024);
  CHECK_FALSE(cuda::plan_sample(0, 1));
  CHECK_FALSE(cuda::plan_sample(400'001, 1));
  CHECK_FALSE(cuda::plan_sample(8, 0));
}

TEST_CASE("the device judges chains as the verifier does") {
  random_stream random(6, 103);
  for (int round = 0; round < 300; ++round) {
    const verify_chain chain{random.next_below(3), random.next_below(3), random.next_below(8)};
    std::vector<sampled_token> rows(16);
    std::vector<token_id> drafts(16);
    for (std::uint32_t i = 0; i < 16; ++i) {
      rows[i] = {token_id{random.next_below(2)}, random.next_below(12) == 0 ? 0.0f : 0.5f};
      drafts[i] = token_id{random.next_below(8) == 0 ? 1u : to_index(rows[i].id)};
    }
    std::vector<chain_verdict> reference(1);
    const verify_args args{reference, {&chain, 1}, rows, drafts};
    reference::verify_chains(args);
    const chain_verdict device = detail::judge_chain(args, chain);

    std::vector<drafted_token> drafted;
    for (std::uint32_t i = 0; i < chain.drafts; ++i) {
      drafted.push_back({.id = drafts[chain.first_draft + i]});
    }
    std::vector<sampled_token> gained(chain.drafts + 1);
    const verified expected = verifier<greedy_match>()(
        drafted, {}, [&](std::uint32_t row) { return rows[chain.first_row + row]; }, gained);
    for (const chain_verdict& found : {device, reference[0]}) {
      REQUIRE(found.accepted_drafts == expected.accepted_drafts);
      REQUIRE(found.accept_length == expected.accept_length);
      REQUIRE(found.has_failed == expected.has_failed);
    }
    for (std::uint32_t i = 0; i < device.accept_length; ++i) {
      REQUIRE(gained[i].id == rows[chain.first_row + i].id);
    }
  }
}

}  // namespace sample_agent_test
