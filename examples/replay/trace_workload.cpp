// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/sim/workload_builder.hpp>

#include <replay/trace_workload.hpp>

#include <algorithm>
#include <numeric>
#include <span>
#include <tuple>
#include <vector>

namespace oriel::replay {
namespace {

constexpr std::uint32_t none = ~std::uint32_t{0};

/// For each request the one that it goes on from, or none.
std::vector<std::uint32_t> chains_of(const trace& t) {
  std::vector<std::uint32_t> before(t.requests.size(), none);
  std::vector<bool> is_taken(t.requests.size());
  std::vector<std::uint32_t> ends(t.distinct_pages, none);  // [page]: whose input ends with it
  for (std::uint32_t i = 0; i < t.requests.size(); ++i) {
    const trace_request& r = t.requests[i];
    const auto pages = t.pages_of(r).first(r.input_tokens / t.page_tokens);
    for (std::size_t p = pages.size(); p >= 2; --p) {
      const std::uint32_t j = ends[pages[p - 1]];
      if (j == none || is_taken[j]) {
        continue;
      }
      const trace_request& earlier = t.requests[j];
      // Names of these traces stand for all before them, so one page tells.
      if (std::uint64_t{r.input_tokens} + t.page_tokens >=
          std::uint64_t{earlier.input_tokens} + earlier.output_tokens) {
        before[i] = j;
        is_taken[j] = true;
        break;
      }
    }
    if (!pages.empty()) {
      ends[pages.back()] = i;
    }
  }
  return before;
}

/// Sessions of a trace that tells none: those that go on from each other, by first arrival.
void add_chains(const trace& t, sim::workload_builder& to) {
  const std::vector<std::uint32_t> before = chains_of(t);
  std::vector<std::uint32_t> next(t.requests.size(), none);
  for (std::uint32_t i = 0; i < before.size(); ++i) {
    if (before[i] != none) {
      next[before[i]] = i;
    }
  }
  for (std::uint32_t first = 0; first < t.requests.size(); ++first) {
    if (before[first] != none) {
      continue;
    }
    const double start_s = static_cast<double>(t.requests[first].arrival_us) * 1e-6;
    to.begin_session(0, start_s);
    std::uint32_t wait = 0;
    double last_s = 0.0;
    for (std::uint32_t i = first; i != none; i = next[i]) {
      const trace_request& r = t.requests[i];
      const double arrival_s = static_cast<double>(r.arrival_us) * 1e-6 - start_s;
      wait = to.add({.input_tokens = r.input_tokens,
                     .output_tokens = r.output_tokens,
                     .arrival_s = arrival_s,
                     .gap_s = arrival_s - last_s},
                    t.pages_of(r),
                    std::span(&wait, i == first ? 0 : 1));
      last_s = arrival_s;
    }
  }
}

/// Rows of the file: sessions follow each other there, and nobody waits for a later row.
void add_sessions(const trace& t, sim::workload_builder& to) {
  std::vector<std::uint32_t> by_row(t.requests.size());
  for (std::uint32_t i = 0; i < t.requests.size(); ++i) {
    by_row[t.requests[i].row] = i;
  }
  std::vector<std::uint32_t> number(t.requests.size());  // [requests of the trace]
  std::vector<std::uint32_t> waits;
  std::uint32_t session = no_session;
  std::uint32_t name_spaces = 0;  // one a session: their ids are local; some have no requests
  for (const std::uint32_t i : by_row) {
    const trace_request& r = t.requests[i];
    const double start_s = t.starts_s[r.session];
    if (r.session != session) {
      session = r.session;
      to.begin_session(name_spaces++, start_s);
    }
    waits.clear();
    for (const std::uint32_t w : t.waits_of(r)) {
      waits.push_back(number[w]);
    }
    const double arrival_s = static_cast<double>(r.arrival_us) * 1e-6;
    number[i] = to.add({.input_tokens = r.input_tokens,
                        .output_tokens = r.output_tokens,
                        .arrival_s = std::max(arrival_s - start_s, 0.0),  // rounded
                        .gap_s = static_cast<double>(r.gap_us) * 1e-6,
                        .agent = r.agent},
                       t.pages_of(r),
                       waits);
  }
}

}  // namespace

sim::workload workload_of(const trace& requests) {
  sim::workload_builder to(requests.page_tokens);
  if (requests.sessions.empty()) {
    add_chains(requests, to);
  } else {
    add_sessions(requests, to);
  }
  return to.finish();
}

std::vector<std::uint32_t> ideal_hit_tokens(const sim::workload& work) {
  std::vector<std::uint32_t> order(work.requests.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto when = [&](std::uint32_t request) {
    const sim::workload_request& r = work.requests[request];
    return std::tuple(r.name_space, work.sessions[r.session].start_s + r.arrival_s, request);
  };
  std::ranges::sort(order, {}, when);
  std::vector<std::uint32_t> hits(work.requests.size());
  std::vector<std::uint32_t> seen_in(work.distinct_pages);  // name space + 1, the last one
  for (const std::uint32_t request : order) {
    const sim::workload_request& r = work.requests[request];
    const auto pages = work.pages_of(r);
    std::uint32_t known = 0;
    while (known < work.reusable_pages(r) && seen_in[pages[known]] == r.name_space + 1) {
      ++known;
    }
    hits[request] = known * work.page_tokens;
    for (const std::uint32_t page : pages.subspan(known)) {
      seen_in[page] = r.name_space + 1;
    }
  }
  return hits;
}

}  // namespace oriel::replay
