// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What the rows of an MTP block are told behind a verification that the host has not seen.
///
/// A sequence has rows that were open before the step, then one for each row that the step
/// computed. Row r of block b is told entry r + b of the sequence's tail, or the last entry:
///
///     tail   `known` tokens that the host knew, then those that the verification gained, then the
///            drafts of the blocks before b
///
/// Rows behind the accepted ones are told something, and nobody reads what they give. The row with
/// logits is the last accepted one.
#pragma once

#include <oriel/core/ids.hpp>
#include <oriel/core/result.hpp>
#include <oriel/kernels/sample.hpp>
#include <oriel/kernels/verify_chains.hpp>

#include <cstdint>
#include <span>

struct CUstream_st;  // cudaStream_t is a pointer to it; no CUDA header is needed to name one.

namespace oriel {

/// The rows of one sequence.
struct draft_span {
  std::uint32_t first_row;      ///< of `tokens`
  std::uint32_t rows;           ///< open before the step, and computed by it
  std::uint32_t first_known;    ///< of `known`
  std::uint32_t known;          ///< tokens; as many as rows were open before the step
  std::uint32_t first_sampled;  ///< of `sampled`: the chain's first row
};

/// Arguments of one call.
struct draft_rows_args {
  std::span<token_id> tokens;               ///< [rows]: written
  std::span<std::uint32_t> logit_rows;      ///< [sequences]: written, indices of rows
  std::span<const draft_span> spans;        ///< [sequences]
  std::span<const token_id> known;          ///< of all sequences
  std::span<const chain_verdict> verdicts;  ///< [sequences]
  std::span<const sampled_token> sampled;   ///< what the verification's rows drew
  std::span<const sampled_token> drafted;   ///< [block, sequences]: by the blocks before
  std::uint32_t block;
};

namespace reference {

/// The definition, by a tail for each sequence. O(rows).
void draft_rows(const draft_rows_args& args);

}  // namespace reference

namespace cuda {

/// Enqueues it; every pointer in `args` is device memory.
/// @param sequence_count  in device memory: sequences beyond it stay as they are; null: all
/// @returns errc::device_failure
status run_draft_rows(const draft_rows_args& args,
                      CUstream_st* stream,
                      const std::uint32_t* sequence_count = nullptr) noexcept;

}  // namespace cuda
}  // namespace oriel
