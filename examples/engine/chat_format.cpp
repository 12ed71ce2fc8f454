// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/chat_format.hpp>
#include <fmt/format.h>

#include <iterator>

namespace oriel::engine {
namespace {

constexpr std::string_view turn_start = "<|im_start|>";
constexpr std::string_view turn_end = "<|im_end|>";

token_id need(const tokenizer& tokens, std::string_view content) {
  const auto id = tokens.find(content);
  if (!id) {
    throw tokenizer_error(
        fmt::format("the tokenizer has no token {}, so this model knows no ChatML; prompt it "
                    "without the chat form",
                    content));
  }
  return *id;
}
}  // namespace

const char* name_of(chat_role role) noexcept {
  switch (role) {
    case chat_role::system:
      return "system";
    case chat_role::user:
      return "user";
    case chat_role::assistant:
      return "assistant";
  }
  return "unknown";
}

std::string format_chat(std::span<const chat_message> messages, const chat_format& format) {
  std::string text;
  const auto out = std::back_inserter(text);
  for (const chat_message& m : messages) {
    fmt::format_to(out, "{}{}\n{}{}", turn_start, name_of(m.role), m.content, turn_end);
    text.append(format.newline_after_end ? "\n" : "");
  }
  if (format.add_cue) {
    fmt::format_to(out, "{}{}\n{}", turn_start, name_of(chat_role::assistant), format.cue);
  }
  return text;
}

// What stands between two special tokens is encoded as one text: "user\n" may share a word with
// the line breaks that a message begins with.
std::vector<token_id> encode_chat(const tokenizer& tokens,
                                  std::span<const chat_message> messages,
                                  const chat_format& format) {
  const token_id start = need(tokens, turn_start);
  const token_id end = need(tokens, turn_end);
  std::vector<token_id> ids;
  const auto append = [&](std::string_view text, bool parse_special) {
    const std::vector<token_id> part =
        tokens.encode(text, {.add_special = false, .parse_special = parse_special});
    ids.insert(ids.end(), part.begin(), part.end());
  };
  for (const chat_message& m : messages) {
    ids.push_back(start);
    append(fmt::format("{}\n{}", name_of(m.role), m.content), false);
    ids.push_back(end);
    append(format.newline_after_end ? "\n" : "", false);
  }
  if (format.add_cue) {
    ids.push_back(start);
    append(fmt::format("{}\n{}", name_of(chat_role::assistant), format.cue), true);
  }
  return ids;
}

}  // namespace oriel::engine
