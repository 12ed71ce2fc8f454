// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <replay/synthetic_prompt.hpp>

#include <algorithm>

namespace oriel::replay {

void make_prompt(const trace& requests, std::size_t index, std::vector<token_id>& prompt) {
  const trace_request& request = requests.requests[index];
  const auto pages = requests.pages_of(request);
  const std::uint32_t own = requests.distinct_pages + static_cast<std::uint32_t>(index);
  prompt.resize(request.input_tokens);
  std::size_t page = 0;
  for (std::size_t first = 0; first < prompt.size(); first += requests.page_tokens, ++page) {
    std::uint32_t token = scattered(page < pages.size() ? pages[page] : own);
    const std::size_t end = std::min<std::size_t>(first + requests.page_tokens, prompt.size());
    for (std::size_t i = first; i < end; ++i, token += synthetic_step) {
      prompt[i] = token_id{token};
    }
  }
}

}  // namespace oriel::replay
