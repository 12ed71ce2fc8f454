// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/tokenizer/added_tokens.hpp>
#include <engine/tokenizer/bpe_model.hpp>
#include <engine/tokenizer/unicode.hpp>

#include <algorithm>
#include <cstring>

namespace oriel::engine {
namespace {

bool is_word_before(std::string_view text, std::size_t at) {
  return at > 0 && (char_classes::get()[decode_at(text, previous_boundary(text, at)).value] &
                    class_word) != 0;
}

bool is_word_after(std::string_view text, std::size_t at) {
  return at < text.size() && (char_classes::get()[decode_at(text, at).value] & class_word) != 0;
}

std::size_t spaces_before(std::string_view text, std::size_t at) {
  while (at > 0) {
    const std::size_t before = previous_boundary(text, at);
    if ((char_classes::get()[decode_at(text, before).value] & class_space) == 0) {
      break;
    }
    at = before;
  }
  return at;
}

std::size_t spaces_after(std::string_view text, std::size_t at) {
  while (at < text.size()) {
    const decoded c = decode_at(text, at);
    if ((char_classes::get()[c.value] & class_space) == 0) {
      break;
    }
    at += c.length_bytes;
  }
  return at;
}
}  // namespace

void added_token_matcher::insert(std::string_view content, const added_token& token) {
  std::uint32_t at = 0;
  for (const char c : content) {
    const auto byte = static_cast<unsigned char>(c);
    const auto edge_of = [&](const edge& e) { return e.byte == byte; };
    const auto found = std::find_if(nodes_[at].edges.begin(), nodes_[at].edges.end(), edge_of);
    if (found != nodes_[at].edges.end()) {
      at = found->node;
    } else {
      const auto next = static_cast<std::uint32_t>(nodes_.size());
      nodes_[at].edges.push_back({byte, next});
      nodes_.emplace_back();
      at = next;
    }
  }
  const auto first = static_cast<unsigned char>(content[0]);
  if (!starts_[first]) {
    starts_[first] = true;
    only_start_ = first;
    ++start_count_;
  }
  if (nodes_[at].token == no_token) {
    nodes_[at].token = static_cast<std::uint32_t>(tokens_.size());
    tokens_.push_back({token.id, token.single_word, token.lstrip, token.rstrip, token.special});
  }
}

std::size_t added_token_matcher::next_start(std::string_view text,
                                            std::size_t from) const noexcept {
  if (start_count_ == 1) {
    const void* found = std::memchr(text.data() + from, only_start_, text.size() - from);
    return found == nullptr
               ? text.size()
               : static_cast<std::size_t>(static_cast<const char*>(found) - text.data());
  }
  while (from < text.size() && !starts_[static_cast<unsigned char>(text[from])]) {
    ++from;
  }
  return from;
}

bool added_token_matcher::longest_at(std::string_view text,
                                     std::size_t at,
                                     match& found) const noexcept {
  bool any = false;
  std::uint32_t here = 0;
  for (std::size_t i = at; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const std::vector<edge>& edges = nodes_[here].edges;
    const auto next =
        std::find_if(edges.begin(), edges.end(), [&](const edge& e) { return e.byte == byte; });
    if (next == edges.end()) {
      break;
    }
    here = next->node;
    if (nodes_[here].token != no_token) {
      found = {at, i + 1, nodes_[here].token};
      any = true;
    }
  }
  return any;
}

bool added_token_matcher::find(std::string_view text,
                               std::size_t from,
                               match& found) const noexcept {
  for (std::size_t at = next_start(text, from); at < text.size(); at = next_start(text, at + 1)) {
    if (longest_at(text, at, found)) {
      return true;
    }
  }
  return false;
}

// A match that is then rejected (not a single word, or special tokens are off) still hides what
// overlaps it; a token that takes white space may overlap the next one. Both as in `tokenizers`.
void added_token_matcher::split(std::string_view text,
                                bool parse_special,
                                std::vector<text_part>& parts) const {
  parts.clear();
  std::size_t done = 0;
  match found{};
  for (std::size_t from = 0; find(text, from, found);) {
    from = found.end;
    const flags& token = tokens_[found.token];
    if (token.special && !parse_special) {
      continue;
    }
    if (token.single_word &&
        (is_word_before(text, found.begin) || is_word_after(text, found.end))) {
      continue;
    }
    if (token.lstrip) {
      found.begin = std::max(spaces_before(text, found.begin), done);
    }
    if (token.rstrip) {
      found.end = spaces_after(text, found.end);
    }
    if (done < found.begin) {
      parts.push_back({done, found.begin, no_token});
    }
    parts.push_back({found.begin, found.end, token.id});
    done = found.end;
  }
  if (done < text.size()) {
    parts.push_back({done, text.size(), no_token});
  }
}

}  // namespace oriel::engine
