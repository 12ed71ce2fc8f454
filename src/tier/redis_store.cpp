// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "redis_state.hpp"

#include <oriel/core/contract.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <stdexcept>

#include <poll.h>

namespace oriel {
namespace {

void expect_range(std::uint64_t value, std::uint64_t low, std::uint64_t high, const char* name) {
  if (value < low || value > high) {
    throw std::invalid_argument("redis_options::" + std::string(name) + " is " +
                                std::to_string(value) + ", not in [" + std::to_string(low) + ", " +
                                std::to_string(high) + "]");
  }
}

redis_url checked(const redis_options& o) {
  const result<redis_url> url = parse_redis_url(o.url);
  if (!url) {
    throw std::invalid_argument(std::string("redis_options::url: ") + url.error().detail);
  }
  if (o.is_cluster && url->database != 0) {
    throw std::invalid_argument("redis_options::url: a cluster has database 0 only");
  }
  constexpr std::uint64_t hour_us = 3'600'000'000;
  expect_range(o.key_prefix.size(), 0, 128, "key_prefix.size()");
  expect_range(o.connections, 1, 64, "connections");
  expect_range(o.queue_items_max, 1, 65536, "queue_items_max");
  expect_range(o.in_flight_commands_max, 1, 65536, "in_flight_commands_max");
  expect_range(o.record_bytes_max, 1, std::uint64_t{512} << 20, "record_bytes_max");
  expect_range(o.connect_timeout_us, 1, hour_us, "connect_timeout_us");
  expect_range(o.silence_timeout_us, 1, hour_us, "silence_timeout_us");
  expect_range(o.failures_to_open, 1, 1000, "failures_to_open");
  expect_range(o.lates_to_open, 1, 1'000'000, "lates_to_open");
  expect_range(o.backoff_max_us, 1, hour_us, "backoff_max_us");
  expect_range(o.backoff_min_us, 1, o.backoff_max_us, "backoff_min_us");
  return *url;
}

}  // namespace

redis_store::state::state(redis_options given) : options(std::move(given)), url_(checked(options)) {
  if (url_.is_tls) {
    tls_ = std::make_unique<detail::redis_tls>(options.ca_file, options.verifies_certificate);
  }
  entries_.resize(options.queue_items_max);
  for (std::uint32_t i = options.queue_items_max; i > 0; --i) {
    unused_.push_back(i - 1);
  }
  verifying_.reserve(entries_.size());
  if (options.is_cluster) {
    node_of_slot_.assign(detail::redis_slots, 0);
    wants_slots_ = true;
  }
  node_at(url_.host, url_.port);
}

std::uint64_t redis_store::state::now_us() const {
  if (options.now_us != nullptr) {
    return options.now_us(options.clock);
  }
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(
                                        std::chrono::steady_clock::now().time_since_epoch())
                                        .count());
}

void redis_store::state::take(const store_item& item,
                              std::uint64_t deadline_us,
                              std::uint64_t now) {
  const bool is_transfer = item.op == store_op::get || item.op == store_op::put;
  ORIEL_EXPECTS(!is_transfer || item.identity != nullptr);
  const std::uint32_t index = unused_.back();
  unused_.pop_back();
  ++pending;
  entry& e = entries_[index];
  e = {};
  e.item = item;
  e.deadline_us = deadline_us;
  e.at = stage::waiting;
  counts_.gets += item.op == store_op::get;
  counts_.puts += item.op == store_op::put;
  puts_ += item.op == store_op::put;
  if (item.op == store_op::sync) {
    return complete(index, store_outcome::refused, EOPNOTSUPP);
  }
  if (deadline_us <= now) {
    return complete(index, store_outcome::late);
  }
  if (is_transfer || item.op == store_op::exists || item.op == store_op::touch) {
    e.check = checks_sent_ + 1;
    wants_check_ = true;
  }
  earliest_us_ = std::min(earliest_us_, deadline_us);
  waiting_.push_back(index);
}

// As far as it goes without waiting.
void redis_store::state::pump(std::uint64_t now) {
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    for (const auto& link : nodes_[i]->links) {
      link->pump(now);
    }
  }
  take_replies(now);
  expire(now);
  start(now);
}

// Sends what can be sent.
void redis_store::state::start(std::uint64_t now) {
  dispatch(now);
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    for (const auto& link : nodes_[i]->links) {
      link->flush(now);
    }
  }
}

bool redis_store::state::wait(std::uint64_t until_us) {
  std::vector<pollfd> fds;
  for (;;) {
    const std::uint64_t now = now_us();
    pump(now);
    if (!completions.empty()) {
      return true;
    }
    if (pending == 0 || now >= until_us) {
      return false;
    }
    std::uint64_t wake = std::min(until_us, earliest_us_);
    bool has_more = false;
    fds.clear();
    for (const auto& n : nodes_) {
      for (const auto& link : n->links) {
        wake = std::min(wake, link->next_timer_us());
        has_more = has_more || link->has_more();
        if (link->fd() >= 0) {
          fds.push_back({.fd = link->fd(), .events = link->events(), .revents = 0});
        }
      }
    }
    if (wants_slots_) {
      wake = std::min(wake, std::max(slots_retry_us_, now + 1'000));
    }
    // A clock that is turned by hand does not run while we sleep.
    const std::uint64_t sleep_us =
        has_more || wake <= now ? 0 : std::min<std::uint64_t>(wake - now, 50'000);
    const timespec sleep = {.tv_sec = 0, .tv_nsec = static_cast<long>(sleep_us) * 1'000};
    ::ppoll(fds.data(), fds.size(), &sleep, nullptr);
  }
}

store_stats redis_store::state::stats() const {
  store_stats s = counts_;
  s.index_bytes = epochs_.size() * 96;
  std::size_t links = 0, cut_off = 0;
  for (const auto& n : nodes_) {
    for (const auto& link : n->links) {
      ++links;
      cut_off += link->is_cut_off();
    }
  }
  s.health = links == cut_off   ? store_health::degraded
             : is_write_paused_ ? store_health::write_paused
                                : store_health::healthy;
  return s;
}

store_fault redis_store::state::last_fault() const {
  store_fault latest = fault_;
  for (const auto& n : nodes_) {
    for (const auto& link : n->links) {
      const store_fault& f = link->last_fault();
      if (f.count > 0) {
        latest = {.operation = f.operation,
                  .where = f.where,
                  .native = f.native,
                  .count = latest.count + f.count};
      }
    }
  }
  return latest;
}

redis_store::redis_store(redis_options options) : state_(new state(std::move(options))) {}

redis_store::~redis_store() {
  delete state_;
}

std::uint64_t redis_store::now_us() const {
  return state_->now_us();
}

std::size_t redis_store::submit(std::span<const store_item> items, std::uint64_t deadline_us) {
  if (items.empty()) {
    return 0;
  }
  const std::uint64_t now = state_->now_us();
  const std::size_t room = state_->options.queue_items_max - state_->pending;
  const std::size_t taken = std::min(items.size(), room);
  for (std::size_t i = 0; i < taken; ++i) {
    state_->take(items[i], deadline_us, now);
  }
  state_->start(now);
  return taken;
}

std::size_t redis_store::poll(std::span<store_completion> done) {
  if (state_->completions.size() < done.size()) {
    state_->pump(state_->now_us());
  }
  const std::size_t count = std::min(done.size(), state_->completions.size());
  for (std::size_t i = 0; i < count; ++i) {
    done[i] = state_->completions.front();
    state_->completions.pop_front();
  }
  state_->pending -= count;
  return count;
}

bool redis_store::wait(std::uint64_t until_us) {
  return !state_->completions.empty() || state_->wait(until_us);
}

std::size_t redis_store::pending() const {
  return state_->pending;
}

store_stats redis_store::stats() const {
  return state_->stats();
}

store_fault redis_store::last_fault() const {
  return state_->last_fault();
}

}  // namespace oriel
