// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `layer_load`: the pages of one step on their way up, layer by layer. It knows no store: whoever
/// drives one asks it for items, and tells it what became of them.
///
///     a read     waiting -> in a store -> acknowledged
///     a layer    loading -> ready    when the last of its reads is acknowledged as done
///                        -> failed   when one of them is not, or is never handed out
///
/// After the first failure no more is handed out: the sequence will be computed without its pages,
/// so layers that are behind would be read for nothing. What is in a store is waited for.
#pragma once

#include <oriel/tier/kv_store.hpp>
#include <oriel/tier/layer_plan.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace oriel {

enum class layer_state : std::uint8_t { loading, ready, failed };

/// *Thread safety* one thread drives it; `state` and `settled_us` may be asked from any other, and
/// whoever saw `ready` sees the layer's bytes.
/// *Memory*        nothing is allocated after construction: 32 bytes a read, 8 a page, 16 a layer.
class layer_load {
 public:
  /// Of nothing: it is over.
  layer_load() = default;
  /// @param plan    of these pages
  /// @param now_us  layers that nothing comes for are ready since then
  /// @throws std::bad_alloc
  layer_load(layer_plan plan,
             std::vector<layer_page> pages,
             const layer_load_options& options,
             std::uint64_t now_us);

  // --- Of the thread that drives -----------------------------------------------------------------

  /// The next items that should go, in order, all to one tier, as far as in_flight_bytes_max
  /// allows. They stay the next ones until `on_taken`. Returns how many. O(items).
  /// @param tier  the tier, where any are returned
  std::size_t offer(std::span<store_item> items, std::uint8_t& tier) const noexcept;
  /// A store took so many of them. O(count).
  void on_taken(std::size_t count) noexcept;
  /// One is done with. False: it is of somebody else. O(layers of the read).
  bool on_completion(const store_completion& c, std::uint64_t now_us) noexcept;
  /// Hands out no more; layers that lack something fail. O(reads that were not handed out).
  void cancel(std::uint64_t now_us) noexcept;
  /// The same, and waits for nothing that stores have: every layer that is not ready fails now. Its
  /// pages are held as before. O(layers + reads that were not handed out).
  void give_up(std::uint64_t now_us) noexcept;

  /// No store has anything of it, and none will.
  [[nodiscard]] bool is_over() const noexcept { return in_stores_ == 0 && next_ == end_; }
  /// A store may yet write to this page: somebody must hold it. O(1).
  [[nodiscard]] bool is_held(std::uint32_t page) const noexcept {
    return page_reads_[page].in_stores != 0 || (page_reads_[page].waiting != 0 && next_ != end_);
  }
  [[nodiscard]] std::uint64_t in_flight_bytes() const noexcept { return in_flight_bytes_; }
  [[nodiscard]] std::uint64_t done_bytes() const noexcept { return done_bytes_; }
  /// Reads that ended otherwise than done.
  [[nodiscard]] std::uint32_t failed_reads() const noexcept { return failed_reads_; }
  /// Layers that are not loading any more.
  [[nodiscard]] std::uint32_t settled() const noexcept { return settled_; }
  [[nodiscard]] const layer_plan& plan() const noexcept { return plan_; }

  // --- Of any thread -----------------------------------------------------------------------------

  [[nodiscard]] layer_state state(std::uint32_t layer) const noexcept {
    return layers_[layer].state.load(std::memory_order_acquire);
  }
  /// When it became ready or failed. @pre state(layer) != loading
  [[nodiscard]] std::uint64_t settled_us(std::uint32_t layer) const noexcept {
    return layers_[layer].settled_us;
  }

 private:
  struct progress {
    std::atomic<layer_state> state{layer_state::loading};
    std::uint32_t reads_left = 0;
    std::uint64_t settled_us = 0;  // written before state
  };
  struct reads_of_page {
    std::uint32_t waiting = 0, in_stores = 0;
  };

  template <class Visit>
  void visit_layers(const layer_read& read, Visit&& visit);
  void settle(progress& l, layer_state state, std::uint64_t now_us) noexcept;

  layer_plan plan_;
  std::vector<layer_page> pages_;
  layer_load_options options_;
  std::vector<progress> layers_;           // [layers]
  std::vector<reads_of_page> page_reads_;  // [pages]
  std::uint32_t next_ = 0, end_ = 0;       // reads that wait: [next_, end_)
  std::uint32_t in_stores_ = 0, settled_ = 0, failed_reads_ = 0;
  std::uint64_t in_flight_bytes_ = 0, done_bytes_ = 0;
};

/// What the compute of a step saw of a layer; microseconds of the loader's clock.
struct layer_wait {
  std::uint64_t ready_us = 0;   ///< the last of its bytes was acknowledged, or it failed
  std::uint64_t asked_us = 0;   ///< the compute came to it
  std::uint64_t passed_us = 0;  ///< and went on
  bool was_loaded = false;      ///< something came for it

  [[nodiscard]] std::uint64_t stall_us() const noexcept { return passed_us - asked_us; }
  [[nodiscard]] std::uint64_t lead_us() const noexcept {
    return ready_us < asked_us ? asked_us - ready_us : 0;
  }
};

/// Counts since construction, over layers that something came for.
struct layer_counters {
  std::uint64_t loads = 0;         ///< begun
  std::uint64_t failed_loads = 0;  ///< of which a layer was asked for and not got
  std::uint64_t layers = 0;        ///< asked for
  std::uint64_t late_layers = 0;   ///< not ready when they were asked for
  std::uint64_t stall_us = 0;      ///< compute waited, in all
  std::uint64_t lead_us = 0;       ///< ready before they were asked for, summed over layers
  std::uint64_t reads = 0, bytes = 0;

  layer_counters& operator+=(const layer_counters& other) noexcept;
};

/// Keeps the times of one step and the counters of all. Used by loaders; no thread safety.
class layer_meter {
 public:
  /// @throws std::bad_alloc
  void begin(const layer_plan& plan);
  /// @pre load.state(layer) != loading
  void pass(const layer_load& load,
            std::uint32_t layer,
            std::uint64_t asked_us,
            std::uint64_t passed_us) noexcept;

  [[nodiscard]] const std::vector<layer_wait>& waits() const noexcept { return waits_; }
  [[nodiscard]] const layer_counters& counters() const noexcept { return counters_; }

 private:
  std::vector<layer_wait> waits_;  // [layers]
  layer_counters counters_;
  bool has_failed_ = false;
};

}  // namespace oriel
