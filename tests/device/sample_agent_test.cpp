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
#include <support/model_logits.hpp>

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
    for (auto& logits : logits_) {
      logits.emplace(part_tokens * sizeof(float));
    }
    std::memset(static_cast<void*>(shared_.data()), 0xFF, sizeof shared_);
  }

  template <class F>
  void each_part(F&& f) {
    for (std::uint32_t i = 0; i < detail::sample_parts; ++i) {
      const std::uint32_t part = backwards_ ? detail::sample_parts - 1 - i : i;
      f(detail::host_group<detail::sample_threads>(backwards_),
        part,
        shared_[part],
        reinterpret_cast<float*>(logits_[part]->span().data()));
    }
  }
  void sync() { ++barriers; }
  void open() {}
  void publish() {}
  /// Nobody reads the messages of the round before last any more.
  void send(const detail::sample_shared&,
            std::uint32_t part,
            std::uint32_t to,
            const detail::sample_message& message) {
    shared_[to].inbox[heard_ / parts % 2][part] = message;
    ++sent_;
  }
  const detail::sample_message* hear(const auto&, const detail::sample_shared& shared) {
    rounds = heard_ / parts + 1;
    REQUIRE(sent_ == rounds * parts * parts);
    return shared.inbox[heard_++ / parts % 2];
  }
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
  /// Two copies to one place have no order: here the first is the last.
  void wait_for_copies() {
    for (auto last = copies_.rbegin(); last != copies_.rend(); ++last) {
      std::memcpy(last->to, last->from, 16);
    }
    copies_.clear();
  }
  /// Nothing may be under way when the blocks end.
  [[nodiscard]] bool is_done() const { return copies_.empty(); }

  bool are_aligned = true;  ///< as a device demands
  std::uint32_t barriers = 0;
  std::uint32_t rounds = 0;  ///< of messages

 private:
  struct copy {
    void* to;
    const void* from;
  };

  bool backwards_;
  std::vector<copy> copies_;
  std::uint32_t sent_ = 0, heard_ = 0;
  std::array<detail::sample_shared, detail::sample_parts> shared_;
  std::array<std::optional<workspace_bytes>, detail::sample_parts> logits_;
};

/// How often a cluster's blocks met, for all rows.
struct meetings {
  std::uint32_t barriers, rounds;
};

std::vector<sampled_token> sample_on_host(const cuda::sample_plan& plan,
                                          sample_args args,
                                          bool backwards,
                                          meetings* met = nullptr) {
  std::vector<sampled_token> out(args.rows.size(), {token_id{UINT32_MAX}, -1.0f});
  args.out = out;
  const detail::sample_agent agent{plan.vocabulary, plan.part_tokens, args};
  workspace_bytes workspace(plan.workspace_bytes);
  auto* slots = reinterpret_cast<detail::sample_slot*>(workspace.span().data());
  host_cluster cluster(plan.part_tokens, backwards);
  agent(cluster, 0, 1, static_cast<std::uint32_t>(args.rows.size()), slots);
  REQUIRE(cluster.are_aligned);
  REQUIRE(cluster.is_done());
  if (met != nullptr) {
    *met = {cluster.barriers, cluster.rounds};
  }
  return out;
}

/// Samples one row of logits in many ways and demands the host's tokens and probabilities.
std::vector<sampled_token> sample_as_host(const float* logits,
                                          std::uint32_t vocabulary,
                                          const std::vector<sample_row>& how,
                                          bool backwards,
                                          meetings* met = nullptr) {
  std::vector<sampled_token> expected(how.size());
  const auto host_plan = host::plan_sample(vocabulary, 1);
  workspace_bytes workspace(host_plan->workspace_bytes);
  const sample_args args{expected, logits, 0, how};
  host::run_sample(*host_plan, args, workspace.span(), serial);
  const auto rows = static_cast<std::uint32_t>(how.size());
  std::vector<sampled_token> found =
      sample_on_host(*cuda::plan_sample(vocabulary, rows), args, backwards, met);
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
  // Two rounds of messages a row, and one for all rows.
  constexpr std::uint32_t vocabulary = 152'576;
  random_stream random(11, 105);
  stored_rows<float> logits(model_logits(vocabulary, random));
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
  meetings met{};
  sample_as_host(logits.data(), vocabulary, how, false, &met);
  CHECK(met.barriers == 0);
  CHECK(met.rounds == 2 * how.size() + 1);
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
  meetings met{};
  sample_as_host(logits.data(), vocabulary, how, true, &met);
  CHECK(met.barriers > 2 * how.size());
}

TEST_CASE("the last token of top_p does not depend on near masses") {
  // What holds top_p, to the last bit of it: then bounds of the other tokens' mass are not enough.
  constexpr std::uint32_t vocabulary = 152'576, draws = 10;
  random_stream random(13, 107);
  stored_rows<float> logits(model_logits(vocabulary, random));
  std::vector<sample_row> how;
  for (std::uint32_t kept = 1; kept < 5; ++kept) {
    const top_p_edge edge = top_p_edge_of({logits.data(), vocabulary}, 1.0f, kept);
    for (std::uint32_t i = 0; i < draws; ++i) {
      how.push_back(
          {.filters = {.temperature = 1.0f, .top_p = i % 2 == 0 ? edge.within : edge.beyond},
           .seed = 7,
           .position = how.size()});
    }
  }
  meetings met{};
  sample_as_host(logits.data(), vocabulary, how, false, &met);
  CHECK(met.rounds == 3 * how.size() + 1);  // All are done again.
}

TEST_CASE("of all rows those that hang on the last bits are done again, and only those") {
  constexpr std::uint32_t vocabulary = 152'576;
  const bool backwards = GENERATE(false, true);
  random_stream random(14, 108);
  stored_rows<float> logits(model_logits(vocabulary, random));
  const top_p_edge edge = top_p_edge_of({logits.data(), vocabulary}, 1.0f, 3);
  const sample_filters unsure{.temperature = 1.0f, .top_p = edge.beyond};
  const sample_filters sure{.temperature = 1.0f, .top_p = 0.9f * edge.within};
  // Of the 40 first tokens alone, so that other tokens' mass, of a row before, must not count.
  const sample_filters of_few{.temperature = 1.0f, .top_k = 40, .top_p = 0.95f};
  std::vector<sample_row> how;
  std::uint32_t unsure_rows = 0, greedy_rows = 0;
  for (const sample_filters& f : {sure,
                                  unsure,
                                  of_few,
                                  sure,
                                  unsure,
                                  unsure,
                                  sample_filters{.temperature = 0.0f},
                                  of_few,
                                  sure,
                                  of_few}) {
    how.push_back({.filters = f, .seed = 8, .position = how.size()});
    unsure_rows += f.top_p == edge.beyond ? 1u : 0u;
    greedy_rows += f.temperature == 0.0f ? 1u : 0u;
  }
  meetings met{};
  sample_as_host(logits.data(), vocabulary, how, backwards, &met);
  CHECK(met.rounds == 2 * how.size() - greedy_rows + 1 + unsure_rows);
}

TEST_CASE("a row without a list is loaded again, and those behind it are none the worse") {
  // Flat, and like a model's, in turn: another row's logits are on their way each time.
  constexpr std::uint32_t vocabulary = 152'576, rows = 6;
  random_stream random(15, 109);
  const bool backwards = GENERATE(false, true);
  stored_rows<float> logits(std::size_t{rows} * vocabulary);
  std::vector<sample_row> how;
  for (std::uint32_t row = 0; row < rows; ++row) {
    const std::vector<float> z = row % 3 == 1 ? random_floats(vocabulary, random, -1.0f, 1.0f)
                                              : model_logits(vocabulary, random);
    std::copy(z.begin(), z.end(), logits.data() + std::size_t{row} * vocabulary);
    how.push_back({.filters = {.temperature = 0.7f, .top_p = 0.9f}, .seed = 9, .position = row});
  }
  std::vector<sampled_token> expected(rows);
  const auto host_plan = host::plan_sample(vocabulary, 1);
  workspace_bytes workspace(host_plan->workspace_bytes);
  const sample_args args{expected, logits.data(), vocabulary, how};
  host::run_sample(*host_plan, args, workspace.span(), serial);
  const std::vector<sampled_token> found =
      sample_on_host(*cuda::plan_sample(vocabulary, rows), args, backwards);
  for (std::uint32_t row = 0; row < rows; ++row) {
    INFO("row " << row);
    CHECK(to_index(found[row].id) == to_index(expected[row].id));
    CHECK(found[row].probability == expected[row].probability);
  }
}

TEST_CASE("top_k tokens reach the bound by which they are listed, and no fewer") {
  // Just as many tokens far above the others as the threads, warps and blocks that the bound counts.
  constexpr std::uint32_t vocabulary = 152'576, draws = 12;
  const std::uint32_t part_tokens = cuda::plan_sample(vocabulary, 1)->part_tokens;
  constexpr std::uint32_t warps = detail::sample_warps;
  const auto logits_with = [&](auto&& place) {
    random_stream random(16, 110);
    std::vector<float> z = random_floats(vocabulary, random, -3.0f, 0.0f);
    place(z);
    return z;
  };
  const auto token_of = [](std::uint32_t warp, std::uint32_t lane) {
    return (warp * 32 + lane) * 4;
  };
  const auto check = [&](const std::vector<float>& z, std::initializer_list<std::uint32_t> top_ks) {
    stored_rows<float> logits(z);
    std::vector<sample_row> how;
    for (const std::uint32_t top_k : top_ks) {
      for (std::uint32_t i = 0; i < draws; ++i) {
        how.push_back(
            {.filters = {.temperature = 30.0f, .top_k = top_k}, .seed = 3, .position = how.size()});
      }
    }
    sample_as_host(logits.data(), vocabulary, how, false);
  };
  SECTION("in one block, of each warp four threads") {
    check(logits_with([&](std::vector<float>& z) {
            for (std::uint32_t i = 0; i < warps * 4; ++i) {
              z[token_of(i / 4, i % 4)] = 10.0f - static_cast<float>(i % 4);
            }
          }),
          {49, 50, 64});
  }
  SECTION("in all, of seven warps each") {
    check(logits_with([&](std::vector<float>& z) {
            for (std::uint32_t i = 0; i < detail::sample_parts * 7; ++i) {
              z[i / 7 * part_tokens + token_of(i % 7, 0)] = 10.0f - static_cast<float>(i % 7);
            }
          }),
          {49, 50, 56});
  }
  SECTION("in all, of each warp two threads") {
    check(logits_with([&](std::vector<float>& z) {
            for (std::uint32_t i = 0; i < detail::sample_parts * warps * 2; ++i) {
              const std::uint32_t warp = i / 2 % warps;
              z[i / 2 / warps * part_tokens + token_of(warp, i % 2)] =
                  10.0f - static_cast<float>(warp) * 0.25f - static_cast<float>(i % 2) * 0.1f;
            }
          }),
          {129, 200, 255, 256});
  }
}

TEST_CASE("a list has as many tokens as it has room for, and a warp too") {
  constexpr std::uint32_t vocabulary = 152'576, draws = 6;
  const std::uint32_t part_tokens = cuda::plan_sample(vocabulary, 1)->part_tokens;
  const auto has_list = [&](std::uint32_t near_tokens, std::uint32_t stride) {
    random_stream random(17, 111);
    std::vector<float> z(vocabulary, -40.0f);
    for (std::uint32_t i = 0; i < near_tokens; ++i) {
      z[std::size_t{i} * stride] = random.next_uniform(0.0f, 4.0f);
    }
    stored_rows<float> logits(z);
    std::vector<sample_row> how;
    for (std::uint32_t i = 0; i < draws; ++i) {
      how.push_back({.filters = {.temperature = 1.0f, .top_p = 0.9f}, .seed = 4, .position = i});
    }
    meetings met{};
    sample_as_host(logits.data(), vocabulary, how, false, &met);
    return met.barriers == 0;
  };
  CHECK(has_list(detail::sample_list_max, 80));
  CHECK_FALSE(has_list(detail::sample_list_max + 1, 80));
  CHECK_FALSE(has_list(detail::sample_list_max + 100, 80));
  CHECK(has_list(detail::sample_warp_list, 3));
  CHECK_FALSE(has_list(detail::sample_warp_list + 1, 3));
  CHECK(part_tokens / detail::sample_warps > 3 * (detail::sample_warp_list + 1));  // One warp's.
}

TEST_CASE("near masses are within their bounds") {
  // By how much of itself, of 2^-17, at every size. What a device's ex2 may add is not in it.
  const detail::sample_scales weights{0.0f, 1.0f, 0.0f};
  double worst = 0.0;
  const auto last = std::bit_cast<std::uint32_t>(40.0f);
  for (auto bits = std::bit_cast<std::uint32_t>(-detail::near_exponent); bits <= last; bits += 7) {
    const float logit = -std::bit_cast<float>(bits);
    const auto mass = static_cast<double>(weights.mass(weights.exponent(logit)));
    const double near = static_cast<double>(weights.near_weight(logit)) * 0x1p44;
    worst = std::max(worst, (std::fabs(mass - near) - 1.0) / near);
  }
  CHECK(worst < 0x1p-18);
  CHECK(weights.near_weight(-std::numeric_limits<float>::infinity()) == 0.0f);
  CHECK(weights.near_weight(detail::near_exponent) > detail::far_weight * (1.0f + 0x1p-17f));
  const detail::mass_bounds bounds = detail::bounds_of(detail::near_mass(0.25f), 1'000);
  CHECK(bounds.low == (std::uint64_t{1} << 42) - (std::uint64_t{1} << 25) - 1'000);
  CHECK(bounds.low + bounds.spread == (std::uint64_t{1} << 42) + (std::uint64_t{1} << 25) + 1'000);
  CHECK(detail::bounds_of(3, 1'000).low == 0);
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
  CHECK(plan->clusters == 33);
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
