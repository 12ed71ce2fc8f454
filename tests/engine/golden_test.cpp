// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Logits of small checkpoints against those that transformers, or the PyTorch oracle, computed from
// the same files (tests/golden), and against themselves under every schedule.
#include "support/golden.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace golden_test {

using namespace oriel;
using namespace oriel::engine;

namespace {

/// The largest error of a row, max|a - b| / max|b|, over all rows.
double worst_row_error(const std::vector<float>& a,
                       const std::vector<float>& b,
                       std::size_t width) {
  REQUIRE(a.size() == b.size());
  REQUIRE(a.size() % width == 0);
  double worst = 0;
  for (std::size_t row = 0; row < a.size(); row += width) {
    double error = 0, largest = 0;
    for (std::size_t i = row; i < row + width; ++i) {
      if (!std::isfinite(a[i])) {
        return 1e30;  // A NaN compares false: never let one pass.
      }
      error = std::max(error, std::abs(double{a[i]} - b[i]));
      largest = std::max(largest, std::abs(double{b[i]}));
    }
    worst = std::max(worst, error / largest);
  }
  return worst;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("logits equal the framework's") {
  REQUIRE(golden_folders().size() >= 8);
  for (const std::filesystem::path& folder : golden_folders()) {
    const golden_model model{folder};
    const double error =
        worst_row_error(model.logits({}), model.tensor("logits"), model.vocabulary());
    if (!model.has("logits_framework_bf16")) {
      INFO(folder.filename().string() << ": error " << error);
      CHECK(error <= 1e-4);
      continue;
    }
    // bf16 weights: no worse than twice what the framework's own bf16 run loses against f32.
    const double framework = worst_row_error(
        model.tensor("logits_framework_bf16"), model.tensor("logits"), model.vocabulary());
    INFO(folder.filename().string() << ": error " << error << ", the framework's " << framework);
    CHECK(error <= 2 * framework);
  }
}

TEST_CASE("logits have the same bits under every schedule") {
  for (const std::filesystem::path& folder : golden_folders()) {
    const golden_model model{folder};
    INFO(folder.filename().string());
    const std::vector<float> whole = model.logits({});
    CHECK(same_bits(model.logits({.chunk_tokens = 1}), whole));
    CHECK(same_bits(model.logits({.chunk_tokens = 7}), whole));
    CHECK(same_bits(model.logits({.chunk_tokens = 64, .page_tokens = 64}), whole));
    CHECK(same_bits(model.logits({.chunk_tokens = 33, .page_tokens = 32, .threads = 2}), whole));
    CHECK(same_bits(model.logits({.threads = 3}), whole));
  }
}

TEST_CASE("MTP logits equal the oracle's") {
  std::size_t models = 0;
  for (const std::filesystem::path& folder : golden_folders()) {
    const golden_model model{folder};
    if (!model.has("mtp_logits")) {
      continue;
    }
    models += 1;
    const std::vector<float> drafts = model.mtp_logits({});
    const double error = worst_row_error(drafts, model.tensor("mtp_logits"), model.vocabulary());
    // The oracle drafts in f32; bf16 weights are held to the bar of the main model.
    double bar = 1e-4;
    if (model.has("logits_framework_bf16")) {
      bar = 2 * worst_row_error(model.tensor("logits_framework_bf16"),
                                model.tensor("logits"),
                                model.vocabulary());
    }
    INFO(folder.filename().string() << ": error " << error);
    CHECK(error <= bar);
    CHECK(same_bits(model.mtp_logits({.chunk_tokens = 5}), drafts));
  }
  CHECK(models > 0);
}

}  // namespace golden_test
