// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/spec/prompt_lookup.hpp>

#include <algorithm>

namespace oriel {
namespace {

std::uint64_t hash_of(std::span<const token_id> match) noexcept {
  std::uint64_t hash = 0;
  for (const token_id t : match) {
    hash = (hash ^ to_index(t)) * 0x9E37'79B9'7F4A'7C15u;
    hash ^= hash >> 32;
  }
  return hash;
}

}  // namespace

std::size_t prompt_lookup::occurrences::place_of(std::span<const token_id> tokens,
                                                 std::span<const token_id> match) const noexcept {
  const std::size_t mask = ends_.size() - 1;
  std::size_t place = hash_of(match) & mask;
  while (ends_[place] != 0 &&
         !std::equal(match.begin(), match.end(), tokens.begin() + (ends_[place] - match_tokens_))) {
    place = (place + 1) & mask;
  }
  return place;
}

void prompt_lookup::occurrences::grow(std::span<const token_id> tokens) {
  std::vector<std::uint32_t> old(std::max<std::size_t>(16, 2 * ends_.size()), 0u);
  old.swap(ends_);
  for (const std::uint32_t end : old) {
    if (end != 0) {
      ends_[place_of(tokens, tokens.subspan(end - match_tokens_, match_tokens_))] = end;
    }
  }
}

void prompt_lookup::occurrences::add(std::span<const token_id> tokens, std::uint32_t end) {
  if (end < match_tokens_) {
    return;
  }
  if (2 * (used_ + std::size_t{1}) > ends_.size()) {
    grow(tokens);
  }
  std::uint32_t& last = ends_[place_of(tokens, tokens.subspan(end - match_tokens_, match_tokens_))];
  used_ += last == 0 ? 1 : 0;
  last = ORIEL_MUTANT(lookup_keeps_the_first) && last != 0 ? last : end;
}

std::uint32_t prompt_lookup::occurrences::find(std::span<const token_id> tokens) const noexcept {
  return ends_.empty() || tokens.size() < match_tokens_
             ? 0
             : ends_[place_of(tokens, tokens.last(match_tokens_))];
}

prompt_lookup::prompt_lookup(const lookup_options& options) : options_(options) {
  ORIEL_EXPECTS(options.match_tokens_min >= 1 && options.match_tokens_max <= 16 &&
                options.match_tokens_min <= options.match_tokens_max);
  ORIEL_EXPECTS(options.drafts_max >= 1 && options.drafts_max <= draft_tokens_max);
  for (std::uint32_t n = options.match_tokens_max; n >= options.match_tokens_min; --n) {
    occurrences_.emplace_back(n);
  }
  if (ORIEL_MUTANT(lookup_takes_the_shortest)) {
    std::reverse(occurrences_.begin(), occurrences_.end());
  }
}

void prompt_lookup::accept(std::span<const token_id> tokens) {
  for (const token_id t : tokens) {
    // What ends here can be found from now on, because something follows it.
    const auto end = static_cast<std::uint32_t>(tokens_.size());
    for (occurrences& o : occurrences_) {
      o.add(tokens_, end);
    }
    tokens_.push_back(t);
  }
}

std::size_t prompt_lookup::draft(std::span<drafted_token> out) const noexcept {
  for (const occurrences& o : occurrences_) {
    if (const std::uint32_t end = o.find(tokens_); end != 0) {
      const std::size_t count = std::min<std::size_t>(out.size(), options_.drafts_max);
      for (std::size_t i = 0; i < count; ++i) {
        const std::size_t from = end + i;
        out[i] = {.id = from < tokens_.size() ? tokens_[from] : out[from - tokens_.size()].id};
      }
      return count;
    }
  }
  return 0;
}

}  // namespace oriel
