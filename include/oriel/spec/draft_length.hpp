// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `draft_length`: how many tokens each sequence of a step drafts. Fixed, or by measured gain.
///
///     length.plan(curves, lengths);             // before the drafts
///     ...draft, compute, verify...
///     curves[i]->on_verified(drafted, accepted); // each sequence that drafted
///     length.on_step({.batch = ..., .rows = ..., .tokens = ..., .seconds = ...});
///
/// A step's tokens never depend on these numbers (verifier.hpp), only its seconds do.
#pragma once

#include <array>
#include <concepts>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel {

/// The longest chain that a draft_length plans.
inline constexpr std::uint32_t draft_tokens_max = 8;

/// How often drafts were accepted, by their place in the chain: of one sequence, or of a class of
/// sequences. Old verifications fade: one counts half as much after `half_life` further ones that
/// reached its place.
class acceptance_curve {
 public:
  acceptance_curve() noexcept = default;

  /// A curve that begins where `other` is, and can leave it quickly: what a new sequence knows from
  /// its class.
  [[nodiscard]] static acceptance_curve like(const acceptance_curve& other) noexcept;

  /// Takes in one verified chain. O(drafted). @pre accepted <= drafted <= draft_tokens_max
  void on_verified(std::uint32_t drafted, std::uint32_t accepted) noexcept;

  /// Estimated probability that draft `place` (from 0) is accepted when all before it were.
  /// @pre place < draft_tokens_max
  [[nodiscard]] double acceptance(std::uint32_t place) const noexcept;

  /// Estimated tokens of a step that drafts `drafts`, bonus token included. O(drafts).
  /// @pre drafts <= draft_tokens_max
  [[nodiscard]] double expected_tokens(std::uint32_t drafts) const noexcept;

  static constexpr double half_life = 24.0;

 private:
  std::array<double, draft_tokens_max> trials_{};  ///< faded counts of chains that reached a place
  std::array<double, draft_tokens_max> hits_{};
};

/// What a step was, and took.
struct step_measure {
  std::uint32_t batch;   ///< sequences that decoded
  std::uint32_t rows;    ///< rows computed for them: batch + drafts
  std::uint32_t tokens;  ///< emitted by them
  double seconds;        ///< of the whole step, drafting included
};

template <class L>
concept draft_length = requires(L& l,
                                std::span<const acceptance_curve* const> curves,
                                std::span<std::uint32_t> lengths,
                                const step_measure& measure) {
  /// lengths[i] = how many tokens sequence i drafts at most.
  { l.plan(curves, lengths) } -> std::same_as<void>;
  { l.on_step(measure) } -> std::same_as<void>;
};

/// Always the same.
class fixed_draft_length {
 public:
  /// @pre drafts <= draft_tokens_max
  explicit fixed_draft_length(std::uint32_t drafts);

  void plan(std::span<const acceptance_curve* const> curves,
            std::span<std::uint32_t> lengths) const noexcept;
  void on_step(const step_measure&) noexcept {}

 private:
  std::uint32_t drafts_;
};

struct adaptive_options {
  std::uint32_t drafts_max = 3;    ///< of one chain, in [1, draft_tokens_max]
  double gain_min = 1.02;          ///< drafting must be this much faster than not
  double probe_share = 0.01;       ///< of all seconds, that may be lost by trying other lengths
  std::uint32_t stale_steps = 64;  ///< a length not measured for so long may be tried again
};

/// The lengths that give the most tokens per second by what was measured: acceptance by place, and
/// the seconds of a step by batch and mean length. Each further draft of a step goes to the
/// sequence whose next one is most likely accepted, as long as the rate rises. Where drafting is
/// slower than not drafting it drafts nothing.
///
/// A length that was not used for long is tried now and then, so that it is found again when it
/// pays. What tries may lose is a share of all seconds (`probe_share`); a try that gained is
/// repeated at once, one for which nothing was drafted costs nothing. A stalled step is believed in
/// part only, the first of a length above all.
///
/// Deterministic: a function of the calls. *Thread safety* none. *Memory* fixed when made, and 12
/// bytes for each draft of the largest batch.
class adaptive_draft_length {
 public:
  /// @pre options are in their ranges
  explicit adaptive_draft_length(const adaptive_options& options = {});

  /// O(n log n) for n = curves.size() * drafts_max.
  /// @pre curves.size() == lengths.size()
  /// @throws std::bad_alloc when the batch is larger than any before
  void plan(std::span<const acceptance_curve* const> curves, std::span<std::uint32_t> lengths);

  /// Takes in what the step took. Steps that also computed prompts tell nothing and should not be
  /// told. @pre rows >= batch > 0, seconds > 0
  void on_step(const step_measure& measure) noexcept;

  /// Estimated seconds of a step of this batch in which each sequence drafts `drafts` on average;
  /// 0 as long as nothing was measured.
  [[nodiscard]] double step_seconds(std::uint32_t batch, double drafts) const noexcept;

 private:
  struct cost_cell {
    double seconds = 0.0;
    double samples = 0.0;           ///< 0: not measured
    std::uint64_t measured_at = 0;  ///< step
  };
  using cost_row = std::array<cost_cell, draft_tokens_max + 1>;  ///< by drafts for each sequence

  /// One more draft of one sequence.
  struct next_draft {
    double probability;  ///< that it and all before it are accepted
    std::uint32_t sequence;
  };

  [[nodiscard]] static double seconds_at(const cost_row& row, std::uint32_t drafts) noexcept;
  [[nodiscard]] static double seconds_at(const cost_row& row, double drafts) noexcept;
  [[nodiscard]] static double believed_s(const cost_row& row,
                                         const cost_cell& cell,
                                         double drafts,
                                         const step_measure& m) noexcept;
  static void learn(cost_cell& cell, double error_s, double weight) noexcept;
  static void keep_order(cost_row& row, std::uint32_t changed) noexcept;
  [[nodiscard]] double measure(cost_row& row, double drafts, const step_measure& m) noexcept;
  [[nodiscard]] double longest_plain_s() const noexcept;

  void list_next_drafts(std::span<const acceptance_curve* const> curves);
  double choose_best(std::uint32_t batch, const cost_row& row, std::span<std::uint32_t> lengths);
  void try_another(std::span<const acceptance_curve* const> curves,
                   const cost_row& row,
                   std::span<std::uint32_t> lengths);

  adaptive_options options_;
  std::array<cost_row, 33> costs_{};  ///< by bit width of batch - 1
  std::vector<next_draft> next_drafts_;
  std::uint64_t step_ = 0;
  double credit_s_ = 0.0;         ///< what tries may lose now
  double best_tokens_per_s_ = 0;  ///< expected of the lengths that were chosen; 0: not known
  bool is_trying_ = false;
  bool last_try_gained_ = false;
  std::uint32_t tried_drafts_ = 0;
};

static_assert(draft_length<fixed_draft_length>);
static_assert(draft_length<adaptive_draft_length>);

}  // namespace oriel
