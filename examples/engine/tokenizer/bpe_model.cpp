// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/tokenizer/bpe_model.hpp>

#include <algorithm>
#include <bit>

namespace oriel::engine {
namespace {

// Up to here a scan for the lowest rank beats a heap.
constexpr std::size_t short_word_symbols = 48;
constexpr std::uint32_t no_rank = 0xFFFF'FFFFu;

enum : std::uint8_t { whole_unknown = 0, whole_yes = 1, whole_no = 2 };

constexpr std::uint64_t pair_of(std::uint32_t left, std::uint32_t right) {
  return (std::uint64_t{left} << 32) | right;
}

constexpr std::uint64_t hash_pair(std::uint64_t pair) {
  std::uint64_t h = pair * 0x9E37'79B9'7F4A'7C15u;
  h ^= h >> 32;
  h *= 0xD6E8'FEB8'6659'FD93u;
  return h ^ (h >> 32);
}
}  // namespace

bpe_model::bpe_model(const bpe_vocabulary& vocabulary)
    : tokens_(&vocabulary.tokens),
      words_(vocabulary.tokens.size()),
      unknown_(vocabulary.unknown),
      fuse_unknown_(vocabulary.fuse_unknown),
      ignore_merges_(vocabulary.ignore_merges),
      is_whole_(new std::atomic<std::uint8_t>[vocabulary.tokens.size()]) {
  byte_tokens_.fill(no_token);
  for (std::uint32_t id = 0; id < vocabulary.tokens.size(); ++id) {
    is_whole_[id].store(whole_unknown, std::memory_order_relaxed);
    const std::string_view bytes = (*tokens_)[id];
    if (!vocabulary.in_alphabet[id] || bytes.empty()) {
      continue;
    }
    words_.insert(*tokens_, id);
    if (bytes.size() == 1) {
      byte_tokens_[static_cast<unsigned char>(bytes[0])] = id;
    }
  }
  pairs_.resize(std::bit_ceil(std::max<std::size_t>(2 * vocabulary.merges.size(), 16)));
  pair_mask_ = pairs_.size() - 1;
  for (std::size_t rank = 0; rank < vocabulary.merges.size(); ++rank) {
    const bpe_merge& m = vocabulary.merges[rank];
    const std::uint64_t pair = pair_of(m.left, m.right);
    std::uint64_t i = hash_pair(pair) & pair_mask_;
    while (pairs_[i].pair != ~std::uint64_t{0} && pairs_[i].pair != pair) {
      i = (i + 1) & pair_mask_;
    }
    pairs_[i] = {pair, static_cast<std::uint32_t>(rank), m.merged};  // A repeated pair: the last.
  }
}

const bpe_model::pair_entry* bpe_model::find_pair(std::uint32_t left,
                                                  std::uint32_t right) const noexcept {
  const std::uint64_t pair = pair_of(left, right);
  for (std::uint64_t i = hash_pair(pair) & pair_mask_;; i = (i + 1) & pair_mask_) {
    if (pairs_[i].pair == pair) {
      return &pairs_[i];
    }
    if (pairs_[i].pair == ~std::uint64_t{0}) {
      return nullptr;
    }
  }
}

void bpe_model::encode(std::string_view word,
                       scratch& space,
                       std::vector<std::uint32_t>& out) const {
  const std::optional<std::uint32_t> id = words_.find(*tokens_, word);
  if (!id) {
    encode_by_merges(word, space);
    out.insert(out.end(), space.ids.begin(), space.ids.end());
    return;
  }
  std::uint8_t whole =
      ignore_merges_ ? std::uint8_t{whole_yes} : is_whole_[*id].load(std::memory_order_relaxed);
  if (whole == whole_yes) {
    out.push_back(*id);
    return;
  }
  encode_by_merges(word, space);
  if (whole == whole_unknown) {
    whole = space.ids.size() == 1 && space.ids[0] == *id ? whole_yes : whole_no;
    is_whole_[*id].store(whole, std::memory_order_relaxed);
  }
  out.insert(out.end(), space.ids.begin(), space.ids.end());
}

// Leaves the tokens of `word` in space.ids.
void bpe_model::encode_by_merges(std::string_view word, scratch& space) const {
  start_symbols(word, space.ids);
  if (space.ids.size() <= short_word_symbols) {
    merge_short(space);
  } else {
    merge_long(space);
  }
}

// One symbol per byte; a byte without a token becomes the unknown token, or nothing.
void bpe_model::start_symbols(std::string_view word, std::vector<std::uint32_t>& ids) const {
  ids.clear();
  bool after_unknown = false;
  for (const char c : word) {
    const std::uint32_t id = byte_tokens_[static_cast<unsigned char>(c)];
    if (id != no_token) {
      ids.push_back(id);
      after_unknown = false;
    } else if (unknown_ != no_token && !(after_unknown && fuse_unknown_)) {
      ids.push_back(unknown_);
      after_unknown = true;
    }
  }
}

// Again and again, the pair of lowest rank, the leftmost of equals. O(n^2), in two flat arrays.
void bpe_model::merge_short(scratch& space) const {
  std::vector<std::uint32_t>& ids = space.ids;
  std::vector<std::uint32_t>& ranks = space.ranks;  // ranks[i]: of the pair (i, i + 1)
  const auto rank_at = [&](std::size_t i) {
    const pair_entry* entry = find_pair(ids[i], ids[i + 1]);
    return entry != nullptr ? entry->rank : no_rank;
  };
  ranks.clear();
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
    ranks.push_back(rank_at(i));
  }
  while (!ranks.empty()) {
    const auto lowest = std::min_element(ranks.begin(), ranks.end());
    if (*lowest == no_rank) {
      return;
    }
    const auto i = static_cast<std::size_t>(lowest - ranks.begin());
    ids[i] = find_pair(ids[i], ids[i + 1])->merged;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    ranks.erase(lowest);
    if (i > 0) {
      ranks[i - 1] = rank_at(i - 1);
    }
    if (i < ranks.size()) {
      ranks[i] = rank_at(i);
    }
  }
}

void bpe_model::push_candidate(scratch& space, std::uint32_t at) const {
  const scratch::symbol& s = space.symbols[at];
  if (s.next == no_token) {
    return;
  }
  if (const pair_entry* entry = find_pair(s.id, space.symbols[s.next].id)) {
    space.heap.push_back({entry->rank, at, entry->merged});
    std::push_heap(space.heap.begin(), space.heap.end());
  }
}

// The same order by a heap over a linked list. A candidate may be stale when it comes up: one of
// its two symbols has been merged meanwhile. Each merge adds at most two candidates: O(n log n).
void bpe_model::merge_long(scratch& space) const {
  std::vector<scratch::symbol>& symbols = space.symbols;
  const auto count = static_cast<std::uint32_t>(space.ids.size());
  symbols.clear();
  space.heap.clear();
  for (std::uint32_t i = 0; i < count; ++i) {
    symbols.push_back({space.ids[i], i - 1, i + 1 < count ? i + 1 : no_token});
  }
  for (std::uint32_t i = 0; i < count; ++i) {
    push_candidate(space, i);
  }
  while (!space.heap.empty()) {
    std::pop_heap(space.heap.begin(), space.heap.end());
    const scratch::candidate c = space.heap.back();
    space.heap.pop_back();
    scratch::symbol& left = symbols[c.at];
    if (left.id == no_token || left.next == no_token) {
      continue;
    }
    scratch::symbol& right = symbols[left.next];
    const pair_entry* entry = find_pair(left.id, right.id);
    if (entry == nullptr || entry->rank != c.rank) {
      continue;
    }
    left.id = c.merged;
    left.next = right.next;
    right.id = no_token;
    if (left.next != no_token) {
      symbols[left.next].previous = c.at;
    }
    push_candidate(space, c.at);
    if (left.previous != no_token) {
      push_candidate(space, left.previous);
    }
  }
  space.ids.clear();
  for (std::uint32_t i = 0; i != no_token; i = symbols[i].next) {
    space.ids.push_back(symbols[i].id);
  }
}

}  // namespace oriel::engine
