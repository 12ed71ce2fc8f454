// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Device pages on their way down to tiers.
#pragma once

#include <oriel/core/mutation.hpp>
#include <oriel/kv/page_layout.hpp>
#include <oriel/kv/pool_plan.hpp>
#include <oriel/prefix/events.hpp>
#include <oriel/prefix/sequence_prefix.hpp>
#include <oriel/tier/detail/tier_queues.hpp>
#include <oriel/tier/store_clock.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <utility>
#include <vector>

namespace oriel::detail {

/// The bytes of a page as stores take them: one slice for each layer of its pool.
template <class Pool>
void slices_of(const Pool& pool, page_handle page, std::vector<std::span<std::byte>>& out) {
  const page_layout& layout = pool.layout();
  const std::span<std::byte> bytes = pool.bytes(page);
  out.clear();
  for (std::uint32_t slot = 0; slot < layout.slots(); ++slot) {
    out.push_back(bytes.subspan(layout.k_offset_bytes(slot), layout.slice_bytes(slot)));
  }
}

/// Holds a reference to each page until every tier that was given it has answered: neither the tree
/// nor the pools can hand its bytes to anybody else before that.
template <class Pools>
class page_copies {
 public:
  page_copies(Pools& pools, tier_queues& queues, const tier_limits& limits, tier_counters& counters)
      : pools_(pools), queues_(queues), limits_(limits), counters_(counters) {
    for (std::uint32_t pool = 0; pool < pools.pools(); ++pool) {
      held_.emplace_back(pools.pool(pool_id{pool}).capacity());
    }
    leaving_.resize(held_.size());
  }

  /// Who and where a page is, besides its key.
  struct facts {
    page_key key;
    page_digest name_space, parent;
    std::uint32_t first_token = 0;
    std::span<const token_id> tokens = {};
    page_owner owner = {};
  };

  /// Copies a live page to each tier of the mask (bit = tier). False: too many are under way, it is
  /// dropped. @throws std::bad_alloc
  bool copy(page_handle page, const facts& what, std::uint32_t tiers) {
    if (tiers == 0) {
      return true;
    }
    if (under_way_ >= limits_.copies_max && !ORIEL_MUTANT(copies_have_no_bound)) {
      ++counters_.dropped_copies;
      return false;
    }
    const std::uint32_t number = take_record();
    record& r = records_[number];
    try {
      r.tokens.assign(what.tokens.begin(), what.tokens.end());
      slices_of(pools_.pool(pool_id{what.key.pool}), page, r.slices);
    } catch (...) {
      free_.push_back(number);
      throw;
    }
    r.identity = {.name_space = what.name_space,
                  .parent = what.parent,
                  .first_token = what.first_token,
                  .tokens = r.tokens};
    store_item item{.op = store_op::put,
                    .key = what.key,
                    .identity = &r.identity,
                    .slices = r.slices,
                    .owner = what.owner,
                    .expires_us = expiry_us(limits_.now_us(), limits_.ttl_us),
                    .user = errand_tag{tier_errand::copy, number, 0}.packed()};
    r.page = page;
    r.pool = what.key.pool;
    for (std::uint8_t t = 0; t < queues_.tiers().size(); ++t) {
      if ((tiers >> t & 1u) != 0) {
        try {
          queues_.push(t, item, no_deadline);
        } catch (...) {
          if (r.unanswered == 0) {
            free_.push_back(number);
          }
          throw;
        }
        if (r.unanswered++ == 0) {
          if (!ORIEL_MUTANT(copy_does_not_hold_its_page)) {
            pools_.pool(pool_id{r.pool}).add_ref(page);
          }
          ++held_[r.pool][to_index(page.id)].copies;
          ++under_way_;
        }
      }
    }
    return true;
  }

  /// What a tier answered for a page.
  struct answer {
    std::uint32_t pool = 0;
    page_handle page;
    bool is_kept = false;
  };

  answer on_completion(std::uint8_t tier, std::uint32_t number, const store_completion& c) {
    const auto role = static_cast<std::size_t>(queues_.tiers()[tier].role);
    if (c.outcome == store_outcome::done) {
      ++counters_.copied_pages[role];
      counters_.copied_bytes[role] += c.bytes;
    } else {
      ++counters_.refused_copies[role];
    }
    record& r = records_[number];
    const answer told{r.pool, r.page, c.outcome == store_outcome::done};
    if (--r.unanswered == 0) {
      if (!ORIEL_MUTANT(copy_does_not_hold_its_page)) {
        pools_.pool(pool_id{r.pool}).release(r.page);
      }
      held& h = held_[r.pool][to_index(r.page.id)];
      if (--h.copies == 0 && std::exchange(h.is_leaving, false)) {
        --leaving_[r.pool];
      }
      free_.push_back(number);
      --under_way_;
    }
    return told;
  }

  /// No store reads any more.
  void let_go() noexcept {
    for (record& r : records_) {
      if (std::exchange(r.unanswered, 0u) != 0) {
        pools_.pool(pool_id{r.pool}).release(r.page);
      }
    }
  }

  /// Calls visit(pool, handle) for every page that is referred to. O(copies ever at once).
  template <class Visit>
  void visit_pages(Visit&& visit) const {
    for (const record& r : records_) {
      if (r.unanswered != 0) {
        visit(r.pool, r.page);
      }
    }
  }
  /// The cache let go of a page. True: a copy holds it, and nobody else is expected to.
  [[nodiscard]] bool lets_go_soon(std::uint32_t pool, page_handle page) noexcept {
    held& h = held_[pool][to_index(page.id)];
    if (h.copies != 0 && !std::exchange(h.is_leaving, true)) {
      ++leaving_[pool];
    }
    return h.copies != 0 && !ORIEL_MUTANT(leaving_page_is_not_counted);
  }
  /// Pages that come free when their copies end.
  /// @param hands_over  evictions do: with a full page go its windows, so each pool has its share
  [[nodiscard]] leaving_pages leaving(bool hands_over) const noexcept {
    const auto pools = 2 * static_cast<std::uint32_t>(leaving_.size());
    const std::uint32_t room = limits_.copies_max - std::min(limits_.copies_max, under_way_);
    return {.pages = leaving_,
            .at_once = !hands_over       ? ~std::uint32_t{0}
                       : under_way_ == 0 ? std::max(1u, room / pools)
                                         : room / pools};
  }
  /// Copies under way.
  [[nodiscard]] std::uint32_t under_way() const noexcept { return under_way_; }

 private:
  struct record {
    page_handle page;
    std::uint32_t pool = 0;
    std::uint32_t unanswered = 0;  // tiers
    page_identity identity;
    std::vector<token_id> tokens;
    std::vector<std::span<std::byte>> slices;
  };

  struct held {
    std::uint16_t copies = 0;
    bool is_leaving = false;  // the cache has it no more
  };

  std::uint32_t take_record() {
    if (free_.empty()) {
      records_.emplace_back();
      free_.reserve(records_.size());
      return static_cast<std::uint32_t>(records_.size() - 1);
    }
    const std::uint32_t number = free_.back();
    free_.pop_back();
    return number;
  }

  Pools& pools_;
  tier_queues& queues_;
  const tier_limits& limits_;
  tier_counters& counters_;
  std::deque<record> records_;  // stay where they are
  std::vector<std::uint32_t> free_;
  std::vector<std::vector<held>> held_;  // [pools][pages]
  std::vector<std::uint32_t> leaving_;   // [pools]
  std::uint32_t under_way_ = 0;
};

}  // namespace oriel::detail
