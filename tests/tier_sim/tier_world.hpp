// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// One simulated engine with tiers: the real pools, tree, `tiered_prefix`, `memory_store` and
/// `segment_store`; a device whose streams run late, a disk and a remote machine that fail, a
/// process that dies, one clock. After every operation the invariants of D.4 are checked.
#pragma once

#include "sim/any_order.hpp"
#include "sim/fake_model.hpp"
#include "sim/kv_rows.hpp"
#include "sim/ledger.hpp"
#include "sim/mirror.hpp"
#include "sim/violation.hpp"
#include "sim_device.hpp"
#include "sim_remote.hpp"
#include "slab_faults.hpp"
#include "tier/sim_disk.hpp"
#include "tier_scenario.hpp"
#include "watched_store.hpp"

#include <oriel/prefix/radix_tree.hpp>
#include <oriel/prefix/sequence_prefix.hpp>
#include <oriel/tier/tiered_prefix.hpp>

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace sim {

/// What worlds came across.
struct tier_tally {
  std::uint64_t operations = 0, turns = 0, requests = 0, finished = 0, steps = 0, hits = 0,
                heals = 0, fetches = 0, fetched_pages = 0, copied_pages = 0, refused_copies = 0,
                dropped_copies = 0, waited = 0, restarts = 0, drops_repeated = 0, healed_worlds = 0,
                compared_worlds = 0, pages_checked = 0;
  std::array<std::uint64_t, 41> faults = {};  ///< by F number
  std::array<std::uint64_t, lie_kinds> lies = {};

  tier_tally& operator+=(const tier_tally& other) noexcept;
};

class tier_world {
 public:
  explicit tier_world(const tier_setup& sizes);
  ~tier_world();
  tier_world(const tier_world&) = delete;
  tier_world& operator=(const tier_world&) = delete;

  /// Its clock is the one that is shown from now on: of several worlds one runs at a time.
  void enter();
  /// Carries out one operation and checks everything. @throws violation
  void apply(const tier_operation& op);
  /// All faults end; then everybody must get to the end within `drain_turns_max`, nothing may be
  /// under way or held. @throws violation
  void heal();
  /// Of prompts that nobody knows yet: the tokens that a second asking finds, after the device has
  /// forgotten all. What a world full of faults must be able to do again. @throws violation
  [[nodiscard]] std::uint64_t measure_hits();
  /// Could a world like this one have come to be worse for good? Then its hits are not compared.
  [[nodiscard]] bool is_comparable() const;
  /// Ends the process; nothing may be left. @throws violation
  void close();

  [[nodiscard]] word trace() const { return trace_; }
  [[nodiscard]] tier_tally counts() const;

 private:
  using retention =
      oriel::keep_any<oriel::keep_every, oriel::keep_branch_points, oriel::keep_dense_head>;
  using tree_type =
      oriel::radix_tree<tier_pools::pool_type, any_order, retention, oriel::event_forwarder>;
  using tiers_type = oriel::tiered_prefix<tree_type, tier_pools>;
  using tier_sequence = tier_pools::sequence_type;
  using runner_type = row_runner<tier_pools, device_memory>;

  /// How long a heal may take, in turns of at most `turn_us_max` each.
  static constexpr std::uint32_t drain_turns_max = 60'000, turn_us_max = 100;

  struct session {
    std::uint32_t tenant = 0;
    std::vector<oriel::token_id> tokens;
  };
  enum class phase : std::uint8_t { queued, running, computing };
  struct request {
    std::uint32_t session = 0, tenant = 0;
    std::vector<oriel::token_id> tokens;  // known so far
    std::uint32_t prompt = 0, target = 0;
    cold_run cold;
    std::vector<oriel::page_digest> links = {};
    phase now = phase::queued;
    bool was_fetched = false, is_cancelled = false;
    std::optional<std::uint32_t> fetch = {};
    std::uint64_t fetch_begun_us = 0;
    std::uint32_t fetch_safe_tokens = 0;  // what the fetch must make resumable, if all goes well
    std::uint64_t disturbances = 0;       // before it began
    tree_type::lease lease = {};
    std::optional<tier_sequence> kv = {};
    std::optional<oriel::heal_plan> heal = {};
    runner_type::rows rows = {};
    sim_device::ticket ticket = 0;
    std::uint32_t refusals = 0;
    std::uint32_t epoch = 0;  // of its namespace, when it last took a lease or began a fetch
  };
  using request_pointer = std::unique_ptr<request>;

  /// What goes when the process goes.
  struct process {
    process(tier_world& world);
    ~process();
    tier_pools pools;
    device_memory memory;
    sim_device device;
    tree_type tree;
    runner_type runner;
    std::optional<tiers_type> tiers;
    mirror seen;
    std::vector<std::vector<bool>> had_content, was_free;  // [pools][pages]
  };
  /// Takes the tree's events: hands them to the tiers, and to a sink that may be full (F37).
  struct event_tap {
    tier_world* world;
    std::deque<recorded_events::entry> waiting;
    std::uint64_t lost = 0, last = 0;
    void on_event(const oriel::cache_event& event) noexcept;
    bool lets_go_soon(std::uint32_t pool, oriel::page_handle page) noexcept {
      return world->p_->tiers->lets_go_soon(pool, page);
    }
  };

  struct asked_drop {
    oriel::store_op op;
    oriel::page_digest space;
    oriel::page_owner owner;
    std::optional<std::uint32_t> order = {};  // its number; none: it was not begun
  };

  // Processes and time (tier_world_process.cpp).
  void start_process();
  enum class ending : std::uint8_t { in_order, kill, power };
  void end_process(ending how);
  [[nodiscard]] std::vector<oriel::tier> make_tiers();
  [[nodiscard]] std::optional<oriel::tier> make_host_tier();
  [[nodiscard]] tier_tally moved() const;
  void punch_holes();
  void turn(std::uint64_t us);
  void set_clock();
  void trouble(bool is_on);
  template <class Call>
  bool guarded(Call&& call);
  [[nodiscard]] bool is_right(const oriel::store_item& item) const;

  // Operations and requests (tier_world_requests.cpp).
  void start(const tier_operation& op);
  void submit(const tier_operation& op);
  void drop(const tier_operation& op);
  void order(asked_drop& d);
  void repeat_drops();
  void evict(const tier_operation& op);
  void apply_to_process(const tier_operation& op);
  void advance(request& r, std::uint32_t salt);
  bool fetch(request& r, std::uint32_t salt);
  void begin_fetch(request& r);
  void end_fetch(request& r);
  [[nodiscard]] std::uint32_t fetchable_tokens(const request& r) const;
  void admit(request& r);
  void check_lent(const request& r, const oriel::borrowed_prefix& lent);
  void launch(request& r);
  void complete(request& r);
  void publish(request& r, bool is_end);
  void learn(request& r);
  void finish(request& r);
  void requeue(request& r);
  void cancel(request& r);
  void make_way(request& r);
  void drop_finished();
  [[nodiscard]] oriel::tiered_sequence sequence_of(const request& r) const {
    return {starts_[r.tenant], r.tokens, r.links, {r.tenant + 1u, r.session + 1u}};
  }
  [[nodiscard]] oriel::reuse_options reuse() const;

  // Checks (tier_world_checks.cpp).
  void check();
  void look();
  void check_ownership();
  [[nodiscard]] bool sees_all() const;
  void check_match(const request& r);
  void check_tiers();
  void check_mirror();
  void drain();
  void check_offered_again();
  [[nodiscard]] bool is_reachable(const oriel::page_key& key) const;
  [[nodiscard]] bool can_write() const;

  void note(word value) { trace_ = mixed(trace_, value); }
  [[nodiscard]] std::uint64_t now() const { return *shown_us_; }
  [[nodiscard]] std::uint32_t kinds() const {
    return static_cast<std::uint32_t>(sizes_.device.windows.size());
  }
  [[nodiscard]] std::uint32_t page_size() const { return sizes_.device.page_size; }

  const tier_setup sizes_;
  fake_model model_;
  oriel::model_geometry geometry_;
  oriel::pool_plan plan_;
  oriel::compute_rates rates_;
  ledger ledger_;
  std::vector<oriel::cache_namespace> spaces_;  // [tenants]
  std::vector<oriel::page_digest> starts_;      // [tenants]
  std::vector<std::uint32_t> epochs_;           // [tenants] grows when the namespace is dropped
  std::map<page_name, word> by_hash_;           // of published pages
  std::map<oriel::page_digest, word> by_link_;
  std::vector<std::vector<std::uint32_t>> layers_of_;  // [pools][slots]

  std::uint64_t world_us_ = 1'000'000, clock_offset_us_ = 0, frozen_until_us_ = 0;
  std::shared_ptr<std::uint64_t> shown_us_ = std::make_shared<std::uint64_t>(1'000'000);
  oriel::random_stream draw_;  // what operations do not say: turns, orders
  std::shared_ptr<tier_book> host_, disk_book_, remote_;
  std::vector<std::shared_ptr<tier_book>> books_;  // of the tiers there are, in order
  oriel_test::sim_disk disk_;
  std::vector<std::byte> old_snapshot_;
  std::shared_ptr<remote_machine> machine_ = std::make_shared<remote_machine>();
  slab_faults slabs_;
  std::int64_t allocations_left_ = -1;
  bool is_starving_ = false, is_troubled_ = false, is_healed_ = false;
  event_tap tap_{this, {}, 0, 0};
  std::uint32_t sink_blocked_ = 0;
  std::vector<asked_drop> drops_;     // whose ends are not known yet
  std::uint64_t disturbances_ = 0;    // evictions and deletions
  std::uint64_t drops_asked_ = 0;     // of this process
  std::uint64_t resumed_tokens_ = 0;  // that admitted requests started behind
  std::vector<session> sessions_;
  std::unique_ptr<process> p_;
  std::vector<request_pointer> requests_;
  std::vector<std::uint32_t> missing_;  // scratch
  oriel::prefix_loan loan_;
  word trace_ = 0;
  tier_tally tally_;
};

/// Runs `call`; the allocation whose turn it is fails in it. Returns whether it got to its end.
template <class Call>
bool tier_world::guarded(Call&& call) {
  try {
    const alloc_faults faults(allocations_left_);
    call();
    return true;
  } catch (const std::bad_alloc&) {
    return false;
  }
}

}  // namespace sim
