// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Streams and events of a device that does what it was given as late, and in any order, as it may:
/// in order within a stream, behind the events that a stream waits for, and else as random numbers
/// say. A copy poisons its targets first, reads its sources early or late, and writes page by page
/// in any order.
#pragma once

#include <oriel/core/random.hpp>
#include <oriel/device/stream_layers.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace oriel::test {

class fake_device {
 public:
  using task = std::function<void()>;

  fake_device(std::uint64_t seed, std::uint32_t streams) : random(seed, 83), streams_(streams) {}

  /// Enqueues.
  void run(std::uint32_t stream, task work) {
    if (!is_lost_) {
      streams_.at(stream).push_back({std::move(work)});
    }
  }
  /// It does nothing more, and says so.
  void lose() {
    is_lost_ = true;
    for (std::deque<op>& stream : streams_) {
      stream.clear();
    }
  }
  [[nodiscard]] bool is_lost() const { return is_lost_; }

  /// Something that can run next does. False: nothing can.
  bool step() {
    std::vector<std::uint32_t> can;
    for (std::uint32_t s = 0; s < streams_.size(); ++s) {
      if (!streams_[s].empty() && is_done(streams_[s].front())) {
        can.push_back(s);
      }
    }
    if (can.empty()) {
      return false;
    }
    std::deque<op>& stream =
        streams_[can[random.next_below(static_cast<std::uint32_t>(can.size()))]];
    const op next = std::move(stream.front());
    stream.pop_front();
    ++now_us_;
    if (next.work) {
      next.work();
    }
    return true;
  }
  void steps(std::uint32_t most) {
    for (std::uint32_t n = random.next_below(most + 1); n > 0 && step(); --n) {
    }
  }
  /// All that it was given. False: something waits for ever.
  bool drain() {
    while (step()) {
    }
    return std::ranges::all_of(streams_, [](const auto& s) { return s.empty(); });
  }

  // ---- events: recorded again and again, each time a version
  std::uint32_t make_event() {
    events_.push_back({});
    return static_cast<std::uint32_t>(events_.size() - 1);
  }
  void record(std::uint32_t e, std::uint32_t stream) {
    const std::uint64_t version = ++events_.at(e).recorded;
    run(stream, [this, e, version] { events_[e].done = version, events_[e].us = now_us_; });
  }
  void wait(std::uint32_t stream, std::uint32_t e) {
    streams_.at(stream).push_back({{}, e, events_.at(e).recorded});
  }
  [[nodiscard]] bool is_done(std::uint32_t e) const {
    return events_.at(e).done == events_[e].recorded;
  }
  [[nodiscard]] double us_of(std::uint32_t e) const { return static_cast<double>(events_[e].us); }

  random_stream random;
  std::uint32_t live_events = 0;
  /// Of so many calls that enqueue, one fails; 0: none.
  std::uint32_t failing_of = 0;
  /// So many more events are made; then no more are, and none is recorded.
  std::uint32_t events_left = ~0u;
  [[nodiscard]] bool fails() {
    return is_lost_ || (failing_of != 0 && random.next_below(failing_of) == 0);
  }

 private:
  struct event {
    std::uint64_t recorded = 0, done = 0, us = 0;
  };
  struct op {
    task work = {};  // none: waits for a version of an event
    std::uint32_t wait_event = 0;
    std::uint64_t wait_version = 0;
  };
  [[nodiscard]] bool is_done(const op& o) const {
    return o.work || events_[o.wait_event].done >= o.wait_version;
  }

  std::vector<std::deque<op>> streams_;
  std::vector<event> events_;
  std::uint64_t now_us_ = 0;
  bool is_lost_ = false;
};

/// The model of copy_streams over it.
struct fake_streams {
  using stream = std::uint32_t;
  using event = std::uint32_t;
  static constexpr failure no{errc::device_failure, 7, "fake"};

  fake_device* device;

  [[nodiscard]] result<event> make_event() const noexcept {
    if (device->events_left == 0) {
      return no;
    }
    --device->events_left;
    ++device->live_events;
    return device->make_event();
  }
  void drop(event) const noexcept { --device->live_events; }
  status record(event e, stream s) const noexcept {
    if (device->events_left == 0 || device->is_lost()) {
      return no;
    }
    device->record(e, s);
    return {};
  }
  status wait(stream s, event e) const noexcept {
    if (device->fails()) {
      return no;
    }
    device->wait(s, e);
    return {};
  }
  [[nodiscard]] result<bool> is_done(event e) const noexcept {
    return device->is_lost() ? result<bool>(no) : device->is_done(e);
  }
  status finish(event e) const noexcept {
    while (device->is_lost() || !device->is_done(e)) {
      if (!device->step()) {
        return no;
      }
    }
    return {};
  }
  [[nodiscard]] result<double> elapsed_us(event from, event to) const noexcept {
    return device->us_of(to) - device->us_of(from);
  }

  status copy(const cuda::kv_copy_plan& plan, const kv_copy_args& args, stream s) const noexcept {
    struct part {
      std::vector<std::byte> read = {};
      std::byte* to = nullptr;
      const std::byte* from = nullptr;
      std::size_t bytes = 0;
    };
    auto parts = std::make_shared<std::vector<part>>();
    const auto list = [parts, plan](std::span<const kv_copy_layer> layers,
                                    std::span<const kv_page_pair> pages) {
      parts->clear();
      for (const kv_copy_layer& l : layers) {
        for (const kv_page_pair p : pages) {
          const std::size_t from = p.from * l.from.page_stride_bytes,
                            to = p.to * l.to.page_stride_bytes;
          parts->push_back({{}, l.to.k + to, l.from.k + from, plan.k.tiles * plan.k.tile_bytes});
          parts->push_back({{}, l.to.v + to, l.from.v + from, plan.v.tiles * plan.v.tile_bytes});
        }
      }
    };
    list(args.layers, args.pages);
    if (plan.way == cuda::kv_copy_way::multiprocessors) {  // They read the pairs when they run.
      device->run(s,
                  [list,
                   layers = std::vector<kv_copy_layer>(args.layers.begin(), args.layers.end()),
                   pages = args.pages] { list(layers, pages); });
    }
    const bool is_read_early = device->random.next_below(2) == 0, fails = device->fails();
    device->run(s, [parts, is_read_early] {
      for (part& p : *parts) {
        if (is_read_early) {
          p.read.assign(p.from, p.from + p.bytes);
        }
        std::memset(p.to, 0xFF, p.bytes);
      }
    });
    std::vector<std::size_t> order(parts->size());
    for (std::size_t i = 0; i < order.size(); ++i) {
      order[i] = i;
      std::swap(order[i], order[device->random.next_below(static_cast<std::uint32_t>(i + 1))]);
    }
    for (const std::size_t i : order) {
      if (fails && device->random.next_below(2) == 0) {
        continue;  // Some of it is enqueued all the same.
      }
      device->run(s, [parts, i, is_read_early] {
        part& p = (*parts)[i];
        std::memcpy(p.to, is_read_early ? p.read.data() : p.from, p.bytes);
      });
    }
    return fails ? status(no) : status();
  }
};
static_assert(copy_streams<fake_streams>);

/// A device goes on while the host asks.
struct passing_streams : fake_streams {
  [[nodiscard]] result<bool> is_done(event e) const noexcept {
    device->steps(1);
    return fake_streams::is_done(e);
  }
};
static_assert(copy_streams<passing_streams>);

}  // namespace oriel::test
