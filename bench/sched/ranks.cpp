// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What the layer barrier costs, and what buckets and rank_packer get back: prefill of a trace's
/// uncached tokens on 8 data-parallel ranks, chunks of 16 K, a backlog of 64 requests.
///
///     bench.sched.ranks FILE [SEEDS]     FILE as `oriel replay` reads it
///
/// The cache forgets nothing: a request computes what no earlier one of the trace had. Requests
/// come in random order, one stream per seed for all policies, and 64 are there at any time. A step
/// lasts as node_cost::barrier_s says. Tokens/s are those computed by the seconds of all steps; of
/// buckets by the seconds of all three instances, each with a backlog of 64.
#include <oriel/core/random.hpp>
#include <oriel/sched/length_buckets.hpp>
#include <oriel/sched/rank_packer.hpp>
#include <oriel/sim/node_cost.hpp>

#include <replay/read_trace.hpp>
#include <replay/trace_workload.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iterator>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

namespace oriel {
namespace {

constexpr std::uint32_t ranks = 8, chunk_tokens = 16'384, backlog = 64;

struct prompt {
  std::uint32_t cached = 0, missing = 0;
  std::uint32_t session = 0;
};

/// What each request has to compute behind a cache that forgets nothing.
std::vector<prompt> prompts_of(const replay::trace& t) {
  std::vector<bool> seen(t.distinct_pages);
  std::vector<prompt> prompts;
  for (const replay::trace_request& r : t.requests) {
    const auto pages = t.pages_of(r).first((r.input_tokens - 1) / t.page_tokens);
    const auto hit = std::ranges::find_if(pages, [&](std::uint32_t p) { return !seen[p]; });
    const auto cached = static_cast<std::uint32_t>(hit - pages.begin()) * t.page_tokens;
    prompts.push_back({cached, r.input_tokens - cached, r.session});
    for (const std::uint32_t page : t.pages_of(r)) {
      seen[page] = true;
    }
  }
  return prompts;
}

/// How tokens go to ranks, and who is first.
struct policy {
  bool is_packed = false;  ///< by rank_packer; else equal tokens: who is first and on no other rank
  bool is_sticky = false;  ///< a request has a rank, its session's
  bool is_least_first = false;  ///< by the seconds that are left; else by arrival
};

struct total {
  double seconds = 0.0, tokens = 0.0;
  total& operator+=(const total& o) {
    seconds += o.seconds;
    tokens += o.tokens;
    return *this;
  }
  [[nodiscard]] double rate() const { return tokens / seconds; }
};

class instance {
 public:
  instance(const sim::node_cost& cost, policy how)
      : cost_(cost),
        how_(how),
        packer_({.ranks = ranks, .chunk_tokens = chunk_tokens, .cost = cost.own_cost(ranks)}),
        work_(ranks) {}

  total run(std::span<const prompt> stream) {
    total all;
    std::size_t next = 0;
    for (;;) {
      for (; jobs_.size() < backlog && next < stream.size(); ++next) {
        const prompt& p = stream[next];
        // A session's KV is where the hash of its number says.
        const std::uint32_t home = (p.session * 0x9E37'79B9u) >> 29;
        jobs_.push_back({p.cached, p.missing, how_.is_sticky ? home : any_rank});
        all.tokens += p.missing;
      }
      if (jobs_.empty()) {
        return all;
      }
      all.seconds += step();
      std::erase_if(jobs_, [](const rank_job& j) { return j.missing == 0; });
    }
  }

 private:
  double step() {
    std::ranges::fill(work_, sim::rank_work{});
    if (how_.is_least_first) {
      const chunk_cost own = cost_.own_cost(ranks);
      std::ranges::stable_sort(
          jobs_, {}, [&](const rank_job& j) { return own.seconds(j.computed, j.missing); });
    }
    if (how_.is_packed) {
      for (const rank_chunk& c : packer_.pack(jobs_)) {
        compute(jobs_[c.job], c.rank, c.tokens);
      }
    } else {
      for (std::uint32_t rank = 0; rank < ranks; ++rank) {
        fill(rank);
      }
    }
    return cost_.barrier_s(work_);
  }
  /// Who is begun stays on its rank.
  void fill(std::uint32_t rank) {
    std::uint32_t left = chunk_tokens;
    for (rank_job& j : jobs_) {
      if (left > 0 && j.missing > 0 && (j.rank == rank || j.rank == any_rank)) {
        j.rank = rank;
        const std::uint32_t tokens = std::min(left, j.missing);
        left -= tokens;
        compute(j, rank, tokens);
      }
    }
  }
  void compute(rank_job& j, std::uint32_t rank, std::uint32_t tokens) {
    work_[rank].linear_s += cost_.prefill.token_s * tokens;
    work_[rank].attention_s +=
        cost_.prefill.seconds(j.computed, tokens) - cost_.prefill.token_s * tokens;
    j.computed += tokens;
    j.missing -= tokens;
  }

  sim::node_cost cost_;
  policy how_;
  rank_packer packer_;
  std::vector<rank_job> jobs_;
  std::vector<sim::rank_work> work_;
};

/// In random order: Fisher and Yates.
std::vector<prompt> shuffled(std::vector<prompt> prompts, std::uint64_t seed) {
  random_stream draw(seed);
  for (std::size_t i = prompts.size(); i > 1; --i) {
    std::swap(prompts[i - 1], prompts[draw.next_below(static_cast<std::uint32_t>(i))]);
  }
  return prompts;
}

double rate(const std::vector<prompt>& stream,
            const sim::node_cost& cost,
            policy how,
            const length_buckets& buckets) {
  total all;
  for (std::size_t b = 0; b < buckets.size(); ++b) {
    std::vector<prompt> own;
    std::ranges::copy_if(stream, std::back_inserter(own), [&](const prompt& p) {
      return buckets.of(p.cached + p.missing) == b;
    });
    all += instance(cost, how).run(own);
  }
  return all.rate();
}

/// Mean and half-width of the 95 % interval (Student, few seeds).
void print(const char* name, const std::vector<double>& gains, double goal) {
  constexpr double t_95[] = {0, 12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262};
  const double n = static_cast<double>(gains.size());
  const double mean = std::reduce(gains.begin(), gains.end()) / n;
  double squares = 0.0;
  for (const double g : gains) {
    squares += (g - mean) * (g - mean);
  }
  const double t = t_95[std::min<std::size_t>(gains.size() - 1, std::size(t_95) - 1)];
  const double half = gains.size() < 2 ? 0.0 : t * std::sqrt(squares / (n - 1.0) / n);
  std::printf("  %-38s %+6.1f %% +- %.1f", name, 100.0 * mean, 100.0 * half);
  if (goal > 0.0) {
    std::printf("   goal %+.0f %%: %s", 100.0 * goal, mean - half >= goal ? "met" : "missed");
  }
  std::printf("\n");
}

struct row {
  const char* name;
  policy how;
  bool is_in_buckets;
  double goal = 0.0;  ///< of the gain over mixing; 0: none
  double sticky_goal = 0.0;
};
constexpr row rows[] = {
    {"mixing, least work first", {.is_least_first = true}, false},
    {"buckets, mixing in each", {}, true, 0.20},
    {"packer, by arrival", {.is_packed = true}, false},
    {"packer, least work first", {.is_packed = true, .is_least_first = true}, false, 0.60, 0.25},
    {"packer in buckets, by arrival", {.is_packed = true}, true},
    {"packer in buckets, least work first",
     {.is_packed = true, .is_least_first = true},
     true,
     0.60,
     0.25},
};

void measure(const std::vector<prompt>& prompts, std::uint64_t seeds) {
  const sim::node_cost cost = sim::calibrate_mimo_pro().cost;
  const length_buckets one{std::vector<std::uint32_t>{}}, three;
  for (const bool is_sticky : {false, true}) {
    std::vector<std::vector<double>> gains(std::size(rows));
    double base = 0.0;
    for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
      const auto stream = shuffled(prompts, seed);
      const double mixing = rate(stream, cost, {.is_sticky = is_sticky}, one);
      base += mixing / static_cast<double>(seeds);
      for (std::size_t i = 0; i < gains.size(); ++i) {
        policy how = rows[i].how;
        how.is_sticky = is_sticky;
        const auto& buckets = rows[i].is_in_buckets ? three : one;
        gains[i].push_back(rate(stream, cost, how, buckets) / mixing - 1.0);
      }
    }
    std::printf("%s: mixing by arrival %.0f tokens/s; over that:\n",
                is_sticky ? "a request's rank is its session's" : "any rank",
                base);
    for (std::size_t i = 0; i < gains.size(); ++i) {
      print(rows[i].name, gains[i], is_sticky ? rows[i].sticky_goal : rows[i].goal);
    }
  }
}

}  // namespace
}  // namespace oriel

int main(int count, char** arguments) {
  if (count < 2) {
    std::fprintf(stderr, "bench.sched.ranks FILE [SEEDS]\n");
    return 2;
  }
  try {
    const auto trace = oriel::replay::read_trace(arguments[1]);
    const auto prompts = oriel::prompts_of(trace);
    std::vector<std::uint32_t> missing;
    for (const auto& p : prompts) {
      missing.push_back(p.missing);
    }
    std::ranges::sort(missing);
    std::printf("%zu requests, uncached tokens p50 %u, p90 %u, p99 %u\n",
                prompts.size(),
                missing[missing.size() / 2],
                missing[missing.size() * 9 / 10],
                missing[missing.size() * 99 / 100]);
    oriel::measure(prompts, count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 5);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench.sched.ranks: %s\n", e.what());
    return 1;
  }
}
