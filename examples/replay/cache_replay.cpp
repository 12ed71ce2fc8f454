// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kv/dual_pool.hpp>
#include <oriel/prefix/heal.hpp>
#include <oriel/prefix/order_cost_aware.hpp>
#include <oriel/prefix/order_hit_density.hpp>
#include <oriel/prefix/order_lru.hpp>
#include <oriel/prefix/order_s3_fifo.hpp>
#include <oriel/prefix/radix_tree.hpp>
#include <oriel/prefix/sequence_prefix.hpp>

#include <replay/cache_replay.hpp>
#include <replay/synthetic_prompt.hpp>

#include <algorithm>
#include <map>
#include <string>
#include <utility>

namespace oriel::replay {
namespace {

using pools_type = dual_pool<address_only_memory>;
using retention = keep_any<keep_every, keep_branch_points, keep_dense_head>;

template <class Order>
class session_cache {
 public:
  using tree_type = radix_tree<pools_type::pool_type, Order, retention>;

  template <class MakeOrder>
  session_cache(const trace& requests,
                const model_geometry& model,
                const cache_sizes& sizes,
                const cache_options& options,
                pools_type pools,
                MakeOrder&& make_order)
      : requests_(requests),
        model_(model),
        options_(options),
        pools_(std::move(pools)),
        capacity_pages_(sizes.sizes.pages[0]),
        windows_(window_kinds(pools_.plan())),
        layer_windows_(windows_.empty() ? std::vector<std::uint32_t>(model.layers.size())
                                        : layer_windows(model)),
        tree_(pools_.all(),
              {.page_size = page(),
               .windows = windows_,
               .slack_pages = slack_pages(),
               .leases_max = 16,
               .namespaces_max = 1u << 16},
              retention{keep_every{options.retain.every_tokens},
                        keep_branch_points{options.retain.branch_points},
                        keep_dense_head{options.retain.dense_head_tokens}},
              {},
              make_order) {}

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
    for (std::uint32_t kind = 0; kind < windows_.size(); ++kind) {
      outcome_.cached_pages += tree_.window_pages(kind);
    }
    return outcome_;
  }

 private:
  using lease_type = typename tree_type::lease;

  static std::vector<std::uint32_t> window_kinds(const pool_plan& plan) {
    std::vector<std::uint32_t> windows;
    for (std::uint32_t kind = 0; kind < plan.window_kinds(); ++kind) {
      windows.push_back(plan.ring(kind).window_tokens);
    }
    return windows;
  }

  [[nodiscard]] std::uint32_t page() const noexcept { return pools_.plan().options().page_size; }
  [[nodiscard]] std::uint32_t slack_pages() const noexcept {
    return pools_.plan().options().slack_pages;
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
    const reuse_decision start = decide_reuse(
        tree_,
        space,
        prompt_,
        {.model = model_,
         .healing = {.windows = layer_windows_, .page_size = page(), .slack_pages = slack_pages()},
         .rates = options_.rates,
         .may_heal = options_.heal});
    lease_type lease = tree_.pin(space, prompt_, start.found, start.extent(), r.arrival_us);
    const std::uint64_t hit = lease.full_tokens();
    if (status done = compute(start, lease, r.arrival_us); !done) {
      return done.error();
    }
    if (start.heal) {
      ++outcome_.heals;
      outcome_.healed_tokens += start.heal->length - start.heal->safe_length;
      outcome_.heal_token_equivalents +=
          token_equivalents(start.heal->layer_rows, layer_windows_.size());
    }
    tree_.release(
        lease, {.ended = r.ended, .duration_us = r.duration_us}, r.arrival_us + r.duration_us);
    if (options_.working_pages != 0 && tree_.full_pages() > capacity_pages_) {
      tree_.evict_full(tree_.full_pages() - capacity_pages_, r.arrival_us);
    }
    return hit;
  }

  /// Admits the sequence, runs its rows in steps, publishes them.
  status compute(const reuse_decision& start, lease_type& lease, std::uint64_t now_us) {
    const auto prompt = static_cast<std::uint32_t>(prompt_.size());
    const borrowed_prefix lent =
        loan_.lend(tree_, lease, windows_, start.heal ? &*start.heal : nullptr);
    const admission wanted{.tokens_now = lent.length, .tokens_max = prompt, .prefix = lent};
    std::vector<std::uint32_t> missing(pools_.pools());
    if (!make_room(tree_, pools_, wanted, missing, now_us)) {
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
      if (!make_room(tree_, pools_, *kv, kv->length() + rows, missing, now_us)) {
        return failure{errc::out_of_pages, 0, "the pools cannot serve one request"};
      }
      if (status reserved = kv->reserve(rows); !reserved) {
        return reserved;
      }
      kv->accept(rows);
      publish_sequence(tree_, lease, *kv, prompt_, now_us, prompt);
      outcome_.peak_bytes = std::max(outcome_.peak_bytes, pools_.used_bytes());
      tree_.drop_windows(lease);  // Else they keep room from the windows that it will write.
      kv->slide_out();
    }
    return {};
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
  const model_geometry& model_;
  const cache_options& options_;
  pools_type pools_;
  std::uint32_t capacity_pages_;
  std::vector<std::uint32_t> windows_;        // [window kinds]
  std::vector<std::uint32_t> layer_windows_;  // [layers]
  tree_type tree_;
  prefix_loan loan_;
  std::map<std::uint32_t, cache_namespace> spaces_;
  std::vector<token_id> prompt_;
  cache_outcome outcome_;
};

/// What the cache and its requests can fill: the tables of a pool take memory for every page.
pool_sizes useful_sizes(const trace& requests,
                        const cache_sizes& sizes,
                        std::uint32_t working_pages) {
  std::uint64_t touched = 1;
  for (const trace_request& r : requests.requests) {
    touched += r.input_tokens / sizes.plan.options().page_size + 1;
  }
  pool_sizes useful;
  for (std::uint32_t pool = 0; pool < sizes.plan.pools(); ++pool) {
    const std::uint64_t asked =
        std::uint64_t{sizes.sizes.pages[pool]} + (pool == 0 ? working_pages : 0);
    const std::uint64_t most = touched + (pool == 0 ? 0 : sizes.plan.ring(pool - 1).ring_pages());
    useful.pages.push_back(static_cast<std::uint32_t>(std::min(asked, most)));
  }
  return useful;
}

}  // namespace

std::uint32_t working_pages_of(const trace& requests, std::uint32_t page_tokens) {
  std::uint32_t largest = 0;
  for (const trace_request& r : requests.requests) {
    largest = std::max(largest, r.input_tokens);
  }
  return largest / page_tokens + (largest % page_tokens != 0 ? 1 : 0);
}

result<cache_outcome> replay_cache(const trace& requests,
                                   const model_geometry& model,
                                   const cache_sizes& sizes,
                                   const cache_options& options,
                                   const std::function<void(std::size_t)>& progress) {
  auto pools = pools_type::make(sizes.plan, useful_sizes(requests, sizes, options.working_pages));
  if (!pools) {
    return pools.error();
  }
  const auto run = [&](auto make_order) {
    using order = decltype(make_order(1u));
    return session_cache<order>(requests, model, sizes, options, std::move(*pools), make_order)
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
