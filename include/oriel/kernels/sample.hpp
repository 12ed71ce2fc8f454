// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// From logits to a token: filters, the distribution they leave, and a draw from it.
///
/// Penalties and biases come first (kernels/adjust_logits.hpp). Filters apply in this order, each
/// to what the one before left:
///
///     temperature   z = (logit - largest logit) / temperature;  w = exp(z)
///     top_k         keep the top_k first tokens
///     top_p         keep the fewest first tokens that hold at least top_p of the remaining mass
///     min_p         keep tokens with w >= min_p (the first token has w = 1)
///
/// where "first" is by logit, descending; ties by token id, ascending. It is the order of Hugging
/// Face's generate, so that settings found there mean the same here. (An engine that applies min_p
/// before top_p keeps more at the same settings, because top_p then measures a smaller whole.)
///
/// Exact, and exactly reproducible: masses are integers (multiples of 2^-44 of the first token's
/// mass), so sums have no order, and a draw is one 64-bit random number against one integer total.
/// The result depends on the row's logits, its filters, seed and position alone, not on its
/// companions, the number of threads, or the path.
#pragma once

#include <oriel/core/executor.hpp>
#include <oriel/core/ids.hpp>
#include <oriel/core/random.hpp>
#include <oriel/core/result.hpp>
#include <oriel/kernels/adjust_logits.hpp>
#include <oriel/kernels/isa.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

struct CUstream_st;  // cudaStream_t is a pointer to it; no CUDA header is needed to name one.

namespace oriel {

/// What to keep. The defaults keep everything.
struct sample_filters {
  float temperature = 1.0f;  ///< finite, >= 0; 0 = greedy: the first token, the other fields unused
  std::uint32_t top_k = 0;   ///< tokens; 0 = all
  float top_p = 1.0f;        ///< in (0, 1]; 1 = all
  float min_p = 0.0f;        ///< in [0, 1]; 0 = all
};

/// The mass of a weight in [0, 1], as an integer: weight * 2^44, rounded to nearest. At most 2^44,
/// so 2^19 tokens cannot overflow a sum.
[[nodiscard]] constexpr std::uint64_t mass_of(float weight) noexcept {
  // 256 + w has an ulp of 2^-44: the sum rounds, and the mantissa's low bits are the answer.
  return std::bit_cast<std::uint64_t>(256.0 + static_cast<double>(weight)) -
         std::bit_cast<std::uint64_t>(256.0);
}

/// The tokens that passed the filters. A view into the workspace that made it.
struct token_distribution {
  std::span<const std::uint32_t> ids;  ///< kept ids, ascending; empty: weights[i] is token i's
  std::span<const float> weights;      ///< one per kept token, in [0, 1]
  std::uint64_t total;                 ///< sum of mass_of(weights); 0: no token can be drawn
};

/// Probability of `id`: 0 if it was filtered out. O(log kept).
[[nodiscard]] float probability_of(const token_distribution& d, token_id id) noexcept;

/// The token that `random` falls on, for uniform 64-bit `random`. O(kept) additions.
/// @pre d.total > 0
[[nodiscard]] token_id draw(const token_distribution& d, std::uint64_t random) noexcept;

/// As `draw`, from the distribution without `excluded`: what is left when a verifier rejects a
/// draft.
/// @pre some other token has mass
[[nodiscard]] token_id draw_without(const token_distribution& d,
                                    token_id excluded,
                                    std::uint64_t random) noexcept;

/// What a random number decides. Numbers of different purposes are independent.
enum class random_purpose : std::uint32_t {
  token = 0,     ///< the token itself, drawn from the target's distribution
  accept = 1,    ///< whether a draft stays
  residual = 2,  ///< what stands in for a draft that does not
  draft = 3,     ///< the draft, drawn from the drafter's distribution
};

/// The random number for one decision about the token at `position` of a sequence with `seed`.
[[nodiscard]] constexpr std::uint64_t sample_random(
    std::uint64_t seed,
    std::uint64_t position,
    random_purpose purpose = random_purpose::token) noexcept {
  const auto words =
      philox4x32({static_cast<std::uint32_t>(position),
                  static_cast<std::uint32_t>(position >> 32),
                  static_cast<std::uint32_t>(purpose),
                  0x53414D50u},  // "SAMP": apart from random_stream's counters.
                 {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  return (std::uint64_t{words[1]} << 32) | words[0];
}

/// How one row is sampled.
struct sample_row {
  sample_filters filters;
  std::uint64_t seed;
  std::uint64_t position;  ///< of the token to be drawn, in its sequence (prompt included)
  logit_adjustments adjustments = {};
};

/// What was drawn.
struct sampled_token {
  token_id id;
  float probability;  ///< after the filters; greedy: 1. 0: the row had no number above -infinity
};

/// Arguments of one call.
struct sample_args {
  std::span<sampled_token> out;      ///< [rows]
  const float* logits;               ///< [rows, vocabulary]
  std::size_t logits_stride;         ///< elements from one row to the next
  std::span<const sample_row> rows;  ///< [rows]
};

namespace reference {

/// The definition, by a full sort. The result owns nothing: `ids` and `weights` (both [vocabulary])
/// are filled by the call. The exponential is in double precision, rounded to f32.
[[nodiscard]] token_distribution filter_logits(std::span<const float> logits,
                                               const sample_filters& filters,
                                               std::span<std::uint32_t> ids,
                                               std::span<float> weights);

}  // namespace reference

namespace host {

/// A decided launch. Plain data.
struct sample_plan {
  std::uint32_t vocabulary;
  std::uint32_t concurrency;
  isa path;
  std::size_t filter_bytes;     ///< workspace of one filter_logits
  std::size_t row_bytes;        ///< an array of one row, on whole cache lines
  std::size_t workspace_bytes;  ///< of run_sample: (filter_bytes + row_bytes) * concurrency
};

/// @returns errc::unsupported_shape when vocabulary is 0 or above 2^19, or the CPU lacks `path`.
[[nodiscard]] result<sample_plan> plan_sample(std::uint32_t vocabulary,
                                              std::uint32_t concurrency,
                                              isa path = best_isa()) noexcept;

/// The distribution after the filters. NaN and -infinity are never kept; +infinity shares the whole
/// mass with its equals; without any number above -infinity the total is 0. Temperature 0 keeps the
/// first token alone.
///
/// O(vocabulary): never a full sort; top_p over a flat distribution costs a few passes more.
/// @param logits  [vocabulary]
/// @pre workspace.size() >= plan.filter_bytes, 64-byte aligned; it holds the result
[[nodiscard]] token_distribution filter_logits(const sample_plan& plan,
                                               const float* logits,
                                               const sample_filters& filters,
                                               std::span<std::byte> workspace) noexcept;

/// The first token: largest logit, lowest id among equals, NaN ignored.
/// Token 0 with probability 0 when no logit is a number above -infinity.
[[nodiscard]] sampled_token greedy_token(const sample_plan& plan, const float* logits) noexcept;

/// Draws one token per row; rows in parallel. Neither allocates nor throws.
/// A row without any number above -infinity gives token 0 with probability 0.
/// @pre workspace.size() >= plan.workspace_bytes, 64-byte aligned
/// @pre executor.concurrency() <= plan.concurrency
void run_sample(const sample_plan& plan,
                const sample_args& args,
                std::span<std::byte> workspace,
                executor_ref executor) noexcept;

}  // namespace host

namespace cuda {

/// A decided launch. Plain data.
struct sample_plan {
  std::uint32_t vocabulary;
  std::uint32_t part_tokens;   ///< of a row, in the shared memory of one block
  std::uint32_t shared_bytes;  ///< of a block
  std::uint32_t clusters;      ///< of 8 blocks each, at most; they share the rows
  std::size_t workspace_bytes;
};

/// Pure host arithmetic; needs no device.
/// @returns errc::unsupported_shape when a count is 0, or the vocabulary is above 400,000: an
///          eighth of it must fit a block.
[[nodiscard]] result<sample_plan> plan_sample(std::uint32_t vocabulary,
                                              std::uint32_t rows_max) noexcept;

/// Enqueues the draws. Every pointer is device memory: those in `args`, and in the adjustments of
/// args.rows. Logits are read once; but of the first row in turn for which top_k or top_p keeps too
/// many tokens for one block (a flat row), and of one where the last token that top_p keeps hangs on
/// the last bits of a sum, they are read again. The same tokens and probabilities as the host's.
/// @param row_count  in device memory: rows beyond it stay as they are; null: all rows
/// @pre workspace.size() >= plan.workspace_bytes, 64-byte aligned; its content does not matter
/// @returns errc::device_failure
status run_sample(const sample_plan& plan,
                  const sample_args& args,
                  std::span<std::byte> workspace,
                  CUstream_st* stream,
                  const std::uint32_t* row_count = nullptr) noexcept;

}  // namespace cuda
}  // namespace oriel
