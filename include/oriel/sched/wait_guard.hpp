// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `wait_guard`: a bound on waiting that any order of service can have.
///
///     const auto place = guard.arrive(now_s, seconds);   // estimated seconds of its prefill
///     ...
///     next = guard.demands_oldest(now_s) ? guard.oldest() : whatever the order says;
///     guard.serve(next, seconds);                        // so much of the estimate was served
///     guard.leave(next);                                 // served, or cancelled
///
/// First come, first served has the least maximum of all waits, so no order can promise less than
/// that maximum. What can be promised is relative to B, the work ahead of a request when it
/// arrives:
///
///     wait <= max(D, k * B) + E + one step
///
/// where E is by how much the work that was served before it took longer than estimated. The proof
/// is in docs/scheduling.md; tests/sched/wait_guard_test.cpp checks it on every path it draws.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace oriel {

struct guard_options {
  double least_wait_s = 60.0;  ///< D: shorter waits are nobody's business
  double factor = 2.0;         ///< k >= 1, of the work ahead
};

/// Work is in seconds of service: with a prefill share s of every step, wall seconds times s.
///
/// *Thread safety* none. *Memory* 64 bytes for each request that was here at once.
class wait_guard {
 public:
  /// Names one request that is here. Given again after it has left.
  using place = std::uint32_t;

  /// @pre least_wait_s >= 0, factor >= 1
  explicit wait_guard(const guard_options& options = {});

  /// Estimated seconds of all that is here: B of a request that arrives now. O(1).
  [[nodiscard]] double work_s() const noexcept { return work_s_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

  /// A request arrives; all that is here is ahead of it. Amortised O(log n).
  /// @param seconds  estimated, of its service @pre seconds >= 0; now_s is not before that of the
  ///                 last arrival
  /// @throws std::bad_alloc
  place arrive(double now_s, double seconds);
  /// So much of its estimated work is done; at most all of it. O(log n). @pre it is here
  void serve(place who, double seconds) noexcept;
  /// What is left is now estimated as this: its cached prefix grew or went. Others' B stay as they
  /// were. O(log n). @pre it is here, seconds >= 0
  void estimate(place who, double seconds) noexcept;
  /// Served to its end, or gone. O(log n). @pre it is here
  void leave(place who) noexcept;

  /// Estimated seconds that are left of it. O(1). @pre it is here
  [[nodiscard]] double remaining_s(place who) const noexcept;
  /// When it must be served by, by what was promised: arrival + max(D, k * B). O(1). @pre it is
  /// here
  [[nodiscard]] double promised_s(place who) const noexcept;

  /// Somebody would wait too long if the oldest did not go on: now + the rest of those before it
  /// reaches what it was promised. O(1).
  [[nodiscard]] bool demands_oldest(double now_s) const noexcept;
  /// When demands_oldest becomes true if nothing is served until then; infinity: nobody is here.
  [[nodiscard]] double demands_from_s() const noexcept { return least_slack_s(); }
  /// The one that came first of those that are here. O(1) amortised. @pre size() != 0
  [[nodiscard]] place oldest() const noexcept;

 private:
  struct request {
    double remaining_s = 0.0;
    double promised_s = 0.0;
    std::uint32_t at = 0;  // in the order of arrival; ~0: the place is free
  };

  [[nodiscard]] double least_slack_s() const noexcept;
  void add_behind(std::uint32_t at, double seconds) noexcept;
  void set(std::uint32_t at, double slack_s) noexcept;
  void rebuild(std::size_t room);

  guard_options options_;
  std::vector<request> requests_;  // by place
  std::vector<place> free_;        // places
  std::vector<place> arrivals_;    // by order of arrival; ~0: gone
  std::uint32_t first_ = 0;        // nobody is here before this one
  std::size_t size_ = 0;
  double work_s_ = 0.0;
  // A tree over `arrivals_` of slack = promised - (remaining of all before): leaf i is at room_ +
  // i, a node holds the least of its children, and what is still to be added to both.
  std::size_t room_ = 0;  // a power of two
  std::vector<double> least_, pending_;
};

}  // namespace oriel
