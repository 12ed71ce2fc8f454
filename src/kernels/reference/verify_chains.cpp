// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/verify_chains.hpp>

void oriel::reference::verify_chains(const verify_args& args) {
  for (std::size_t c = 0; c < args.chains.size(); ++c) {
    const verify_chain& chain = args.chains[c];
    const auto rows = args.rows.subspan(chain.first_row, std::size_t{chain.drafts} + 1);
    const auto drafts = args.drafts.subspan(chain.first_draft, chain.drafts);
    chain_verdict verdict{.accepted_drafts = 0, .accept_length = 0, .has_failed = false};
    for (const sampled_token& row : rows) {
      if (!(row.probability > 0.0f)) {
        verdict.has_failed = true;
        break;
      }
      const std::uint32_t at = verdict.accept_length++;
      if (at == drafts.size() || drafts[at] != row.id) {
        break;
      }
      ++verdict.accepted_drafts;
    }
    args.out[c] = verdict;
  }
}
