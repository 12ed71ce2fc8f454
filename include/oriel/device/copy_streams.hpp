// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `copy_streams`: streams and events, as what copies beside a compute uses them; `stream_fences`
/// over them; and CUDA's, with no type of CUDA but opaque pointers.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/core/result.hpp>
#include <oriel/kernels/kv_copy.hpp>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <utility>

struct CUstream_st;  // cudaStream_t and cudaEvent_t point to them
struct CUevent_st;

namespace oriel {

/// Streams and events of a device.
///
///  - Work of a stream runs in the order in which it was given, work of two streams in any order.
///  - `record(event, stream)`: the event is done when what the stream was given before is. Recorded
///    again, it means the later point.
///  - `wait(stream, event)`: what the stream is given afterwards runs when what the event means at
///    this call is done. An event that was never recorded is done.
///  - `is_done` asks, `finish` blocks; what they saw done is in place for the host, too.
///  - `copy` enqueues; a copy that fails may have enqueued some of it.
///  - Where an event cannot be recorded, asked for or finished, the device is lost: it does nothing
///    more, and calls may fail from then on.
///  - `elapsed_us(a, b)`: from a to b, negative if b was first. @pre both are done
///
/// Models: `cuda::device_streams`.
// clang-format off
template <class S>
concept copy_streams =
    requires(S& s, typename S::stream stream, typename S::event event,
             const cuda::kv_copy_plan& plan, const kv_copy_args& args) {
      { s.make_event() } noexcept -> std::same_as<result<typename S::event>>;
      { s.drop(event) } noexcept;
      { s.record(event, stream) } noexcept -> std::same_as<status>;
      { s.wait(stream, event) } noexcept -> std::same_as<status>;
      { s.is_done(event) } noexcept -> std::same_as<result<bool>>;
      { s.finish(event) } noexcept -> std::same_as<status>;
      { s.copy(plan, args, stream) } noexcept -> std::same_as<status>;
      { s.elapsed_us(event, event) } noexcept -> std::same_as<result<double>>;
    };
// clang-format on

/// A point in the stream of the compute: all that it was given before.
enum class stream_fence : std::uint64_t { none = 0 };

/// Points in the stream of the compute, for all who copy beside it. Behind the step that used a
/// page last, `mark` it: what is copied from or to the page waits for that.
///
/// Whether the device is lost all of them learn here, from whoever saw it first. It stays lost.
///
/// *Thread safety* none. *Memory* three events.
template <copy_streams Streams>
class stream_fences {
 public:
  /// @param compute  whose points
  /// @returns errc::device_failure
  [[nodiscard]] static result<stream_fences> make(typename Streams::stream compute,
                                                  Streams streams = {}) noexcept {
    stream_fences made(compute, std::move(streams));
    for (; made.events_made_ < made.events_.size(); ++made.events_made_) {
      const result<event> e = made.streams_.make_event();
      if (!e) {
        return e.error();
      }
      made.events_[made.events_made_] = *e;
    }
    return made;
  }
  stream_fences(stream_fences&& other) noexcept
      : streams_(other.streams_),
        compute_(other.compute_),
        events_(other.events_),
        events_made_(std::exchange(other.events_made_, 0)),
        marks_(other.marks_),
        alive_(other.alive_) {}
  stream_fences& operator=(stream_fences&&) = delete;
  ~stream_fences() {
    for (std::size_t i = 0; i < events_made_; ++i) {
      streams_.drop(events_[i]);
    }
  }

  [[nodiscard]] typename Streams::stream compute() const noexcept { return compute_; }

  /// Behind all that the compute was given so far. Only the last three are told apart: who waits
  /// for an older one waits for one of these. @returns errc::device_failure
  [[nodiscard]] result<stream_fence> mark() noexcept {
    if (!alive_) {
      return alive_.error();
    }
    if (status done = streams_.record(events_[(marks_ + 1) % events_.size()], compute_); !done) {
      return lose(done.error());
    }
    return stream_fence{++marks_};
  }

  /// errc::device_failure once the device is lost.
  [[nodiscard]] status alive() const noexcept { return alive_; }
  /// The device is lost: so the driver says. @returns what alive() says from now on
  failure lose(const failure& why) noexcept {
    if (alive_) {
      alive_ = failure{
          errc::device_failure,
          why.native,
          "the device is lost: an event of its streams could not be recorded, or asked for"};
    }
    return alive_.error();
  }

  /// What `stream` is given afterwards runs behind it. @returns errc::device_failure
  status wait(typename Streams::stream stream, stream_fence fence) noexcept {
    const auto number = static_cast<std::uint64_t>(fence);
    ORIEL_EXPECTS(number <= marks_);
    if (fence == stream_fence::none || ORIEL_MUTANT(copies_do_not_wait_for_their_fence)) {
      return {};
    }
    return streams_.wait(stream, events_[number % events_.size()]);
  }

 private:
  using event = typename Streams::event;
  stream_fences(typename Streams::stream compute, Streams streams) noexcept
      : streams_(std::move(streams)), compute_(compute) {}

  [[no_unique_address]] Streams streams_;
  typename Streams::stream compute_;
  std::array<event, 3> events_{};
  std::size_t events_made_ = 0;
  std::uint64_t marks_ = 0;
  status alive_;  // the failure: it is not
};

namespace cuda {

/// The streams and events of the current device. Implemented by oriel::cuda.
struct device_streams {
  using stream = CUstream_st*;
  using event = CUevent_st*;

  [[nodiscard]] result<event> make_event() const noexcept;
  void drop(event e) const noexcept;
  status record(event e, stream s) const noexcept;
  status wait(stream s, event e) const noexcept;
  [[nodiscard]] result<bool> is_done(event e) const noexcept;
  status finish(event e) const noexcept;
  status copy(const kv_copy_plan& plan, const kv_copy_args& args, stream s) const noexcept;
  [[nodiscard]] result<double> elapsed_us(event from, event to) const noexcept;
};
static_assert(copy_streams<device_streams>);

}  // namespace cuda
}  // namespace oriel
