// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `stream_layers`: brings pages to a device, or takes them away, layer by layer on a stream of its
/// own, while another stream computes. The device's half of `layer_loader`.
///
///     fence = fences.mark();                    // behind the step that used these pages last
///     load = layers.begin(copies, fence);       // during the step before: nothing hides layer 0's
///     for (layer l : model) {
///       if (!layers.wait(load, l)) { ... }      // give up what the step makes of this sequence
///       attention(l);                           // runs when its layer is there
///     }
///     layers.end(load);                         // enqueued, all of it
///     ... layers.is_done(load) ...              // now the pages are the caller's again
///
///     copies    wait fence | copy 0, event | copy 1, event | copy 2, event |
///     compute   ~ step before ~ | mark | wait 0, layer 0 | layer 1 | wait 1, layer 2 | wait 2, ...
///
/// Three loads may be on their way, each with events of its own: that of the step which the device
/// computes, that of the step which the host enqueues, and one begun ahead.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/core/result.hpp>
#include <oriel/device/copy_streams.hpp>
#include <oriel/kernels/kv_copy.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace oriel {

/// One step of a load: layers that are copied by one call.
struct layer_copy {
  const cuda::kv_copy_plan* plan;
  /// Read by `begin`; pages that multiprocessors read stay as they are until the load is done.
  kv_copy_args args;
  /// With this copy and those before it the layers [0, layers_in_place) of the model have all that
  /// comes for them.
  std::uint32_t layers_in_place;
};

/// Names a load.
struct stream_load {
  std::uint32_t set = 0;
  std::uint64_t number = 0;
};

/// Counts since construction, of loads that ended. Microseconds are the device's.
struct stream_layer_counters {
  std::uint64_t loads = 0;
  std::uint64_t failed_loads = 0;
  std::uint64_t waits = 0;       ///< copies that the compute was made to wait for
  std::uint64_t late_waits = 0;  ///< which were not done when it came to them
  double stall_us = 0;           ///< it waited, in all
  double lead_us = 0;            ///< copies were done before, summed
};

/// Every copy is fenced on both sides. Before: `begin` takes the fence behind which nobody reads or
/// writes the pages any more, and copies wait for it. Behind: a page that is copied to is read
/// after `wait`, and given to somebody else, on the device or on the host, when `is_done`; also if
/// the load failed, since some of it may be on its way. What was enqueued is not taken back: who
/// wants to cancel cheaply begins shorter loads.
///
/// The same class takes pages away: the fence is then behind the step that wrote them, nobody calls
/// `wait`, and the host asks `is_in_place`, layer by layer if it likes.
///
/// When the device is lost (copy_streams), every load that is on its way ends with that failure,
/// and so does every load from then on, with nothing enqueued: their sets are free again as soon as
/// they are ended.
///
/// A step that waits for a load is not captured in a graph: its events are of this load alone.
///
/// *Thread safety* none: one thread owns it. *Memory* nothing is allocated after construction:
/// 6 events for each copy of a load. The destructor waits for what is on its way.
template <copy_streams Streams>
class stream_layers {
 public:
  using stream = typename Streams::stream;
  static constexpr std::uint32_t loads_max = 3;

  /// @param fences      of the compute whose layers wait; stays where it is meanwhile
  /// @param copies      the stream of this object alone
  /// @param copies_max  of one load
  /// @returns errc::device_failure
  /// @throws  std::bad_alloc
  [[nodiscard]] static result<stream_layers> make(stream_fences<Streams>& fences,
                                                  stream copies,
                                                  std::uint32_t copies_max,
                                                  Streams streams = {}) {
    stream_layers made(fences, copies, std::move(streams));
    if (status done = made.make_events(copies_max); !done) {
      return done.error();
    }
    return made;
  }
  stream_layers(stream_layers&&) noexcept = default;
  stream_layers& operator=(stream_layers&&) = delete;
  ~stream_layers() {
    if (events_.empty()) {
      return;  // It was moved from.
    }
    for (load_set& s : sets_) {
      if (s.number != 0 && s.recorded != 0) {
        // A device that does not answer writes no more, or nobody can help it.
        [[maybe_unused]] const status done = streams_.finish(s.ready[s.recorded - 1]);
      }
    }
    for (const event e : events_) {
      streams_.drop(e);
    }
  }

  /// Is there room for another load? Never blocks. O(copies of the loads that ended).
  [[nodiscard]] bool can_begin() noexcept { return next_set().has_value(); }
  /// The set of events, below loads_max, that the next load will have: whatever else a load has of
  /// its own can be numbered by it. Nothing: there is no room. As can_begin.
  [[nodiscard]] std::optional<std::uint32_t> next_set() noexcept {
    std::optional<std::uint32_t> next;
    for (std::uint32_t set = loads_max; set-- > 0;) {
      next = is_free(sets_[set]) ? set : next;
    }
    return next;
  }

  /// Enqueues all copies, in their order, behind the fence. What it could not enqueue, which is
  /// everything on a lost device, `wait` answers with no. `set`: what next_set said, for those who
  /// have numbered something by it; asked once more, it may say another one, since loads end at any
  /// time.
  /// @pre can_begin(), copies.size() <= copies_max, their layers_in_place do not fall, `after` is
  ///      none or of its fences, nothing was begun since next_set
  [[nodiscard]] stream_load begin(std::span<const layer_copy> copies,
                                  stream_fence after,
                                  std::optional<std::uint32_t> set = {}) noexcept {
    if (!set || ORIEL_MUTANT(load_takes_another_set)) {
      set = next_set();
    }
    ORIEL_EXPECTS(set.has_value() && is_free(sets_[*set]));
    load_set& s = sets_[*set];
    ORIEL_EXPECTS(copies.size() <= s.ready.size());
    s.number = ++loads_;
    s.in_place.clear();
    s.asked_for.clear();
    s.enqueued = s.recorded = s.waited = 0;
    s.is_ended = false;
    for (const layer_copy& c : copies) {
      ORIEL_EXPECTS(s.in_place.empty() || s.in_place.back() <= c.layers_in_place);
      s.in_place.push_back(c.layers_in_place);
    }
    if (fences_->alive() && fences_->wait(copies_, after)) {
      enqueue(s, copies);
    }
    return {*set, s.number};
  }

  /// What the compute is given afterwards finds the layer's pages in place; see `layer_gate`.
  /// False: they do not come. Never blocks. @pre the load was not ended
  bool wait(stream_load load, std::uint32_t layer) noexcept {
    load_set& s = set_of(load);
    ORIEL_EXPECTS(!s.is_ended);
    const std::uint32_t copy = copy_for(s, layer);
    if (copy == s.in_place.size()) {
      return true;  // Nothing comes for it.
    }
    if (copy >= s.enqueued || !fences_->alive()) {
      return ORIEL_MUTANT(failed_copy_opens_its_layer);
    }
    if (copy < s.waited) {
      return true;
    }
    const std::uint32_t of =
        ORIEL_MUTANT(compute_waits_for_the_copy_before) && copy > 0 ? copy - 1 : copy;
    if (!record(s.asked[copy], fences_->compute()) ||
        !streams_.wait(fences_->compute(), s.ready[of])) {
      s.enqueued = copy;
      return false;
    }
    s.asked_for.push_back(copy);
    s.waited = ORIEL_MUTANT(one_wait_opens_all) ? s.enqueued : copy + 1;
    return true;
  }

  /// Nobody waits for its layers any more. @pre it was not ended
  void end(stream_load load) noexcept {
    load_set& s = set_of(load);
    ORIEL_EXPECTS(!s.is_ended);
    s.is_ended = true;
  }

  /// Is nothing of it on its way any more? Then its pages are the caller's, behind the same fence
  /// if the load failed: it may have ended before it came to that. Never blocks.
  /// @returns errc::device_failure: the device is lost, and nobody knows. Of a load that was seen
  /// done, too, if it is asked again
  [[nodiscard]] result<bool> is_done(stream_load load) noexcept {
    if (const status alive = fences_->alive(); !alive) {
      return alive.error();
    }
    return is_gone(load) ? result<bool>(true) : is_done(set_of(load));
  }

  /// Is a layer's part there, for the host too? Never blocks.
  /// @pre the load was not ended, or no load was begun or could have been since
  /// @returns as is_done
  [[nodiscard]] result<bool> is_in_place(stream_load load, std::uint32_t layer) noexcept {
    if (const status alive = fences_->alive(); !alive) {
      return alive.error();
    }
    load_set& s = set_of(load);
    const std::uint32_t copy = copy_for(s, layer);
    if (copy == s.in_place.size()) {
      return true;
    }
    return copy < s.enqueued ? ask(s.ready[copy]) : result<bool>(false);
  }

  /// Was some copy, or some wait, not enqueued? @pre as is_in_place
  [[nodiscard]] bool has_failed(stream_load load) noexcept {
    const load_set& s = set_of(load);
    return s.enqueued < s.in_place.size();
  }

  /// Blocks until `is_done`. @returns errc::device_failure
  status finish(stream_load load) noexcept {
    if (!fences_->alive() || is_gone(load)) {
      return fences_->alive();
    }
    const load_set& s = set_of(load);
    if (s.recorded != 0) {
      if (const status done = streams_.finish(s.ready[s.recorded - 1]); !done) {
        return fences_->lose(done.error());
      }
    }
    return {};
  }

  [[nodiscard]] const stream_layer_counters& counters() const noexcept { return counters_; }

  /// A load's layers as a `layer_gate`.
  class gate {
   public:
    gate(stream_layers& layers, stream_load load) noexcept : layers_(&layers), load_(load) {}
    bool wait(std::uint32_t layer) noexcept { return layers_->wait(load_, layer); }

   private:
    stream_layers* layers_;
    stream_load load_;
  };
  [[nodiscard]] gate gate_of(stream_load load) noexcept { return {*this, load}; }

 private:
  using event = typename Streams::event;
  struct load_set {
    std::vector<event> ready;                   // [copies_max]
    std::vector<event> asked;                   // [copies_max]: the compute came to that wait
    std::vector<std::uint32_t> in_place;        // [copies]: layers
    std::vector<std::uint32_t> asked_for = {};  // copies whose `asked` is recorded
    std::uint64_t number = 0;                   // 0: free
    std::uint32_t enqueued = 0;                 // whole copies
    std::uint32_t recorded = 0;                 // of `ready`: one more if the last copy failed
    std::uint32_t waited = 0;                   // copies that the compute waits for already
    bool is_ended = false;
  };

  stream_layers(stream_fences<Streams>& fences, stream copies, Streams streams)
      : streams_(std::move(streams)), fences_(&fences), copies_(copies) {}

  status make_events(std::uint32_t copies_max) {
    events_.reserve(std::size_t{loads_max} * 2 * copies_max);
    status outcome;
    const auto fill = [&](std::vector<event>& events, std::size_t count) {
      events.resize(count);
      for (event& e : events) {
        const result<event> made = outcome ? streams_.make_event() : outcome.error();
        if (!made) {
          outcome = made.error();
          return;
        }
        events_.push_back(e = *made);
      }
    };
    for (load_set& s : sets_) {
      s.in_place.reserve(copies_max);
      s.asked_for.reserve(copies_max);
      fill(s.ready, copies_max);
      fill(s.asked, copies_max);
    }
    return outcome;
  }

  [[nodiscard]] load_set& set_of(stream_load load) noexcept {
    ORIEL_EXPECTS(load.set < loads_max && sets_[load.set].number == load.number);
    return sets_[load.set];
  }
  /// Its events serve another load, or none: it was done then.
  [[nodiscard]] bool is_gone(stream_load load) const noexcept {
    ORIEL_EXPECTS(load.set < loads_max && load.number != 0 && load.number <= loads_);
    return sets_[load.set].number != load.number;
  }
  /// The copy with which a layer is in place; [copies]: nothing comes for it.
  [[nodiscard]] static std::uint32_t copy_for(const load_set& s, std::uint32_t layer) noexcept {
    std::uint32_t copy = 0;
    while (copy < s.in_place.size() && s.in_place[copy] <= layer) {
      ++copy;
    }
    return copy;
  }

  void enqueue(load_set& s, std::span<const layer_copy> copies) noexcept {
    for (const layer_copy& c : copies) {
      bool is_early = false;
      if (ORIEL_MUTANT(event_stands_before_its_copy)) {
        is_early = cover(s);
      }
      const bool is_whole = static_cast<bool>(streams_.copy(*c.plan, c.args, copies_));
      if (!is_whole && ORIEL_MUTANT(half_a_copy_is_not_waited_for)) {
        return;
      }
      if ((!is_early && !cover(s)) || !is_whole) {
        return;
      }
      ++s.enqueued;
    }
  }
  /// Records the next event: it covers all that is on its way. False: nothing does.
  bool cover(load_set& s) noexcept {
    const bool is_covered = record(s.ready[s.recorded], copies_);
    s.recorded += is_covered;
    return is_covered;
  }
  bool record(event e, stream s) noexcept {
    const status done = streams_.record(e, s);
    if (!done) {
      fences_->lose(done.error());
    }
    return static_cast<bool>(done);
  }
  [[nodiscard]] result<bool> ask(event e) noexcept {
    const result<bool> done = streams_.is_done(e);
    return done ? done : fences_->lose(done.error());
  }

  [[nodiscard]] result<bool> is_done(load_set& s) noexcept {
    if (s.recorded == 0) {
      return true;
    }
    return ask(s.ready[ORIEL_MUTANT(load_is_done_with_its_first_copy) ? 0 : s.recorded - 1]);
  }
  [[nodiscard]] static bool has_come(const result<bool>& done) noexcept { return done && *done; }

  /// Free, or over: its copies are done and the compute has come to its waits, or the device is
  /// lost.
  [[nodiscard]] bool is_free(load_set& s) noexcept {
    if (s.number == 0) {
      return true;
    }
    if (!s.is_ended && !ORIEL_MUTANT(load_goes_while_it_is_waited_for)) {
      return false;
    }
    const bool is_over = fences_->alive() && has_come(is_done(s)) &&
                         (s.asked_for.empty() || has_come(ask(s.asked[s.asked_for.back()])));
    if (!is_over && (fences_->alive() || ORIEL_MUTANT(lost_device_keeps_its_sets))) {
      return false;
    }
    measure(s);
    s.number = 0;
    return true;
  }

  void measure(const load_set& s) noexcept {
    ++counters_.loads;
    counters_.failed_loads += s.enqueued < s.in_place.size() || !fences_->alive();
    for (const std::uint32_t copy : s.asked_for) {
      const result<double> lead_us = streams_.elapsed_us(s.ready[copy], s.asked[copy]);
      if (lead_us) {
        ++counters_.waits;
        counters_.late_waits += *lead_us < 0;
        counters_.stall_us += *lead_us < 0 ? -*lead_us : 0;
        counters_.lead_us += *lead_us < 0 ? 0 : *lead_us;
      }
    }
  }

  [[no_unique_address]] Streams streams_;
  stream_fences<Streams>* fences_;
  stream copies_;
  std::vector<event> events_;  // all, to be dropped
  std::array<load_set, loads_max> sets_{};
  std::uint64_t loads_ = 0;
  stream_layer_counters counters_;
};

}  // namespace oriel
