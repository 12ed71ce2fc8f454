// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The thread of draft_rows on the host, against the reference.
#include <oriel/core/random.hpp>
#include <oriel/kernels/draft_rows.hpp>

#include <cuda/detail/draft_rows_agent.cuh>

#include <catch2/catch.hpp>

#include <vector>

namespace draft_rows_agent_test {

using namespace oriel;  // NOLINT: a test

TEST_CASE("the device tells an MTP block's rows what the reference tells them") {
  random_stream random(static_cast<std::uint64_t>(GENERATE(range(0, 100))), 110);
  const std::uint32_t sequences = 1 + random.next_below(6), block = random.next_below(4);
  std::vector<draft_span> spans;
  std::vector<chain_verdict> verdicts;
  std::uint32_t rows = 0, known = 0, sampled = 0;
  for (std::uint32_t s = 0; s < sequences; ++s) {
    const std::uint32_t open = random.next_below(4), drafts = random.next_below(4);
    spans.push_back({.first_row = rows,
                     .rows = open + drafts + 1,
                     .first_known = known,
                     .known = open,
                     .first_sampled = sampled});
    const bool failed = random.next_below(8) == 0;
    const std::uint32_t accepted = random.next_below(drafts + 1);
    verdicts.push_back({accepted, failed ? accepted : accepted + 1, failed});
    rows += open + drafts + 1;
    known += open;
    sampled += drafts + 1;
  }
  std::vector<token_id> told(known);
  for (token_id& token : told) {
    token = token_id{random.next_below(50)};
  }
  const auto draw = [&](std::size_t count) {
    std::vector<sampled_token> tokens(count);
    for (sampled_token& t : tokens) {
      t = {token_id{100 + random.next_below(50)}, 1.0f};
    }
    return tokens;
  };
  const std::vector<sampled_token> drawn = draw(sampled);
  const std::vector<sampled_token> drafted = draw(std::size_t{block} * sequences);

  const auto run = [&](auto&& compute) {
    std::vector<token_id> tokens(rows, token_id{~0u});
    std::vector<std::uint32_t> logit_rows(sequences, ~0u);
    compute(draft_rows_args{.tokens = tokens,
                            .logit_rows = logit_rows,
                            .spans = spans,
                            .known = told,
                            .verdicts = verdicts,
                            .sampled = drawn,
                            .drafted = drafted,
                            .block = block});
    return std::pair(tokens, logit_rows);
  };
  const auto expected = run(reference::draft_rows);
  const auto found = run([&](const draft_rows_args& args) {
    for (std::uint32_t s = sequences; s-- > 0;) {
      detail::draft_rows_of(args, s);
    }
  });
  REQUIRE(found == expected);
}

}  // namespace draft_rows_agent_test
