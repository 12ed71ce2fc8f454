// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `added_token_matcher`: finds added tokens ("<|im_end|>") in a text before it is cut into words.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace oriel::engine {

/// One entry of "added_tokens".
struct added_token {
  std::string content;
  std::uint32_t id = 0;
  bool single_word = false;  ///< only where no word character touches it
  bool lstrip = false;       ///< takes the white space before it
  bool rstrip = false;       ///< takes the white space after it
  bool normalized = true;    ///< looked for in the normalised text, itself normalised
  bool special = false;
};

/// A part of a text: an added token, or what lies between.
struct text_part {
  std::size_t begin, end;
  std::uint32_t id;  ///< no_token: plain text
};

/// Finds the leftmost, of those the longest, added token again and again.
class added_token_matcher {
 public:
  /// The order of the tokens decides between equal contents: the first wins.
  void insert(std::string_view content, const added_token& token);

  [[nodiscard]] bool is_empty() const noexcept { return tokens_.empty(); }

  /// Replaces `parts` by the parts of `text`. With `parse_special` off, special tokens are text.
  /// O(size of text x longest token), as a rule O(size of text). @pre valid UTF-8
  void split(std::string_view text, bool parse_special, std::vector<text_part>& parts) const;

 private:
  struct flags {
    std::uint32_t id;
    bool single_word, lstrip, rstrip, special;
  };
  struct edge {
    unsigned char byte;
    std::uint32_t node;
  };
  struct node {
    std::vector<edge> edges;
    std::uint32_t token = 0xFFFF'FFFFu;  ///< index in tokens_; all ones: none ends here
  };
  struct match {
    std::size_t begin, end;
    std::uint32_t token;
  };

  [[nodiscard]] bool find(std::string_view text, std::size_t from, match& found) const noexcept;
  [[nodiscard]] bool longest_at(std::string_view text, std::size_t at, match& found) const noexcept;
  [[nodiscard]] std::size_t next_start(std::string_view text, std::size_t from) const noexcept;

  std::vector<flags> tokens_;
  std::vector<node> nodes_{1};
  bool starts_[256] = {};
  unsigned char only_start_ = 0;   ///< the one byte all contents start with,
  std::uint32_t start_count_ = 0;  ///< if this is 1
};

}  // namespace oriel::engine
