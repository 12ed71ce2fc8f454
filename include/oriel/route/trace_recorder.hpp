// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `trace_recorder`: what a router was asked, as a trace that `oriel replay` reads: one JSON object
/// a line, `timestamp` (milliseconds since the first request), `input_length`, `output_length`, and
/// `hash_ids`, one for each 512 tokens. Ids are 53 bits of links, which commit to all tokens
/// before: equal prefixes have equal ids, and nobody can tell from an id what was said.
#pragma once

#include <oriel/route/router.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace oriel {

/// *Thread safety* none. *Memory* 8 bytes for each 512 tokens of requests that have not ended.
class trace_recorder {
 public:
  /// @param page_tokens  of the links @pre page_tokens > 0, 512 % page_tokens == 0
  explicit trace_recorder(std::uint32_t page_tokens);

  /// A request came. One whose id is being recorded already is not recorded again.
  /// O(prompt_tokens / 512).
  void arrived(const route_request& request, double now_s);
  /// It has ended: appends its line to `out`, with '\n'. @returns false: nothing is known of it
  bool ended(std::uint64_t id, std::uint32_t output_tokens, std::string& out);
  /// It was refused, or is not wanted in the trace.
  void forget(std::uint64_t id) { open_.erase(id); }

  [[nodiscard]] std::size_t open() const noexcept { return open_.size(); }

 private:
  struct entry {
    double arrived_s = 0.0;
    std::uint32_t input_tokens = 0;
    std::vector<std::uint64_t> ids;
  };
  std::uint32_t page_tokens_;
  double begin_s_ = -1.0;  // the first arrival; < 0: none yet
  std::unordered_map<std::uint64_t, entry> open_;
};

}  // namespace oriel
