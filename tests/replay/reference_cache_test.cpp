// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/random.hpp>

#include <catch2/catch.hpp>
#include <replay/reference_cache.hpp>
#include <support/scale.hpp>

#include <algorithm>
#include <cstdint>
#include <list>
#include <map>
#include <set>
#include <utility>
#include <vector>

namespace reference_cache_test {

using namespace oriel;
using namespace oriel::replay;

namespace {

trace make_trace(const std::vector<std::vector<std::uint32_t>>& inputs, std::uint32_t page_tokens) {
  trace t;
  t.page_tokens = page_tokens;
  for (const auto& input : inputs) {
    const auto pages = static_cast<std::uint32_t>(input.size());
    t.requests.push_back(
        {.first_page = t.pages.size(), .pages = pages, .input_tokens = pages * page_tokens});
    t.pages.insert(t.pages.end(), input.begin(), input.end());
    for (const std::uint32_t page : input) {
      t.distinct_pages = std::max(t.distinct_pages, page + 1);
    }
  }
  return t;
}

/// Requests that continue one another, fork, and begin anew; some name a page twice.
trace random_trace(std::uint64_t seed) {
  random_stream random{seed};
  std::vector<std::vector<std::uint32_t>> inputs;
  std::uint32_t pages = 0;
  const std::uint32_t count = 1 + random.next_below(40);
  for (std::uint32_t i = 0; i < count; ++i) {
    std::vector<std::uint32_t> input;
    if (!inputs.empty() && random.next_below(4) != 0) {
      input = inputs[random.next_below(static_cast<std::uint32_t>(inputs.size()))];
      input.resize(random.next_below(static_cast<std::uint32_t>(input.size()) + 1));
    }
    for (std::uint32_t n = random.next_below(6); n > 0; --n) {
      const bool again = !input.empty() && random.next_below(20) == 0;
      input.push_back(again ? input[random.next_below(static_cast<std::uint32_t>(input.size()))]
                            : pages++);
    }
    inputs.push_back(std::move(input));
  }
  trace t = make_trace(inputs, 4);
  for (trace_request& r : t.requests) {  // Last pages that are not full.
    r.input_tokens -= r.input_tokens > 0 ? random.next_below(4) : 0;
  }
  return t;
}

template <class Present>
std::uint64_t hit_tokens(const trace& t, const trace_request& r, Present present) {
  std::uint64_t tokens = 0;
  for (const std::uint32_t page : t.pages_of(r)) {
    if (!present(page)) {
      break;
    }
    tokens += t.page_tokens;
  }
  return std::min<std::uint64_t>(tokens, r.input_tokens);
}

std::uint64_t slow_lru(const trace& t, std::size_t capacity) {
  std::list<std::uint32_t> cached;  // Newest first.
  std::uint64_t tokens = 0;
  for (const trace_request& r : t.requests) {
    tokens +=
        hit_tokens(t, r, [&](std::uint32_t page) { return std::ranges::count(cached, page) != 0; });
    const auto pages = t.pages_of(r);
    for (std::size_t i = pages.size(); i-- > 0;) {
      cached.remove(pages[i]);
      cached.push_front(pages[i]);
      while (cached.size() > capacity) {
        cached.pop_back();
      }
    }
  }
  return tokens;
}

/// The request after number `now` that needs the page, and how deep the page is in it.
std::pair<std::size_t, std::size_t> next_need(const trace& t, std::size_t now, std::uint32_t page) {
  for (std::size_t i = now + 1; i < t.requests.size(); ++i) {
    const auto pages = t.pages_of(t.requests[i]);
    for (std::size_t depth = pages.size(); depth-- > 0;) {
      if (pages[depth] == page) {
        return {i, depth};
      }
    }
  }
  return {t.requests.size(), 0};
}

std::uint64_t slow_clairvoyant(const trace& t, std::size_t capacity) {
  std::set<std::uint32_t> cached;
  std::uint64_t tokens = 0;
  for (std::size_t i = 0; i < t.requests.size(); ++i) {
    const trace_request& r = t.requests[i];
    tokens += hit_tokens(t, r, [&](std::uint32_t page) { return cached.contains(page); });
    cached.insert(t.pages_of(r).begin(), t.pages_of(r).end());
    while (cached.size() > capacity) {
      cached.erase(std::ranges::max_element(
          cached, {}, [&](std::uint32_t page) { return next_need(t, i, page); }));
    }
  }
  return tokens;
}

}  // namespace

TEST_CASE("reference caches equal slow ones on random traces") {
  const std::uint64_t seeds = scaled(400);
  for (std::uint64_t seed = 0; seed < seeds; ++seed) {
    CAPTURE(seed);
    const trace t = random_trace(seed);
    const std::uint64_t infinite = infinite_cache(t).hit_tokens;
    REQUIRE(infinite == slow_lru(t, 1'000'000));
    for (std::uint32_t capacity : {0u, 1u, 2u, 5u, 12u, 30u, 1'000u}) {
      CAPTURE(capacity);
      const hit_count lru = lru_cache(t, capacity), best = clairvoyant_cache(t, capacity);
      REQUIRE(lru.input_tokens == t.input_tokens());
      REQUIRE(best.input_tokens == t.input_tokens());
      REQUIRE(lru.hit_tokens == slow_lru(t, capacity));
      REQUIRE(best.hit_tokens == slow_clairvoyant(t, capacity));
      REQUIRE(best.hit_tokens <= infinite);
    }
  }
}

TEST_CASE("a request larger than the cache streams through it and keeps its beginning") {
  const trace t = make_trace({{0, 1, 2, 3, 4}, {0, 1, 2, 3, 4}}, 16);
  CHECK(lru_cache(t, 2).hit_tokens == 2 * 16);
  CHECK(clairvoyant_cache(t, 2).hit_tokens == 2 * 16);
  CHECK(lru_cache(t, 0).hit_tokens == 0);
}

TEST_CASE("the clairvoyant keeps what comes back and lets pass what does not") {
  const trace t = make_trace({{0, 1}, {2, 3}, {4, 5}, {0, 1}}, 16);
  CHECK(lru_cache(t, 2).hit_tokens == 0);
  CHECK(clairvoyant_cache(t, 2).hit_tokens == 2 * 16);
}

TEST_CASE("no input is no hit") {
  const trace t = make_trace({}, 16);
  CHECK(infinite_cache(t).rate() == 0.0);
  CHECK(lru_cache(t, 1).rate() == 0.0);
  CHECK(clairvoyant_cache(t, 1).rate() == 0.0);
}

}  // namespace reference_cache_test
