// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What of a block goes on behind its threads' backs: mbarriers, copies, products of warpgroups,
/// the division of registers. As the PTX ISA (9.0) says it, not as our kernels use it.
///
/// The executor asks for an operation where a warp executes it, and calls step() now and then:
/// whatever is pending may be performed at each such time, and is at the latest by the wait that
/// covers it. Until a copy into shared memory is performed its bytes there are 0xFF; what a copy
/// reads is read when it is performed.
///
/// All messages lack kernel, block and the executing instruction: the executor adds them.
#pragma once

#include "shared_watch.hpp"
#include "warpgroups.hpp"

#include <ptx_machine/program/program.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

namespace oriel::ptx_machine {

/// A block as its asynchrony sees it.
struct block_setup {
  std::span<std::byte> shared;  ///< static and dynamic; the executor fills it with 0xFF
  std::uint32_t warps = 0;
  std::uint32_t registers_per_thread = 0;  ///< see registers_at_launch()
  warp_registers* registers = nullptr;
  std::uint32_t rank_in_cluster = 0;
  std::uint64_t seed = 0;
  bool watch_races = true;
  shared_watch::place_name place;  ///< an instruction in words: "kernels/x.cuh:12 (ld.shared.u32)"
};

/// A warp of a cluster's block, with what it knew as it sent a store.
struct sender {
  issuer who;
  std::uint32_t rank = 0;  ///< of its block
  std::shared_ptr<const shared_watch::cluster_clocks> known;
};

class block_async {
 public:
  explicit block_async(const block_setup& setup);

  [[nodiscard]] shared_watch& watch() { return watch_; }
  [[nodiscard]] warpgroups& products() { return products_; }
  [[nodiscard]] register_pool& registers() { return pool_; }

  // Mbarriers: eight bytes of shared memory at `offset`. One call for each lane.

  void init(const issuer& who, std::uint32_t offset, std::uint32_t count);
  void invalidate(const issuer& who, std::uint32_t offset);
  /// fence.mbarrier_init: the warp's inits are seen by the async proxy (fence_proxy_async() does
  /// that too), and who waits behind a relaxed arrival of the warp knows of them.
  void fence_mbarrier_init(const issuer& who);
  /// fence.proxy.async; for all lanes once.
  void fence_proxy_async(const issuer& who);
  /// mbarrier.arrive.
  void arrive(const issuer& who, std::uint32_t offset, std::uint32_t count = 1);
  /// mbarrier.arrive.expect_tx, .release or .relaxed.
  void arrive_expect(const issuer& who,
                     std::uint32_t offset,
                     std::uint32_t bytes,
                     bool releases = true);
  /// mbarrier.expect_tx.
  void expect(const issuer& who, std::uint32_t offset, std::uint32_t bytes);
  /// mbarrier.try_wait.parity: may say no although the phase is complete, as a device may. Whoever
  /// polls must let others run and call step() between.
  [[nodiscard]] bool try_wait(const issuer& who, std::uint32_t offset, std::uint32_t parity);

  // Bulk copies. One call for each lane.

  /// cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.
  void bulk_load(const issuer& who,
                 std::uint32_t destination,
                 std::uint64_t source,
                 std::uint32_t bytes,
                 std::uint32_t mbarrier);
  /// cp.async.bulk.global.shared::cta.bulk_group.
  void bulk_store(const issuer& who,
                  std::uint32_t lane,
                  std::uint64_t destination,
                  std::uint32_t source,
                  std::uint32_t bytes);
  /// cp.async.bulk.prefetch.L2.global: nothing but its rules.
  void bulk_prefetch(std::uint64_t source, std::uint32_t bytes) const { check_bulk(source, bytes); }
  /// cp.async.bulk.commit_group.
  void bulk_commit(const issuer& who, std::uint32_t active);
  /// cp.async.bulk.wait_group[.read]: what it covers is performed now.
  void bulk_wait(const issuer& who,
                 std::uint32_t active,
                 std::uint32_t groups_pending_max,
                 bool read_only);

  /// st.async from a block of the cluster, this one or another, to this one: its bytes complete on
  /// an mbarrier of this block. `value`: 4, 8 or 16 bytes.
  void store_async(const sender& from,
                   std::uint32_t offset,
                   std::span<const std::byte> value,
                   std::uint32_t mbarrier);

  // Copies of threads (cp.async): one call for a warp.

  /// @param bytes  4, 8, 16
  /// @param source_bytes  src-size of each lane, `bytes` where the instruction has none;
  ///         the rest is zeros
  void copy(const issuer& who,
            std::uint32_t active,
            const std::uint32_t (&destination)[32],
            const std::uint64_t (&source)[32],
            std::uint32_t bytes,
            const std::uint32_t (&source_bytes)[32]);
  void copy_commit(const issuer& who, std::uint32_t active);
  void copy_wait(const issuer& who, std::uint32_t active, std::uint32_t groups_pending_max);
  void copy_wait_all(const issuer& who, std::uint32_t active);
  /// cp.async.mbarrier.arrive[.noinc], for each lane: an arrival once the lane's copies so far are
  /// done.
  void copy_arrive(const issuer& who, std::uint32_t lane, std::uint32_t offset, bool increment);

  // Time.

  /// Is there anything that step() would do?
  [[nodiscard]] bool pending() const;
  /// Performs one pending thing, at random; false where there is none.
  bool step();
  /// A warp ends.
  void end_warp(const issuer& who);
  /// The block ends: all its warps have.
  void end_block();

 private:
  struct mbarrier {
    std::uint32_t expected = 0;  ///< arrivals of a phase
    std::uint32_t pending = 0;   ///< arrivals that this phase still lacks
    std::int64_t transactions = 0;
    std::uint32_t phase = 0;     ///< phases complete
    std::uint32_t observed = 0;  ///< phases that a wait has found complete
    std::uint32_t loaded = 0;    ///< phases up to the last that has a bulk load or st.async
    issuer initialiser{};
    std::uint32_t initialised = 0;  ///< its clock then
    bool seen_by_async_proxy = false;
    std::uint32_t agent = 0;
    shared_watch::clocks gathering{}, complete{};
  };
  enum class kind : std::uint8_t { bulk_load, bulk_store, copy_arrival, async_store };
  struct operation {
    kind what{};
    issuer who{};
    std::uint32_t lanes = 0;
    std::uint32_t shared = 0;  ///< offset
    std::uint64_t global = 0;
    std::uint32_t bytes = 0;
    std::uint32_t mbarrier = 0;
    std::uint32_t phase = 0;  ///< of the mbarrier at issue
    std::uint32_t clock = 0;  ///< of the warp's stores or copies, at issue
    /// What a bulk store has read and not yet written, or an st.async's value.
    std::vector<std::byte> captured{};
    sender from{};  ///< of an st.async, whose `who` is a warp of another block
  };
  /// A warp's cp.async.
  struct warp_copy {
    std::uint32_t warp = 0;
    std::uint32_t active = 0;
    std::uint32_t bytes = 0;
    std::uint32_t clock = 0;
    std::uint32_t destination[32]{};
    std::uint32_t source_bytes[32]{};
    std::uint64_t source[32]{};
  };
  /// The groups of a lane's copies or bulk stores: the warp's clock of those at each commit.
  using lane_groups = std::vector<std::uint32_t>;

  mbarrier& at(std::uint32_t offset);
  /// And this warp knows that it was initialised.
  mbarrier& at(const issuer& who, std::uint32_t offset);
  void check_initialised(std::uint32_t offset,
                         const mbarrier& b,
                         const shared_watch::clocks& by) const;
  static std::uint64_t state_of(const mbarrier& b);
  void store_state(std::uint32_t offset, const mbarrier& b);
  void count_arrivals(std::uint32_t offset, mbarrier& b, std::uint32_t count);
  void change_transactions(std::uint32_t offset, mbarrier& b, std::int64_t by);
  void complete_if_due(std::uint32_t offset, mbarrier& b);
  void check_bulk(std::uint64_t global, std::uint32_t bytes) const;
  void check_shared(std::uint32_t offset, std::uint32_t bytes, std::uint32_t alignment) const;
  void check_no_mbarrier(std::uint32_t offset, std::uint32_t bytes) const;
  void note_write(const issuer& who, std::uint32_t offset);
  [[nodiscard]] bool waits_for_copies(const operation& o) const;
  /// The nth of pending_; bulk stores take two turns, one to read and one to write.
  void perform(std::size_t nth, bool read_only);
  void land(const operation& o, mbarrier& b);
  void perform_copy(std::size_t nth);
  void perform_copies(std::uint32_t warp, const std::uint32_t (&up_to)[32]);
  std::uint64_t random();

  std::span<std::byte> shared_;
  std::uint32_t warps_;
  std::uint64_t random_state_;
  shared_watch watch_;
  warpgroups products_;
  register_pool pool_;
  bool ended_ = false;
  std::map<std::uint32_t, mbarrier> mbarriers_;  ///< by offset
  std::vector<operation> pending_;
  std::vector<warp_copy> pending_copies_;
  std::vector<lane_groups> copy_groups_, store_groups_;     ///< [warp, lane]
  std::vector<std::uint32_t> stores_issued_, stores_read_;  ///< [warp, lane]: clocks of the last
  std::vector<std::uint32_t> copy_clocks_, store_clocks_;   ///< by warp
};

}  // namespace oriel::ptx_machine
