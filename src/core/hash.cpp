// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/hash.hpp>

#define XXH_INLINE_ALL  // Header only: the library needs nothing at link time.
#include <xxhash.h>

namespace oriel {

std::uint64_t hash64(std::span<const std::byte> bytes, std::uint64_t seed) noexcept {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

chain_hash hash128(std::span<const std::byte> bytes) noexcept {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.low64, hash.high64};
}

chain_hash next_link(chain_hash parent, std::span<const token_id> page_tokens) noexcept {
  // One pass over the tokens; the parent's other half is stirred in by a second, short one.
  const XXH128_hash_t page =
      XXH3_128bits_withSeed(page_tokens.data(), page_tokens.size_bytes(), parent.low);
  const std::uint64_t link[4] = {page.low64, page.high64, parent.low, parent.high};
  const XXH128_hash_t hash = XXH3_128bits(link, sizeof link);
  return {hash.low64, hash.high64};
}

void hash_pages(chain_hash start,
                std::span<const token_id> tokens,
                std::uint32_t page_size,
                std::span<chain_hash> out) noexcept {
  ORIEL_EXPECTS(page_size > 0 && out.size() == tokens.size() / page_size);
  for (std::size_t page = 0; page < out.size(); ++page) {
    start = next_link(start, tokens.subspan(page * page_size, page_size));
    out[page] = start;
  }
}

}  // namespace oriel
