// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <replay/synthetic_prompt.hpp>

namespace oriel::replay {

void make_prompt(const trace& requests, std::size_t index, std::vector<token_id>& prompt) {
  const trace_request& request = requests.requests[index];
  const auto pages = requests.pages_of(request);
  const std::uint32_t own = requests.distinct_pages + static_cast<std::uint32_t>(index);
  prompt.resize(request.input_tokens);
  std::uint32_t page = 0, offset = 0;
  for (token_id& token : prompt) {
    token = synthetic_token(page < pages.size() ? pages[page] : own, offset);
    if (++offset == requests.page_tokens) {
      offset = 0;
      ++page;
    }
  }
}

}  // namespace oriel::replay
