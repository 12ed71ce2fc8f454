// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `sampled_set`: the runs of an eviction order that ranks a random sample of them.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/prefix/detail/lazy_array.hpp>
#include <oriel/prefix/evict_order.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace oriel::detail {

/// What ranks a run lies densely, a few runs to a cache line, and a sample is a number of whole
/// lines:
///
///     entries, by place   | 7 2 9 4 | 0 8 3 6 | 1 5          in random order, no gaps
///     places, by run id     4 8 1 6 3 9 7 0 5 2  (+ 1; 0: not inside)
///
/// An entry goes in at a random place, and who was there moves to the end; the last one fills the
/// place of one that goes out. So neighbours have nothing in common, whatever came when, and a line
/// is as good as so many single draws. The lines are cut into as many equal parts as are drawn, one
/// from each; the line that is not full is drawn as often as the others, and so favours nobody.
/// While all are looked at, nothing is drawn: new entries go to the end.
///
/// Deterministic: a seed and the calls fix every sample. Every call is O(1). Memory: 4 bytes for
/// each run id up to the largest that was used, and an entry for each run that was inside at once.
///
/// @tparam Entry  has a member `run_id run`; its size divides a cache line
template <class Entry>
class sampled_set {
  static constexpr std::uint32_t line_bytes = 64;
  static constexpr std::uint32_t line_entries = line_bytes / sizeof(Entry);
  static_assert(line_bytes % sizeof(Entry) == 0);

 public:
  static constexpr std::uint32_t sampled_runs = 64;

  /// @throws std::bad_alloc
  sampled_set(std::uint32_t max_runs, std::uint64_t seed)
      : places_(max_runs), entries_(max_runs), random_(seed != 0 ? seed : 1) {}

  [[nodiscard]] bool contains(run_id run) const noexcept { return places_[to_index(run)] != 0; }
  /// @pre contains(run)
  [[nodiscard]] Entry& operator[](run_id run) noexcept {
    return entries_[places_[to_index(run)] - 1];
  }
  [[nodiscard]] const Entry& operator[](run_id run) const noexcept {
    return entries_[places_[to_index(run)] - 1];
  }

  void insert(const Entry& entry) noexcept {
    ORIEL_EXPECTS(!contains(entry.run));
    const std::uint32_t last = count_++;
    const std::uint32_t place = count_ <= sampled_runs ? last : draw_below(count_);
    if (place != last) {
      put(entries_[place], last);
    }
    put(entry, place);
  }

  /// No effect if not inside.
  void erase(run_id run) noexcept {
    if (contains(run)) {
      const std::uint32_t place = places_[to_index(run)] - 1;
      put(entries_[--count_], place);
      places_[to_index(run)] = 0;
    }
  }

  /// The run of the lowest rank(const Entry&) among about `sampled_runs`: all, if there are no more
  /// than that; null_run if there is none.
  template <class Rank>
  [[nodiscard]] run_id lowest(Rank&& rank) noexcept {
    std::array<std::uint32_t, sampled_lines> sample;
    const std::uint32_t lines = (count_ + line_entries - 1) / line_entries;
    const std::uint32_t looks = std::min(lines, sampled_lines);
    for (std::uint32_t i = 0; i < looks; ++i) {  // First all draws: their misses may overlap.
      sample[i] = (lines <= sampled_lines ? i : draw_of_part(i, lines)) * line_entries;
      __builtin_prefetch(&entries_[sample[i]]);
    }
    run_id lowest = null_run;
    decltype(rank(entries_[0])) least{};
    for (std::uint32_t i = 0; i < looks; ++i) {
      const std::uint32_t end = std::min(sample[i] + line_entries, count_);
      for (std::uint32_t place = sample[i]; place < end; ++place) {
        const auto its = rank(entries_[place]);
        if (lowest == null_run || its < least) {
          lowest = entries_[place].run;
          least = its;
        }
      }
    }
    return lowest;
  }

 private:
  static constexpr std::uint32_t sampled_lines = sampled_runs / line_entries;
  static_assert(std::has_single_bit(sampled_lines));

  void put(const Entry& entry, std::uint32_t place) noexcept {
    entries_[place] = entry;
    places_[to_index(entry.run)] = place + 1;
  }

  [[nodiscard]] std::uint64_t draw() noexcept {
    random_ ^= random_ << 13;  // xorshift64, G. Marsaglia 2003.
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return random_;
  }
  [[nodiscard]] std::uint32_t draw_below(std::uint32_t bound) noexcept {
    return static_cast<std::uint32_t>(((draw() >> 32) * bound) >> 32);
  }
  // A line of the i-th of `sampled_lines` equal parts.
  [[nodiscard]] std::uint32_t draw_of_part(std::uint32_t i, std::uint32_t lines) noexcept {
    constexpr int part_bits = std::bit_width(sampled_lines) - 1;
    const std::uint64_t at = std::uint64_t{i} << (32 - part_bits) | draw() >> (32 + part_bits);
    return static_cast<std::uint32_t>(at * lines >> 32);
  }

  lazy_array<std::uint32_t> places_;  // [max_runs]
  lazy_array<Entry> entries_;         // [max_runs], count_ of them in use
  std::uint32_t count_ = 0;
  std::uint64_t random_;
};

}  // namespace oriel::detail
