// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/request/request.hpp>

namespace {

using namespace oriel;

status check_prompt(const std::vector<token_id>& prompt, const request_limits& limits) noexcept {
  if (prompt.empty()) {
    return failure{errc::invalid_argument, 0, "the prompt is empty"};
  }
  for (const token_id id : prompt) {
    if (to_index(id) >= limits.vocabulary) {
      return failure{errc::invalid_argument, 0, "a prompt token is outside the vocabulary"};
    }
  }
  return {};
}

status check_stops(const stop_conditions& stop, const request_limits& limits) noexcept {
  if (stop.tokens.size() > limits.max_stop_tokens) {
    return failure{errc::invalid_argument, 0, "too many stop tokens"};
  }
  if (stop.strings.size() > limits.max_stop_strings) {
    return failure{errc::invalid_argument, 0, "too many stop strings"};
  }
  for (const std::string& s : stop.strings) {
    if (s.empty()) {
      return failure{errc::invalid_argument, 0, "a stop string is empty"};
    }
    if (s.size() > limits.max_stop_string_bytes) {
      return failure{errc::invalid_argument, 0, "a stop string is too long"};
    }
  }
  return {};
}

}  // namespace

oriel::status oriel::check(const request& r, const request_limits& limits) noexcept {
  // The size first: a prompt over the context is refused before its tokens are read.
  if (r.prompt.size() + std::uint64_t{r.max_new_tokens} > limits.max_context_tokens) {
    return failure{errc::request_too_large, 0, "prompt + max_new_tokens exceeds the context"};
  }
  if (r.max_new_tokens == 0) {
    return failure{errc::invalid_argument, 0, "max_new_tokens is 0"};
  }
  if (const status s = check_prompt(r.prompt, limits); !s) {
    return s;
  }
  if (const status s = check_stops(r.stop, limits); !s) {
    return s;
  }
  if (r.tenant.size() > limits.max_tenant_bytes) {
    return failure{errc::invalid_argument, 0, "the tenant's name is too long"};
  }
  for (const token_bias& b : r.sampling.logit_bias) {
    if (to_index(b.id) >= limits.vocabulary) {
      return failure{errc::invalid_argument, 0, "a token of logit_bias is outside the vocabulary"};
    }
  }
  return check(r.sampling);
}
