// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What one thread of the verification does: a chain, by one token after the other.
#pragma once

#include <oriel/device/host_device.cuh>
#include <oriel/kernels/verify_chains.hpp>

namespace oriel::detail {

ORIEL_HOST_DEVICE inline chain_verdict judge_chain(const verify_args& args,
                                                   const verify_chain& chain) {
  const sampled_token* drawn = args.rows.data() + chain.first_row;
  const token_id* drafts = args.drafts.data() + chain.first_draft;
  std::uint32_t accepted = 0;
  while (accepted < chain.drafts && drawn[accepted].probability > 0.0f &&
         drawn[accepted].id == drafts[accepted]) {
    ++accepted;
  }
  const bool has_failed = !(drawn[accepted].probability > 0.0f);
  return {accepted, has_failed ? accepted : accepted + 1, has_failed};
}

}  // namespace oriel::detail
