// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// core/hash.hpp with 4 bits. The linker takes these instead of the library's: a program with them
// meets a collision at every turn, and must still be right.
#include <oriel/core/hash.hpp>

namespace oriel {
namespace {

std::uint64_t weak(std::span<const std::byte> bytes, std::uint64_t seed) noexcept {
  std::uint64_t h = seed;
  for (const std::byte b : bytes) {
    h = (h ^ static_cast<std::uint64_t>(b)) * 0x0000'0100'0000'01B3u;
  }
  return (h ^ h >> 32) & 0xF;
}

}  // namespace

std::uint64_t hash64(std::span<const std::byte> bytes, std::uint64_t seed) noexcept {
  return weak(bytes, seed);
}

chain_hash hash128(std::span<const std::byte> bytes) noexcept {
  return {weak(bytes, 1), 0};
}

chain_hash next_link(chain_hash parent, std::span<const token_id> page_tokens) noexcept {
  return {weak(std::as_bytes(page_tokens), parent.low), 0};
}

void hash_pages(chain_hash start,
                std::span<const token_id> tokens,
                std::uint32_t page_size,
                std::span<chain_hash> out) noexcept {
  for (std::size_t page = 0; page < out.size(); ++page) {
    start = next_link(start, tokens.subspan(page * page_size, page_size));
    out[page] = start;
  }
}

}  // namespace oriel
