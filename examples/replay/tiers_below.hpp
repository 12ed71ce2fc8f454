// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `tiers_below`: what a replay has below its pools. Names pages, writes and checks their marks,
/// fetches before a request starts, and copies down what the tree takes in or lets go.
#pragma once

#include <oriel/prefix/events.hpp>
#include <oriel/tier/tiered_prefix.hpp>

#include <replay/cache_replay.hpp>
#include <replay/replay_stores.hpp>
#include <replay/trace.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

namespace oriel::replay {

/// Expected of the node that `cache_options::rates` are of, with 8 GPUs: memory of its host over
/// 8 links, and 8 drives. They decide whether a fetch pays, as those do whether a heal pays.
inline constexpr transfer_rates host_rates{.latency_s = 20e-6, .bytes_per_s = 200e9};
inline constexpr transfer_rates disk_rates{.latency_s = 200e-6, .bytes_per_s = 40e9};

/// How long the pages of the device stay unused before they are evicted.
class residence {
 public:
  template <class Pools>
  explicit residence(const Pools& pools) {
    for (std::uint32_t pool = 0; pool < pools.pools(); ++pool) {
      used_us_.emplace_back(pools.pool(pool_id{pool}).capacity());
    }
  }
  void use(std::uint32_t pool, page_handle page) noexcept {
    used_us_[pool][to_index(page.id)] = trace_clock::now();
  }
  void on_event(const cache_event& event) noexcept {
    if (event.kind == cache_event_kind::stored) {
      use(event.pool, event.handle);
    } else if (event.kind == cache_event_kind::removed && !event.is_drop) {
      ++evicted_pages_;
      age_us_sum_ += trace_clock::now() - used_us_[event.pool][to_index(event.handle.id)];
    }
  }
  [[nodiscard]] std::uint64_t evicted_pages() const noexcept { return evicted_pages_; }
  [[nodiscard]] std::uint64_t age_us_sum() const noexcept { return age_us_sum_; }

 private:
  std::vector<std::vector<std::uint64_t>> used_us_;  // [pools][pages]
  std::uint64_t evicted_pages_ = 0, age_us_sum_ = 0;
};

/// The links of prompts. A session goes on where it was: what two of its prompts have in common is
/// hashed once.
class chain_names {
 public:
  explicit chain_names(const trace& requests) : requests_(requests) {}

  /// Valid until the next call.
  std::span<const page_digest> links(std::size_t request,
                                     const page_digest& start,
                                     std::span<const token_id> tokens,
                                     std::uint32_t page) {
    const trace_request& r = requests_.requests[request];
    if (r.session == no_session) {
      single_.clear();
      extend_chain(start, tokens, page, single_);
      return single_;
    }
    known& last = sessions_[{r.session, r.name_space}];
    const std::span<const std::uint32_t> pages = requests_.pages_of(r);
    std::size_t same = 0;
    if (last.is_set) {
      const auto before = requests_.pages_of(requests_.requests[last.request]);
      same = static_cast<std::size_t>(std::ranges::mismatch(pages, before).in1 - pages.begin());
    }
    const std::size_t whole = tokens.size() / page;
    last.links.resize(std::min({same * requests_.page_tokens / page, last.links.size(), whole}));
    extend_chain(start, tokens, page, last.links);
    last.request = request;
    last.is_set = true;
    return last.links;
  }

 private:
  struct known {
    std::size_t request = 0;
    bool is_set = false;
    std::vector<page_digest> links = {};
  };
  const trace& requests_;
  std::map<std::pair<std::uint32_t, std::uint32_t>, known> sessions_;
  std::vector<page_digest> single_;
};

struct tiers_below {
  using memory = host_memory;
  using events = unhashed_forwarder;
  struct options {
    const tier_plan& tiers;
    const pool_plan& model;  ///< whose pages the pools' stand for
  };

  template <class Tree, class Pools>
  class part {
   public:
    static constexpr bool needs_hashes = false;  ///< of events

    part(Tree& tree,
         Pools& pools,
         const trace& requests,
         const fetch_model& model,
         const compute_rates& rates,
         const options& below)
        : tree_(tree),
          pools_(pools),
          requests_(requests),
          rates_(rates),
          uniform_bytes_(uniform_page_bytes(model, below.model)),
          ages_(pools),
          names_(requests),
          tiers_(tree, pools, tiers_of(below), model, {.now_us = &trace_clock::now}) {
      tree_.events().forward_to(*this);
    }
    part(const part&) = delete;
    part& operator=(const part&) = delete;
    ~part() { tree_.events() = {}; }

    void on_event(const cache_event& event) noexcept {
      ages_.on_event(event);
      tiers_.on_event(event);
    }
    [[nodiscard]] bool lets_go_soon(std::uint32_t pool, page_handle page) noexcept {
      return tiers_.lets_go_soon(pool, page);
    }

    bool fetch(std::size_t index,
               const cache_namespace& space,
               std::span<const token_id> tokens,
               const reuse_decision& start) {
      const trace_request& r = requests_.requests[index];
      trace_clock::set(std::max(trace_clock::now(), r.arrival_us));
      sequence_ = {.start = start_of(space), .tokens = tokens, .links = {}, .owner = {}};
      sequence_.links = names_.links(index, sequence_.start, tokens, page());
      sequence_.owner = {space.tenant(),
                         r.session == no_session ? 0 : std::uint64_t{r.session} + 1};
      device_tokens_ = start.found.full_tokens;
      fetched_ = {};
      const std::size_t whole = (tokens.size() - 1) / page() * page();
      if (tiers_.tiers().empty() || (start.length == whole && !start.heal)) {
        return false;
      }
      const tier_counters before = tiers_.counters();
      const std::uint32_t id =
          tiers_.begin_fetch({.space = space,
                              .start = sequence_.start,
                              .tokens = {tokens.begin(), tokens.end()},
                              .links = {sequence_.links.begin(), sequence_.links.end()},
                              .owner = sequence_.owner,
                              .rates = rates_});
      settle();
      fetched_ = tiers_.end_fetch(id);
      settle();
      count_fetch(before);
      return true;
    }

    /// The device had the first tokens; what follows came from below.
    void count_hit(std::uint64_t hit) noexcept {
      std::uint64_t rest = hit - std::min<std::uint64_t>(hit, device_tokens_);
      for (std::size_t role = 0; role < fetched_.size(); ++role) {
        const std::uint64_t from = std::min<std::uint64_t>(rest, fetched_[role]);
        hits_[role] += from;
        rest -= from;
        hit -= from;
      }
      device_hits_ += hit;
    }

    status use(std::span<const token_id> tokens, const borrowed_prefix& lent) {
      const auto pages = static_cast<std::uint32_t>(lent.full.size());
      for (std::uint32_t i = 0; i < pages; ++i) {
        check(0, i, lent.full[i]);
      }
      const std::uint32_t end = lent.heal ? lent.heal->first_row / page() : pages;
      for (std::uint32_t kind = 0; kind < lent.windows.size(); ++kind) {
        const auto count = static_cast<std::uint32_t>(lent.windows[kind].size());
        for (std::uint32_t i = 0; i < count; ++i) {
          check(kind + 1, end - count + i, lent.windows[kind][i]);
        }
      }
      if (wrong_pages_ != 0) {
        return failure{errc::io_failure, 0, "a hit got bytes of another page"};
      }
      if (pages != 0) {
        sequence_.tokens = tokens;
        tiers_.on_hit(sequence_, lent);
        settle();
      }
      return {};
    }

    /// Pages that were evicted and are still being copied come free when their copies are done.
    template <class MakeRoom>
    bool retry(MakeRoom&& make_room) {
      while (!make_room(tiers_.leaving())) {
        if (tiers_.idle()) {
          return false;
        }
        settle();
      }
      return true;
    }

    template <class Sequence, class Publish>
    void publish(const Sequence& kv,
                 std::uint32_t from,
                 std::span<const token_id> tokens,
                 Publish&& publish) {
      write_marks(kv, from);
      sequence_.tokens = tokens.first(kv.length());
      {
        const auto scope = tiers_.publishing(sequence_);
        publish();
      }
      settle();
    }

    void evict_down_to(std::uint32_t pages, std::uint64_t now_us) {
      while (tree_.full_pages() > pages) {
        const std::uint32_t before = tree_.full_pages();
        tree_.evict_full(std::min(before - pages, tiers_.leaving().at_once), now_us);
        settle();
        if (tree_.full_pages() == before) {
          return;  // All that is left is leased.
        }
      }
    }

    status finish(cache_outcome& outcome) {
      settle();
      const tier_counters& c = tiers_.counters();
      level_outcome& device = outcome.levels[0];
      device.hit_tokens = device_hits_;
      device.evicted_pages = ages_.evicted_pages();
      device.evicted_age_us_sum = ages_.age_us_sum();
      device.pages = outcome.cached_pages;
      for (const tier& t : tiers_.tiers()) {
        const auto role = static_cast<std::size_t>(t.role);
        const store_stats s = t.store.stats();
        wrong_pages_ += s.corrupt + s.misplaced;
        outcome.levels[role + 1] = {.hit_tokens = hits_[role],
                                    .fetches = fetches_[role],
                                    .fetched_pages = c.fetched_reads[role],
                                    .fetched_bytes = c.fetched_bytes[role],
                                    .copied_pages = c.copied_pages[role],
                                    .copied_bytes = c.copied_bytes[role],
                                    .refused_copies = c.refused_copies[role],
                                    .evicted_pages = s.evicted_pages,
                                    .evicted_age_us_sum = s.evicted_age_us_sum,
                                    .pages = s.pages};
      }
      outcome.fetches = all_fetches_;
      outcome.dropped_copies = c.dropped_copies;
      outcome.fetched_bytes_uniform = fetched_full_pages_ * uniform_bytes_;
      outcome.checked_pages = checked_pages_;
      return wrong_pages_ == 0 ? status{}
                               : failure{errc::io_failure, 0, "a tier gave bytes of another page"};
    }

   private:
    [[nodiscard]] std::uint32_t page() const noexcept { return pools_.plan().options().page_size; }

    /// If every layer kept every row: a page of each pool.
    static std::uint64_t uniform_page_bytes(const fetch_model& model, const pool_plan&) noexcept {
      std::uint64_t bytes = 0;
      for (const std::uint64_t of_pool : model.page_bytes) {
        bytes += of_pool;
      }
      return bytes;
    }

    static std::vector<tier> tiers_of(const options& below) {
      std::vector<tier> tiers;
      if (!below.tiers.host_pages.empty()) {
        tiers.push_back({.store = make_host(below.tiers, below.model),
                         .role = tier_role::host,
                         .writes = below.tiers.writes,
                         .rates = host_rates});
      }
      if (below.tiers.disk_bytes != 0) {
        tiers.push_back({.store = make_disk(below.tiers, below.model),
                         .role = tier_role::disk,
                         .writes = below.tiers.writes,
                         .rates = disk_rates});
      }
      return tiers;
    }

    void settle() { tiers_.finish(no_deadline); }

    const page_digest& start_of(const cache_namespace& space) {
      const auto [at, is_new] = starts_.try_emplace(space.bytes());
      if (is_new) {
        at->second = chain_start(space, {.page_size = page()});
      }
      return at->second;
    }

    void count_fetch(const tier_counters& before) noexcept {
      const tier_counters& now = tiers_.counters();
      bool any = false;
      for (std::size_t role = 0; role < tier_roles; ++role) {
        const bool came = now.fetched_reads[role] != before.fetched_reads[role];
        fetches_[role] += came;
        any = any || came;
        fetched_full_pages_ += fetched_[role] / page();
      }
      all_fetches_ += any;
    }

    void check(std::uint32_t pool, std::uint32_t logical, page_handle handle) noexcept {
      const bool is_right =
          has_mark(pools_.pool(pool_id{pool}).bytes(handle), {sequence_.links[logical], pool});
      ++(is_right ? checked_pages_ : wrong_pages_);
      ages_.use(pool, handle);
    }

    /// Of the pages that these rows complete. None of them is shared: it was computed just now.
    template <class Sequence>
    void write_marks(const Sequence& kv, std::uint32_t from) {
      const std::uint32_t first = from / page(), end = kv.length() / page();
      for (std::uint32_t i = std::max(first, kv.lent_tokens() / page()); i < end; ++i) {
        write_mark(pools_.pool(full_pool).bytes(kv.full_pages()[i]), {sequence_.links[i], 0});
      }
      for (std::uint32_t kind = 0; kind < kv.window_kinds(); ++kind) {
        const auto& ring = kv.ring(kind);
        for (std::uint32_t i = std::max(first, ring.first_page());
             i < std::min(end, ring.end_page());
             ++i) {
          write_mark(pools_.pool(window_pool(kind)).bytes(ring[i]), {sequence_.links[i], kind + 1});
        }
      }
    }

    Tree& tree_;
    Pools& pools_;
    const trace& requests_;
    compute_rates rates_;
    std::uint64_t uniform_bytes_;
    residence ages_;
    chain_names names_;
    std::map<std::string, page_digest> starts_;
    tiered_prefix<Tree, Pools> tiers_;
    tiered_sequence sequence_;                            // of the request that is being served
    std::uint64_t device_tokens_ = 0;                     // that the device had of it
    std::array<std::uint32_t, tier_roles> fetched_ = {};  // tokens
    std::array<std::uint64_t, tier_roles> hits_ = {}, fetches_ = {};
    std::uint64_t device_hits_ = 0, all_fetches_ = 0, fetched_full_pages_ = 0;
    std::uint64_t checked_pages_ = 0, wrong_pages_ = 0;
  };
};

}  // namespace oriel::replay
