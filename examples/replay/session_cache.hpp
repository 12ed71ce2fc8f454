// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `session_cache`: what both replays share, the one of the device pools alone and the one with
/// tiers below them. Included by their .cpp files alone.
#pragma once

#include <oriel/kv/dual_pool.hpp>
#include <oriel/prefix/heal.hpp>
#include <oriel/prefix/order_cost_aware.hpp>
#include <oriel/prefix/order_hit_density.hpp>
#include <oriel/prefix/order_lru.hpp>
#include <oriel/prefix/order_s3_fifo.hpp>
#include <oriel/prefix/radix_tree.hpp>
#include <oriel/prefix/sequence_prefix.hpp>
#include <oriel/tier/fetch_plan.hpp>

#include <replay/cache_replay.hpp>
#include <replay/synthetic_prompt.hpp>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace oriel::replay {

/// The device pools alone: addresses without bytes, and nobody listens.
struct nothing_below {
  using memory = address_only_memory;
  using events = no_events;
  struct options {};

  template <class Tree, class Pools>
  class part {
   public:
    part(Tree& tree,
         Pools&,
         const trace&,
         const fetch_model&,
         const compute_rates&,
         const options&) noexcept
        : tree_(tree) {}

    /// Brings up what the device lacks of a prompt. True: decide again.
    bool fetch(std::size_t,
               const cache_namespace&,
               std::span<const token_id>,
               const reuse_decision&) noexcept {
      return false;
    }
    void count_hit(std::uint64_t) noexcept {}
    /// A request resumes on these pages.
    status use(std::span<const token_id>, const borrowed_prefix&) noexcept { return {}; }
    /// make_room(pages that come free by themselves), again while others hold pages that it
    /// evicted.
    template <class MakeRoom>
    bool retry(MakeRoom&& make_room) {
      return make_room(leaving_pages{});
    }
    /// The sequence has computed rows from `from` on; publish() gives them to the tree.
    template <class Sequence, class Publish>
    void publish(const Sequence&, std::uint32_t, std::span<const token_id>, Publish&& publish) {
      publish();
    }
    void evict_down_to(std::uint32_t pages, std::uint64_t now_us) noexcept {
      if (tree_.full_pages() > pages) {
        tree_.evict_full(tree_.full_pages() - pages, now_us);
      }
    }
    status finish(cache_outcome&) noexcept { return {}; }

   private:
    Tree& tree_;
  };
};

/// The tree and the pools of a replay, and what lies below them.
///
/// @tparam Below  what the pools' bytes are, who hears of events, and the tiers: `nothing_below`
///                here, `tiers_below` (tiers_below.hpp)
template <class Order, class Below>
class session_cache {
 public:
  using pools_type = dual_pool<typename Below::memory>;
  using retention = keep_any<keep_every, keep_branch_points, keep_dense_head>;
  using tree_type =
      radix_tree<typename pools_type::pool_type, Order, retention, typename Below::events>;

  template <class MakeOrder>
  session_cache(const trace& requests,
                const model_geometry& model,
                const cache_sizes& sizes,
                const cache_options& options,
                pools_type pools,
                MakeOrder&& make_order,
                const typename Below::options& below)
      : requests_(requests),
        options_(options),
        plan_(sizes.plan),
        pools_(std::move(pools)),
        capacity_pages_(sizes.sizes.pages[0]),
        decisions_{.model = &model,
                   .healing = heal_model_of(model, sizes.plan),
                   .rates = options.rates,
                   .may_heal = options.heal},
        tree_(pools_.all(),
              tree_options(pools_.plan()),
              retention{keep_every{options.retain.every_tokens},
                        keep_branch_points{options.retain.branch_points},
                        keep_dense_head{options.retain.dense_head_tokens}},
              {},
              make_order),
        below_(tree_, pools_, requests, fetches(), options.rates, below) {}

  result<cache_outcome> run(const std::function<void(std::size_t)>& progress) {
    std::vector<std::uint64_t> session_requests(requests_.sessions.size());
    std::vector<std::uint64_t> session_input(session_requests.size());
    std::vector<std::uint64_t> session_hits(session_requests.size());
    for (std::size_t i = 0; i < requests_.requests.size(); ++i) {
      const trace_request& r = requests_.requests[i];
      const result<std::uint64_t> hit = serve(i);
      if (!hit) {
        return hit.error();
      }
      outcome_.input_tokens += r.input_tokens;
      outcome_.hit_tokens += *hit;
      if (r.session != no_session) {
        ++session_requests[r.session];
        session_input[r.session] += r.input_tokens;
        session_hits[r.session] += *hit;
      }
      if (progress) {
        progress(i + 1);
      }
    }
    add_top_decile(session_requests, session_input, session_hits);
    const prefix_counters& c = tree_.counters();
    outcome_.clipped_tokens = c.clipped_tokens;
    outcome_.evicted_full_pages = c.evicted_full_pages;
    outcome_.evicted_window_pages = c.evicted_window_pages;
    outcome_.index_bytes = tree_.index_bytes();
    outcome_.cached_pages = tree_.full_pages();
    for (std::uint32_t kind = 0; kind < windows().size(); ++kind) {
      outcome_.cached_pages += tree_.window_pages(kind);
    }
    if (status sound = below_.finish(outcome_); !sound) {
      return sound.error();
    }
    return outcome_;
  }

 private:
  using lease_type = typename tree_type::lease;

  static radix_tree_options tree_options(const pool_plan& plan) {
    radix_tree_options options = tree_options_of(plan);
    options.leases_max = 16;
    return options;
  }

  [[nodiscard]] std::uint32_t page() const noexcept { return pools_.plan().options().page_size; }
  [[nodiscard]] const std::vector<std::uint32_t>& windows() const noexcept {
    return tree_.options().windows;
  }

  /// Hit tokens of one request.
  result<std::uint64_t> serve(std::size_t index) {
    const trace_request& r = requests_.requests[index];
    if (r.input_tokens == 0) {
      return std::uint64_t{0};
    }
    make_prompt(requests_, index, prompt_);
    const std::uint64_t room = std::uint64_t{pools_.pool(full_pool).capacity()} * page();
    prompt_.resize(std::min<std::uint64_t>(prompt_.size(), room));
    const cache_namespace& space = space_of(r.name_space);
    reuse_decision start = decide(space);
    if (below_.fetch(index, space, prompt_, start)) {
      start = decide(space);
    }
    lease_type lease = tree_.pin(space, prompt_, start.found, start.extent(), r.arrival_us);
    const std::uint64_t hit = lease.full_tokens();
    below_.count_hit(hit);
    if (status done = compute(start, lease, r.arrival_us); !done) {
      return done.error();
    }
    if (start.heal) {
      ++outcome_.heals;
      outcome_.healed_tokens += start.heal->length - start.heal->safe_length;
      outcome_.heal_token_equivalents +=
          token_equivalents(start.heal->layer_rows, decisions_.healing.windows.size());
    }
    tree_.release(
        lease, {.ended = r.ended, .duration_us = r.duration_us}, r.arrival_us + r.duration_us);
    if (options_.working_pages != 0) {
      below_.evict_down_to(capacity_pages_, r.arrival_us);
    }
    return hit;
  }

  reuse_decision decide(const cache_namespace& space) const {
    return decide_reuse(tree_, space, prompt_, decisions_);
  }
  /// Pages come whole: a replay has no steps to join.
  [[nodiscard]] fetch_model fetches() const {
    fetch_model model = fetch_model_of(*decisions_.model, plan_);
    model.may_heal = options_.heal;
    model.layers.clear();
    return model;
  }

  /// Admits the sequence, runs its rows in steps, publishes them.
  status compute(const reuse_decision& start, lease_type& lease, std::uint64_t now_us) {
    const auto prompt = static_cast<std::uint32_t>(prompt_.size());
    const borrowed_prefix lent =
        loan_.lend(tree_, lease, windows(), start.heal ? &*start.heal : nullptr);
    if (status sound = below_.use(prompt_, lent); !sound) {
      return sound;
    }
    const admission wanted{.tokens_now = lent.length, .tokens_max = prompt, .prefix = lent};
    std::vector<std::uint32_t> missing(pools_.pools());
    if (!below_.retry([&](const leaving_pages& coming) {
          return make_room(tree_, pools_, wanted, missing, now_us, coming);
        })) {
      return failure{errc::out_of_pages, 0, "a window pool cannot serve one request"};
    }
    auto kv = pools_.try_admit(wanted);
    if (!kv) {
      return kv.error();
    }
    while (kv->length() < prompt) {
      std::uint32_t rows = std::min(options_.step_tokens, prompt - kv->length());
      if (kv->healing()) {
        rows = std::min(rows, kv->lent_tokens() - kv->length());  // What it heals is published.
      }
      if (!below_.retry([&](const leaving_pages& coming) {
            return make_room(tree_, pools_, *kv, kv->length() + rows, missing, now_us, coming);
          })) {
        return failure{errc::out_of_pages, 0, "the pools cannot serve one request"};
      }
      if (status reserved = kv->reserve(rows); !reserved) {
        return reserved;
      }
      const std::uint32_t from = kv->length();
      kv->accept(rows);
      below_.publish(*kv, from, prompt_, [&] {
        publish_sequence(tree_, lease, *kv, prompt_, now_us, prompt);
      });
      outcome_.peak_bytes = std::max(outcome_.peak_bytes, used_bytes());
      tree_.drop_windows(lease);  // Else they keep room from the windows that it will write.
      kv->slide_out();
    }
    return {};
  }

  /// By the model's own pages: those of the pools may hold less than the pages they stand for.
  [[nodiscard]] std::uint64_t used_bytes() const noexcept {
    std::uint64_t bytes = 0;
    for (std::uint32_t pool = 0; pool < plan_.pools(); ++pool) {
      const pool_id id{pool};
      bytes += pools_.pool(id).used() * std::uint64_t{plan_.layout(id).page_bytes()};
    }
    return bytes;
  }

  const cache_namespace& space_of(std::uint32_t name_space) {
    const auto known = spaces_.find(name_space);
    if (known != spaces_.end()) {
      return known->second;
    }
    const std::string salt = std::to_string(name_space);
    return spaces_.emplace(name_space, cache_namespace({.tenant_salt = salt})).first->second;
  }

  void add_top_decile(const std::vector<std::uint64_t>& requests,
                      const std::vector<std::uint64_t>& input,
                      const std::vector<std::uint64_t>& hits) {
    std::vector<std::size_t> by_requests(requests.size());
    for (std::size_t i = 0; i < by_requests.size(); ++i) {
      by_requests[i] = i;
    }
    std::ranges::stable_sort(
        by_requests, std::greater<>{}, [&](std::size_t i) { return requests[i]; });
    for (std::size_t i = 0; i < (by_requests.size() + 9) / 10; ++i) {
      outcome_.top_input_tokens += input[by_requests[i]];
      outcome_.top_hit_tokens += hits[by_requests[i]];
    }
  }

  const trace& requests_;
  const cache_options& options_;
  const pool_plan& plan_;  // of the model; the pools' own may be thinner
  pools_type pools_;
  std::uint32_t capacity_pages_;
  reuse_options decisions_;
  tree_type tree_;
  typename Below::template part<tree_type, pools_type> below_;  // goes before the tree
  prefix_loan loan_;
  std::map<std::uint32_t, cache_namespace> spaces_;
  std::vector<token_id> prompt_;
  cache_outcome outcome_;
};

/// Runs the replay with the eviction order that the options name.
template <class Below, class Pools>
result<cache_outcome> replay_with(const trace& requests,
                                  const model_geometry& model,
                                  const cache_sizes& sizes,
                                  const cache_options& options,
                                  Pools pools,
                                  const typename Below::options& below,
                                  const std::function<void(std::size_t)>& progress) {
  const auto run = [&](auto make_order) {
    using order = decltype(make_order(1u));
    return session_cache<order, Below>(
               requests, model, sizes, options, std::move(pools), make_order, below)
        .run(progress);
  };
  switch (options.evict) {
    case evict_choice::lru:
      return run([](std::uint32_t runs) { return lru_order(runs); });
    case evict_choice::s3_fifo:
      return run([](std::uint32_t runs) { return s3_fifo_order(runs); });
    case evict_choice::cost_aware:
      return run([](std::uint32_t runs) { return cost_aware_order(runs); });
    case evict_choice::hit_density:
      break;
  }
  return run([&](std::uint32_t runs) { return hit_density_order(runs, options.seed); });
}

}  // namespace oriel::replay
