// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Length buckets: requests of like length go to like workers, so that the ranks of a step, which
/// wait for each other in every layer, have like work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel {

/// Half-open ranges of prompt tokens that cover everything: bucket i is [bounds[i-1], bounds[i]),
/// the last one has no end.
///
/// *Thread safety* none. *Memory* 4 bytes a bucket.
class length_buckets {
 public:
  /// 0-64K, 64K-256K, 256K and more: as Xiaomi serves MiMo-V2.5.
  length_buckets() : length_buckets({std::vector<std::uint32_t>{65'536, 262'144}}) {}
  /// @param bounds  where the next bucket begins; ascending, > 0; empty: one bucket
  explicit length_buckets(std::vector<std::uint32_t> bounds);

  [[nodiscard]] std::size_t size() const noexcept { return bounds_.size() + 1; }
  /// The bucket of a prompt. O(log buckets).
  [[nodiscard]] std::size_t of(std::uint32_t tokens) const noexcept;
  [[nodiscard]] std::span<const std::uint32_t> bounds() const noexcept { return bounds_; }

 private:
  std::vector<std::uint32_t> bounds_;
};

/// Estimated seconds of recent requests by length, old ones fading: what moves the bounds.
///
/// *Memory* 64 classes for each power of two up to 2^32: 16 KiB.
class length_load {
 public:
  /// @param half_life  seconds of estimated work after which what came before counts half; > 0
  explicit length_load(double half_life_s = 3'600.0);
  /// O(1).
  void add(std::uint32_t tokens, double seconds) noexcept;
  /// Seconds, faded, of all lengths.
  [[nodiscard]] double total_s() const noexcept;
  /// Bounds that give each of `count` buckets the same share of the seconds, as nearly as classes
  /// of 1.6 % allow; fewer buckets where one length has more than a share. O(classes).
  /// @pre count > 0 @throws std::bad_alloc
  [[nodiscard]] length_buckets balanced(std::size_t count) const;
  /// Workers for each bucket, `workers` in all: one each, and each further one where a worker has
  /// most to do. @pre workers >= buckets.size() @throws std::bad_alloc
  [[nodiscard]] std::vector<std::uint32_t> workers_of(const length_buckets& buckets,
                                                      std::uint32_t workers) const;

 private:
  double half_life_s_;
  double unit_ =
      1.0;  // what a second counts that is added now; grows, so that the old need no touch
  std::vector<double> seconds_;  // [classes], in units of then
};

}  // namespace oriel
