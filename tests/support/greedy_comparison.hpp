// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Greedy answers of two engines that compute the same model with other roundings: they must agree
/// wherever the choice was clear, at every place of the answer. Where they part, rightly or
/// wrongly, the other engine goes on behind what the first one said, so that one near tie hides
/// nothing.
#pragma once

#include <oriel/core/ids.hpp>

#include <engine/engine.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <span>
#include <utility>
#include <vector>

namespace oriel::test {

struct greedy_prompt {
  std::vector<token_id> tokens;
  std::uint32_t new_tokens = 0;
};

/// An engine: one answer a prompt, served together.
using answers_of =
    std::function<std::vector<std::vector<token_id>>(std::span<const greedy_prompt>)>;

/// The distance of the two largest logits, by the largest magnitude. @pre two logits at least
inline float top_margin(std::span<const float> logits) {
  float first = -std::numeric_limits<float>::infinity(), second = first, largest = 0.0f;
  for (const float x : logits) {
    second = std::max(second, std::min(first, x));
    first = std::max(first, x);
    largest = std::max(largest, std::abs(x));
  }
  return (first - second) / largest;
}

/// Keeps the logits of each token of each request.
class kept_logits final : public engine::logits_observer {
 public:
  void on_logits(request_id id, std::uint32_t, std::span<const float> logits) override {
    of[static_cast<std::uint64_t>(id)].emplace_back(logits.begin(), logits.end());
  }
  std::map<std::uint64_t, std::vector<std::vector<float>>> of;  ///< [request][token][vocabulary]
};

/// Has an engine answer all prompts at once. Ids count from `first_id`.
inline std::vector<std::vector<token_id>> answer_greedily(engine::engine& e,
                                                          std::span<const greedy_prompt> prompts,
                                                          std::uint64_t first_id = 0) {
  std::vector<std::vector<token_id>> answers(prompts.size());
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    request r;
    r.id = request_id{first_id + i};
    r.prompt = prompts[i].tokens;
    r.max_new_tokens = prompts[i].new_tokens;
    r.sampling.temperature = 0.0f;
    if (!e.submit(std::move(r))) {
      return {};
    }
  }
  while (!e.idle()) {
    for (const engine::event& happened : e.step()) {
      if (happened.token) {
        answers[static_cast<std::uint64_t>(happened.id) - first_id].push_back(*happened.token);
      }
    }
  }
  return answers;
}

struct greedy_agreement {
  std::size_t tokens = 0;  ///< compared: all of them
  std::size_t clear = 0;   ///< of those whose margin is above the limit
  std::size_t ties = 0;    ///< not clear, and chosen otherwise
  std::size_t wrong = 0;   ///< clear, and chosen otherwise; or missing
};

/// Compares every token of the answers.
/// @param expected  [prompts] answers of new_tokens each
/// @param margins   [prompts][tokens] how clear each choice was
/// @param limit     a choice with a larger margin is clear
inline greedy_agreement compare_greedy(std::span<const greedy_prompt> prompts,
                                       std::span<const std::vector<token_id>> expected,
                                       std::span<const std::vector<float>> margins,
                                       float limit,
                                       const answers_of& other) {
  greedy_agreement result;
  std::vector<std::pair<std::size_t, std::size_t>> open;  // prompt, tokens compared
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    open.emplace_back(i, 0);
    result.tokens += expected[i].size();
    result.clear += static_cast<std::size_t>(
        std::ranges::count_if(margins[i], [&](float margin) { return margin > limit; }));
  }
  while (!open.empty()) {
    std::vector<greedy_prompt> asked;
    for (const auto& [i, known] : open) {
      asked.push_back(prompts[i]);
      asked.back().tokens.insert(asked.back().tokens.end(),
                                 expected[i].begin(),
                                 expected[i].begin() + static_cast<std::ptrdiff_t>(known));
      asked.back().new_tokens = static_cast<std::uint32_t>(expected[i].size() - known);
    }
    const std::vector<std::vector<token_id>> found = other(asked);
    std::vector<std::pair<std::size_t, std::size_t>> parted;
    for (std::size_t q = 0; q < open.size(); ++q) {
      const std::size_t i = open[q].first;
      const std::size_t known = open[q].second;
      std::size_t at = known;
      const auto said = [&](std::size_t token) {
        return q < found.size() && token - known < found[q].size() &&
               found[q][token - known] == expected[i][token];
      };
      while (at < expected[i].size() && said(at)) {
        ++at;
      }
      if (at == expected[i].size()) {
        continue;
      }
      (margins[i][at] > limit ? result.wrong : result.ties) += 1;
      if (at + 1 < expected[i].size()) {
        parted.emplace_back(i, at + 1);
      }
    }
    open = std::move(parted);
  }
  return result;
}

}  // namespace oriel::test
