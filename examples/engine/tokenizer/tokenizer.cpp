// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/tokenizer/added_tokens.hpp>
#include <engine/tokenizer/bpe_model.hpp>
#include <engine/tokenizer/byte_alphabet.hpp>
#include <engine/tokenizer/tokenizer.hpp>
#include <engine/tokenizer/tokenizer_file.hpp>
#include <engine/tokenizer/unicode.hpp>
#include <engine/tokenizer/word_regex.hpp>
#include <engine/tokenizer/word_scanner.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <variant>

namespace oriel::engine {
namespace {

using word_splitter = std::variant<word_scanner, word_regex>;

word_splitter make_splitter(const split_step& step) {
  if (const auto scanner = word_scanner::for_pattern(step.pattern)) {
    return *scanner;
  }
  return word_regex(step.pattern, step.where);
}

struct file_closer {
  void operator()(std::FILE* f) const noexcept { std::fclose(f); }
};

std::string read_whole_file(const std::string& path, std::size_t bytes_max) {
  const std::unique_ptr<std::FILE, file_closer> file(std::fopen(path.c_str(), "rb"));
  if (file == nullptr) {
    throw tokenizer_error(fmt::format("{}: cannot be opened: {}", path, std::strerror(errno)));
  }
  std::string content;
  char buffer[1 << 16];
  while (const std::size_t count = std::fread(buffer, 1, sizeof buffer, file.get())) {
    content.append(buffer, count);
    if (content.size() > bytes_max) {
      throw tokenizer_error(
          fmt::format("{}: is larger than the limit of {} bytes", path, bytes_max));
    }
  }
  if (std::ferror(file.get()) != 0) {
    throw tokenizer_error(fmt::format("{}: cannot be read: {}", path, std::strerror(errno)));
  }
  return content;
}
}  // namespace

struct tokenizer::state {
  explicit state(tokenizer_file&& f);

  // What one call of encode works in.
  struct scratch {
    std::vector<text_part> parts, normalized_parts;
    std::vector<std::size_t> ends, next_ends, word_ends;
    bpe_model::scratch bpe;
    std::string prefixed;
    std::vector<std::uint32_t> ids;
  };

  void encode_raw(std::string_view text, bool parse_special, scratch& space) const;
  void encode_normalized(std::string_view text, bool parse_special, scratch& space) const;
  void encode_words(std::string_view text, scratch& space) const;
  void encode_piece(std::string_view piece, scratch& space) const;
  void add_decoded(std::uint32_t id, std::string_view spelling);

  tokenizer_file file;
  bpe_model model;
  std::vector<word_splitter> splitters;
  word_scanner gpt2_words = *word_scanner::for_pattern(word_scanner::gpt2_pattern());
  added_token_matcher raw_tokens, normalized_tokens;
  std::vector<std::string> added_bytes;  // what added tokens decode to
  std::vector<std::uint32_t> added_at;   // per id: index in added_bytes, or no_token
  std::vector<bool> special;             // per id
};

tokenizer::state::state(tokenizer_file&& f) : file(std::move(f)), model(file.vocabulary) {
  for (const split_step& step : file.splits) {
    splitters.push_back(make_splitter(step));
  }
  std::size_t size = file.spellings.size();
  for (const added_token& token : file.added) {
    size = std::max<std::size_t>(size, token.id + std::size_t{1});
  }
  added_at.resize(size, no_token);
  special.resize(size);
  // `tokenizers` tries special tokens first; only equal contents could tell.
  for (const bool special_pass : {true, false}) {
    for (const added_token& token : file.added) {
      if (token.special != special_pass) {
        continue;
      }
      if (token.normalized) {
        const std::string content = file.nfc ? to_nfc(token.content) : token.content;
        normalized_tokens.insert(content, token);
        add_decoded(token.id, content);
      } else {
        raw_tokens.insert(token.content, token);
        add_decoded(token.id, token.content);
      }
      special[token.id] = token.special;
    }
  }
}

// An added token is spelled as text, but decoded like any other: by the byte alphabet if all its
// characters are of it (all ASCII but the space is), else as it is.
void tokenizer::state::add_decoded(std::uint32_t id, std::string_view spelling) {
  const auto bytes = bytes_of_spelling(spelling);
  added_at[id] = static_cast<std::uint32_t>(added_bytes.size());
  added_bytes.emplace_back(bytes ? *bytes : std::string(spelling));
}

void tokenizer::state::encode_raw(std::string_view text, bool parse_special, scratch& space) const {
  raw_tokens.split(text, parse_special, space.parts);
  for (const text_part& part : space.parts) {
    const std::string_view piece = text.substr(part.begin, part.end - part.begin);
    if (part.id != no_token) {
      space.ids.push_back(part.id);
    } else if (file.nfc && nfc_safe_prefix(piece) < piece.size()) {
      encode_normalized(to_nfc(piece), parse_special, space);
    } else {
      encode_normalized(piece, parse_special, space);
    }
  }
}

void tokenizer::state::encode_normalized(std::string_view text,
                                         bool parse_special,
                                         scratch& space) const {
  if (normalized_tokens.is_empty()) {
    encode_words(text, space);
    return;
  }
  normalized_tokens.split(text, parse_special, space.normalized_parts);
  for (const text_part& part : space.normalized_parts) {
    if (part.id != no_token) {
      space.ids.push_back(part.id);
    } else {
      encode_words(text.substr(part.begin, part.end - part.begin), space);
    }
  }
}

// Each splitter cuts the pieces of the one before. space.ends: where the pieces end.
void tokenizer::state::encode_words(std::string_view text, scratch& space) const {
  space.ends.assign(1, text.size());
  for (const word_splitter& splitter : splitters) {
    space.next_ends.clear();
    std::size_t begin = 0;
    for (const std::size_t end : space.ends) {
      std::visit(
          [&](const auto& s) { s.split(text.substr(begin, end - begin), begin, space.next_ends); },
          splitter);
      begin = end;
    }
    std::swap(space.ends, space.next_ends);
  }
  std::size_t begin = 0;
  for (const std::size_t end : space.ends) {
    encode_piece(text.substr(begin, end - begin), space);
    begin = end;
  }
}

// The "ByteLevel" step, then the model.
void tokenizer::state::encode_piece(std::string_view piece, scratch& space) const {
  if (file.add_prefix_space && piece.front() != ' ') {
    piece = space.prefixed.assign(1, ' ').append(piece);
  }
  if (!file.byte_level_regex) {
    model.encode(piece, space.bpe, space.ids);
    return;
  }
  space.word_ends.clear();
  gpt2_words.split(piece, 0, space.word_ends);
  std::size_t begin = 0;
  for (const std::size_t end : space.word_ends) {
    model.encode(piece.substr(begin, end - begin), space.bpe, space.ids);
    begin = end;
  }
}

tokenizer::tokenizer(std::unique_ptr<const state> s) noexcept : state_(std::move(s)) {}
tokenizer::tokenizer(tokenizer&&) noexcept = default;
tokenizer& tokenizer::operator=(tokenizer&&) noexcept = default;
tokenizer::~tokenizer() = default;

tokenizer tokenizer::load(const std::string& path, const tokenizer_limits& limits) {
  return parse(read_whole_file(path, limits.file_bytes), path, limits);
}

tokenizer tokenizer::parse(std::string_view json,
                           std::string_view name,
                           const tokenizer_limits& limits) {
  return tokenizer(std::make_unique<const state>(read_tokenizer_file(json, name, limits)));
}

std::uint32_t tokenizer::vocab_size() const noexcept {
  return static_cast<std::uint32_t>(state_->added_at.size());
}

std::optional<token_id> tokenizer::find(std::string_view content) const noexcept {
  for (const added_token& token : state_->file.added) {
    if (token.content == content) {
      return token_id{token.id};
    }
  }
  if (const auto id = state_->file.spelling_index.find(state_->file.spellings, content)) {
    return token_id{*id};
  }
  return std::nullopt;
}

bool tokenizer::is_special(token_id id) const noexcept {
  return to_index(id) < state_->special.size() && state_->special[to_index(id)];
}

std::string_view tokenizer::bytes_of(token_id id) const noexcept {
  const std::uint32_t index = to_index(id);
  if (index >= state_->added_at.size()) {
    return {};
  }
  if (const std::uint32_t added = state_->added_at[index]; added != no_token) {
    return state_->added_bytes[added];
  }
  return index < state_->file.vocabulary.tokens.size() ? state_->file.vocabulary.tokens[index]
                                                       : std::string_view();
}

std::vector<token_id> tokenizer::encode(std::string_view text, encode_options options) const {
  const state& s = *state_;
  state::scratch space;
  if (options.add_special) {
    space.ids = s.file.before;
  }
  if (is_valid_utf8(text)) {
    s.encode_raw(text, options.parse_special, space);
  } else {
    s.encode_raw(replace_invalid_utf8(text), options.parse_special, space);
  }
  if (options.add_special) {
    space.ids.insert(space.ids.end(), s.file.after.begin(), s.file.after.end());
  }
  std::vector<token_id> tokens(space.ids.size());
  std::transform(space.ids.begin(), space.ids.end(), tokens.begin(), [](std::uint32_t id) {
    return token_id{id};
  });
  return tokens;
}

std::string tokenizer::decode(std::span<const token_id> ids, bool skip_special) const {
  std::string bytes;
  for (const token_id id : ids) {
    if (!(skip_special && is_special(id))) {
      bytes.append(bytes_of(id));
    }
  }
  return bytes;
}

}  // namespace oriel::engine
