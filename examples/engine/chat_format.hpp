// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// ChatML, the chat form of Qwen and MiMo. No template engine: roles, texts, and the cue to answer.
#pragma once

#include <oriel/core/ids.hpp>

#include <engine/tokenizer/tokenizer.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace oriel::engine {

enum class chat_role : std::uint8_t { system, user, assistant };

/// "system", "user", "assistant".
[[nodiscard]] const char* name_of(chat_role role) noexcept;

struct chat_message {
  chat_role role;
  std::string_view content;
};

struct chat_format {
  /// Qwen writes a newline behind <|im_end|>; MiMo does not.
  bool newline_after_end = false;
  /// End with the opening of the assistant's turn.
  bool add_cue = true;
  /// What the answer starts with, given to the model: "<think>" asks MiMo to reason first.
  std::string_view cue = {};
};

/// The conversation as text:
///
///     <|im_start|>user
///     Hello<|im_end|><|im_start|>assistant
///
[[nodiscard]] std::string format_chat(std::span<const chat_message> messages,
                                      const chat_format& format = {});

/// The conversation as tokens. Equal to encoding `format_chat` with add_special off, but for
/// special tokens written in a message: they stay text, so that a message cannot end its own turn.
/// @throws tokenizer_error the tokenizer has no <|im_start|> or <|im_end|>
[[nodiscard]] std::vector<token_id> encode_chat(const tokenizer& tokens,
                                                std::span<const chat_message> messages,
                                                const chat_format& format = {});

}  // namespace oriel::engine
