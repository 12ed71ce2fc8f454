// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a tokenizer.json says, checked: every key is either here or was refused by name.
#pragma once

#include <engine/tokenizer/added_tokens.hpp>
#include <engine/tokenizer/bpe_model.hpp>
#include <engine/tokenizer/token_table.hpp>
#include <engine/tokenizer/tokenizer.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace oriel::engine {

/// One "Split" of the pre-tokenizer.
struct split_step {
  std::string pattern;
  std::string where;  ///< for messages: file and key
};

struct tokenizer_file {
  bool nfc = false;
  std::vector<split_step> splits;  ///< applied one after the other
  bool add_prefix_space = false;   ///< then: a piece that does not start with ' ' gets one
  bool byte_level_regex = false;   ///< then: pieces are cut by the pattern of GPT-2

  token_table spellings;  ///< per id, as written in the file; empty: no such id
  token_index spelling_index;
  bpe_vocabulary vocabulary;
  std::vector<added_token> added;            ///< in the file's order
  std::vector<std::uint32_t> before, after;  ///< what the post-processor puts around a text
};

/// @throws tokenizer_error
[[nodiscard]] tokenizer_file read_tokenizer_file(std::string_view json,
                                                 std::string_view name,
                                                 const tokenizer_limits& limits);

}  // namespace oriel::engine
