// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `stream_mover`: a page_mover by kv_copy, on a stream for each way beside that of the compute.
/// Outside of the device tiles are in the host's order, whatever they are inside.
///
///     memory    stages up | stages down | pages of moves up | pages of moves down
///     a stage   K of a layer in a page, then V, as in the page; zeros between and behind
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/core/result.hpp>
#include <oriel/device/stream_layers.hpp>
#include <oriel/kernels/kv_copy.hpp>
#include <oriel/kv/memory.hpp>
#include <oriel/kv/pool_plan.hpp>
#include <oriel/tier/page_mover.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace oriel {

/// A pool on both sides: by what addresses the host names its pages, and where they are.
struct moved_pool {
  const std::byte* names = nullptr;  ///< of page 0: bytes are at names + page * page_bytes
  std::byte* device = nullptr;       ///< page 0
};

/// What a mover is made for.
struct stream_mover_options {
  kv_order order = kv_order::device;  ///< of tiles in the pools
  cuda::kv_copy_options copies = {};
  /// Of host memory, for each way; at least `pages_min` pages of the largest pool are had.
  std::uint64_t stage_bytes_max = std::uint64_t{256} << 20;
  std::uint32_t pages_min = 8;
};

/// Of a device's multiprocessors those that copies take, up and down at once: a way's copies run
/// one after another, so each way has its own. What is computed beside them leaves them out.
[[nodiscard]] constexpr std::uint32_t mover_multiprocessors(
    const stream_mover_options& options = {}) noexcept {
  return 2 * options.copies.multiprocessors;
}

/// The copies of one way: for each layer of the model a view of both sides and a plan.
/// Pure arithmetic: `plan_moved_layers` makes it from a pool plan.
struct moved_layers {
  std::vector<cuda::kv_copy_plan> plans = {};  ///< [layers]
  std::vector<kv_copy_layer> views = {};       ///< [layers]; pages of a stage view are stages
  std::vector<std::vector<std::uint32_t>> layer_in = {};  ///< [pools][slots]
  /// [layers] bytes of a stage that no copy writes: behind K, and behind V.
  std::vector<std::array<std::pair<std::size_t, std::size_t>, 2>> gaps = {};
};

/// Stages that a page of any pool takes, at most. O(pools).
[[nodiscard]] std::uint32_t page_stages_of(const pool_plan& plan) noexcept;

/// Bytes of a stage that holds any layer of the plan's pools. O(layers).
[[nodiscard]] std::size_t stage_bytes_of(const pool_plan& plan) noexcept;

/// Stages of each way. O(layers).
[[nodiscard]] std::uint32_t stages_of(const pool_plan& plan,
                                      const stream_mover_options& options) noexcept;
/// Moves of a way that are on their way at once.
inline constexpr std::uint32_t stream_moves_max = 3;
/// Bytes of the host's memory that a mover takes: stages, and what its moves list. O(layers).
[[nodiscard]] std::uint64_t mover_bytes_of(const pool_plan& plan,
                                           const stream_mover_options& options = {}) noexcept;

/// How the layers of a plan move between stages and pools. O(layers).
/// @param shapes  [plan.layers()] what the plan was made of
/// @param stages  the first stage
/// @returns what plan_kv_copy refuses
/// @throws std::bad_alloc
[[nodiscard]] result<moved_layers> plan_moved_layers(const pool_plan& plan,
                                                     std::span<const kv_layer_shape> shapes,
                                                     std::span<const moved_pool> pools,
                                                     move_way way,
                                                     const stream_mover_options& options,
                                                     std::byte* stages);

/// @tparam Streams  of the device
/// @tparam Memory   of the host that its copies reach: cuda::pinned_memory
/// @tparam Commit   (pool, pages) -> status: pages [0, pages) of the pool are about to be written
///
/// *Memory* options.stage_bytes_max for each way; 6 * layers events a way. Nothing is allocated
/// after construction.
template <copy_streams Streams, kv_memory Memory, class Commit>
class stream_mover final : public page_mover {
 public:
  using stream = typename Streams::stream;
  struct used_streams {
    stream compute, up, down;  ///< the latter two are this object's alone
  };

  /// @param plan           outlives the mover
  /// @param shapes, pools  as plan_moved_layers; not kept
  /// @returns errc::device_failure, errc::out_of_memory, and what plan_kv_copy refuses
  /// @throws std::bad_alloc
  [[nodiscard]] static result<std::unique_ptr<stream_mover>> make(
      const pool_plan& plan,
      std::span<const kv_layer_shape> shapes,
      std::span<const moved_pool> pools,
      const used_streams& streams,
      Commit commit,
      const stream_mover_options& options = {},
      Streams device = {}) {
    const std::size_t stage_bytes = stage_bytes_of(plan);
    const std::uint32_t stages = stages_of(plan, options);
    const std::size_t way_bytes = stages * stage_bytes;
    const std::size_t pairs_bytes = std::size_t{stream_moves_max} * stages * sizeof(kv_page_pair);
    result<Memory> memory = Memory::reserve(mover_bytes_of(plan, options));
    if (!memory) {
      return memory.error();
    }
    if (status done = memory->commit(memory->size_bytes()); !done) {
      return done.error();
    }
    std::memset(memory->base(), 0, memory->size_bytes());
    auto fences = stream_fences<Streams>::make(streams.compute, device);
    if (!fences) {
      return fences.error();
    }
    auto made = std::unique_ptr<stream_mover>(
        new stream_mover(plan, pools, std::move(*memory), std::move(*fences), std::move(commit)));
    made->stages_ = stages;
    made->stage_bytes_ = stage_bytes;
    for (const move_way way : {move_way::up, move_way::down}) {
      std::byte* const base = made->memory_.base();
      const std::size_t index = static_cast<std::size_t>(way);
      auto layers = plan_moved_layers(plan, shapes, pools, way, options, base + index * way_bytes);
      if (!layers) {
        return layers.error();
      }
      auto copies = stream_layers<Streams>::make(
          made->fences_, way == move_way::up ? streams.up : streams.down, plan.layers(), device);
      if (!copies) {
        return copies.error();
      }
      made->lanes_[index] = std::make_unique<lane>(
          base + index * way_bytes,
          reinterpret_cast<kv_page_pair*>(base + 2 * way_bytes + index * pairs_bytes),
          stages,
          std::move(*layers),
          std::move(*copies));
    }
    return made;
  }

  [[nodiscard]] std::uint32_t stages() const noexcept override { return stages_; }
  [[nodiscard]] std::uint32_t page_stages() const noexcept override {
    return page_stages_of(plan_);
  }
  [[nodiscard]] bool try_take(move_way way, std::span<std::uint32_t> stages) noexcept override {
    std::vector<std::uint32_t>& free = of(way).free;
    if (free.size() < stages.size()) {
      return false;
    }
    for (std::uint32_t& stage : stages) {
      stage = free.back();
      free.pop_back();
    }
    return true;
  }
  void give_back(move_way way, std::span<const std::uint32_t> stages) noexcept override {
    of(way).free.insert(of(way).free.end(), stages.begin(), stages.end());  // It has the room.
  }
  [[nodiscard]] std::span<std::byte> bytes_of(move_way way,
                                              const page_slice& s) const noexcept override {
    return {lanes_[static_cast<std::size_t>(way)]->stages + s.stage * stage_bytes_,
            plan_.layout(pool_id{s.pool}).slice_bytes(s.slot)};
  }
  [[nodiscard]] page_slice slice_at(std::uint32_t pool,
                                    const std::byte* address) const noexcept override {
    ORIEL_EXPECTS(pool < names_.size() && address >= names_[pool]);
    const page_layout& layout = plan_.layout(pool_id{pool});
    const auto offset = static_cast<std::size_t>(address - names_[pool]);
    page_slice slice{.pool = pool,
                     .page = static_cast<std::uint32_t>(offset / layout.page_bytes())};
    while (layout.k_offset_bytes(slice.slot) != offset % layout.page_bytes()) {
      ++slice.slot;
    }
    return slice;
  }

  [[nodiscard]] bool can_begin(move_way way) noexcept override {
    return of(way).copies.can_begin();
  }
  void make_room(move_way way) noexcept override {
    lane& l = of(way);
    if (!l.copies.can_begin()) {  // The oldest one ends first; its set is free even if it fails.
      [[maybe_unused]] const status done =
          l.copies.finish(*std::ranges::min_element(l.moves, {}, &stream_load::number));
    }
  }

  [[nodiscard]] page_move begin(move_way way,
                                std::span<const page_slice> slices) noexcept override {
    lane& l = of(way);
    const std::uint32_t set = *l.copies.next_set();
    ORIEL_EXPECTS(slices.size() <= stages_);
    const bool has_memory = way == move_way::down || commit_all(slices);
    if (way == move_way::down) {
      clear_gaps(l, slices);
    }
    list_copies(l, way, has_memory ? slices : std::span<const page_slice>(), set);
    const stream_load load = l.copies.begin(
        l.listed, ORIEL_MUTANT(mover_forgets_the_fence) ? stream_fence::none : fence_, set);
    const bool is_whole = has_memory && !l.copies.has_failed(load);
    l.copies.end(load);  // No layer waits for it on the device: hosts ask whether it is there.
    l.moves[load.set] = load;
    return {way, load.set, load.number, is_whole};
  }
  [[nodiscard]] result<bool> is_done(const page_move& m) noexcept override {
    return of(m.way).copies.is_done({m.set, m.number});
  }
  [[nodiscard]] result<bool> is_in_place(const page_move& m,
                                         const page_slice& s) noexcept override {
    const result<bool> done = is_done(m);  // Then its events may be another one's already.
    if (!done || *done) {
      return done;
    }
    lane& l = of(m.way);
    return l.copies.is_in_place({m.set, m.number}, l.layers.layer_in[s.pool][s.slot]);
  }
  status finish(const page_move& m) noexcept override {
    return of(m.way).copies.finish({m.set, m.number});
  }
  status mark() noexcept override {
    const result<stream_fence> here = fences_.mark();
    if (!here) {
      return here.error();
    }
    fence_ = *here;
    return {};
  }

  /// Of a way; microseconds are the device's.
  [[nodiscard]] const stream_layer_counters& counters(move_way way) const noexcept {
    return lanes_[static_cast<std::size_t>(way)]->copies.counters();
  }

 private:
  static_assert(stream_layers<Streams>::loads_max == stream_moves_max);

  struct lane {
    lane(std::byte* first_stage,
         kv_page_pair* first_pair,
         std::uint32_t stage_count,
         moved_layers&& of,
         stream_layers<Streams>&& on)
        : stages(first_stage),
          pairs(first_pair),
          layers(std::move(of)),
          copies(std::move(on)),
          counts(layers.views.size()) {
      free.reserve(stage_count);
      for (std::uint32_t stage = stage_count; stage-- > 0;) {
        free.push_back(stage);
      }
      listed.reserve(layers.views.size());
    }

    std::byte* stages;
    kv_page_pair* pairs;  // [stream_moves_max][stages]
    moved_layers layers;
    stream_layers<Streams> copies;
    std::vector<std::uint32_t> free;                       // stages
    std::vector<std::uint32_t> counts;                     // [layers] scratch: slices of each
    std::vector<layer_copy> listed;                        // of the move that begins
    std::array<stream_load, stream_moves_max> moves = {};  // the last one of each set
  };

  stream_mover(const pool_plan& plan,
               std::span<const moved_pool> pools,
               Memory memory,
               stream_fences<Streams> fences,
               Commit commit)
      : plan_(plan),
        memory_(std::move(memory)),
        fences_(std::move(fences)),
        commit_(std::move(commit)) {
    for (const moved_pool& pool : pools) {
      names_.push_back(pool.names);
    }
  }

  [[nodiscard]] lane& of(move_way way) noexcept { return *lanes_[static_cast<std::size_t>(way)]; }

  bool commit_all(std::span<const page_slice> slices) noexcept {
    return std::ranges::all_of(slices, [&](const page_slice& s) {
      return static_cast<bool>(commit_(s.pool, s.page + 1));
    });
  }

  /// Nothing of another page goes to a store.
  void clear_gaps(lane& l, std::span<const page_slice> slices) noexcept {
    for (const page_slice& s : slices) {
      for (const auto& [begin, end] : l.layers.gaps[l.layers.layer_in[s.pool][s.slot]]) {
        std::fill(l.stages + s.stage * stage_bytes_ + begin,
                  l.stages + s.stage * stage_bytes_ + end,
                  std::byte{0});
      }
    }
  }

  /// The copies of a move, layer by layer, and its pages where the device may read them: those of a
  /// layer side by side.
  void list_copies(lane& l,
                   move_way way,
                   std::span<const page_slice> slices,
                   std::uint32_t set) noexcept {
    std::ranges::fill(l.counts, 0u);
    for (const page_slice& s : slices) {
      ++l.counts[l.layers.layer_in[s.pool][s.slot]];
    }
    kv_page_pair* const pairs = l.pairs + std::size_t{set} * stages_;
    l.listed.clear();
    std::uint32_t first = 0;
    for (std::uint32_t layer = 0; layer < l.counts.size(); ++layer) {
      const std::uint32_t count = std::exchange(l.counts[layer], first);
      if (count != 0) {
        l.listed.push_back(
            {&l.layers.plans[layer],
             {.layers = {&l.layers.views[layer], 1}, .pages = {pairs + first, count}},
             layer + 1});
      }
      first += count;
    }
    for (const page_slice& s : slices) {
      pairs[l.counts[l.layers.layer_in[s.pool][s.slot]]++] =
          way == move_way::up ? kv_page_pair{s.stage, s.page} : kv_page_pair{s.page, s.stage};
    }
  }

  const pool_plan& plan_;
  Memory memory_;
  stream_fences<Streams> fences_;
  Commit commit_;
  std::vector<const std::byte*> names_;              // [pools]
  std::array<std::unique_ptr<lane>, 2> lanes_ = {};  // go before the memory
  std::uint32_t stages_ = 0;
  std::size_t stage_bytes_ = 0;
  stream_fence fence_ = stream_fence::none;
};

}  // namespace oriel
