// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The worker's side: page after page as its tree tells of them, put together into `worker_event`s.
///
///     event_batch batch(worker, epoch);
///     forwarder.forward_to(listener);          // whose on_event says batch.take(event, send)
///     batch.flush(send);                       // after a step: what was put together goes out
///
/// A chunk of a prompt is stored front to back and evicted back to front; either is one event.
#pragma once

#include <oriel/prefix/events.hpp>
#include <oriel/route/worker_event.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel {

/// Numbers what it sends 1, 2, ...; the tree's own sequence numbers count pages and stay at home.
/// *Memory* 16 bytes a page that waits; allocates only when that grows.
class event_batch {
 public:
  /// @param pages_max  an event has no more @pre pages_max > 0
  explicit event_batch(worker_id worker, std::uint64_t epoch, std::size_t pages_max = 4096)
      : pages_max_(pages_max) {
    batch_.worker = worker;
    batch_.epoch = epoch;
    links_.reserve(pages_max);
  }

  /// Adds a page; first sends what waits if the page does not go on there. O(1), and O(pages) when
  /// it sends. `send(const worker_event&)` takes what it needs during the call.
  template <class Send>
  void take(const cache_event& event, Send&& send) {
    const worker_event_kind kind = kind_of(event.kind);
    if (!goes_on(event, kind)) {
      flush(send);
      batch_.kind = kind;
      batch_.tier = event.tier;
      batch_.pool = event.pool;
      batch_.first_page = event.page;
      batch_.parent = event.parent;
      goes_down_ = false;
      waits_ = true;
    } else if (links_.size() == 1) {
      goes_down_ = event.page < batch_.first_page;
    }
    if (kind == worker_event_kind::cleared) {
      return flush(send);
    }
    if (goes_down_) {
      batch_.first_page = event.page;
      batch_.parent = event.parent;
    }
    links_.push_back(event.hash);
    last_ = event.hash;
  }

  /// Adds pages that lie one behind the other, as `take` would one after the other.
  /// O(pages). @pre links.size() > 0
  /// @param first   names the page nearest to the root; its hash does not matter, its parent does
  /// @param links   of the pages, as they come: front to back, or with `goes_down` back to front
  template <class Send>
  void take_pages(const cache_event& first,
                  std::span<const chain_hash> links,
                  bool goes_down,
                  Send&& send) {
    cache_event event = first;
    for (std::size_t i = 0; i < links.size();) {
      const std::size_t above = goes_down ? links.size() - 1 - i : i;  // pages before it
      event.page = first.page + static_cast<std::uint32_t>(above);
      event.hash = links[i];
      event.parent = above == 0 ? first.parent : links[goes_down ? i + 1 : i - 1];
      take(event, send);
      ++i;
      if (links_.size() > 1 && goes_down_ != goes_down) {
        continue;
      }
      // The page is where what waits grows: the next ones go on there, as many as an event may
      // have.
      const std::size_t more = std::min(links.size() - i, pages_max_ - links_.size());
      if (more == 0) {
        continue;
      }
      const auto rest = links.subspan(i, more);
      links_.insert(links_.end(), rest.begin(), rest.end());
      i += more;
      last_ = links_.back();
      goes_down_ = goes_down;
      if (goes_down) {
        batch_.first_page -= static_cast<std::uint32_t>(more);
        batch_.parent = i == links.size() ? first.parent : links[i];
      }
    }
  }

  /// Sends what waits.
  template <class Send>
  void flush(Send&& send) {
    if (!waits_) {
      return;
    }
    waits_ = false;
    if (goes_down_) {
      std::ranges::reverse(links_);
    }
    ++batch_.sequence;
    batch_.links = links_;
    send(static_cast<const worker_event&>(batch_));
    batch_.links = {};
    links_.clear();
  }

  /// Of the last event that was sent: what a replay that is made now ends with.
  [[nodiscard]] std::uint64_t sequence() const noexcept { return batch_.sequence; }

 private:
  [[nodiscard]] static worker_event_kind kind_of(cache_event_kind kind) noexcept {
    return kind == cache_event_kind::stored    ? worker_event_kind::stored
           : kind == cache_event_kind::removed ? worker_event_kind::removed
                                               : worker_event_kind::cleared;
  }
  /// Is the page the next one, up or down the chain?
  [[nodiscard]] bool goes_on(const cache_event& event, worker_event_kind kind) const noexcept {
    if (!waits_ || kind != batch_.kind || event.tier != batch_.tier || event.pool != batch_.pool ||
        links_.size() == pages_max_) {
      return false;
    }
    const bool is_one = links_.size() == 1;
    const auto end = batch_.first_page + static_cast<std::uint32_t>(links_.size());
    const bool is_above = event.page == end && event.parent == last_;
    const bool is_below = event.page + 1 == batch_.first_page && event.hash == batch_.parent;
    return (is_above && (is_one || !goes_down_)) || (is_below && (is_one || goes_down_));
  }

  worker_event batch_;  // what waits, but for its links
  std::vector<chain_hash> links_;
  chain_hash last_;  // that was added
  std::size_t pages_max_;
  bool waits_ = false;
  bool goes_down_ = false;  // links_ lie back to front
};

}  // namespace oriel
