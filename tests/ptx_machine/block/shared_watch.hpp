// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Finds races in a block's shared memory: accesses that no barrier orders, and missing proxy
/// fences.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace oriel::ptx_machine {

/// Who did it, for messages.
struct issuer {
  std::uint32_t warp = 0;
  std::uint32_t instruction = 0;  ///< of kernel::code
};

enum class access : std::uint8_t { read, write, atomic };

/// Vector clocks. Agents are warps (whose lanes are told apart only among themselves) and what
/// works behind their backs: a warp's cp.async copies, a warp's bulk stores, a warp's rows of
/// products, what a warpgroup's products share, and for bulk loads and st.async the mbarrier they complete on, whose clock
/// counts its phases. An access races with an earlier one of another agent unless the agent's clock then is known to
/// whoever does the later one. A second clock of each warp tells which generic writes a
/// fence.proxy.async has shown to the async proxy.
class shared_watch {
 public:
  /// What one agent knows of a block: of each of its agents, how far. `fenced`: how far its generic
  /// writes are seen by the async proxy. `inits`: how far its mbarriers are known, where its other
  /// accesses may not be.
  struct block_clocks {
    std::vector<std::uint32_t> known, fenced, inits;
    void join(const block_clocks& other);
  };
  /// By the ranks of a cluster's blocks.
  using cluster_clocks = std::vector<block_clocks>;
  /// What one agent knows: of its own block, and of the others of the cluster what messages and the
  /// cluster's barriers have brought.
  struct clocks : block_clocks {
    cluster_clocks others;  ///< its own block's is empty
    void join(const clocks& other);
    /// What both know.
    void meet(const clocks& other);
    void set(std::uint32_t agent, std::uint32_t clock);
    [[nodiscard]] std::uint32_t known_of(std::uint32_t agent) const {
      return agent < known.size() ? known[agent] : 0;
    }
    /// An mbarrier that the warp has initialised at its time `clock`.
    [[nodiscard]] bool knows_init(std::uint32_t warp, std::uint32_t clock) const {
      return known_of(warp) >= clock || (warp < inits.size() && inits[warp] >= clock);
    }
  };
  using place_name = std::function<std::string(std::uint32_t instruction)>;

  /// @param enabled  false: all calls return at once
  /// @param rank  of the block in its cluster
  shared_watch(std::uint32_t shared_bytes,
               std::uint32_t warps,
               bool enabled,
               place_name name,
               std::uint32_t rank = 0);
  ~shared_watch();
  shared_watch(const shared_watch&) = delete;
  shared_watch& operator=(const shared_watch&) = delete;

  [[nodiscard]] bool enabled() const { return enabled_; }

  // What the executor tells.

  /// An access of a warp's lanes by ld, st, atom, red: `bytes` at each active lane's offset, in
  /// bounds and aligned.
  void lanes(const issuer& who,
             access kind,
             std::uint32_t active,
             const std::uint32_t (&offsets)[32],
             std::uint32_t bytes);
  /// A barrier of these warps (bit w: warp w) is complete: bar.sync, ... For bar.arrive: `arrived`
  /// are all, `waiting` those that wait.
  void barrier(std::uint32_t arrived, std::uint32_t waiting);
  /// bar.warp.sync: what the warp's lanes did before is ordered before what they do after. Without
  /// it a write races with what another lane does later. (Not a read: a shuffle of what was read
  /// orders that, too.)
  void meet(std::uint32_t warp) { ++meetings_[warp]; }
  /// What the warp knows, for the other blocks of its cluster: barrier.cluster.arrive, st.async.
  /// What it does from now on is not in it.
  [[nodiscard]] cluster_clocks release_to_cluster(std::uint32_t warp);
  /// fence.acq_rel, by whatever lanes: a relaxed arrival at the cluster's barrier tells what the
  /// warp knows now.
  void fence(std::uint32_t warp);
  /// fence.mbarrier_init, by whatever lanes: it tells of the mbarriers that the warp has initialised.
  void fence_inits(std::uint32_t warp);
  /// barrier.cluster.arrive.relaxed: what the warp's fences have released.
  [[nodiscard]] const cluster_clocks& released_by_fences(std::uint32_t warp) const {
    return released_[warp];
  }
  static void join(cluster_clocks& to, const cluster_clocks& from);
  /// What another block knows, as an agent of this one would know it.
  [[nodiscard]] clocks seen_here(const cluster_clocks& all) const;
  /// fence.proxy.async, by whatever lanes.
  void fence_proxy_async(std::uint32_t warp);

  // What block_async tells (its doings, not the executor's).

  [[nodiscard]] const clocks& of_warp(std::uint32_t warp) const { return warps_[warp]; }
  /// The warp learns all of that.
  void acquire(std::uint32_t warp, const clocks& from);
  /// What the warp knows is added to `to`; what it does from now on is not.
  void release(std::uint32_t warp, clocks& to);
  /// A warp learns that an agent is at least so far.
  void learn(std::uint32_t warp, std::uint32_t agent, std::uint32_t clock);

  [[nodiscard]] std::uint32_t copies_agent(std::uint32_t warp) const { return warp_count_ + warp; }
  [[nodiscard]] std::uint32_t stores_agent(std::uint32_t warp) const {
    return 2 * warp_count_ + warp;
  }
  /// What reads a warp's quarter of A.
  [[nodiscard]] std::uint32_t rows_agent(std::uint32_t warp) const {
    return 3 * warp_count_ + warp;
  }
  /// What reads B.
  [[nodiscard]] std::uint32_t products_agent(std::uint32_t warpgroup) const {
    return 4 * warp_count_ + warpgroup;
  }
  /// A new agent: what completes on an mbarrier there.
  [[nodiscard]] std::uint32_t add_mbarrier(std::uint32_t offset);

  /// An access of an agent that is none of the warps, begun with what `with` knows. Words of four
  /// bytes.
  /// @param generic  it is in the generic proxy, whatever the agent's others are in
  void behind_back(const issuer& who,
                   access kind,
                   std::uint32_t agent,
                   std::uint32_t clock,
                   const clocks& with,
                   std::uint32_t offset,
                   std::uint32_t bytes,
                   bool generic = false);

 private:
  struct event {
    std::uint32_t clock = 0;  ///< 0: there was none
    std::uint32_t instruction = 0;
    std::uint32_t meeting = 0;  ///< of the warp: see meet()
    std::uint16_t agent = 0;
    std::uint8_t bytes = 0;  ///< of the four of its word: bit b
    bool atomic = false;
    std::uint8_t lane = 0;  ///< or several_lanes
  };
  static constexpr std::uint8_t several_lanes = 32;
  struct word {
    event write;
    event read;                 ///< the last one, where `readers` is 0
    std::uint32_t readers = 0;  ///< or else of many_readers, from 1
  };

  /// And lists of readers. A page of words is cleared where a block first touches it: most blocks
  /// leave most pages alone.
  struct word_pages;
  [[nodiscard]] word& word_at(std::uint32_t offset);

  void touch(word& w,
             const event& now,
             access kind,
             bool async_proxy,
             const clocks& with,
             std::uint32_t offset);
  void check(const event& before,
             const event& now,
             access before_kind,
             access kind,
             const clocks& with,
             std::uint32_t offset) const;
  void check_lanes(const event& before,
                   const event& now,
                   access before_kind,
                   access kind,
                   std::uint32_t offset) const;
  /// Has check() to look at them? (Mostly it has not.)
  [[nodiscard]] static bool suspicious(const event& before, const event& now, const clocks& with);
  static event merged(const event& before, const event& now);
  void check_fenced(const event& before,
                    const event& now,
                    access kind,
                    const clocks& with,
                    std::uint32_t offset) const;
  /// One that is not ordered after the last.
  void add_reader(word& w, const event& now);
  void forget_readers(word& w);
  [[nodiscard]] bool through_async_proxy(std::uint32_t agent) const;
  [[nodiscard]] std::string text(const event& e, access kind) const;

  bool enabled_;
  std::uint32_t warp_count_;
  std::uint32_t rank_;
  std::vector<clocks> warps_;
  std::vector<cluster_clocks> released_;  ///< by warp: see released_by_fences()
  std::vector<std::uint32_t> meetings_;   ///< by warp
  std::unique_ptr<word_pages> words_;     ///< from block to block of a thread
  std::vector<std::uint32_t> mbarriers_;  ///< offsets, in the order of their agents
  place_name name_;
};

}  // namespace oriel::ptx_machine
