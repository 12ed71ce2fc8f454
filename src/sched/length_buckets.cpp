// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/sched/length_buckets.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <utility>

namespace oriel {
namespace {

constexpr std::uint32_t class_bits = 6;  // 64 classes for each power of two
constexpr std::size_t classes = (33 - class_bits) << class_bits;

/// Lengths below 64 have a class of their own each; above, 64 for each power of two.
std::size_t class_of(std::uint32_t tokens) noexcept {
  if (tokens >> class_bits == 0) {
    return tokens;
  }
  const auto shift = static_cast<std::uint32_t>(std::bit_width(tokens)) - class_bits - 1;
  return (std::size_t{shift} << class_bits) + (tokens >> shift);
}

/// The shortest length of a class. @pre index < classes
std::uint32_t first_of(std::size_t index) noexcept {
  if (index >> class_bits <= 1) {
    return static_cast<std::uint32_t>(index);
  }
  const std::size_t shift = (index >> class_bits) - 1;
  return static_cast<std::uint32_t>((index - (shift << class_bits)) << shift);
}

}  // namespace

length_buckets::length_buckets(std::vector<std::uint32_t> bounds) : bounds_(std::move(bounds)) {
  ORIEL_EXPECTS(bounds_.empty() || bounds_.front() > 0);
  ORIEL_EXPECTS(std::ranges::adjacent_find(bounds_, std::greater_equal<>()) == bounds_.end());
}

std::size_t length_buckets::of(std::uint32_t tokens) const noexcept {
  return static_cast<std::size_t>(std::ranges::upper_bound(bounds_, tokens) - bounds_.begin());
}

length_load::length_load(double half_life_s) : half_life_s_(half_life_s), seconds_(classes) {
  ORIEL_EXPECTS(half_life_s > 0.0);
}

void length_load::add(std::uint32_t tokens, double seconds) noexcept {
  constexpr double unit_max = 1e100;
  seconds_[class_of(tokens)] += seconds * unit_;
  unit_ *= std::exp2(seconds / half_life_s_);
  if (unit_ > unit_max) {
    for (double& s : seconds_) {
      s /= unit_;
    }
    unit_ = 1.0;
  }
}

double length_load::total_s() const noexcept {
  return std::accumulate(seconds_.begin(), seconds_.end(), 0.0) / unit_;
}

length_buckets length_load::balanced(std::size_t count) const {
  ORIEL_EXPECTS(count > 0);
  // Where a bucket may end: behind a length that was seen, with the seconds up to there.
  std::vector<std::pair<std::uint32_t, double>> ends;
  double total = 0.0;
  for (std::size_t c = 0; c + 1 < classes; ++c) {
    if (seconds_[c] > 0.0) {
      total += seconds_[c];
      ends.emplace_back(first_of(c + 1), total);
    }
  }
  total += seconds_.back();
  std::vector<std::uint32_t> bounds;
  std::size_t at = 0;
  for (std::size_t b = 1; b < count; ++b) {
    const double share = total * static_cast<double>(b) / static_cast<double>(count);
    const auto is_nearer = [&](std::size_t next) {
      return std::abs(ends[next].second - share) <= std::abs(ends[next - 1].second - share);
    };
    while (at + 1 < ends.size() && is_nearer(at + 1)) {
      ++at;
    }
    if (at < ends.size() && ends[at].second < total &&
        (bounds.empty() || bounds.back() < ends[at].first)) {
      bounds.push_back(ends[at].first);
    }
  }
  return length_buckets(std::move(bounds));
}

std::vector<std::uint32_t> length_load::workers_of(const length_buckets& buckets,
                                                   std::uint32_t workers) const {
  ORIEL_EXPECTS(workers >= buckets.size());
  std::vector<double> load(buckets.size());
  for (std::size_t c = 0; c < classes; ++c) {
    load[buckets.of(first_of(c))] += seconds_[c];
  }
  const double total = std::accumulate(load.begin(), load.end(), 0.0);
  std::vector<std::uint32_t> given(buckets.size(), 1);
  for (std::uint32_t left = workers - static_cast<std::uint32_t>(buckets.size()); left > 0;
       --left) {
    std::size_t poorest = 0;  // whose workers have most to do
    for (std::size_t b = 0; b < load.size(); ++b) {
      const double seconds = total > 0.0 ? load[b] : 1.0;
      const double least = total > 0.0 ? load[poorest] : 1.0;
      poorest = seconds / given[b] > least / given[poorest] ? b : poorest;
    }
    ++given[poorest];
  }
  return given;
}

}  // namespace oriel
