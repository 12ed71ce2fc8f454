// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `layer_loader`: brings the pages of a step up while the step computes, layer by layer.
///
///     layer_loader loader(std::vector{&host_store}, options);
///     loader.begin(homes, pages);       // during the step before: nothing hides layer 0's load
///     for (layer l : layers) {
///       ...                             // what needs no cached KV
///       if (!loader.wait(l)) { ... }    // give up what the step makes of this sequence
///       attention(l);
///     }
///     loader.finish();                  // now the pages are the caller's again
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/tier/detail/layer_lanes.hpp>
#include <oriel/tier/layer_gate.hpp>
#include <oriel/tier/layer_load.hpp>
#include <oriel/tier/store_clock.hpp>

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace oriel {

/// A gate whose stores are driven in the calls of its owner: for stores that have a thread of their
/// own (`store_thread`, a device), and for simulations. Between calls stores go on with what they
/// have, so options.in_flight_bytes_max should be what they move while a layer computes; and what
/// came in between is seen, and its time noted, at the next call: leads are at least as reported.
/// `layer_loader_thread` has neither restriction.
///
/// @tparam Clock  of deadlines, stalls and leads; the stores' own
/// *Thread safety* none: one thread owns it and its stores. *Memory* `begin` allocates.
template <kv_store Store, store_clock Clock = monotonic_clock>
class layer_loader {
 public:
  /// @param stores  by `layer_page::tier`; they outlive it, and are nobody else's during a load
  explicit layer_loader(std::vector<Store*> stores,
                        const layer_load_options& options = {},
                        Clock clock = {})
      : options_(options), clock_(std::move(clock)), lanes_(std::move(stores)) {}
  layer_loader(const layer_loader&) = delete;
  layer_loader& operator=(const layer_loader&) = delete;
  /// Waits for what stores still write to.
  ~layer_loader() {
    cancel();
    finish();
  }

  /// Starts to load, and returns at once. The pages belong to the loader until `idle`, or each
  /// until it is not `is_held` any more. Reads that are not done by the deadline have failed.
  /// @pre    idle(), and as plan_layer_reads
  /// @throws std::bad_alloc
  void begin(std::span<const layer_home> layers,
             std::vector<layer_page> pages,
             std::uint64_t deadline_us = no_deadline) {
    ORIEL_EXPECTS(idle());
    layer_plan plan = plan_layer_reads(layers, pages, options_);
    layer_load load(std::move(plan), std::move(pages), options_, clock_.now_us());
    meter_.begin(load.plan());
    load_ = std::move(load);
    deadline_us_ = deadline_us;
    turn();
  }

  /// Takes in what the stores have done, and hands on what they take. Never blocks.
  void turn() { lanes_.turn(load_, deadline_us_, clock_); }

  /// Would `wait` return true at once? Never blocks. @pre layer < layers of the last begin
  [[nodiscard]] bool ready(std::uint32_t layer) {
    turn();
    return load_.state(layer) == layer_state::ready;
  }

  /// Blocks until the layer is there or has failed; see `layer_gate`.
  /// @pre layer < layers of the last begin
  bool wait(std::uint32_t layer) {
    turn();
    const std::uint64_t asked_us = clock_.now_us();
    std::uint64_t now_us = asked_us;
    while (load_.state(layer) == layer_state::loading) {
      lanes_.wait(now_us, no_deadline);
      turn();
      now_us = clock_.now_us();
    }
    meter_.pass(load_, layer, asked_us, now_us);
    return load_.state(layer) == layer_state::ready;
  }

  /// Nobody wants it any more: no more is handed out. What stores have keeps its pages.
  void cancel() noexcept { load_.cancel(clock_.now_us()); }

  /// No store has anything of the last load: its pages are the caller's.
  [[nodiscard]] bool idle() const noexcept { return load_.is_over(); }
  /// A store may yet write to this page of the last load. @pre page < its pages
  [[nodiscard]] bool is_held(std::uint32_t page) const noexcept { return load_.is_held(page); }
  /// Blocks until `idle`.
  void finish() {
    while (!idle()) {
      lanes_.wait(clock_.now_us(), no_deadline);
      turn();
    }
  }

  /// Of the last load, by layer; those that were not asked for are zero.
  [[nodiscard]] std::span<const layer_wait> waits() const noexcept { return meter_.waits(); }
  [[nodiscard]] const layer_counters& counters() const noexcept { return meter_.counters(); }
  [[nodiscard]] const layer_load& load() const noexcept { return load_; }

 private:
  const layer_load_options options_;
  const Clock clock_;
  detail::layer_lanes<Store> lanes_;
  layer_load load_;
  layer_meter meter_;
  std::uint64_t deadline_us_ = no_deadline;
};

}  // namespace oriel
