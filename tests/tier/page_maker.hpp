// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Pages by number, and one item from start to end, for tests of stores.
#pragma once

#include <oriel/tier/kv_store.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace page_maker {

inline constexpr std::uint32_t page_size = 4;

struct page {
  oriel::page_key key;
  oriel::page_digest name_space, parent;
  std::uint32_t first_token = 0;
  std::vector<oriel::token_id> tokens;

  [[nodiscard]] oriel::page_identity identity() const {
    return {
        .name_space = name_space, .parent = parent, .first_token = first_token, .tokens = tokens};
  }
};

/// A digest of a number: no SHA, tests make millions.
inline oriel::page_digest digest_of(std::uint64_t number) {
  oriel::page_digest digest;
  for (std::size_t i = 0; i < 4; ++i) {
    number = (number + 0x9E37'79B9'7F4A'7C15u) * 0xBF58'476D'1CE4'E5B9u;
    number ^= number >> 31;
    std::memcpy(digest.bytes.data() + 8 * i, &number, 8);
  }
  return digest;
}

/// The first `count` pages of chain `number`, of pool 0.
inline std::vector<page> chain(std::uint32_t number, std::uint32_t count) {
  std::vector<page> pages(count);
  const std::uint64_t base = std::uint64_t{number} << 32;
  for (std::uint32_t i = 0; i < count; ++i) {
    pages[i].key.link = digest_of(base + i + 1);
    pages[i].name_space = digest_of(~std::uint64_t{0});
    pages[i].parent = i == 0 ? pages[i].name_space : pages[i - 1].key.link;
    pages[i].first_token = i * page_size;
    pages[i].tokens.assign(page_size, oriel::token_id{number});
  }
  return pages;
}

}  // namespace page_maker

/// Submits one item, of bytes that depend on the key, and waits for it. A get that is `done` with
/// other bytes is said to be `corrupt`.
template <oriel::kv_store Store>
oriel::store_outcome run_one(Store& store,
                             oriel::store_op op,
                             const page_maker::page& page,
                             const std::vector<std::uint64_t>& slice_bytes,
                             oriel::page_owner owner = {},
                             std::uint64_t deadline_us = oriel::no_deadline) {
  const auto fill = static_cast<int>(page.key.link.prefix64() + page.key.pool) & 0xFF;
  std::vector<std::vector<std::byte>> bytes;
  std::vector<std::span<std::byte>> slices;
  for (const std::uint64_t size : slice_bytes) {
    bytes.emplace_back(size, op == oriel::store_op::put ? std::byte(fill) : std::byte(~fill));
  }
  slices.assign(bytes.begin(), bytes.end());
  const oriel::page_identity identity = page.identity();
  const oriel::store_item item{
      .op = op, .key = page.key, .identity = &identity, .slices = slices, .owner = owner};
  while (store.submit({&item, 1}, deadline_us) == 0) {
  }
  oriel::store_completion done;
  while (store.poll({&done, 1}) == 0) {
    store.wait(oriel::no_deadline);
  }
  if (op == oriel::store_op::get && done.outcome == oriel::store_outcome::done) {
    for (const auto& slice : bytes) {
      for (const std::byte b : slice) {
        if (b != std::byte(fill)) {
          return oriel::store_outcome::corrupt;
        }
      }
    }
  }
  return done.outcome;
}
