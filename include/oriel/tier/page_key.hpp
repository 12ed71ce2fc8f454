// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `page_key`: the name of one KV page outside of the process that computed it.
///
///     start   = SHA-256("oriel namespace", namespace bytes, layout bytes)    each length-prefixed
///     link(i) = SHA-256("oriel page", link(i - 1), the page's token ids)     link(-1) = start
///
/// A link commits to the tenant, the model, the arithmetic, the layout and every token up to the
/// end of its page. Hashes inside a process (core/hash.hpp) are fast and only find; these are keys
/// that others could try to forge.
#pragma once

#include <oriel/core/ids.hpp>
#include <oriel/prefix/cache_namespace.hpp>

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel {

class pool_plan;  // kv/pool_plan.hpp

/// A SHA-256 digest.
struct page_digest {
  std::array<std::byte, 32> bytes = {};

  friend auto operator<=>(const page_digest&, const page_digest&) noexcept = default;
  /// Its first 8 bytes: a hash for tables.
  [[nodiscard]] std::uint64_t prefix64() const noexcept;
};

/// One page of one pool. The full page and the window pages of the same tokens have the same link,
/// and different keys.
struct page_key {
  page_digest link;
  std::uint32_t pool = 0;  ///< 0: full; 1 + window kind

  friend auto operator<=>(const page_key&, const page_key&) noexcept = default;
};

/// What the bytes of a page look like, as far as a namespace does not say it: part of every key, so
/// that a page of another layout is a miss.
struct page_shape {
  std::uint32_t page_size = 0;  ///< tokens
  /// Per pool, the bytes of one page's slices, one slice for each layer of the pool.
  std::vector<std::vector<std::uint64_t>> slice_bytes = {};  ///< [pools][layers of the pool]
  std::vector<std::uint32_t> window_tokens = {};             ///< [window kinds]
  std::uint32_t rank = 0, ranks = 1;                         ///< of tensor parallelism
};

/// The shape of the pages of a plan's pools, the soft kind's included. @throws std::bad_alloc
[[nodiscard]] page_shape page_shape_of(const pool_plan& plan);

/// Where the chains of a namespace start. O(bytes).
[[nodiscard]] page_digest chain_start(const cache_namespace& space, const page_shape& shape);

/// Appends the links of the whole pages of `tokens` that `links` does not have yet; so a growing
/// sequence hashes each token once. About 0.3 us for 16 tokens. O(new tokens).
/// @param tokens  of the sequence, from position 0
/// @param links   [pages known already]
/// @pre   page_size > 0; links.size() <= tokens.size() / page_size
/// @throws std::bad_alloc
void extend_chain(const page_digest& start,
                  std::span<const token_id> tokens,
                  std::uint32_t page_size,
                  std::vector<page_digest>& links);

}  // namespace oriel
