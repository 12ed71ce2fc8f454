// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// One simulated engine: the real tree and pools, the fake model, sessions and requests. Every
/// operation of a scenario is carried out, and after each the invariants of D.4 are checked.
#pragma once

#include "any_order.hpp"
#include "fake_model.hpp"
#include "kv_rows.hpp"
#include "ledger.hpp"
#include "mirror.hpp"
#include "page_accounts.hpp"
#include "scenario.hpp"
#include "tally.hpp"
#include "tree_walk.hpp"
#include "violation.hpp"

#include <oriel/prefix/radix_tree.hpp>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace sim {

template <class Events>
class world {
 public:
  using retention =
      oriel::keep_any<oriel::keep_every, oriel::keep_branch_points, oriel::keep_dense_head>;
  using tree_type = oriel::radix_tree<pools_type::pool_type, any_order, retention, Events>;

  explicit world(const setup& sizes);

  /// Carries out one operation and checks everything. @throws violation
  void apply(const operation& op);
  /// Lets everybody end, checks that nothing is left, then that a request of any size that fits is
  /// served, then that an empty tree holds nothing. @throws violation
  void close();

  [[nodiscard]] word trace() const { return trace_; }
  [[nodiscard]] const tally& counts() const { return tally_; }

 private:
  struct session {
    std::uint32_t tenant = 0;
    std::vector<oriel::token_id> tokens;
  };
  struct request {
    std::uint32_t session, tenant;
    std::vector<oriel::token_id> tokens;  // known so far
    std::uint32_t target;                 // tokens it will end with
    cold_run cold;                        // of `tokens`, or all but the last
    typename tree_type::lease lease = {};
    std::optional<sequence> kv = {};
    std::optional<oriel::heal_plan> heal = {};
    typename tree_type::publication fresh = {};
    bool has_fresh = false, keeps_tail = true;
    std::vector<std::vector<oriel::page_handle>> offered = {};  // [pools] of `fresh`
    std::vector<std::uint32_t> offered_from = {};               // [pools] first logical page
    std::uint32_t epoch = 0;  // of its namespace, when it took its lease
  };
  using request_pointer = std::unique_ptr<request>;

  // Operations (world_operations.hpp).
  void start(const operation& op);
  void edit(const operation& op);
  void branch(const operation& op);
  void submit(const operation& op);
  void resume(const operation& op);
  void finish(request& r, const operation& op);
  void preempt(std::size_t at);
  void probe(const operation& op);
  void apply_to_request(const operation& op);
  void drop_space(std::uint32_t tenant);
  void clear();
  void check_liveness();

  // Requests (world_requests.hpp).
  [[nodiscard]] cold_run cold_of(std::uint32_t tenant, std::span<const oriel::token_id> tokens);
  [[nodiscard]] oriel::prefix_match match(const request& r, bool by_hash);
  bool admit(request& r, const operation& op);
  void take_lease(request& r, const oriel::prefix_match& found, oriel::pin_extent extent);
  [[nodiscard]] oriel::borrowed_pages borrow(const request& r);
  [[nodiscard]] bool open_sequence(request& r, std::uint32_t tokens_now);
  void step(request& r, const operation& op);
  [[nodiscard]] bool reserve_rows(request& r, std::uint32_t rows);
  void check_outputs(const request& r, std::span<const word> states);
  void reserve_pages(request& r, bool keeps_tail = true);
  void commit_pages(request& r);
  void expect_published(const request& r,
                        std::uint32_t found,
                        std::uint32_t end,
                        const oriel::publish_outcome& outcome);
  void abort_pages(request& r);
  [[nodiscard]] std::vector<std::uint32_t> free_pages() const;
  void make_room(std::uint32_t pool, std::uint32_t pages);
  void evict_full(std::uint32_t pages);
  void evict_window(std::uint32_t kind, std::uint32_t pages);

  // Checks (world_checks.hpp).
  void check();
  void look();
  void check_pages();
  void check_ownership();
  void check_leases();
  void check_locks();
  void check_vanished(const std::vector<present_page>& before) const;
  void check_mirror();
  [[nodiscard]] bool sees_all() const;

  void note(word value) { trace_ = mixed(trace_, value); }
  [[nodiscard]] std::uint32_t kinds() const {
    return static_cast<std::uint32_t>(sizes_.windows.size());
  }
  [[nodiscard]] pools_type::pool_type& pool(std::uint32_t i) {
    return pools_.pool(oriel::pool_id{i});
  }

  const setup sizes_;
  fake_model model_;
  pools_type pools_;
  kv_memory memory_;
  row_runner<pools_type, kv_memory> runner_;
  ledger ledger_;
  std::vector<oriel::cache_namespace> spaces_;  // [tenants]
  std::vector<std::uint32_t> epochs_;           // [tenants] grows when the namespace is dropped
  tree_type tree_;
  mirror mirror_;
  std::vector<session> sessions_;
  std::vector<request_pointer> requests_, waiting_;
  std::vector<word> name_of_full_;              // [full pages] as published
  std::vector<std::vector<bool>> had_content_;  // [pools][pages]
  std::uint64_t now_ = 0;
  bool may_vanish_ = false;  // in this operation
  word trace_ = 0;
  tally tally_;
};

}  // namespace sim

#include "world_checks.hpp"
#include "world_operations.hpp"
#include "world_requests.hpp"
