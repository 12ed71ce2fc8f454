// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "support/scale.hpp"

#include <oriel/core/random.hpp>
#include <oriel/sched/rank_packer.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <map>
#include <numeric>
#include <vector>

namespace rank_packer_test {

using namespace oriel;

namespace {

/// MiMo-V2.5-Pro on a node of 8 H200, fitted to published rates; half of the linear work is a
/// rank's own.
constexpr chunk_cost cost{.token_s = 0.5 * 84.63e9 / (2.69e15 / 8),
                          .pair_s = 0.8192e6 / (4.13e15 / 8)};

std::vector<rank_job> drawn_jobs(random_stream& draw,
                                 std::uint32_t count,
                                 std::uint32_t ranks,
                                 bool sticky) {
  std::vector<rank_job> jobs;
  for (std::uint32_t i = 0; i < count; ++i) {
    const bool is_long = draw.next_below(8) == 0;
    jobs.push_back({.computed = draw.next_below(is_long ? 900'000 : 120'000),
                    .missing = 1 + draw.next_below(draw.next_below(3) == 0 ? 90'000 : 6'000),
                    .rank = sticky ? draw.next_below(ranks) : any_rank});
  }
  return jobs;
}

double seconds_of(const std::vector<rank_job>& jobs) {
  double seconds = 0.0;
  for (const rank_job& j : jobs) {
    seconds += cost.seconds(j.computed, j.missing);
  }
  return seconds;
}

/// Steps until all is done, and the seconds of all: each as long as its slowest rank.
double makespan(std::vector<rank_job> jobs, rank_packer& packer, const rank_options& o) {
  double total_s = 0.0;
  for (int steps = 0; std::ranges::any_of(jobs, [](const rank_job& j) { return j.missing != 0; });
       ++steps) {
    REQUIRE(steps < 200'000);
    std::map<std::uint32_t, double> seconds;
    std::map<std::uint32_t, std::uint32_t> tokens;
    std::vector<bool> has_chunk(jobs.size());
    const auto chunks = packer.pack(jobs);
    REQUIRE(!chunks.empty());
    for (const rank_chunk& c : chunks) {
      rank_job& j = jobs[c.job];
      REQUIRE(!has_chunk[c.job]);
      has_chunk[c.job] = true;
      REQUIRE(c.rank < o.ranks);
      REQUIRE((j.rank == any_rank || j.rank == c.rank));
      REQUIRE((c.tokens > 0 && c.tokens <= j.missing));
      REQUIRE((c.tokens == j.missing || c.tokens % o.least_tokens == 0));
      seconds[c.rank] += cost.seconds(j.computed, c.tokens);
      tokens[c.rank] += c.tokens;
      j.computed += c.tokens;
      j.missing -= c.tokens;
    }
    double slowest_s = 0.0;
    for (const auto& [rank, s] : seconds) {
      slowest_s = std::max(slowest_s, s);
    }
    for (const auto& [rank, t] : tokens) {
      REQUIRE(t <= o.chunk_tokens);
    }
    REQUIRE(packer.step_s() == Approx(slowest_s));
    total_s += slowest_s;
  }
  return total_s;
}

/// Each rank takes its next prompt, or the next of all, and computes as many tokens as it may.
double makespan_of_equal_tokens(std::vector<rank_job> jobs, const rank_options& o) {
  std::vector<std::vector<std::uint32_t>> queues(o.ranks);
  for (std::uint32_t i = 0; i < jobs.size(); ++i) {
    queues[jobs[i].rank == any_rank ? i % o.ranks : jobs[i].rank].push_back(i);
  }
  double total_s = 0.0;
  for (bool is_busy = true; is_busy;) {
    is_busy = false;
    double slowest_s = 0.0;
    for (auto& queue : queues) {
      double s = 0.0;
      std::uint32_t left = o.chunk_tokens;
      for (const std::uint32_t i : queue) {
        const std::uint32_t tokens = std::min(left, jobs[i].missing);
        s += cost.seconds(jobs[i].computed, tokens);
        jobs[i].computed += tokens;
        jobs[i].missing -= tokens;
        left -= tokens;
      }
      is_busy = is_busy || s > 0.0;
      slowest_s = std::max(slowest_s, s);
    }
    total_s += slowest_s;
  }
  return total_s;
}

}  // namespace

TEST_CASE("the tokens that fit a time are those whose seconds fit it") {
  random_stream draw(3, 61);
  for (std::uint64_t i = 0; i < scaled(20'000); ++i) {
    const double behind = draw.next_below(1'000'000);
    const std::uint32_t tokens = 1 + draw.next_below(20'000);
    const double s = cost.seconds(behind, tokens);
    REQUIRE(cost.tokens_in(s, behind) == tokens);
    REQUIRE(cost.tokens_in(s * (1.0 - 1e-6) - 1e-12, behind) < tokens);
  }
  CHECK(cost.tokens_in(0.0, 5.0) == 0);
  CHECK(chunk_cost{.token_s = 1e-9}.tokens_in(1e9, 0.0) == ~0u);
}

TEST_CASE(
    "a rank behind a long prefix takes fewer tokens, and one with little takes several prompts") {
  rank_packer packer({.ranks = 2, .chunk_tokens = 1024, .cost = {.token_s = 1.0, .pair_s = 0.01}});
  const std::vector<rank_job> jobs{
      {.computed = 100'000, .missing = 5'000, .rank = 0},  // 1,000 s a token
      {.computed = 0, .missing = 600, .rank = 1},
      {.computed = 0, .missing = 5'000, .rank = 1}};
  const auto chunks = packer.pack(jobs);
  REQUIRE(chunks.size() == 3);
  CHECK(chunks[0] ==
        rank_chunk{0, 0, 64});  // The least there is: rank 1 needs less for its tokens.
  CHECK(chunks[1] == rank_chunk{1, 1, 600});
  CHECK(chunks[2] == rank_chunk{2, 1, 384});
}

TEST_CASE("a rank computes its prompts in the order in which they are given") {
  rank_packer packer({.ranks = 1, .chunk_tokens = 1024, .cost = {.token_s = 1.0}});
  const rank_job small{.missing = 400}, large{.missing = 5'000};
  const auto first = [&](rank_job a, rank_job b) {
    const std::vector<rank_job> jobs{a, b};
    const auto chunks = packer.pack(jobs);
    return std::vector<rank_chunk>(chunks.begin(), chunks.end());
  };
  CHECK(first(small, large) == std::vector<rank_chunk>{{0, 0, 400}, {1, 0, 576}});
  CHECK(first(large, small) == std::vector<rank_chunk>{{0, 0, 1024}});
}

TEST_CASE(
    "all work is done, no rank waits while it has work, and none has much more than its share") {
  double free_gain = 0.0, sticky_gain = 0.0;
  const auto rounds = static_cast<std::uint32_t>(scaled(60));
  for (std::uint64_t seed = 1; seed <= rounds; ++seed) {
    INFO("seed " << seed);
    random_stream draw(seed, 62);
    for (const bool sticky : {false, true}) {
      const rank_options o{.ranks = 2 + draw.next_below(7), .cost = cost};
      const auto jobs = drawn_jobs(draw, 64, o.ranks, sticky);
      rank_packer packer(o);
      const double ours_s = makespan(jobs, packer, o);
      // A lower bound of every packing: the mean, the longest prompt, and what a rank must do.
      std::vector<double> own(o.ranks);
      double longest_s = 0.0;
      for (const rank_job& j : jobs) {
        const double s = cost.seconds(j.computed, j.missing);
        longest_s = std::max(longest_s, s);
        own[sticky ? j.rank : 0] += sticky ? s : 0.0;
      }
      const double least_s =
          std::max({seconds_of(jobs) / o.ranks, longest_s, std::ranges::max(own)});
      CHECK(ours_s >= least_s * (1.0 - 1e-9));
      CHECK(ours_s <= least_s * 1.12);
      const double gain = makespan_of_equal_tokens(jobs, o) / ours_s - 1.0;
      (sticky ? sticky_gain : free_gain) += gain / rounds;
    }
  }
  WARN("over equal tokens: free " << free_gain << ", sticky " << sticky_gain);
  CHECK(free_gain > 0.25);
  CHECK(sticky_gain > 0.05);
}

}  // namespace rank_packer_test
