// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/draft_rows.hpp>

#include <algorithm>
#include <vector>

void oriel::reference::draft_rows(const draft_rows_args& args) {
  for (std::size_t s = 0; s < args.spans.size(); ++s) {
    const draft_span& span = args.spans[s];
    const chain_verdict& verdict = args.verdicts[s];
    std::vector<token_id> tail(args.known.begin() + span.first_known,
                               args.known.begin() + span.first_known + span.known);
    for (std::uint32_t i = 0; i < verdict.accept_length; ++i) {
      tail.push_back(args.sampled[span.first_sampled + i].id);
    }
    for (std::uint32_t b = 0; b < args.block; ++b) {
      tail.push_back(args.drafted[b * args.spans.size() + s].id);
    }
    if (tail.empty()) {
      tail.push_back(token_id{0});
    }
    for (std::size_t r = 0; r < span.rows; ++r) {
      args.tokens[span.first_row + r] = tail[std::min(r + args.block, tail.size() - 1)];
    }
    args.logit_rows[s] = span.first_row + span.known + std::max(verdict.accept_length, 1u) - 1;
  }
}
