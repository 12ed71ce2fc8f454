// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Example 06: like lengths together. Ranks that share their experts wait for each other in every
// layer, and a token behind a long prefix costs several short ones. Draws one step, serves one
// stream of prompts four ways on the published cost of MiMo-V2.5-Pro, and lets recent load move the
// bounds of the buckets.
// Next: 07_routing sends requests to the workers that have their pages.
#include <oriel/core/random.hpp>
#include <oriel/sched/length_buckets.hpp>
#include <oriel/sched/rank_packer.hpp>
#include <oriel/sim/node_cost.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

namespace {

using namespace oriel;

constexpr std::uint32_t ranks = 8, chunk_tokens = 16'384, backlog = 32;

/// Prompts of coding agents, long and mostly cached: a third up to 64 K tokens, most to 256 K, some
/// to 1 M.
std::vector<rank_job> prompts(std::uint32_t count, std::uint64_t seed) {
  random_stream draw(seed);
  std::vector<rank_job> all;
  for (std::uint32_t i = 0; i < count; ++i) {
    const float kind = draw.next_uniform(), where = draw.next_uniform();
    const float low = kind < 0.3f ? 12 : kind < 0.9f ? 16 : 18, octaves = kind < 0.3f ? 4 : 2;
    const auto length = static_cast<std::uint32_t>(std::exp2(low + octaves * where));
    const auto missing =
        std::min(length, static_cast<std::uint32_t>(std::exp2(draw.next_uniform(8, 16))));
    all.push_back({.computed = length - missing, .missing = missing});
  }
  return all;
}

/// What most engines do: every rank takes the next chunk_tokens, whatever they cost.
std::vector<rank_chunk> equal_tokens(std::vector<rank_job>& jobs) {
  std::vector<rank_chunk> chunks;
  std::vector<std::uint32_t> left(ranks, chunk_tokens);
  for (std::uint32_t i = 0; i < jobs.size(); ++i) {
    rank_job& job = jobs[i];
    if (job.rank == any_rank) {
      job.rank = static_cast<std::uint32_t>(std::ranges::max_element(left) - left.begin());
    }
    if (const std::uint32_t tokens = std::min(left[job.rank], job.missing); tokens > 0) {
      left[job.rank] -= tokens;
      chunks.push_back({.job = i, .rank = job.rank, .tokens = tokens});
    }
  }
  return chunks;
}

/// One step: each rank's own work, and how long all of them take.
struct step {
  std::vector<sim::rank_work> work = std::vector<sim::rank_work>(ranks);
  double seconds = 0.0;

  step(const sim::node_cost& cost,
       std::vector<rank_job>& jobs,
       std::span<const rank_chunk> chunks) {
    for (const rank_chunk& c : chunks) {
      rank_job& job = jobs[c.job];
      const double linear = cost.prefill.token_s * c.tokens;
      work[c.rank].linear_s += linear;
      work[c.rank].attention_s += cost.prefill.seconds(job.computed, c.tokens) - linear;
      job.computed += c.tokens;
      job.missing -= c.tokens;
    }
    seconds = cost.barrier_s(work);
  }
};

/// Bars of what ranks do by themselves before they meet at the experts.
void show(const char* name, const sim::node_cost& cost, const step& s) {
  std::printf("%s, a step of %.1f s\n", name, s.seconds);
  for (std::uint32_t r = 0; r < ranks; ++r) {
    const double own_s =
        ranks * (s.work[r].attention_s + (1.0 - cost.expert_share) * s.work[r].linear_s);
    const auto length = static_cast<std::size_t>(10 * own_s);  // A # is 100 ms.
    std::printf("  rank %u |%s\n", r, std::string(length, '#').c_str());
  }
}

/// Tokens computed a second: `backlog` prompts are there at any time, each step takes of them.
double rate(const sim::node_cost& cost, std::vector<rank_job> stream, bool is_packed) {
  rank_packer packer({.ranks = ranks, .chunk_tokens = chunk_tokens, .cost = cost.own_cost(ranks)});
  std::vector<rank_job> jobs;
  double seconds = 0.0, tokens = 0.0;
  for (auto next = stream.begin(); next != stream.end() || !jobs.empty();) {
    for (; next != stream.end() && jobs.size() < backlog; ++next) {
      jobs.push_back(*next);
      tokens += next->missing;
    }
    seconds += is_packed ? step(cost, jobs, packer.pack(jobs)).seconds
                         : step(cost, jobs, equal_tokens(jobs)).seconds;
    std::erase_if(jobs, [](const rank_job& j) { return j.missing == 0; });
  }
  return tokens / seconds;
}

std::string in_k(std::uint32_t tokens) {
  return std::to_string(tokens / 1024) + "K";
}

}  // namespace

int main() {
  const sim::node_cost cost = sim::calibrate_mimo_pro().cost;
  const std::vector<rank_job> stream = prompts(2'000, /*seed=*/6);

  // One step over the same backlog.
  std::vector<rank_job> first(stream.begin(), stream.begin() + backlog), again = first;
  show("equal tokens", cost, step(cost, first, equal_tokens(first)));
  rank_packer packer({.ranks = ranks, .chunk_tokens = chunk_tokens, .cost = cost.own_cost(ranks)});
  show("equal seconds", cost, step(cost, again, packer.pack(again)));

  // The whole stream: mixed on one instance, or each bucket on an instance of its own.
  const length_buckets fixed;  // 0-64K, 64K-256K, 256K and more
  std::vector<std::vector<rank_job>> of_bucket(fixed.size());
  for (const rank_job& job : stream) {
    of_bucket[fixed.of(job.computed + job.missing)].push_back(job);
  }
  for (const bool is_packed : {false, true}) {
    double tokens = 0.0, seconds = 0.0;
    for (const auto& own : of_bucket) {
      double of_own = 0.0;
      for (const rank_job& job : own) {
        of_own += job.missing;
      }
      tokens += of_own;
      seconds += of_own / rate(cost, own, is_packed);
    }
    std::printf("%s: %.0f tokens/s mixed, %.0f in buckets\n",
                is_packed ? "equal seconds" : "equal tokens",
                rate(cost, stream, is_packed),
                tokens / seconds);
  }

  // Lengths change over a day. Bounds that follow recent seconds give each bucket as much to do,
  // and workers go where most is.
  length_load recent(/*half_life_s=*/600);
  for (const rank_job& job : stream) {
    recent.add(job.computed + job.missing, cost.chunk_s(job.computed, job.missing));
  }
  const length_buckets moved = recent.balanced(3);
  const auto workers_fixed = recent.workers_of(fixed, 8),
             workers_moved = recent.workers_of(moved, 8);
  const auto show_bounds = [](const char* name, const length_buckets& b, const auto& workers) {
    std::printf("%s: up to %s, up to %s, more; of 8 workers %u, %u, %u\n",
                name,
                in_k(b.bounds()[0]).c_str(),
                in_k(b.bounds()[1]).c_str(),
                workers[0],
                workers[1],
                workers[2]);
  };
  show_bounds("fixed buckets", fixed, workers_fixed);
  show_bounds("after this load", moved, workers_moved);
}
