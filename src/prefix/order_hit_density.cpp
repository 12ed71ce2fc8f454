// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/prefix/order_hit_density.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

namespace oriel {
namespace {

constexpr std::uint64_t second_us = 1'000'000;

// Before anything is learned: a run that was not hit by age t is hit at the rate 0.3 / (t + 10 s).
// Any falling hazard would do: it makes a new order behave like LRU.
constexpr double first_shape = 0.3, first_scale_s = 10.0;

// What a wider class says counts as much as this many runs of the class itself.
constexpr double prior_runs = 5.0;

// Once in `classes` / `classes_refreshed` insertions; after 20,000 of them a count weighs 1 / e.
constexpr float decay = 0.9942F;

/// 0: below `first_s` seconds; then one for each factor of 2^step_bits; `buckets` - 1: all above.
std::uint32_t bucket_of(std::uint64_t us,
                        std::uint64_t first_s,
                        std::uint32_t step_bits,
                        std::uint32_t buckets) noexcept {
  std::uint32_t bucket = 0;
  for (std::uint64_t end_us = first_s * second_us; bucket + 1 < buckets && us >= end_us;
       end_us <<= step_bits) {
    ++bucket;
  }
  return bucket;
}

}  // namespace

hit_density_order::hit_density_order(std::uint32_t max_runs, std::uint64_t seed)
    : inside_(max_runs, seed),
      remains_(max_runs),
      exits_(std::size_t{classes} * bins),
      hazard_(std::size_t{classes} * bins),
      density_(std::size_t{classes} * bins) {
  for (std::uint32_t c = 0; c < classes; ++c) {
    refresh(c);
  }
}

void hit_density_order::insert(run_id run, const run_facts& facts) noexcept {
  inside_.insert({.since_us = facts.ended_us,
                  .run = run,
                  .class_index = static_cast<std::uint16_t>(class_of(facts))});
  remains_[to_index(run)] = {
      .pages = facts.pages, .page_weight = 1.0F / static_cast<float>(std::max(facts.end_page, 1u))};
  for (std::uint32_t i = 0; i < classes_refreshed; ++i) {
    refresh(next_refresh_);
    next_refresh_ = next_refresh_ + 1 < classes ? next_refresh_ + 1 : 0;
  }
}

void hit_density_order::on_hit(run_id run, std::uint32_t pages, std::uint64_t now_us) noexcept {
  if (!contains(run)) {
    return;
  }
  entry& e = inside_[run];
  remains& r = remains_[to_index(run)];
  pages = std::min(pages, r.pages);
  const std::uint32_t left = r.pages - pages;
  count(e, pages, true, now_us);
  count(e, left, false, now_us);
  const std::array<float, shares - 1> share_ends{0.02F, 0.2F, 0.6F, 0.9F};
  const float share = static_cast<float>(left) / static_cast<float>(std::max(r.pages, 1u));
  const auto which = std::upper_bound(share_ends.begin(), share_ends.end(), share);
  e.class_index = static_cast<std::uint16_t>(class_share + (which - share_ends.begin()));
  e.since_us = now_us;
  r.pages = left;
}

void hit_density_order::on_evict(run_id run, std::uint32_t pages, std::uint64_t now_us) noexcept {
  ORIEL_EXPECTS(contains(run));
  remains& r = remains_[to_index(run)];
  pages = std::min(pages, r.pages);
  count(inside_[run], pages, false, now_us);
  r.pages -= pages;
}

run_id hit_density_order::victim(std::uint64_t now_us) noexcept {
  return inside_.lowest([this, now_us](const entry& e) { return density(e, now_us); });
}

// `inline` here: code for shared libraries calls other members through a table, 160 times a class.
inline double hit_density_order::bin_begin_s(std::uint32_t bin) noexcept {
  if (bin == 0) {
    return 0;
  }
  const std::uint64_t octave = std::uint64_t{1} << (first_bin_bits + (bin - 1) / 4);
  const std::uint64_t begin_us = octave + octave / 4 * ((bin - 1) % 4);
  return static_cast<double>(begin_us) / static_cast<double>(second_us);
}

std::uint32_t hit_density_order::class_of(const run_facts& facts) noexcept {
  const auto end = std::min(static_cast<std::uint32_t>(facts.ended), ends - 1);
  const std::uint32_t duration =
      facts.duration_us == 0 ? 0 : 1 + bucket_of(facts.duration_us, 4, 1, durations - 1);
  std::uint32_t gap = facts.gap_us == no_gap ? 0 : 1 + bucket_of(facts.gap_us, 4, 2, 4);
  if (facts.expected_us != no_forecast) {
    const std::uint64_t ahead_us =
        facts.expected_us > facts.ended_us ? facts.expected_us - facts.ended_us : 0;
    gap = 5 + bucket_of(ahead_us, 4, 2, gaps - 5);
  }
  return class_gap + (end * durations + duration) * gaps + gap;
}

inline std::uint32_t hit_density_order::parent_of(std::uint32_t c) noexcept {
  if (c >= class_share) {
    return class_rest;
  }
  if (c >= class_gap) {
    return class_duration + (c - class_gap) / gaps;
  }
  return c >= class_duration ? class_end + (c - class_duration) / durations : class_any;
}

void hit_density_order::count(const entry& e,
                              std::uint32_t pages,
                              bool is_hit,
                              std::uint64_t now_us) noexcept {
  const float runs = static_cast<float>(pages) * remains_[to_index(e.run)].page_weight;
  const std::uint32_t bin = bin_of(e.since_us, now_us);
  std::uint32_t c = e.class_index;
  while (true) {
    exits& at = exits_[cell(c, bin)];
    (is_hit ? at.hit : at.other) += runs;
    if (c == class_any) {
      return;
    }
    c = parent_of(c);
  }
}

/// Hazards of a class: hits over runs at risk, drawn towards its parent's.
void hit_density_order::learn_hazards(std::uint32_t c) noexcept {
  double older = 0;  // runs that left at a later age
  for (std::uint32_t bin = bins; bin-- > 0;) {
    exits& at = exits_[cell(c, bin)];
    double expected = 0;
    if (c == class_any) {
      expected =
          1 - std::pow((bin_begin_s(bin) + first_scale_s) / (bin_begin_s(bin + 1) + first_scale_s),
                       first_shape);
    } else {
      expected = hazard_[cell(parent_of(c), bin)];
    }
    const double at_risk = older + at.hit + at.other / 2;
    hazard_[cell(c, bin)] =
        static_cast<float>((at.hit + prior_runs * expected) / (at_risk + prior_runs));
    older += at.hit + at.other;
    at.hit *= decay;
    at.other *= decay;
  }
}

/// Densities from hazards. A plan "until the end of bin x" that starts at a bin has the ratio of
/// sums of hits and page-seconds over [bin, x]; the best x of every bin follows from merging, from
/// the last bin down, each stretch with the next one as long as that one is better.
void hit_density_order::refresh(std::uint32_t c) noexcept {
  learn_hazards(c);
  struct stretch {
    double hits, seconds;
  };
  std::array<stretch, bins> single;
  double alive = 1;
  for (std::uint32_t bin = 0; bin < bins; ++bin) {
    const double hazard = hazard_[cell(c, bin)];
    single[bin] = {alive * hazard,
                   alive * (1 - hazard / 2) * (bin_begin_s(bin + 1) - bin_begin_s(bin))};
    alive = std::max(alive * (1 - hazard), 1e-12);
  }
  std::array<stretch, bins> merged;
  std::uint32_t count = 0;
  for (std::uint32_t bin = bins; bin-- > 0;) {
    stretch s = single[bin];
    while (count != 0 && merged[count - 1].hits * s.seconds > s.hits * merged[count - 1].seconds) {
      s.hits += merged[count - 1].hits;
      s.seconds += merged[count - 1].seconds;
      --count;
    }
    merged[count++] = s;
    density_[cell(c, bin)] = static_cast<float>(s.hits / s.seconds);
  }
}

}  // namespace oriel
