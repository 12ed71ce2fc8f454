// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/route/score.hpp>
#include <oriel/route/trace_recorder.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

namespace oriel {
namespace {

constexpr std::uint32_t block_tokens = 512;

template <class T>
void append(std::string& out, const char* key, T value) {
  std::array<char, 32> text;
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
  out.append(key).append(text.data(), end);
}

}  // namespace

trace_recorder::trace_recorder(std::uint32_t page_tokens) : page_tokens_(page_tokens) {
  ORIEL_EXPECTS(page_tokens > 0 && block_tokens % page_tokens == 0);
}

void trace_recorder::arrived(const route_request& request, double now_s) {
  const auto [found, is_new] = open_.try_emplace(request.id);
  if (!is_new) {
    return;
  }
  begin_s_ = begin_s_ < 0.0 ? now_s : begin_s_;
  entry& e = found->second;
  e.arrived_s = std::max(0.0, now_s - begin_s_);
  e.input_tokens = request.prompt_tokens;
  const std::size_t pages = block_tokens / page_tokens_;
  const std::size_t blocks = request.prompt_tokens / block_tokens;
  for (std::size_t b = 0; b < blocks; ++b) {
    const std::size_t last = (b + 1) * pages - 1;
    // The last token is always computed: a block that ends with it has no link, and nobody's id.
    const std::uint64_t id = last < request.links.size()
                                 ? request.links[last].low
                                 : detail::mix64(request.id ^ detail::mix64(b));
    e.ids.push_back(id >> 11);
  }
}

bool trace_recorder::ended(std::uint64_t id, std::uint32_t output_tokens, std::string& out) {
  const auto found = open_.find(id);
  if (found == open_.end()) {
    return false;
  }
  const entry& e = found->second;
  append(out, "{\"timestamp\": ", static_cast<std::uint64_t>(std::llround(e.arrived_s * 1e3)));
  append(out, ", \"input_length\": ", e.input_tokens);
  append(out, ", \"output_length\": ", output_tokens);
  out += ", \"hash_ids\": [";
  for (std::size_t i = 0; i < e.ids.size(); ++i) {
    append(out, i == 0 ? "" : ", ", e.ids[i]);
  }
  out += "]}\n";
  open_.erase(found);
  return true;
}

}  // namespace oriel
