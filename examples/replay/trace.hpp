// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `trace`: requests of a real service as a cache sees them, whatever file they came from.
#pragma once

#include <oriel/prefix/evict_order.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace oriel::replay {

/// `trace_request::session` of a trace that does not tell sessions apart.
inline constexpr std::uint32_t no_session = 0xFFFF'FFFFu;

/// One request. It says nothing of later ones: what a cache may not know is not here.
struct trace_request {
  std::uint64_t arrival_us = 0;   ///< on the clock that all requests of the trace share
  std::uint64_t duration_us = 0;  ///< from arrival to the last token; 0 where the trace is silent
  std::size_t first_page = 0;     ///< its pages are trace::pages[first_page, first_page + pages)
  std::uint32_t pages = 0;        ///< floor or ceil of input_tokens / trace::page_tokens
  std::uint32_t input_tokens = 0;
  std::uint32_t output_tokens = 0;
  std::uint32_t session = no_session;  ///< index into trace::sessions
  std::uint32_t name_space = 0;        ///< requests of different ones never share a page
  /// From the finish reason that the trace gives for this very request.
  request_end ended = request_end::unknown;
  // How its session hangs together, for those who replay it at another pace.
  std::uint32_t agent = 0;       ///< within the session: 0 the parent, others its sub-agents
  std::uint32_t row = 0;         ///< in the file's order; those that it waits for have lower ones
  std::uint64_t gap_us = 0;      ///< from the end of all that it waits for to its arrival
  std::uint32_t first_wait = 0;  ///< trace::waits[first_wait, first_wait + waits): the turn before
  std::uint32_t waits = 0;       ///< of its agent, and the sub-agents that it joins
};

/// Requests by arrival, and the pages of their inputs.
///
/// A file names a page by a hash id, in a namespace. Here it has a number in [0, distinct_pages):
/// equal exactly if namespace and hash id are, so that a cache may use flat arrays.
struct trace {
  std::uint32_t page_tokens = 0;
  std::uint32_t distinct_pages = 0;
  std::vector<std::string> sessions;    ///< their ids
  std::vector<double> starts_s;         ///< [sessions] on the common clock
  std::vector<trace_request> requests;  ///< arrival_us never falls
  std::vector<std::uint32_t> pages;     ///< of all requests, one after another, in any order
  std::vector<std::uint32_t> waits;     ///< of all requests, as indices of requests

  [[nodiscard]] std::span<const std::uint32_t> pages_of(const trace_request& r) const noexcept {
    return {pages.data() + r.first_page, r.pages};
  }

  [[nodiscard]] std::span<const std::uint32_t> waits_of(const trace_request& r) const noexcept {
    return {waits.data() + r.first_wait, r.waits};
  }

  /// Tokens of all inputs. O(requests).
  [[nodiscard]] std::uint64_t input_tokens() const noexcept {
    std::uint64_t sum = 0;
    for (const trace_request& r : requests) {
      sum += r.input_tokens;
    }
    return sum;
  }
};

}  // namespace oriel::replay
