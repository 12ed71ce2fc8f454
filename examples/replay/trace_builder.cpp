// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <replay/trace_builder.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace oriel::replay {

void trace_builder::set_page_tokens(std::uint32_t tokens,
                                    const json_row& row,
                                    std::string_view key) {
  if (built_.page_tokens != 0 && built_.page_tokens != tokens) {
    row.refuse(key,
               fmt::format("{} tokens, but earlier lines have pages of {}: split the file by it",
                           tokens,
                           built_.page_tokens));
  }
  built_.page_tokens = tokens;
}

void trace_builder::begin_namespace() {
  numbers_.begin_namespace();
  ++namespaces_;
}

void trace_builder::begin_session(std::string_view id, double start_s) {
  built_.sessions.emplace_back(id);
  built_.starts_s.push_back(start_s);
}

std::uint32_t trace_builder::add(trace_request request,
                                 double arrival_s,
                                 std::span<const std::uint32_t> waits,
                                 const json_row& row,
                                 std::string_view input_key) {
  if (built_.requests.size() >= limits_.requests) {
    row.refuse(
        "hash_ids",
        fmt::format("more than {} requests: cut the trace into smaller ones", limits_.requests));
  }
  request.name_space = namespaces_ - 1;
  request.session =
      built_.sessions.empty() ? no_session : static_cast<std::uint32_t>(built_.sessions.size() - 1);
  request.arrival_us = static_cast<std::uint64_t>(std::llround(arrival_s * 1e6));
  add_pages(request, row, input_key);
  request.row = static_cast<std::uint32_t>(built_.requests.size());
  request.first_wait = static_cast<std::uint32_t>(built_.waits.size());
  request.waits = static_cast<std::uint32_t>(waits.size());
  built_.waits.insert(built_.waits.end(), waits.begin(), waits.end());
  built_.requests.push_back(request);
  arrivals_s_.push_back(arrival_s);
  return request.row;
}

void trace_builder::add_pages(trace_request& request,
                              const json_row& row,
                              std::string_view input_key) {
  request.first_page = built_.pages.size();
  std::uint64_t found = 0;
  for (const simdjson::dom::element id : row.array("hash_ids")) {
    std::uint64_t number = 0;
    if (id.get(number) != simdjson::SUCCESS) {
      row.refuse(fmt::format("hash_ids[{}]", found), "expected a whole number, not " + shown(id));
    }
    if (built_.pages.size() >= limits_.pages) {
      row.refuse("hash_ids",
                 fmt::format("more than {} pages in all requests: cut the trace into smaller ones",
                             limits_.pages));
    }
    built_.pages.push_back(numbers_.number(number));
    ++found;
  }
  const std::uint32_t whole = request.input_tokens / built_.page_tokens;
  const std::uint32_t with_rest = whole + (request.input_tokens % built_.page_tokens != 0 ? 1 : 0);
  if (found != whole && found != with_rest) {
    row.refuse("hash_ids",
               fmt::format("{} ids, but {} is {}: {} pages of {} tokens; the line is damaged, or "
                           "its pages have another size",
                           found,
                           input_key,
                           request.input_tokens,
                           with_rest,
                           built_.page_tokens));
  }
  request.pages = static_cast<std::uint32_t>(found);
}

trace trace_builder::finish() {
  std::vector<std::uint32_t> order(built_.requests.size());
  std::iota(order.begin(), order.end(), 0u);
  std::ranges::stable_sort(order, {}, [&](std::uint32_t i) { return arrivals_s_[i]; });
  trace done = std::exchange(built_, {});
  std::vector<trace_request> sorted;
  sorted.reserve(order.size());
  for (const std::uint32_t i : order) {
    sorted.push_back(done.requests[i]);
  }
  done.requests = std::move(sorted);
  std::vector<std::uint32_t> index_of(order.size());  // [rows]
  for (std::uint32_t i = 0; i < order.size(); ++i) {
    index_of[order[i]] = i;
  }
  for (std::uint32_t& wait : done.waits) {
    wait = index_of[wait];
  }
  done.distinct_pages = numbers_.count();
  numbers_ = {};
  arrivals_s_.clear();
  namespaces_ = 0;
  return done;
}

}  // namespace oriel::replay
