// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "core/never.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/sched/wait_guard.hpp>

#include <algorithm>
#include <bit>

namespace oriel {
namespace {

constexpr std::uint32_t nowhere = ~std::uint32_t{0};
constexpr std::size_t least_room = 16;

}  // namespace

wait_guard::wait_guard(const guard_options& options) : options_(options) {
  ORIEL_EXPECTS(options.least_wait_s >= 0.0 && options.factor >= 1.0);
}

wait_guard::place wait_guard::arrive(double now_s, double seconds) {
  ORIEL_EXPECTS(seconds >= 0.0);
  if (arrivals_.size() == room_) {
    rebuild(std::max(least_room, std::bit_ceil(2 * (size_ + 1))));
  }
  if (free_.empty()) {
    requests_.emplace_back();
    free_.reserve(requests_.size());
    free_.push_back(static_cast<place>(requests_.size() - 1));
  }
  const place who = free_.back();
  const auto at = static_cast<std::uint32_t>(arrivals_.size());
  arrivals_.push_back(who);  // There is room.
  free_.pop_back();
  const double ahead_s = ORIEL_MUTANT(guard_forgets_the_work_ahead) ? 0.0 : work_s_;
  requests_[who] = {
      .remaining_s = seconds,
      .promised_s = now_s + std::max(options_.least_wait_s, options_.factor * ahead_s),
      .at = at};
  set(at, requests_[who].promised_s - work_s_);
  work_s_ += seconds;
  ++size_;
  return who;
}

void wait_guard::estimate(place who, double seconds) noexcept {
  ORIEL_EXPECTS(who < requests_.size() && requests_[who].at != nowhere && seconds >= 0.0);
  request& r = requests_[who];
  const double more_s = seconds - r.remaining_s;
  r.remaining_s = seconds;
  work_s_ = std::max(0.0, work_s_ + more_s);
  add_behind(r.at, -more_s);
}

void wait_guard::serve(place who, double seconds) noexcept {
  ORIEL_EXPECTS(who < requests_.size() && seconds >= 0.0);
  estimate(who, std::max(0.0, requests_[who].remaining_s - seconds));
}

void wait_guard::leave(place who) noexcept {
  estimate(who, 0.0);
  request& r = requests_[who];
  set(r.at, never_s);
  arrivals_[r.at] = nowhere;
  r.at = nowhere;
  free_.push_back(who);
  --size_;
  while (first_ < arrivals_.size() && arrivals_[first_] == nowhere) {
    ++first_;
  }
  if (size_ == 0) {  // Rounding ends here.
    work_s_ = 0.0;
    first_ = 0;
    arrivals_.clear();
    std::ranges::fill(least_, never_s);
    std::ranges::fill(pending_, 0.0);
  }
}

double wait_guard::remaining_s(place who) const noexcept {
  ORIEL_EXPECTS(who < requests_.size() && requests_[who].at != nowhere);
  return requests_[who].remaining_s;
}

double wait_guard::promised_s(place who) const noexcept {
  ORIEL_EXPECTS(who < requests_.size() && requests_[who].at != nowhere);
  return requests_[who].promised_s;
}

bool wait_guard::demands_oldest(double now_s) const noexcept {
  return now_s >= least_slack_s() && !ORIEL_MUTANT(guard_demands_nothing);
}

wait_guard::place wait_guard::oldest() const noexcept {
  ORIEL_EXPECTS(size_ != 0);
  return arrivals_[ORIEL_MUTANT(guard_serves_the_youngest) ? arrivals_.size() - 1 : first_];
}

double wait_guard::least_slack_s() const noexcept {
  return room_ == 0 ? never_s : least_[1];
}

/// Adds to the slack of all that came after. Nodes whose whole range is behind get it as pending;
/// going up from the leaf, these are the right siblings.
void wait_guard::add_behind(std::uint32_t at, double seconds) noexcept {
  for (std::size_t node = room_ + at; node > 1; node /= 2) {
    if (node % 2 == 0) {
      least_[node + 1] += seconds;
      pending_[node + 1] += seconds;
    }
    const std::size_t parent = node / 2;
    least_[parent] = std::min(least_[2 * parent], least_[2 * parent + 1]) + pending_[parent];
  }
}

void wait_guard::set(std::uint32_t at, double slack_s) noexcept {
  double above_s = 0.0;
  for (std::size_t node = (room_ + at) / 2; node >= 1; node /= 2) {
    above_s += pending_[node];
  }
  std::size_t node = room_ + at;
  pending_[node] = 0.0;
  least_[node] = slack_s - above_s;
  for (node /= 2; node >= 1; node /= 2) {
    least_[node] = std::min(least_[2 * node], least_[2 * node + 1]) + pending_[node];
  }
}

/// Moves those that are here together, in a tree with room for so many arrivals.
void wait_guard::rebuild(std::size_t room) {
  std::vector<place> arrivals;
  arrivals.reserve(room);
  std::vector<double> least(2 * room, never_s), pending(2 * room, 0.0);
  for (const place who : arrivals_) {
    if (who != nowhere) {
      arrivals.push_back(who);
    }
  }
  arrivals_ = std::move(arrivals);
  least_ = std::move(least);
  pending_ = std::move(pending);
  room_ = room;
  first_ = 0;
  double before_s = 0.0;
  for (std::uint32_t at = 0; at < arrivals_.size(); ++at) {
    request& r = requests_[arrivals_[at]];
    r.at = at;
    least_[room_ + at] = r.promised_s - before_s;
    before_s += r.remaining_s;
  }
  work_s_ = before_s;
  for (std::size_t node = room_; node-- > 1;) {
    least_[node] = std::min(least_[2 * node], least_[2 * node + 1]);
  }
}

}  // namespace oriel
