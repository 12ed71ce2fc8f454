// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <replay/synthetic_prompt.hpp>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace synthetic_prompt_test {

using namespace oriel;
using namespace oriel::replay;

namespace {

/// Pages of 4: 0 1, 0 2, 0 1 3; the last request has 2 tokens of its page 3, the second 3 of none.
trace three_requests() {
  trace t;
  t.page_tokens = 4;
  t.distinct_pages = 4;
  t.pages = {0, 1, 0, 2, 0, 1, 3};
  t.requests = {{.first_page = 0, .pages = 2, .input_tokens = 8},
                {.first_page = 2, .pages = 2, .input_tokens = 11},
                {.first_page = 4, .pages = 3, .input_tokens = 10}};
  return t;
}

std::size_t common(const std::vector<token_id>& a, const std::vector<token_id>& b) {
  return static_cast<std::size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
}

}  // namespace

TEST_CASE("prompts agree exactly as far as their pages do") {
  const trace t = three_requests();
  std::vector<std::vector<token_id>> prompts(3);
  for (std::size_t i = 0; i < 3; ++i) {
    make_prompt(t, i, prompts[i]);
    CHECK(prompts[i].size() == t.requests[i].input_tokens);
  }
  CHECK(common(prompts[0], prompts[1]) == 4);
  CHECK(common(prompts[0], prompts[2]) == 8);
  CHECK(common(prompts[1], prompts[2]) == 4);
}

TEST_CASE("tokens beyond the last page are the request's own") {
  trace t = three_requests();
  t.requests[0] = t.requests[1];
  std::vector<token_id> a, b;
  make_prompt(t, 0, a);
  make_prompt(t, 1, b);
  CHECK(common(a, b) == 8);
}

TEST_CASE("a prompt is the same whenever it is made") {
  const trace t = three_requests();
  std::vector<token_id> a, b(100, token_id{5});
  make_prompt(t, 2, a);
  make_prompt(t, 2, b);
  CHECK(a == b);
}

TEST_CASE("two pages differ in every token") {
  std::vector<std::uint32_t> seen;
  for (std::uint32_t page = 0; page < 10'000; ++page) {
    seen.push_back(to_index(synthetic_token(page, 3)));
  }
  std::ranges::sort(seen);
  CHECK(std::ranges::adjacent_find(seen) == seen.end());
}

}  // namespace synthetic_prompt_test
