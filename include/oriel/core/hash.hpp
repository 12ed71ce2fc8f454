// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Hashes that *find* cached prefixes; tokens decide. All are XXH3 (Y. Collet, xxHash 0.8), which
/// is fast and not keyed: whoever can choose tokens can make collisions, and gains a slower probe,
/// not a wrong hit. Keys that leave the process need more than this.
#pragma once

#include <oriel/core/ids.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

namespace oriel {

/// 128 bits that stand for a namespace and every token up to the end of a page.
struct chain_hash {
  std::uint64_t low = 0;
  std::uint64_t high = 0;

  friend constexpr bool operator==(chain_hash, chain_hash) noexcept = default;
};

/// XXH3, 64 bits. O(bytes).
[[nodiscard]] std::uint64_t hash64(std::span<const std::byte> bytes,
                                   std::uint64_t seed = 0) noexcept;

/// XXH3, 128 bits: where a chain starts. O(bytes).
[[nodiscard]] chain_hash hash128(std::span<const std::byte> bytes) noexcept;

/// The next link: `parent` and one page of tokens. O(page_tokens.size()).
[[nodiscard]] chain_hash next_link(chain_hash parent,
                                   std::span<const token_id> page_tokens) noexcept;

/// The links of all whole pages of `tokens`. O(tokens.size()).
/// @param out  [tokens.size() / page_size]
/// @pre page_size > 0, out.size() == tokens.size() / page_size
void hash_pages(chain_hash start,
                std::span<const token_id> tokens,
                std::uint32_t page_size,
                std::span<chain_hash> out) noexcept;

}  // namespace oriel
