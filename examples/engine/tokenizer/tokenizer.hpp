// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `tokenizer`: text to token ids and back, as a Hugging Face tokenizer.json of the byte-level BPE
/// kind describes it (GPT-2, Llama 3, Qwen, MiMo).
#pragma once

#include <oriel/core/ids.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace oriel::engine {

/// A tokenizer.json that cannot be used (what, where, what to do), or a text on which the file's
/// own pre-tokenizer pattern gave up.
class tokenizer_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What a tokenizer.json may cost. A file beyond a limit is refused before memory is spent on it.
struct tokenizer_limits {
  std::size_t file_bytes = std::size_t{256} << 20;
  std::uint32_t vocab_tokens = 4u << 20;  ///< also bounds the largest id
  std::size_t merges = std::size_t{8} << 20;
  std::uint32_t added_tokens = 64u << 10;
  std::size_t token_bytes = 64u << 10;  ///< one token, or one pattern
  std::uint32_t pre_tokenizer_steps = 16;
};

struct encode_options {
  /// Add what the file's post-processor puts around a text (Llama 3 has a BOS, Qwen nothing).
  bool add_special = true;
  /// Recognise special tokens written in the text. Turn off for text from a stranger, where
  /// "<|im_end|>" is ten characters and not an end of turn. Added tokens that are not special are
  /// recognised always.
  bool parse_special = true;
};

/// Text <-> token ids. Equal to the `tokenizers` library, id by id.
///
/// Encoding costs O(n log n) in the length of the longest word (a pre-token) and O(n) otherwise.
///
/// *Thread safety*: const members may run at the same time on any number of threads.
/// *Memory*: about 100 bytes per vocabulary entry. Encoding allocates a scratch of a few times the
/// longest word, and the result.
class tokenizer {
 public:
  /// Reads `path`.
  /// @throws tokenizer_error the file is missing, damaged, or asks for something not supported
  [[nodiscard]] static tokenizer load(const std::string& path, const tokenizer_limits& limits = {});

  /// Reads a tokenizer.json held in memory; `name` stands in error messages for the path.
  /// @throws tokenizer_error
  [[nodiscard]] static tokenizer parse(std::string_view json,
                                       std::string_view name = "tokenizer.json",
                                       const tokenizer_limits& limits = {});

  tokenizer(tokenizer&&) noexcept;
  tokenizer& operator=(tokenizer&&) noexcept;
  ~tokenizer();

  /// One more than the largest id. Ids in between without a token decode to nothing.
  [[nodiscard]] std::uint32_t vocab_size() const noexcept;

  /// The id of a token by its content as an added token ("<|im_end|>") or its spelling in the
  /// file's vocabulary ("\u0120the").
  [[nodiscard]] std::optional<token_id> find(std::string_view content) const noexcept;

  /// Added tokens marked special: they carry structure, not text.
  [[nodiscard]] bool is_special(token_id id) const noexcept;

  /// The bytes one token stands for; empty for an id without a token. A token may be part of a
  /// UTF-8 character. Lives as long as the tokenizer.
  [[nodiscard]] std::string_view bytes_of(token_id id) const noexcept;

  /// `text` is taken as UTF-8; each maximal invalid part counts as U+FFFD, as in Python's
  /// bytes.decode(errors="replace").
  /// @throws tokenizer_error a pattern of the file gave up (never for the known patterns)
  [[nodiscard]] std::vector<token_id> encode(std::string_view text,
                                             encode_options options = {}) const;

  /// The bytes of the tokens, one after the other; special tokens left out if `skip_special`.
  /// Not always valid UTF-8: ids may end within a character (see `oriel::token_stream`).
  [[nodiscard]] std::string decode(std::span<const token_id> ids, bool skip_special = false) const;

 private:
  struct state;
  explicit tokenizer(std::unique_ptr<const state> s) noexcept;
  std::unique_ptr<const state> state_;
};

}  // namespace oriel::engine
