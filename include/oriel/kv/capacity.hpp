// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// How many sequences fit a byte budget, found by admitting them to real pools over memory that is
/// never touched: the answer of the allocators an engine uses, not of a division.
#pragma once

#include <oriel/core/result.hpp>
#include <oriel/kv/page_layout.hpp>
#include <oriel/kv/pool_plan.hpp>

#include <cstdint>
#include <span>

namespace oriel {

/// A question about sequences at decode.
struct capacity_question {
  std::uint64_t budget_bytes = 0;
  std::uint32_t sequence_tokens = 0;  ///< length of every sequence; > 0
  /// At decode: a step appends 4 tokens (one and three drafts).
  pool_options pools = {.page_size = 16, .step_tokens = 4, .slack_pages = 1};
};

/// Counts of sequences, and the bytes of one of them in whole pages.
struct capacity_answer {
  std::uint64_t sequences_dual = 0;
  std::uint64_t sequences_uniform = 0;
  std::uint64_t bytes_per_sequence_dual = 0;
  std::uint64_t bytes_per_sequence_uniform = 0;
};

/// Fills dual pools, and then one uniform pool in which every layer stores every position, with
/// sequences of `sequence_tokens` tokens until one is refused. Commits no KV memory.
/// O(sequences * pages of a sequence).
/// @returns errc::invalid_argument (see pool_plan::make), errc::out_of_memory if the budget exceeds
///          the address space
/// @throws  std::bad_alloc
[[nodiscard]] result<capacity_answer> sequences_that_fit(std::span<const kv_layer_shape> layers,
                                                         const capacity_question& question);

}  // namespace oriel
