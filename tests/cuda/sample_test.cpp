// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Sampling and verification on a device, against the host's sampler. tests/device has the hard
// rows.
#include <oriel/core/executor.hpp>
#include <oriel/kernels/sample.hpp>
#include <oriel/kernels/verify_chains.hpp>

#include <cuda/captured.hpp>
#include <cuda/device_array.hpp>

#include <support/arrays.hpp>
#include <support/model_logits.hpp>

#include <algorithm>

namespace sample_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

TEST_CASE("cuda samples and verifies as the host, one graph for any number of rows") {
  const std::uint32_t vocabulary = GENERATE(1u, 1'003u, 152'576u);
  constexpr std::uint32_t rows = 77;
  INFO("vocabulary " << vocabulary);
  random_stream random(vocabulary, 110);
  std::vector<float> logits = random_floats(rows * vocabulary, random, -9.0f, 9.0f);
  for (std::size_t i = 0; i < vocabulary; ++i) {
    logits[i] = 1.5f;  // Row 0: all equal.
    // Row 2, which has a top_p: most of what counts is far below the largest.
    logits[2 * vocabulary + i] = i == 0 ? 0.0f : logits[2 * vocabulary + i] / 12.0f - 11.25f;
  }
  // Rows 10, 22, ... have a top_p and no top_k: one block finishes them, but for those at 1.2 (too
  // much of their mass is far below the largest) and at the edge of a top_p.
  const auto is_model_row = [](std::uint32_t row) { return row % 12 == 10; };
  for (std::uint32_t row = 0; row < rows; ++row) {
    if (is_model_row(row)) {
      const std::vector<float> z = model_logits(vocabulary, random);
      std::copy(z.begin(), z.end(), logits.begin() + std::ptrdiff_t{row} * vocabulary);
    }
  }
  const std::vector<token_use> uses{{token_id{0}, 2}};
  std::vector<token_bias> biases;
  for (std::uint32_t i = 1; i < std::min(70u, vocabulary); ++i) {
    biases.push_back({token_id{i}, -0.01f * static_cast<float>(i)});
  }
  // A token that was used: another warp adds to it, which has to wait for the penalty.
  biases.push_back({token_id{0}, 3.0f});
  biases.push_back({token_id{0}, 0.1f});
  const auto device_uses = to_device(uses);
  const auto device_biases = to_device(biases);
  std::vector<sample_row> how(rows), device_how;
  for (std::uint32_t row = 0; row < rows; ++row) {
    how[row] = {.filters = {.temperature = static_cast<float>(row % 4) * 0.6f,
                            .top_k = row % 3 == 0 ? 20u : 0u,
                            .top_p = row % 2 == 0 ? 0.9f : 1.0f,
                            .min_p = row % 5 == 0 ? 0.05f : 0.0f},
                .seed = 7,
                .position = row};
    if (is_model_row(row)) {
      sample_filters& filters = how[row].filters;
      filters.temperature = row < 20 ? 1.2f : 0.7f;
      if (row > 40 && vocabulary > 1) {
        const top_p_edge edge = top_p_edge_of(
            {logits.data() + std::size_t{row} * vocabulary, vocabulary}, 0.7f, row / 12);
        filters.top_p = row > 60 ? edge.within : edge.beyond;
      }
    }
    if (row % 7 == 0) {
      how[row].adjustments = {1.2f, 0.3f, 0.4f, uses, biases};
    }
    device_how.push_back(how[row]);
    if (row % 7 == 0) {
      device_how.back().adjustments.uses = {device_uses.data(), 1};
      device_how.back().adjustments.biases = {device_biases.data(), biases.size()};
    }
  }
  std::vector<sampled_token> expected(rows);
  const auto host_plan = host::plan_sample(vocabulary, 1);
  workspace_bytes host_workspace(host_plan->workspace_bytes);
  serial_executor serial;
  host::run_sample(
      *host_plan, {expected, logits.data(), vocabulary, how}, host_workspace.span(), serial);

  // Chains of 4 rows: 3 drafts, of which number c % 4 is another token.
  std::vector<verify_chain> chains;
  std::vector<token_id> drafts;
  for (std::uint32_t c = 0; c < rows / 4; ++c) {
    chains.push_back({c * 4, static_cast<std::uint32_t>(drafts.size()), 3});
    for (std::uint32_t i = 0; i < 3; ++i) {
      const std::uint32_t id = to_index(expected[c * 4 + i].id);
      drafts.push_back(token_id{c % 4 == i ? id + 1 : id});
    }
  }
  std::vector<chain_verdict> verdicts(chains.size());
  reference::verify_chains({verdicts, chains, expected, drafts});

  const auto device_logits = to_device(logits);
  const auto device_rows = to_device(device_how);
  const auto device_chains = to_device(chains);
  const auto device_drafts = to_device(drafts);
  const device_array<sampled_token> out(rows);
  const device_array<chain_verdict> device_verdicts(chains.size());
  const device_array<std::uint32_t> row_count(1);
  const auto plan = cuda::plan_sample(vocabulary, rows);
  REQUIRE(plan);
  const device_array<std::byte> workspace(plan->workspace_bytes);
  captured graph([&](cudaStream_t stream) {
    REQUIRE(cuda::run_sample(
        *plan,
        {{out.data(), rows}, device_logits.data(), vocabulary, {device_rows.data(), rows}},
        {workspace.data(), workspace.size()},
        stream,
        row_count.data()));
    REQUIRE(cuda::run_verify_chains({{device_verdicts.data(), chains.size()},
                                     {device_chains.data(), chains.size()},
                                     {out.data(), rows},
                                     {device_drafts.data(), drafts.size()}},
                                    stream));
  });
  for (const std::uint32_t count : {rows, 0u, 5u}) {
    ORIEL_REQUIRE_CUDA(cudaMemset(out.data(), 0, rows * sizeof(sampled_token)));
    ORIEL_REQUIRE_CUDA(cudaMemcpy(row_count.data(), &count, sizeof count, cudaMemcpyHostToDevice));
    graph.launch();
    const std::vector<sampled_token> found = out.to_host();
    for (std::uint32_t row = 0; row < rows; ++row) {
      INFO("row " << row << " of " << count);
      CHECK(found[row].id == (row < count ? expected[row].id : token_id{0}));
      CHECK(found[row].probability == (row < count ? expected[row].probability : 0.0f));
    }
    if (count == rows) {
      const std::vector<chain_verdict> judged = device_verdicts.to_host();
      for (std::size_t c = 0; c < chains.size(); ++c) {
        CHECK(judged[c].accepted_drafts == verdicts[c].accepted_drafts);
        CHECK(judged[c].accept_length == verdicts[c].accept_length);
      }
    }
  }
}

}  // namespace sample_test
