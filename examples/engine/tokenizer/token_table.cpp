// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/tokenizer/token_table.hpp>

#include <algorithm>
#include <bit>
#include <cstring>

namespace oriel::engine {
namespace {

constexpr std::uint32_t empty_slot = 0xFFFF'FFFFu;

// Folds the 128-bit product of two words: each bit of the result depends on all bits of both.
std::uint64_t mix(std::uint64_t a, std::uint64_t b) noexcept {
  __extension__ using wide = unsigned __int128;
  const wide product = wide{a} * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

std::uint64_t load_up_to_8(const char* from, std::size_t count) noexcept {
  std::uint64_t word = 0;
  std::memcpy(&word, from, count);
  return word;
}
}  // namespace

std::uint64_t hash_bytes(std::string_view bytes) noexcept {
  constexpr std::uint64_t odd = 0x9E37'79B9'7F4A'7C15u;
  std::uint64_t h = bytes.size() * odd;
  const char* at = bytes.data();
  std::size_t left = bytes.size();
  for (; left >= 8; at += 8, left -= 8) {
    h = mix(h ^ load_up_to_8(at, 8), odd);
  }
  if (left > 0) {
    h = mix(h ^ load_up_to_8(at, left), odd);
  }
  return mix(h, odd);
}

void token_table::push_back(std::string_view token) {
  text_.append(token);
  ends_.push_back(text_.size());
}

token_index::token_index(std::size_t count) {
  slots_.resize(std::bit_ceil(std::max<std::size_t>(2 * count, 16)));
  mask_ = slots_.size() - 1;
}

bool token_index::insert(const token_table& table, std::uint32_t id) {
  const std::string_view token = table[id];
  const std::uint64_t hash = hash_bytes(token);
  const auto tag = static_cast<std::uint32_t>(hash >> 32);
  for (std::uint64_t i = hash & mask_;; i = (i + 1) & mask_) {
    slot& s = slots_[i];
    if (s.id == empty_slot) {
      s = {id, tag};
      return true;
    }
    if (s.tag == tag && table[s.id] == token) {
      return false;
    }
  }
}

std::optional<std::uint32_t> token_index::find(const token_table& table,
                                               std::string_view token) const noexcept {
  if (slots_.empty()) {
    return std::nullopt;
  }
  const std::uint64_t hash = hash_bytes(token);
  const auto tag = static_cast<std::uint32_t>(hash >> 32);
  for (std::uint64_t i = hash & mask_;; i = (i + 1) & mask_) {
    const slot& s = slots_[i];
    if (s.id == empty_slot) {
      return std::nullopt;
    }
    if (s.tag == tag && table[s.id] == token) {
      return s.id;
    }
  }
}

}  // namespace oriel::engine
