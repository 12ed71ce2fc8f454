// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "real_trace.hpp"

#include <oriel/sim/workload_builder.hpp>

#include <catch2/catch.hpp>
#include <replay/read_trace.hpp>
#include <replay/reference_cache.hpp>
#include <replay/trace_workload.hpp>
#include <support/scale.hpp>
#include <support/temporary_directory.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

namespace trace_workload_test {

using namespace oriel;
using namespace oriel::replay;

namespace {

/// The whole pages of a workload's inputs, by arrival, as the simple caches take them.
trace inputs_of(const sim::workload& w) {
  std::vector<double> arrivals_s;
  for (const sim::workload_request& r : w.requests) {
    arrivals_s.push_back(w.sessions[r.session].start_s + r.arrival_s);
  }
  std::vector<std::uint32_t> order(w.requests.size());
  std::iota(order.begin(), order.end(), 0u);
  std::ranges::stable_sort(order, {}, [&](std::uint32_t i) { return arrivals_s[i]; });
  trace t;
  t.page_tokens = w.page_tokens;
  t.distinct_pages = w.distinct_pages;
  t.pages = w.pages;
  for (const std::uint32_t i : order) {
    const sim::workload_request& r = w.requests[i];
    trace_request request;
    request.first_page = r.first_page;
    request.pages = r.input_tokens / w.page_tokens;
    request.arrival_us = static_cast<std::uint64_t>(std::llround(arrivals_s[i] * 1e6));
    request.input_tokens = r.input_tokens;
    request.output_tokens = r.output_tokens;
    t.requests.push_back(request);
  }
  return t;
}

void sort_by_size(trace& t) {
  std::ranges::stable_sort(t.requests, {}, [](const trace_request& r) {
    return std::tuple(r.arrival_us, r.input_tokens, r.output_tokens);
  });
}

/// No request before one that it waits for, and all of a session there.
void check_structure(const sim::workload& w) {
  std::uint32_t next = 0;
  for (std::uint32_t s = 0; s < w.sessions.size(); ++s) {
    REQUIRE(w.sessions[s].first_request == next);
    next += w.sessions[s].requests;
    for (std::uint32_t i = w.sessions[s].first_request; i < next; ++i) {
      const sim::workload_request& r = w.requests[i];
      REQUIRE(r.session == s);
      REQUIRE((r.gap_s >= 0.0 && r.gap_s <= sim::gap_max_s));
      REQUIRE(r.pages == (r.input_tokens + r.output_tokens) / w.page_tokens);
      for (const std::uint32_t wait : w.waits_of(r)) {
        REQUIRE((wait >= w.sessions[s].first_request && wait < i));
      }
    }
  }
  REQUIRE(next == w.requests.size());
}

}  // namespace

TEST_CASE("requests of a trace without sessions go on from each other") {
  const temporary_directory folder;
  const auto row = [](int ms, int in, int out, std::string ids) {
    return R"({"timestamp": )" + std::to_string(ms) + R"(, "input_length": )" + std::to_string(in) +
           R"(, "output_length": )" + std::to_string(out) + R"(, "hash_ids": [)" + ids + "]}\n";
  };
  write_file(folder.path() / "trace",
             row(1'000, 1'100, 300, "1, 2, 3") +            // 0: two whole pages
                 row(2'000, 600, 0, "1, 4") +               // 1: one page in common is too few
                 row(5'000, 1'700, 10, "1, 2, 5, 6") +      // 2: goes on from 0
                 row(9'000, 1'700, 10, "1, 2, 7, 8") +      // 3: 0 is taken
                 row(9'500, 2'100, 10, "1, 2, 5, 9, 10") +  // 4: goes on from 2
                 row(9'600, 1'600, 900, "1, 2, 7, 11") +    // 5: no room for 3's output: it is
                                                            //    as long as 3's input
                 row(9'700, 1'600, 0, "1, 2, 7, 11"));      // 6: no room for 5's
  const sim::workload w = workload_of(read_trace(folder.path() / "trace"));
  check_structure(w);
  REQUIRE(w.requests.size() == 7);
  std::vector<std::uint32_t> sizes;
  for (const sim::workload_session& s : w.sessions) {
    sizes.push_back(s.requests);
  }
  CHECK(sizes == std::vector<std::uint32_t>{3, 1, 2, 1});
  CHECK(w.sessions[0].start_s == 1.0);
  CHECK(w.requests[1].gap_s == 4.0);
  CHECK(w.requests[2].arrival_s == 8.5);
  CHECK(w.name_spaces == 1);
}

TEST_CASE("the workload of the agentic trace draws its LRU curve") {
  if (scaled(100) < 100) {
    return;  // Half a minute under a sanitizer, which the next case satisfies as well.
  }
  const auto t = real_trace("agentic/sessions.jsonl.zst");
  if (!t) {
    return;
  }
  const sim::workload w = workload_of(*t);
  check_structure(w);
  CHECK(w.requests.size() == 27'108);
  CHECK(w.sessions.size() == 428);
  CHECK(w.input_tokens() == 3'158'464'052);
  CHECK(w.pages.size() < 8'000'000);  // of 49 million
  const trace inputs = inputs_of(w);
  struct point {
    double million_tokens, rate;
  };
  const point curve[] = {
      {0.5, 0.1624}, {1, 0.3569}, {2, 0.6609}, {4, 0.8781}, {8, 0.9449}, {16, 0.9578}};
  CHECK(std::abs(infinite_cache(inputs).rate() - 0.9612) <= 0.5e-4);
  const std::vector<std::uint32_t> ideal = ideal_hit_tokens(w);
  const double hits = std::accumulate(ideal.begin(), ideal.end(), 0.0);
  CHECK(std::abs(hits / 3'158'464'052.0 - 0.9644) <=
        1e-4);  // Answers too, which the curve has not.
  for (const point& p : curve) {
    CAPTURE(p.million_tokens);
    const auto pages = static_cast<std::uint32_t>(p.million_tokens * 1e6 / 64);
    CHECK(std::abs(lru_cache(inputs, pages).rate() - p.rate) <= 0.5e-4);
  }
}

TEST_CASE("a cache without end has what came before in the trace, and only in its name space") {
  sim::workload_builder b(64);
  const std::vector<std::uint32_t> path{1, 2, 3, 4, 5}, fork{1, 2, 9, 10};
  b.begin_session(0, 100.0);
  b.add({.input_tokens = 256, .output_tokens = 64, .arrival_s = 0}, path, {});
  b.add({.input_tokens = 257, .output_tokens = 1, .arrival_s = 5}, fork, {});
  b.begin_session(0, 50.0);  // Before the other.
  b.add({.input_tokens = 200, .output_tokens = 1, .arrival_s = 1}, fork, {});
  b.begin_session(1, 200.0);
  b.add({.input_tokens = 257, .output_tokens = 1, .arrival_s = 0}, path, {});
  const sim::workload w = b.finish();
  // Of the first two pages that the session before it had; of three, since the last token is
  // computed; of nothing, being the first; of nothing, alone in its name space.
  CHECK(ideal_hit_tokens(w) == std::vector<std::uint32_t>{128, 192, 0, 0});
}

TEST_CASE("the workload of the conversation trace is the trace without partial pages") {
  const auto t = real_trace("conversation/conversation_trace.jsonl.zst");
  if (!t) {
    return;
  }
  const sim::workload w = workload_of(*t);
  check_structure(w);
  CHECK(w.requests.size() == 12'031);
  CHECK(w.sessions.size() < 9'000);  // a third of the requests go on from others
  trace inputs = inputs_of(w);
  trace whole_pages = *t;
  for (trace_request& r : whole_pages.requests) {
    r.pages = r.input_tokens / t->page_tokens;
  }
  CHECK(std::abs(infinite_cache(inputs).rate() - 0.3734) <= 0.5e-4);
  // The trace's clock ticks every 3 s: who comes first of one tick is told by its sizes here.
  sort_by_size(inputs);
  sort_by_size(whole_pages);
  for (const double million_tokens : {2.0, 8.0}) {
    CAPTURE(million_tokens);
    const auto pages = static_cast<std::uint32_t>(million_tokens * 1e6 / 512);
    CHECK(lru_cache(inputs, pages).rate() == lru_cache(whole_pages, pages).rate());
  }
}

}  // namespace trace_workload_test
