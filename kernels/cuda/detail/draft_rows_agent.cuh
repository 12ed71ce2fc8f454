// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What one thread of draft_rows does: a sequence, row by row. There are few of them.
#pragma once

#include <oriel/device/host_device.cuh>
#include <oriel/kernels/draft_rows.hpp>

namespace oriel::detail {

/// Entry `i` of a sequence's tail. @pre i is below its length
ORIEL_HOST_DEVICE inline token_id tail_token(const draft_rows_args& args,
                                             std::uint32_t sequence,
                                             std::uint32_t i) {
  const draft_span& span = args.spans.data()[sequence];
  const std::uint32_t gained = args.verdicts.data()[sequence].accept_length;
  if (i < span.known) {
    return args.known.data()[span.first_known + i];
  }
  if (i < span.known + gained) {
    return args.sampled.data()[span.first_sampled + (i - span.known)].id;
  }
  const std::size_t block = i - span.known - gained;
  return args.drafted.data()[block * args.spans.size() + sequence].id;
}

ORIEL_HOST_DEVICE inline void draft_rows_of(const draft_rows_args& args, std::uint32_t sequence) {
  const draft_span& span = args.spans.data()[sequence];
  const std::uint32_t gained = args.verdicts.data()[sequence].accept_length;
  const std::uint32_t length = span.known + gained + args.block;
  for (std::uint32_t r = 0; r < span.rows; ++r) {
    const std::uint32_t i = r + args.block < length ? r + args.block : length - 1;
    args.tokens.data()[span.first_row + r] =
        length == 0 ? token_id{0} : tail_token(args, sequence, i);
  }
  args.logit_rows.data()[sequence] = span.first_row + span.known + (gained != 0 ? gained - 1 : 0);
}

}  // namespace oriel::detail
