// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Token ids for requests of which only the pages are known.
#pragma once

#include <oriel/core/ids.hpp>

#include <replay/trace.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace oriel::replay {

/// A bijection that scatters: MurmurHash3's finalizer.
[[nodiscard]] constexpr std::uint32_t scattered(std::uint32_t x) noexcept {
  x = (x ^ x >> 16) * 0x85EB'CA6Bu;
  x = (x ^ x >> 13) * 0xC2B2'AE35u;
  return x ^ x >> 16;
}

/// From one token of a page to the next.
inline constexpr std::uint32_t synthetic_step = 0x9E37'79B9u;

/// Token `offset` of page `page`: a bijection of `page` for each offset, so that two pages differ
/// everywhere and prefixes are equal exactly where pages are.
[[nodiscard]] constexpr token_id synthetic_token(std::uint32_t page,
                                                 std::uint32_t offset) noexcept {
  return token_id{scattered(page) + offset * synthetic_step};
}

/// The input of request number `index`: input_tokens tokens. What lies beyond its last page, less
/// than a page, is its alone: the trace does not say whether others share it. Overwrites `prompt`.
void make_prompt(const trace& requests, std::size_t index, std::vector<token_id>& prompt);

}  // namespace oriel::replay
