// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Which tier gets a device page, and when: by the tier's habit, by hits, by eviction.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/kv/sequence_kv.hpp>
#include <oriel/prefix/events.hpp>
#include <oriel/tier/detail/page_copies.hpp>
#include <oriel/tier/detail/tier_queues.hpp>
#include <oriel/tier/fetch_plan.hpp>
#include <oriel/tier/tier.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <new>
#include <span>
#include <vector>

namespace oriel::detail {

/// Knows of each page which tiers were given it, and asks page_copies for the rest.
template <class Pools>
class page_placement {
 public:
  /// @throws std::bad_alloc
  page_placement(Pools& pools,
                 tier_queues& queues,
                 page_copies<Pools>& copies,
                 const tier_limits& limits,
                 const fetch_model& model,
                 tier_counters& counters)
      : pools_(pools),
        queues_(queues),
        copies_(copies),
        limits_(limits),
        model_(model),
        counters_(counters) {
    for (std::uint8_t t = 0; t < queues_.tiers().size(); ++t) {
      const placement writes = queues_.tiers()[t].writes;
      through_ |= writes == placement::write_through ? 1u << t : 0u;
      selective_ |= writes == placement::selective ? 1u << t : 0u;
      back_ |= writes == placement::write_back ? 1u << t : 0u;
    }
    for (std::uint32_t pool = 0; pool < pools.pools(); ++pool) {
      known_.emplace_back(pools.pool(pool_id{pool}).capacity());
    }
    hits_.resize(selective_ != 0 ? known_[0].size() : 0);
    origins_.resize(back_ != 0 ? known_[0].size() : 0);
  }

  /// Some tier gets what is evicted.
  [[nodiscard]] bool writes_back() const noexcept { return back_ != 0; }

  /// What selective tiers wait for. O(pages).
  void count_hit(const borrowed_prefix& lent) noexcept {
    const auto pages = static_cast<std::uint32_t>(lent.full.size());
    for (std::uint32_t page = 0; page < pages && selective_ != 0; ++page) {
      std::uint8_t& hits = hits_[to_index(lent.full[page].id)];
      hits = static_cast<std::uint8_t>(std::min(hits + 1, 255));
    }
  }

  /// As tiered_prefix has it. O(pages). @throws std::bad_alloc
  void align_down(const tiered_sequence& sequence, const borrowed_prefix& lent) {
    const auto pages = static_cast<std::uint32_t>(lent.full.size());
    const auto wanted = [&](std::uint32_t page) {
      const bool is_hot =
          selective_ != 0 && hits_[to_index(lent.full[page].id)] >= limits_.selective_hits;
      return through_ | (is_hot ? selective_ : 0u);
    };
    for (std::uint32_t page = 0; page < pages; ++page) {
      copy_down(sequence, 0, page, lent.full[page], wanted(page));
    }
    for (std::uint32_t kind = 0; kind < lent.windows.size() && !lent.heal; ++kind) {
      const auto count = static_cast<std::uint32_t>(lent.windows[kind].size());
      for (std::uint32_t i = 0; i < count; ++i) {
        const std::uint32_t page =
            pages - count + i - (ORIEL_MUTANT(align_names_the_page_before) && i != 0 ? 1 : 0);
        copy_down(sequence, kind + 1, page, lent.windows[kind][i], wanted(page));
      }
    }
  }

  /// As tiered_prefix has it. O(pages). @throws std::bad_alloc
  void keep_warm(const tiered_sequence& sequence, const borrowed_prefix& lent) {
    const auto pages = static_cast<std::uint32_t>(lent.full.size());
    if (pages == 0 || queues_.unfinished() >= limits_.copies_max) {
      return;  // Tiers that are behind have other things to do.
    }
    // Found by its last link; another with the same place in the table makes it more often only.
    const std::uint64_t prefix = sequence.links[pages - 1].prefix64(), now_us = limits_.now_us();
    touched& last = touched_[prefix % touched_.size()];
    if (last.prefix == prefix && now_us - last.at_us < limits_.touch_period_us) {
      return;
    }
    last = {prefix, now_us};
    for (std::uint32_t pool = 0; pool <= model_.windows.size(); ++pool) {
      const page_range used =
          pool == 0 ? page_range{0, pages}
                    : needed_windows(model_.windows[pool - 1], model_.healing.page_size, 0, pages);
      for (std::uint32_t page = used.first; page < used.end; ++page) {
        const page_handle handle = handle_of(lent, pool, page);
        const errand_tag tag = handle ? errand_tag{.number = to_index(handle.id),
                                                   .item = errand_tag::touch_item + pool}
                                      : errand_tag{};
        for (std::uint8_t t = 0; t < queues_.tiers().size(); ++t) {
          queues_.push(
              t,
              {.op = store_op::touch, .key = {sequence.links[page], pool}, .user = tag.packed()},
              no_deadline);
        }
      }
    }
  }

  /// A page that a tier does not have any more is offered again. The handle may be another page's
  /// by now: that one is offered once too often.
  void on_touched(std::uint8_t tier, const errand_tag& tag, const store_completion& c) noexcept {
    if (c.outcome == store_outcome::miss && !ORIEL_MUTANT(lost_page_counts_as_kept)) {
      std::uint8_t& known = known_[tag.item - errand_tag::touch_item][tag.number];
      known = static_cast<std::uint8_t>(known & ~(1u << tier));
    }
  }

  /// @param sequence  that is being published; null: nobody said
  /// @param has       tiers that have the page, as bits: it came from there
  void on_stored(const cache_event& event,
                 const tiered_sequence* sequence,
                 std::uint32_t has) noexcept {
    std::uint8_t& known = known_[event.pool][to_index(event.handle.id)];
    const bool names = event.pool == 0 && back_ != 0;  // for its eviction
    if (sequence == nullptr) {  // Whose it is nobody said: it has no name to be copied under.
      known = 0xFF;
      if (names) {
        origins_[to_index(event.full.id)] = {};  // Not that of the page that was here before.
      }
      return;
    }
    known = static_cast<std::uint8_t>(has);
    if (names) {
      origins_[to_index(event.full.id)] = {
          sequence->links[event.page], sequence->start, sequence->owner};
    }
    if (event.pool == 0 && selective_ != 0) {
      hits_[to_index(event.full.id)] = 0;
    }
    try {
      copy_down(*sequence, event.pool, event.page, event.handle, through_);
    } catch (const std::bad_alloc&) {
      ++counters_.dropped_copies;
    }
  }

  /// For tiers that write back.
  void on_removed(const cache_event& event) noexcept {
    if (back_ == 0) {
      return;
    }
    std::uint8_t& known = known_[event.pool][to_index(event.handle.id)];
    const origin& from = origins_[to_index(event.full.id)];
    const std::uint32_t lacking = back_ & ~std::uint32_t{known};
    known = 0xFF;
    const page_digest parent =
        event.parent_full ? origins_[to_index(event.parent_full.id)].link : from.space;
    // Who has no name, or whose parent has none, cannot be found again.
    const bool is_named = from.link != page_digest{} && parent != page_digest{};
    if (lacking == 0 || !is_named) {
      counters_.dropped_copies += lacking != 0;
      return;
    }
    try {
      copies_.copy(event.handle,
                   {.key = {from.link, event.pool},
                    .name_space = from.space,
                    .parent = parent,
                    .first_token = event.page * model_.healing.page_size,
                    .tokens = event.tokens,
                    .owner = from.owner},
                   lacking);
    } catch (const std::bad_alloc&) {
      ++counters_.dropped_copies;
    }
  }

  /// What a tier refused may be offered again.
  void on_answer(std::uint8_t tier, const typename page_copies<Pools>::answer& told) noexcept {
    if (!told.is_kept && !ORIEL_MUTANT(refused_page_counts_as_kept) &&
        pools_.pool(pool_id{told.pool}).is_live(told.page)) {
      std::uint8_t& known = known_[told.pool][to_index(told.page.id)];
      known = static_cast<std::uint8_t>(known & ~(1u << tier));
    }
  }

 private:
  /// Page `page` of what is lent; none: it is not lent, or not where the tree has it (a heal).
  [[nodiscard]] static page_handle handle_of(const borrowed_prefix& lent,
                                             std::uint32_t pool,
                                             std::uint32_t page) noexcept {
    if (pool == 0) {
      return lent.full[page];
    }
    if (lent.heal || pool > lent.windows.size()) {
      return {};
    }
    const std::span<const page_handle> window = lent.windows[pool - 1];
    const std::size_t first = lent.full.size() - window.size();
    return page >= first ? window[page - first] : page_handle{};
  }

  /// What a removed page does not say of itself.
  struct origin {
    page_digest link;
    page_digest space;
    page_owner owner = {};
  };
  struct touched {
    std::uint64_t prefix = 0, at_us = 0;
  };

  /// To those of the tiers that are not known to have it.
  void copy_down(const tiered_sequence& sequence,
                 std::uint32_t pool,
                 std::uint32_t page,
                 page_handle handle,
                 std::uint32_t tiers) {
    ORIEL_EXPECTS(page < sequence.links.size());
    std::uint8_t& known = known_[pool][to_index(handle.id)];
    const std::uint32_t size = model_.healing.page_size;
    const bool taken =
        copies_.copy(handle,
                     {.key = {sequence.links[page], pool},
                      .name_space = sequence.start,
                      .parent = page == 0 ? sequence.start : sequence.links[page - 1],
                      .first_token = page * size,
                      .tokens = sequence.tokens.subspan(std::size_t{page} * size, size),
                      .owner = sequence.owner},
                     tiers & ~std::uint32_t{known});
    known = static_cast<std::uint8_t>(known | (taken ? tiers : 0u));
  }

  Pools& pools_;
  tier_queues& queues_;
  page_copies<Pools>& copies_;
  const tier_limits& limits_;
  const fetch_model& model_;
  tier_counters& counters_;
  std::uint32_t through_ = 0, selective_ = 0, back_ = 0;  // tiers, as bits
  std::vector<std::vector<std::uint8_t>> known_;  // [pools][pages]: tiers that were given it
  std::vector<std::uint8_t> hits_;                // [full pages], if some tier is selective
  std::vector<origin> origins_;                   // [full pages], if some tier writes back
  std::array<touched, 1024> touched_ = {};
};

}  // namespace oriel::detail
