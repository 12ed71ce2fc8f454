// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "tokens.hpp"

#include <algorithm>
#include <cstddef>

namespace oriel::ptx_machine {
namespace {

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '$' || c == '%' || c == '.';
}

/// Where the word that begins at `at` ends. "::" belongs to an opcode, ":" ends a label.
std::size_t end_of_word(std::string_view text, std::size_t at) {
  ++at;
  while (at < text.size()) {
    if (is_word(text[at])) {
      ++at;
    } else if (text.substr(at, 2) == "::") {
      at += 2;
    } else {
      break;
    }
  }
  return at;
}

std::size_t end_of_token(std::string_view text, std::size_t at) {
  if (text[at] == '"') {
    const std::size_t end = text.find('"', at + 1);
    return end == std::string_view::npos ? text.size() : end + 1;
  }
  const bool is_negative = text[at] == '-' && at + 1 < text.size() && is_word(text[at + 1]);
  return is_word(text[at]) || is_negative ? end_of_word(text, at) : at + 1;
}

}  // namespace

std::vector<token> split_into_tokens(std::string_view text) {
  std::vector<token> tokens;
  std::uint32_t line = 1;
  const auto pass = [&](std::size_t from, std::size_t to) {
    for (; from < to; ++from) {
      line += text[from] == '\n' ? 1u : 0u;
    }
    return to;
  };
  std::size_t at = 0;
  while (at < text.size()) {
    const std::string_view rest = text.substr(at);
    if (rest.starts_with("//")) {
      at = std::min(text.find('\n', at), text.size());
    } else if (rest.starts_with("/*")) {
      const std::size_t end = text.find("*/", at + 2);
      at = pass(at, end == std::string_view::npos ? text.size() : end + 2);
    } else if (rest[0] == '\n' || rest[0] == ' ' || rest[0] == '\t' || rest[0] == '\r') {
      at = pass(at, at + 1);
    } else {
      const std::size_t end = end_of_token(text, at);
      tokens.push_back({text.substr(at, end - at), line});
      at = pass(at, end);
    }
  }
  tokens.push_back({{}, line});
  return tokens;
}

}  // namespace oriel::ptx_machine
