// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `word_regex`: cuts text into words by any pattern a tokenizer.json may hold, with PCRE2.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace oriel::engine {

/// The pattern, written for Oniguruma (Ruby syntax, as the `tokenizers` library reads it), in PCRE2
/// syntax: the two differ in \s, \w, ^, $ and in the version of Unicode.
/// @throws tokenizer_error naming a construct that PCRE2 would read differently and that is not
///         translated: class intersection and nesting, \b \B \h \H \R \X, (?m), {,n}, {m,n}+
[[nodiscard]] std::string translate_pattern(std::string_view pattern, const std::string& where);

/// A compiled pattern. *Thread safety*: const members may run on any number of threads.
class word_regex {
 public:
  /// `where` names the pattern in messages: "tokenizer.json: pre_tokenizer.pattern".
  /// @throws tokenizer_error the pattern is not valid or not supported
  word_regex(std::string_view pattern, std::string where);

  /// Appends the end of each piece of `text`, in order, plus `base`: the matches, and what is
  /// between them. @pre valid UTF-8
  /// @throws tokenizer_error matching took too many steps
  void split(std::string_view text, std::size_t base, std::vector<std::size_t>& ends) const;

 private:
  struct compiled;
  std::shared_ptr<const compiled> compiled_;
};

}  // namespace oriel::engine
