// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Judges chains of sure drafts by the tokens that sampling (kernels/sample.hpp) drew from the
/// target's rows over them:
///
///     rows of a chain    after the last known token, after draft 0, after draft 1, ...
///     a draft stays      if it equals the token drawn from the row before it, as all before it did
///     the sequence gains the drafts that stay, and the token drawn after them
///
/// Each row is drawn with the random number of its own position, as plain decoding would: so the
/// tokens are plain decoding's. Rows behind the first draft that goes are ignored.
#pragma once

#include <oriel/core/ids.hpp>
#include <oriel/core/result.hpp>
#include <oriel/kernels/sample.hpp>

#include <cstdint>
#include <span>

struct CUstream_st;  // cudaStream_t is a pointer to it; no CUDA header is needed to name one.

namespace oriel {

/// The rows and drafts of one sequence.
struct verify_chain {
  std::uint32_t first_row;    ///< of verify_args::rows; drafts + 1 of them
  std::uint32_t first_draft;  ///< of verify_args::drafts
  std::uint32_t drafts;       ///< may be 0
};

/// What came of one chain. The tokens it gains are rows [first_row, first_row + accept_length).
struct chain_verdict {
  std::uint32_t accepted_drafts;
  std::uint32_t accept_length;  ///< accepted drafts and the token after them, unless has_failed
  bool has_failed;  ///< the row after the accepted drafts held no number: there is no token
};

/// Arguments of one call.
struct verify_args {
  std::span<chain_verdict> out;          ///< [chains]
  std::span<const verify_chain> chains;  ///< [chains]
  std::span<const sampled_token> rows;   ///< what run_sample drew
  std::span<const token_id> drafts;
};

namespace reference {

/// O(drafts).
void verify_chains(const verify_args& args);

}  // namespace reference

namespace cuda {

/// Enqueues the judgement; every pointer in `args` is device memory.
/// @param chain_count  in device memory: chains beyond it stay as they are; null: all
/// @returns errc::device_failure
status run_verify_chains(const verify_args& args,
                         CUstream_st* stream,
                         const std::uint32_t* chain_count = nullptr) noexcept;

}  // namespace cuda
}  // namespace oriel
