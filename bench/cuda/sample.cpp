// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// What: sampling and verification of 256 rows over 152,576 logits, beside COPY.
// Why:  one pass over the logits is all there should be: >= 0.80 COPY (bench/cuda/table.py). Bytes
//       are those of the logits, read once.
#include "measure.hpp"

#include <oriel/core/random.hpp>
#include <oriel/kernels/sample.hpp>
#include <oriel/kernels/verify_chains.hpp>

namespace {

using namespace oriel;         // NOLINT: a program
using namespace oriel::bench;  // NOLINT

constexpr std::uint32_t vocabulary = 152'576, rows = 256, drafts = 3;
constexpr std::size_t elements = std::size_t{rows} * vocabulary;

/// Logits as models have them: a few tokens far above a bulk of deviation 2. A million numbers,
/// repeated.
device_bytes make_logits() {
  random_stream random(1);
  std::vector<float> some(std::size_t{1} << 20);
  for (float& x : some) {
    x = -6.0f;
    for (int i = 0; i < 4; ++i) {
      x += random.next_uniform() * 3.4f;
    }
    x += random.next_below(20'000) == 0 ? 12.0f : 0.0f;
  }
  device_bytes logits(elements * sizeof(float), dtype::f32);
  for (std::size_t at = 0; at < elements; at += some.size()) {
    ORIEL_CUDA_CALL(cudaMemcpy(logits.as<float>() + at,
                               some.data(),
                               std::min(elements - at, some.size()) * sizeof(float),
                               cudaMemcpyHostToDevice));
  }
  return logits;
}

/// Rows in chains of 4: the last known token and 3 drafts.
void measure(const std::string& id, const sample_filters& filters) {
  const auto plan = cuda::plan_sample(vocabulary, rows);
  require(static_cast<bool>(plan), "plan_sample");
  std::vector<sample_row> how(rows);
  for (std::uint32_t i = 0; i < rows; ++i) {
    how[i] = {.filters = filters, .seed = i, .position = 1000 + i};
  }
  std::vector<verify_chain> chains;
  for (std::uint32_t i = 0; i < rows / (drafts + 1); ++i) {
    chains.push_back({i * (drafts + 1), i * drafts, drafts});
  }
  const device_bytes device_rows = on_device(how), device_chains = on_device(chains),
                     device_drafts = on_device(std::vector<token_id>(chains.size() * drafts)),
                     out(rows * sizeof(sampled_token), dtype::f32),
                     verdicts(chains.size() * sizeof(chain_verdict), dtype::f32),
                     workspace(plan->workspace_bytes, dtype::f32);
  std::vector<device_bytes> logits;  // 156 MB each: three, so that none is in the cache.
  for (int i = 0; i < 3; ++i) {
    logits.push_back(make_logits());
  }
  std::size_t turn = 0;
  beside_copy(id, static_cast<double>(elements * sizeof(float)), 30, [&](cudaStream_t stream) {
    const float* const x = logits[turn++ % logits.size()].as<float>();
    require(
        static_cast<bool>(cuda::run_sample(
            *plan,
            {{out.as<sampled_token>(), rows}, x, vocabulary, {device_rows.as<sample_row>(), rows}},
            {workspace.data(), plan->workspace_bytes},
            stream)),
        "run_sample");
    require(static_cast<bool>(
                cuda::run_verify_chains({{verdicts.as<chain_verdict>(), chains.size()},
                                         {device_chains.as<verify_chain>(), chains.size()},
                                         {out.as<sampled_token>(), rows},
                                         {device_drafts.as<token_id>(), chains.size() * drafts}},
                                        stream)),
            "run_verify_chains");
  });
}

}  // namespace

int main(int count, char** arguments) {
  return run_tasks(
      count,
      arguments,
      {{{"sample_greedy"}, [] { measure("sample_greedy", {.temperature = 0.0f}); }},
       {{"sample_top_p"}, [] { measure("sample_top_p", {.temperature = 0.7f, .top_p = 0.9f}); }},
       {{"sample_top_k"},
        [] { measure("sample_top_k", {.temperature = 0.7f, .top_k = 50, .min_p = 0.05f}); }}});
}
