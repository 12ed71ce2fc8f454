// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/output/token_history.hpp>

#include <algorithm>

namespace oriel {
namespace {

/// Where a token's place may be, the first of them.
std::size_t first_slot(token_id id, std::size_t slots) noexcept {
  return static_cast<std::size_t>((to_index(id) * std::uint64_t{0x9E37'79B9'7F4A'7C15u}) >> 32) &
         (slots - 1);
}

}  // namespace

void token_history::grow() {
  places_.assign(std::max<std::size_t>(16, 2 * places_.size()), 0u);
  for (std::uint32_t i = 0; i < uses_.size(); ++i) {
    std::size_t slot = first_slot(uses_[i].id, places_.size());
    while (places_[slot] != 0) {
      slot = (slot + 1) & (places_.size() - 1);
    }
    places_[slot] = i + 1;
  }
}

token_use& token_history::use_of(token_id id) {
  if (2 * (uses_.size() + 1) > places_.size()) {
    grow();
  }
  std::size_t slot = first_slot(id, places_.size());
  while (places_[slot] != 0) {
    if (token_use& use = uses_[places_[slot] - 1]; use.id == id) {
      return use;
    }
    slot = (slot + 1) & (places_.size() - 1);
  }
  uses_.push_back({.id = id, .outputs = 0});
  places_[slot] = static_cast<std::uint32_t>(uses_.size());
  return uses_.back();
}

void token_history::add_prompt(std::span<const token_id> tokens) {
  for (const token_id id : tokens) {
    (void)use_of(id);
  }
}

void token_history::add_output(token_id id) {
  ++use_of(id).outputs;
}

}  // namespace oriel
