// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `rank_packer`: which prompts the data-parallel ranks compute in a step, and how many tokens of
/// each, so that all ranks end together. With expert parallelism every layer ends with the slowest
/// rank: 16 K tokens behind a prefix of 1 M take seven times those of an empty one, and the others
/// wait.
///
///     equal tokens    rank 0 |####|               equal seconds   rank 0 |####|
///                     rank 1 |################|                   rank 1 |####|    fewer tokens
///                     rank 2 |##|                                 rank 2 |##++|    of two prompts
///                            the step lasts 16                           it lasts 4
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace oriel {

/// Seconds of a chunk of u tokens behind c: token_s * u + pair_s * u * (c + u / 2). Of what a rank
/// does by itself: attention and its projections; the experts' work is everybody's.
struct chunk_cost {
  double token_s = 0.0;  ///< > 0
  double pair_s = 0.0;   ///< >= 0

  [[nodiscard]] double seconds(double behind, double tokens) const noexcept {
    return tokens * (token_s + pair_s * (behind + 0.5 * tokens));
  }
  /// The most tokens that take at most so long. O(1).
  [[nodiscard]] std::uint32_t tokens_in(double seconds, double behind) const noexcept;
};

/// Any rank may compute it: its KV is where all can read it.
inline constexpr std::uint32_t any_rank = ~std::uint32_t{0};

/// A prompt with something left to compute.
struct rank_job {
  std::uint32_t computed = 0;     ///< tokens that have KV
  std::uint32_t missing = 0;      ///< tokens that have none; 0: it is passed over
  std::uint32_t rank = any_rank;  ///< that holds its KV
};

struct rank_chunk {
  std::uint32_t job = 0;  ///< index
  std::uint32_t rank = 0;
  std::uint32_t tokens = 0;  ///< > 0
  friend bool operator==(const rank_chunk&, const rank_chunk&) = default;
};

struct rank_options {
  std::uint32_t ranks = 8;
  std::uint32_t chunk_tokens = 16'384;  ///< of a rank in a step, at most
  std::uint32_t least_tokens = 64;  ///< chunks are multiples of it, but for the last of a prompt
  chunk_cost cost = {};
};

/// The rule: jobs go to ranks, the most work first, each to the rank that has least (LPT; R.
/// Graham, 1969), those with a rank of their own to that. Each rank computes its jobs in the order
/// in which they are given, which is the order of service. The step lasts as long as the rank that
/// is first out of tokens needs for them; the others cut their chunks there. So no rank waits while
/// it has work, and the makespan of all is that of the fullest rank.
///
/// *Thread safety* none. *Memory* a few words for each job, kept.
class rank_packer {
 public:
  /// @pre ranks > 0, chunk_tokens >= least_tokens > 0, cost.token_s > 0
  explicit rank_packer(const rank_options& options);

  /// One chunk of each job at most; together at most chunk_tokens on each rank. Valid until the
  /// next call. O(jobs log jobs).
  /// @param jobs  in the order of service: with the least work first, prompts end sooner, and more
  ///              of them are there for ranks that run out (docs/scheduling.md)
  /// @pre job.rank < ranks, or any_rank @throws std::bad_alloc
  std::span<const rank_chunk> pack(std::span<const rank_job> jobs);
  /// The seconds of the last step: of its slowest rank.
  [[nodiscard]] double step_s() const noexcept { return step_s_; }

 private:
  struct ranked_job {
    double seconds;
    std::uint32_t job;
  };
  void assign(std::span<const rank_job> jobs);
  [[nodiscard]] double length_of_step(std::span<const rank_job> jobs) const noexcept;
  void cut(std::span<const rank_job> jobs, double seconds);

  rank_options options_;
  std::vector<ranked_job> order_;
  std::vector<double> load_s_;                      // [ranks]
  std::vector<std::vector<std::uint32_t>> queues_;  // [ranks] jobs
  std::vector<rank_chunk> chunks_;
  double step_s_ = 0.0;
};

}  // namespace oriel
