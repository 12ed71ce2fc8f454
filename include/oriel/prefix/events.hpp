// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a prefix cache tells those who mirror it (a router, a lower tier).
#pragma once

#include <oriel/core/hash.hpp>
#include <oriel/core/ids.hpp>

#include <concepts>
#include <cstdint>
#include <span>

namespace oriel {

enum class cache_event_kind : std::uint8_t {
  stored,   ///< a page can be found
  removed,  ///< it no longer can
  cleared,  ///< nothing can; the pages have no events of their own
};

/// One page came or went. A mirror that starts empty and replays all events holds exactly what the
/// cache holds; a gap in the sequence numbers means that events were lost.
struct cache_event {
  std::uint64_t sequence = 0;  ///< 1, 2, ... in the order of the changes
  cache_event_kind kind = cache_event_kind::stored;
  std::uint8_t tier = 0;   ///< 0: device pools
  std::uint32_t pool = 0;  ///< 0: full pool; 1 + window kind
  std::uint32_t page = 0;  ///< logical page: its tokens start at page * page_size
  chain_hash space = {};   ///< digest of the namespace
  chain_hash hash = {};    ///< of the namespace and all tokens up to the end of the page
  chain_hash parent = {};  ///< of the page before; of the namespace for page 0
  std::span<const token_id> tokens = {};  ///< [page_size], of the page; valid during the call
  /// The page in its pool; its bytes are there during the call, also of one that is removed. For a
  /// lower tier, which takes a reference if it wants to copy them.
  page_handle handle = {};
  bool is_drop = false;   ///< removed because its namespace was dropped, not for room
  page_handle full = {};  ///< the full page that a window page hangs below; of a full page: itself
  page_handle parent_full = {};  ///< the full page before it; null for page 0
};

/// Full pages of one path, one behind the other, that came or went in one go.
struct cache_event_stretch {
  std::uint64_t sequence = 0;                        ///< of the first; each page has one
  cache_event_kind kind = cache_event_kind::stored;  ///< or removed
  std::uint32_t page = 0;  ///< logical page of the one nearest to the root
  chain_hash space = {};   ///< digest of the namespace
  /// As single events would name them: stored ones front to back, removed ones back to front.
  std::span<const page_handle> full = {};
  page_handle parent_full = {};  ///< the full page before logical page `page`; null: there is none
  /// [full.size() * page_size], of stored ones; of removed ones none. Valid during the call.
  std::span<const token_id> tokens = {};
};

/// Takes events, in the thread that changes the cache; it must not call back. If `enabled` is false
/// none are made and no hashes are needed. A sink that takes references may have
/// `bool lets_go_soon(pool, page) noexcept`: asked when the cache let go of a page that others
/// hold, it says whether that is the sink alone, for a while; then an eviction counts the page as
/// freed. Who stands between the cache and such a sink hands that question on too. A sink that goes
/// by tokens and handles alone may have `static constexpr bool needs_hashes = false`: then events
/// have none, and the cache need not keep any. A sink without `lets_go_soon` may have
/// `void take_stretch(const cache_event_stretch&) noexcept`: then full pages that are published or
/// evicted come so, and not page by page; what else there is to tell still does.
// clang-format off
template <class S>
concept event_sink = requires(S& s, const cache_event& event) {
  { S::enabled } -> std::convertible_to<bool>;
  { s(event) } noexcept;
};
// clang-format on

/// Does a sink look at the hashes of an event?
template <class S>
inline constexpr bool needs_hashes_v = [] {
  if constexpr (requires { S::needs_hashes; }) {
    return static_cast<bool>(S::needs_hashes);
  } else {
    return true;
  }
}();

/// Is a sink asked about pages that others hold?
template <class S>
inline constexpr bool has_leaving_pages_v = requires(S& s) {
  s.lets_go_soon(std::uint32_t{}, page_handle{});
};

/// Does a sink take full pages in stretches?
template <class S>
inline constexpr bool takes_stretches_v =
    !has_leaving_pages_v<S> && requires(S & s, const cache_event_stretch& stretch) {
  s.take_stretch(stretch);
};

/// Nobody listens.
struct no_events {
  static constexpr bool enabled = false;
  void operator()(const cache_event&) noexcept {}
};

/// Hands events on to an object that is known at run time; to nobody while there is none. Who looks
/// at no hashes takes the one below, and the cache keeps none.
struct event_forwarder {
  static constexpr bool enabled = true;
  void* object = nullptr;
  void (*take)(void* object, const cache_event& event) noexcept = nullptr;
  bool (*ask)(void* object, std::uint32_t pool, page_handle page) noexcept = nullptr;

  /// To `listener.on_event(event)`, from now on. A cache that goes tells nobody; a listener that
  /// goes before is taken out first.
  template <class Listener>
  void forward_to(Listener& listener) noexcept {
    object = &listener;
    take = [](void* to, const cache_event& event) noexcept {
      static_cast<Listener*>(to)->on_event(event);
    };
    ask = nullptr;
    if constexpr (requires { listener.lets_go_soon(std::uint32_t{}, page_handle{}); }) {
      ask = [](void* of, std::uint32_t pool, page_handle page) noexcept {
        return static_cast<Listener*>(of)->lets_go_soon(pool, page);
      };
    }
  }
  /// To nobody, if it was to this one.
  template <class Listener>
  void stop_forwarding_to(const Listener& listener) noexcept {
    if (object == &listener) {
      object = nullptr;
      take = nullptr;
      ask = nullptr;
    }
  }
  void operator()(const cache_event& event) const noexcept {
    if (take != nullptr) {
      take(object, event);
    }
  }
  [[nodiscard]] bool lets_go_soon(std::uint32_t pool, page_handle page) const noexcept {
    return ask != nullptr && ask(object, pool, page);
  }
};

/// The same without hashes, to a listener that says `static constexpr bool needs_hashes = false`:
/// tiers do.
struct unhashed_forwarder : event_forwarder {
  static constexpr bool needs_hashes = false;

  template <class Listener>
  requires(!needs_hashes_v<Listener>) void forward_to(Listener& listener) noexcept {
    event_forwarder::forward_to(listener);
  }
};

static_assert(event_sink<no_events> && event_sink<event_forwarder> &&
              event_sink<unhashed_forwarder>);

}  // namespace oriel
