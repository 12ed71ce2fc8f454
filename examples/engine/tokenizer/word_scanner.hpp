// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `word_scanner`: the patterns that nearly all byte-level tokenizers use, by hand. Equal to the
/// regular expression (tests/engine/tokenizer_words_test.cpp), linear on every text, and some ten
/// times faster.
#pragma once

#include <engine/tokenizer/unicode.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace oriel::engine {

/// Cuts text into words by one of three patterns:
///
///     qwen     (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}
///              | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
///     llama 3  the same with \p{N}{1,3}
///     gpt-2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
///
/// Each of them matches at every position, so the words cover the text.
class word_scanner {
 public:
  /// The scanner for `pattern`, if it is one of the three, to the letter.
  [[nodiscard]] static std::optional<word_scanner> for_pattern(std::string_view pattern);

  /// The pattern of GPT-2, which "ByteLevel" with "use_regex" means.
  [[nodiscard]] static std::string_view gpt2_pattern() noexcept;

  /// Appends the end of each word of `text`, in order, plus `base`. @pre valid UTF-8
  void split(std::string_view text, std::size_t base, std::vector<std::size_t>& ends) const;

 private:
  enum class family : std::uint8_t { gpt2, qwen };

  word_scanner(family f, std::uint32_t digits_max) noexcept : family_(f), digits_max_(digits_max) {}

  family family_;
  std::uint32_t digits_max_;  ///< numbers in one word; qwen family only
};

}  // namespace oriel::engine
