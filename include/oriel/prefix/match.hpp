// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The words of a prefix cache: what a match says, what a lease holds, what a publish brings.
///
/// A *boundary* is a page-aligned length L of a reusable prefix. Three lengths describe a match of
/// a prompt of N tokens:
///
///     full_tokens         F: full-attention KV is there for [0, F)
///     window_safe_tokens  S: the largest boundary <= min(F, N - 1) whose last W - 1 positions have
///                            window KV too, for every window kind: resume here at no cost
///     heal_tokens         T: floor_P(min(F, N - 1)): resume here after a heal (heal.hpp), S <= T
///
/// At least one token is always computed.
#pragma once

#include <oriel/core/ids.hpp>
#include <oriel/prefix/evict_order.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace oriel {

/// The answer of a probe. It holds nothing: the pages may be gone when it is read.
struct prefix_match {
  std::uint32_t full_tokens = 0;
  std::uint32_t window_safe_tokens = 0;
  std::uint32_t heal_tokens = 0;

  // For `pin`: where the walk ended, and whether that still stands.
  std::uint32_t node = 0xFFFF'FFFFu;
  std::uint64_t version = 0;     ///< of the tree, 0: no walk
  bool compared_tokens = false;  ///< false: hashes were believed
};

/// How much of a match to hold. An ordinary hit resumes at S: {S, S}. A heal borrows the full KV up
/// to T and the windows at S, if it starts from them: {T, S}. A recompute needs neither: {0, 0}.
struct pin_extent {
  std::uint32_t full_tokens = 0;
  std::uint32_t window_tokens = 0;
  /// False: for a request that will pin for itself once its pages are fetched. Counts as no hit.
  bool is_hit = true;

  [[nodiscard]] static constexpr pin_extent hit(const prefix_match& m) noexcept {
    return {m.window_safe_tokens, m.window_safe_tokens};
  }
  [[nodiscard]] static constexpr pin_extent heal(const prefix_match& m) noexcept {
    return {m.heal_tokens, m.window_safe_tokens};
  }
};

/// Handles of borrowed pages; reuse one object to reuse its memory.
struct borrowed_pages {
  std::vector<page_handle> full;  ///< pages [0, full_tokens / page_size)
  /// Per window kind, the pages [first needed, window_tokens / page_size).
  std::vector<std::vector<page_handle>> windows;
};

/// Window pages of one kind: logical pages [first_page, first_page + pages.size()). A null handle
/// offers nothing.
struct window_page_span {
  std::uint32_t first_page = 0;
  std::span<const page_handle> pages = {};
};

/// What a sequence offers to the cache: whole, committed pages. The window pages may reach below
/// first_page (a heal brings back those of a boundary that is already cached).
struct publish_source {
  std::uint32_t first_page = 0;  ///< logical page of full[0]; <= what the lease holds
  std::span<const page_handle> full = {};
  std::span<const window_page_span> windows =
      {};  ///< [window kinds]; pages beyond the last full one: none
  /// Keep the windows at the end. False for a publish in the middle of a prompt, whose path goes on
  /// in a moment: it hangs only what the retention policy keeps, and so pushes nothing out.
  bool keeps_tail = true;
  /// The caller's references go over to the cache: it releases none of these pages itself.
  bool is_gift = false;
};

struct publish_outcome {
  std::uint32_t tokens = 0;        ///< now cached, from position 0; the lease holds all of it
  std::uint32_t full_pages = 0;    ///< of them new
  std::uint32_t window_pages = 0;  ///< new
  /// Pages that were there already, under another id: the cache kept its own.
  std::uint32_t switched_pages = 0;
};

/// How the holder of a lease ends.
struct lease_end {
  request_end ended = request_end::unknown;
  std::uint64_t expected_us = no_forecast;  ///< when it expects to be continued
  std::uint64_t duration_us = 0;            ///< how long its request ran; 0: unknown
};

/// What `evict` freed, or what is free as soon as a listener has copied it (events.hpp).
struct evicted_pages {
  std::uint32_t full = 0;
  std::uint32_t window = 0;  ///< of all kinds

  friend bool operator==(const evicted_pages&, const evicted_pages&) = default;
};

/// Plain counts since construction.
struct prefix_counters {
  std::uint64_t pins = 0;
  std::uint64_t full_hits = 0;       ///< leases that hold full pages
  std::uint64_t window_hits = 0;     ///< of them, those that resume at a window-safe boundary
  std::uint64_t heals = 0;           ///< of them, those that heal
  std::uint64_t hit_tokens = 0;      ///< full tokens leased
  std::uint64_t healed_tokens = 0;   ///< of them, beyond the window-safe boundary
  std::uint64_t clipped_tokens = 0;  ///< full-valid below N, but not leased
  std::uint64_t evicted_full_pages = 0;
  std::uint64_t evicted_window_pages = 0;  ///< alone, for room in their pool
  std::uint64_t dropped_window_pages = 0;  ///< along with their full page
  std::uint64_t switched_pages = 0;
};

}  // namespace oriel
