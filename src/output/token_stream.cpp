// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/output/token_stream.hpp>

#include <algorithm>

namespace oriel {

token_stream::token_stream(const stop_conditions& stop, std::uint32_t max_tokens)
    : stop_tokens_(stop.tokens), max_tokens_(max_tokens) {
  ORIEL_EXPECTS(max_tokens_ >= 1);
  for (const std::string& string : stop.strings) {
    if (string.empty()) {
      continue;
    }
    // In the form the text has. That also keeps held back text from splitting a character.
    stop_string& found = stops_.emplace_back();
    utf8_assembler assembler;
    assembler.push(string, found.text);
    assembler.flush(found.text);
    found.fallback.assign(found.text.size() + 1, 0);
    for (std::size_t i = 1; i < found.text.size(); ++i) {
      advance(found, found.text[i]);
      found.fallback[i + 1] = found.matched;
    }
    found.matched = 0;
  }
}

void token_stream::advance(stop_string& stop, char c) noexcept {
  while (stop.matched > 0 && stop.text[stop.matched] != c) {
    stop.matched = stop.fallback[stop.matched];
  }
  stop.matched += stop.text[stop.matched] == c ? 1u : 0u;
}

std::string_view token_stream::push(token_id id, std::string_view bytes) {
  ORIEL_EXPECTS(reason_ == finish_reason::none);
  ++token_count_;
  if (std::find(stop_tokens_.begin(), stop_tokens_.end(), id) != stop_tokens_.end()) {
    return end_answer(finish_reason::stop);
  }
  assembler_.push(bytes, text_);
  if (find_stop()) {
    reason_ = finish_reason::stop;
    return take(0);
  }
  if (token_count_ == max_tokens_) {
    return end_answer(finish_reason::length);
  }
  std::size_t held = 0;
  for (const stop_string& stop : stops_) {
    held = std::max<std::size_t>(held, stop.matched);
  }
  return take(held);
}

std::string_view token_stream::finish(finish_reason reason) {
  if (reason_ != finish_reason::none) {
    return {};
  }
  return end_answer(reason);
}

// The U+FFFD of a character cut short may still complete a stop string, which then is the reason.
std::string_view token_stream::end_answer(finish_reason reason) {
  assembler_.flush(text_);
  reason_ = find_stop() ? finish_reason::stop : reason;
  return take(0);
}

bool token_stream::find_stop() {
  for (; scanned_ < text_.size(); ++scanned_) {
    std::size_t longest = 0;
    for (stop_string& stop : stops_) {
      advance(stop, text_[scanned_]);
      if (stop.matched == stop.text.size()) {
        longest = std::max(longest, stop.text.size());
      }
    }
    if (longest > 0) {
      text_.resize(scanned_ + 1 - longest);
      scanned_ = text_.size();
      return true;
    }
  }
  return false;
}

std::string_view token_stream::take(std::size_t held) {
  const std::size_t count = text_.size() - held;
  ready_.assign(text_, 0, count);
  text_.erase(0, count);
  scanned_ = text_.size();
  return ready_;
}

}  // namespace oriel
