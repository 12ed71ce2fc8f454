// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `token_stream`: the tokens of one answer in, text that may be shown at once out.
#pragma once

#include <oriel/core/ids.hpp>
#include <oriel/output/utf8_assembler.hpp>
#include <oriel/request/stop_conditions.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace oriel {

/// Follows one answer token by token.
///
///  - No piece of text splits a UTF-8 character; bytes that are no character become U+FFFD.
///  - A stop string ends the answer: the text before it is given out, itself it is not. What may
///    still become a stop string is held back. Of several stop strings, the one that is complete
///    first counts; of those complete at the same byte, the longest.
///  - The text, and where it stops, depend on the bytes of the tokens, not on how they are cut.
///
/// *Thread safety*: none. *Memory*: the stop strings, and what is held back: less than the longest
/// stop string plus one token.
class token_stream {
 public:
  /// @param stop  copied; empty strings are ignored
  /// @pre max_tokens >= 1
  explicit token_stream(const stop_conditions& stop = {}, std::uint32_t max_tokens = 0xFFFF'FFFFu);

  /// Takes the next token. A stop token's bytes are no text.
  /// O(bytes x stop strings), amortised.
  /// @pre finished() == finish_reason::none
  /// @returns the text that is ready now; it lives until the next call
  [[nodiscard]] std::string_view push(token_id id, std::string_view bytes);

  /// Ends the answer here, for `reason`. Does nothing if it has ended already.
  /// @returns the text that was held back; it lives until the next call
  [[nodiscard]] std::string_view finish(finish_reason reason = finish_reason::cancelled);

  [[nodiscard]] finish_reason finished() const noexcept { return reason_; }

  /// Tokens taken, a stop token included.
  [[nodiscard]] std::uint32_t token_count() const noexcept { return token_count_; }

 private:
  /// A stop string, and how far its beginning stands at the end of the text (Knuth-Morris-Pratt).
  struct stop_string {
    std::string text;
    std::vector<std::uint32_t> fallback;  ///< per matched length, the next shorter one to try
    std::uint32_t matched = 0;
  };

  void advance(stop_string& stop, char c) noexcept;
  /// Looks at the text behind `scanned_`; true, and `text_` cut, at a stop string.
  bool find_stop();
  /// Gives out all but the last `held` bytes of the text.
  [[nodiscard]] std::string_view take(std::size_t held);
  [[nodiscard]] std::string_view end_answer(finish_reason reason);

  std::vector<stop_string> stops_;
  std::vector<token_id> stop_tokens_;
  std::uint32_t max_tokens_;
  utf8_assembler assembler_;
  std::string text_;         ///< not given out yet
  std::string ready_;        ///< what the last call gave out
  std::size_t scanned_ = 0;  ///< bytes of text_ that the stop strings have seen
  std::uint32_t token_count_ = 0;
  finish_reason reason_ = finish_reason::none;
};

}  // namespace oriel
