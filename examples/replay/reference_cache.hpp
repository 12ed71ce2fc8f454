// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Reference hit rates: what simple caches of whole pages reach on a trace. They share no code with
/// the library's tree, which is judged by them.
///
/// All follow one procedure: a request counts the longest leading run of its pages that are
/// present, then touches all its pages, last to first. It hits min(run * page_tokens, input_tokens)
/// tokens. A request larger than the cache streams through it. Time plays no part, nor do outputs.
#pragma once

#include <replay/trace.hpp>

#include <cstdint>

namespace oriel::replay {

/// Hits over all requests.
struct hit_count {
  std::uint64_t hit_tokens = 0;
  std::uint64_t input_tokens = 0;

  [[nodiscard]] double rate() const noexcept {
    return input_tokens == 0 ? 0.0
                             : static_cast<double>(hit_tokens) / static_cast<double>(input_tokens);
  }
};

/// A cache that forgets nothing. O(page touches).
[[nodiscard]] hit_count infinite_cache(const trace& requests);

/// Forgets the page least recently touched. O(page touches); 8 bytes per distinct page.
[[nodiscard]] hit_count lru_cache(const trace& requests, std::uint32_t capacity_pages);

/// Knows the future: of all pages, the request's own included, it forgets those that are needed
/// again last, or never; of these the deepest in the request that will need them. O(page touches)
/// in practice; 4 bytes per distinct page.
[[nodiscard]] hit_count clairvoyant_cache(const trace& requests, std::uint32_t capacity_pages);

}  // namespace oriel::replay
