// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `listing_store`: a `kv_store` that can say what it has, so that its pages can be moved.
#pragma once

#include <oriel/tier/kv_store.hpp>

#include <concepts>
#include <cstdint>
#include <span>

namespace oriel {

/// A page as it would be put again. The spans hold until the next call of the store.
struct page_listing {
  page_key key;
  page_identity identity;
  page_owner owner;
  std::uint64_t expires_us = 0;                     ///< by the store's clock; 0: never
  std::span<const std::uint64_t> slice_bytes = {};  ///< of the whole page
};

/// `next_page(cursor, page)` gives one page after another, in any order, from cursor 0 on, and
/// false when there is none left. What is put, erased or evicted meanwhile may be given or not;
/// each other page is given once. O(1) amortised.
/// Models: `memory_store`.
template <class S>
concept listing_store = kv_store<S> && requires(S& s, std::uint64_t& cursor, page_listing& page) {
  { s.next_page(cursor, page) } -> std::same_as<bool>;
};

}  // namespace oriel
