// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a simulated fleet knows of its caches that no router does, and the letters under way.
#pragma once

#include <oriel/core/hash.hpp>
#include <oriel/route/worker_event.hpp>

#include <cstdint>
#include <deque>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

namespace oriel::sim {

/// How many (worker, tier) have each full page of each clone: what a request computes although
/// somebody has it is a duplicate. *Memory* 2 bytes for each page of each clone.
class page_holders_count {
 public:
  void start(std::uint32_t clones, std::uint32_t pages) {
    pages_ = pages;
    counts_.assign(std::size_t{clones} * pages, 0);
  }
  void name_clone(std::uint64_t space, std::uint32_t clone) { clones_[space] = clone; }
  [[nodiscard]] std::uint32_t clone_of(std::uint64_t space) {
    if (space != last_space_) {
      last_space_ = space;
      last_clone_ = clones_.at(space);
    }
    return last_clone_;
  }
  void add(std::uint32_t clone, std::span<const std::uint32_t> pages, int change) noexcept {
    std::uint16_t* const counts = counts_.data() + std::size_t{clone} * pages_;
    for (const std::uint32_t page : pages) {
      counts[page] = static_cast<std::uint16_t>(counts[page] + change);
    }
  }
  void add(std::uint32_t clone, std::uint32_t page, int change) noexcept {
    add(clone, std::span(&page, 1), change);
  }
  [[nodiscard]] bool has(std::uint32_t clone, std::uint32_t page) const noexcept {
    return counts_[std::size_t{clone} * pages_ + page] != 0;
  }

 private:
  std::uint32_t pages_ = 0;
  std::vector<std::uint16_t> counts_;                        // [clones][pages]
  std::unordered_map<std::uint64_t, std::uint32_t> clones_;  // by a name space's digest
  std::uint64_t last_space_ = 0;
  std::uint32_t last_clone_ = 0;
};

/// What a worker said last, to be said again.
class event_log {
 public:
  static constexpr std::size_t events_max = 8192;

  void push_back(const worker_event& event) {
    if (said_.size() == events_max) {
      said_.pop_front();
    }
    said_.push_back({event, {event.links.begin(), event.links.end()}});
  }
  [[nodiscard]] bool has(std::uint64_t first, std::uint64_t end) const noexcept {
    return first >= end || (!said_.empty() && said_.front().event.sequence <= first &&
                            said_.back().event.sequence + 1 >= end);
  }
  /// @pre has(first, end)
  template <class Take>
  void repeat(std::uint64_t first, std::uint64_t end, Take&& take) const {
    for (std::uint64_t sequence = first; sequence < end; ++sequence) {
      const letter& l = said_[sequence - said_.front().event.sequence];
      worker_event event = l.event;
      event.links = l.links;
      take(static_cast<const worker_event&>(event));
    }
  }
  void clear() noexcept { said_.clear(); }

 private:
  struct letter {
    worker_event event;
    std::vector<chain_hash> links;
  };
  std::deque<letter> said_;  // sequence numbers follow each other
};

/// Things under way, each by a number until it is taken. *Memory* as many as were under way at
/// once.
template <class T>
class parcels {
 public:
  std::uint32_t keep(T thing) {
    if (free_.empty()) {
      things_.emplace_back();
      free_.push_back(static_cast<std::uint32_t>(things_.size() - 1));
    }
    const std::uint32_t number = free_.back();
    free_.pop_back();
    things_[number] = std::move(thing);
    return number;
  }
  [[nodiscard]] T take(std::uint32_t number) {
    free_.push_back(number);
    return std::move(things_[number]);
  }
  /// That there is room for: under way, and places that are free again.
  [[nodiscard]] std::size_t places() const noexcept { return things_.size(); }

 private:
  std::vector<T> things_;
  std::vector<std::uint32_t> free_;
};

/// A worker event on its way to a router.
struct letter {
  std::uint32_t router = 0;
  worker_event event;
  std::vector<chain_hash> links;

  letter() = default;
  letter(std::uint32_t to, const worker_event& of)
      : router(to), event(of), links(of.links.begin(), of.links.end()) {}
  /// With its own links.
  [[nodiscard]] worker_event opened() const {
    worker_event whole = event;
    whole.links = links;
    return whole;
  }
};

}  // namespace oriel::sim
