// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A random life of a prefix tree, its pools and the requests that use them, in step with the
/// obvious model. The "bytes" of a page are a hash of (namespace, tokens to its end, pool), kept by
/// page id as memory would keep them.
#pragma once

#include "model/prefix_model.hpp"
#include "prefix/event_mirror.hpp"

#include <oriel/kv/paged_allocator.hpp>
#include <oriel/prefix/radix_tree.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

/// The tree's retention, from the numbers of the model's habits.
struct life_retention {
  std::uint32_t every = 0;
  bool forks = false;
  std::uint32_t dense = 0;
  [[nodiscard]] bool keeps(const oriel::boundary_facts& b) const noexcept {
    return oriel::keep_any(oriel::keep_every{every},
                           oriel::keep_branch_points{forks},
                           oriel::keep_dense_head{dense})
        .keeps(b);
  }
};

struct life_options {
  std::uint64_t seed = 0;
  model_habits habits = {};
  std::vector<std::uint32_t> pool_pages = {};  ///< [1 + kinds]
  std::uint32_t vocabulary = 2;
  std::uint32_t namespaces = 2;
  std::uint32_t length_max = 64;   ///< tokens of a request
  std::uint32_t requests_max = 5;  ///< at once
  std::uint32_t tenant_shares = 1;
  /// Hashes tell pages apart: events and probes by hash can be checked. Off where they collide.
  bool hashes_differ = true;
};

struct life_counts {
  std::uint64_t probes = 0, hits = 0, pins = 0, commits = 0, splits = 0, twins = 0, revived = 0,
                evicted_full = 0, evicted_window = 0, drops = 0, beyond_3_windows = 0;
  void operator+=(const life_counts& o) {
    probes += o.probes, hits += o.hits, pins += o.pins, commits += o.commits, splits += o.splits;
    twins += o.twins, revived += o.revived, evicted_full += o.evicted_full;
    evicted_window += o.evicted_window, drops += o.drops, beyond_3_windows += o.beyond_3_windows;
  }
};

/// A tree, its pools, a model, a mirror, and the requests whose leases must hold.
template <oriel::evict_order Order>
class watched_tree {
 public:
  using pool_type = oriel::paged_allocator<>;
  using tree_type = oriel::radix_tree<pool_type, Order, life_retention, mirror_sink>;
  using place = prefix_model::place;

  explicit watched_tree(const life_options& options)
      : options_(options),
        random_(options.seed),
        pools_(options.pool_pages.begin(), options.pool_pages.end()),
        bytes_(pools_.size()),
        tree_(pools_,
              {.page_size = habits().page_size,
               .windows = habits().windows,
               .slack_pages = habits().slack_pages,
               .leases_max = 16,
               .namespaces_max = 16,
               .tenant_shares = options.tenant_shares,
               .keeps_hash_chain = true},
              {habits().keep_every, habits().keep_forks, habits().dense_head},
              {&mirror_}),
        model_(options.habits) {
    for (std::size_t i = 0; i < pools_.size(); ++i) {
      bytes_[i].resize(pools_[i].capacity());
    }
    for (std::uint32_t i = 0; i < options.namespaces; ++i) {
      const std::string name(1 + i / 2, static_cast<char>('a' + i % 2));
      spaces_.emplace_back(oriel::namespace_fields{.tenant_salt = name, .model = "m"});
    }
  }

 protected:
  static constexpr std::uint64_t poison = ~std::uint64_t{0};

  struct request {
    std::uint32_t space = 0;
    std::vector<oriel::token_id> tokens;
    typename tree_type::lease held;
    std::vector<oriel::page_handle> full;                              // own references
    std::vector<std::map<std::uint32_t, oriel::page_handle>> windows;  // [kinds]: own references
    typename tree_type::publication fresh;
    std::uint32_t fresh_first = 0, fresh_end = 0;  // pages of it
    std::vector<oriel::page_handle> fresh_full;
    std::vector<std::pair<std::uint32_t, std::vector<oriel::page_handle>>> fresh_windows;
    bool is_reserved = false, keeps_tail = true;
    bool is_forgotten = false;  // its namespace was dropped
  };

  [[nodiscard]] const model_habits& habits() const { return options_.habits; }
  [[nodiscard]] std::uint32_t page_size() const { return options_.habits.page_size; }
  [[nodiscard]] std::size_t kinds() const { return options_.habits.windows.size(); }
  [[nodiscard]] std::uint32_t below(std::size_t bound) {
    return static_cast<std::uint32_t>(random_() % std::max<std::size_t>(bound, 1));
  }
  void expect(bool holds, const char* what) const {
    if (!holds) {
      FAIL(what << " (seed " << options_.seed << ", operation " << operation_ << ")");
    }
  }

  // --- Bytes -------------------------------------------------------------------------------------

  /// What a cold run writes into the page of `pool` that ends at `end` tokens.
  [[nodiscard]] std::uint64_t cold_bytes(const request& r,
                                         std::size_t pool,
                                         std::uint32_t page) const {
    std::uint64_t h = 0xCBF2'9CE4'8422'2325u ^ (r.space * 31 + pool);
    for (std::size_t i = 0; i < std::size_t{page + 1} * page_size(); ++i) {
      h = (h ^ to_index(r.tokens[i])) * 0x0000'0100'0000'01B3u;
      h ^= h >> 29;
    }
    return h;
  }
  std::uint64_t& bytes(std::size_t pool, oriel::page_handle page) {
    return bytes_[pool][to_index(page.id)];
  }
  void check_bytes(const request& r, std::size_t pool, std::uint32_t page, oriel::page_handle h) {
    expect(pools_[pool].is_live(h), "a borrowed handle is live");
    expect(bytes(pool, h) == cold_bytes(r, pool, page), "a borrowed page has the cold run's bytes");
  }

  oriel::prefix_match probe(std::uint32_t space, std::span<const oriel::token_id> tokens) {
    const oriel::prefix_match m = tree_.match(spaces_[space], tokens);
    const model_match want = model_.match(space, tokens);
    expect(m.full_tokens == want.full_tokens, "full length as in the model");
    expect(m.window_safe_tokens == want.window_safe_tokens, "the boundary is valid and maximal");
    expect(m.heal_tokens == want.heal_tokens, "heal length as in the model");
    ++counts_.probes;
    counts_.hits += m.window_safe_tokens != 0;
    return m;
  }

  oriel::prefix_match advisory(std::uint32_t space, std::span<const oriel::token_id> tokens) {
    std::vector<oriel::chain_hash> chain(tokens.size() / page_size());
    oriel::hash_pages(spaces_[space].digest(), tokens, page_size(), chain);
    const oriel::prefix_match m = tree_.match(spaces_[space], tokens, chain);
    if (options_.hashes_differ) {
      const model_match want = model_.match(space, tokens);
      expect(m.full_tokens == want.full_tokens && m.heal_tokens == want.heal_tokens &&
                 m.window_safe_tokens == want.window_safe_tokens,
             "a probe by hash answers as one by tokens");
    }
    return m;
  }

  place store(const prefix_model::path& p, std::uint32_t page, oriel::page_handle full) {
    const auto [at, is_new] =
        model_.pages().emplace(p, model_page{page, full, std::vector<oriel::page_handle>(kinds())});
    expect(is_new, "a page is published once");
    by_full_[to_index(full.id)] = at;
    by_hash_[hash_of(p)] = at;
    return at;
  }

  void erase(place at) {
    by_full_.erase(to_index(at->second.full.id));
    by_hash_.erase(hash_of(at->first));
    model_.pages().erase(at);
  }

  // --- What the model learns and checks ----------------------------------------------------------

  [[nodiscard]] event_mirror::key hash_of(const prefix_model::path& p) {
    hashed_.clear();
    for (std::size_t i = 1; i < p.size(); ++i) {
      hashed_.push_back(oriel::token_id{static_cast<unsigned char>(p[i])});
    }
    links_.resize(hashed_.size() / page_size());
    oriel::hash_pages(
        spaces_[static_cast<std::size_t>(p[0])].digest(), hashed_, page_size(), links_);
    return event_mirror::key_of(links_.back());
  }

  /// Takes evictions from the events; without usable hashes, from what is missing in the tree.
  void learn() {
    if (!options_.hashes_differ) {
      mirror_.removals.clear();
      learn_from_tree();
      return;
    }
    for (const event_mirror::removal& gone : mirror_.removals) {
      const auto at = by_hash_.find(gone.hash);
      expect(at != by_hash_.end(), "what is removed was there");
      if (gone.pool == 0) {
        remove_full(at->second);
      } else {
        remove_window(at->second, gone.pool - 1);
      }
    }
    mirror_.removals.clear();
  }
  void remove_full(place at) {
    expect(!model_.has_below(at->first), "full pages go deepest first");
    for (const oriel::page_handle window : at->second.windows) {
      expect(!window, "window pages go along");
    }
    expect(!is_leased(at), "a leased page stays");
    erase(at);
  }
  void remove_window(place at, std::size_t kind) {
    for (const request& r : requests_) {
      expect(!is_on_path(r, at) ||
                 !model_.needs(kind, at->second.page, r.held.window_tokens() / page_size()),
             "a pinned window page stays");
    }
    expect(static_cast<bool>(at->second.windows[kind]), "a removed window page was there");
    at->second.windows[kind] = {};
  }
  [[nodiscard]] bool is_leased(place at) const {
    return std::any_of(requests_.begin(), requests_.end(), [&](const request& r) {
      return at->second.page < r.held.full_tokens() / page_size() && is_on_path(r, at);
    });
  }
  [[nodiscard]] bool is_on_path(const request& r, place at) const {
    const prefix_model::path& p = at->first;
    if (r.is_forgotten || static_cast<char>(r.space) != p[0] || p.size() > r.tokens.size() + 1) {
      return false;
    }
    for (std::size_t i = 1; i < p.size(); ++i) {
      if (static_cast<unsigned char>(p[i]) != to_index(r.tokens[i - 1])) {
        return false;
      }
    }
    return true;
  }
  void learn_from_tree() {
    std::set<std::pair<std::uint32_t, std::uint32_t>> seen;  // pool, full page
    tree_.visit_pages([&](const oriel::cached_page& page, std::uint32_t pool, oriel::page_handle) {
      seen.emplace(pool, to_index(page.full.id));
    });
    for (auto at = model_.pages().end(); at != model_.pages().begin();) {
      const place last = std::prev(at);  // Longer paths come behind their beginnings.
      const std::uint32_t full = to_index(last->second.full.id);
      for (std::uint32_t kind = 0; kind < kinds(); ++kind) {
        if (last->second.windows[kind] && !seen.contains({kind + 1, full})) {
          remove_window(last, kind);
        }
      }
      if (!seen.contains({0, full})) {
        remove_full(last);
      } else {
        at = last;
      }
    }
  }

  /// After every operation; `tokens` are those of some prompt.
  void check(std::uint32_t space, std::span<const oriel::token_id> tokens) {
    learn();
    expect(!options_.hashes_differ || mirror_.wrong == nullptr, mirror_.wrong);
    const oriel::prefix_match found = probe(space, tokens);
    const oriel::prefix_match hinted = advisory(space, tokens);
    expect(!options_.hashes_differ || hinted.full_tokens == found.full_tokens, "the same answer");
    if (tree_.full_pages() <= 48 || operation_ % 16 == 0) {
      const char* wrong = tree_.audit();
      expect(wrong == nullptr, wrong);
      compare();
    }
  }

  /// Tree, model, mirror and pools agree, page by page.
  void compare() {
    std::uint32_t pages = 0, windows = 0, unlocked = 0;
    for (std::size_t pool = 0; pool < pools_.size(); ++pool) {
      owned_[pool].assign(pools_[pool].capacity(), false);
    }
    tree_.visit_pages([&](const oriel::cached_page& page,
                          std::uint32_t pool,
                          oriel::page_handle handle) {
      const auto at = by_full_.find(to_index(page.full.id));
      expect(at != by_full_.end() && at->second->second.full == page.full, "the model has it");
      const model_page& want = at->second->second;
      expect(want.page == page.page, "at this depth");
      expect(!owned_[pool][to_index(handle.id)], "no page stands for two");
      owned_[pool][to_index(handle.id)] = true;
      if (pool == 0) {
        ++pages;
        unlocked += !page.is_locked;
        expect(page.is_locked == is_leased(at->second), "leases lock their pages and no others");
        const std::string& p = at->second->first;
        for (std::size_t i = 0; i < page.tokens.size(); ++i) {
          expect(static_cast<unsigned char>(p[p.size() - page.tokens.size() + i]) ==
                     to_index(page.tokens[i]),
                 "with these tokens");
        }
        expect(!options_.hashes_differ || mirror_.pages.contains(event_mirror::key_of(page.hash)),
               "the mirror has it");
      } else {
        ++windows;
        expect(want.windows[pool - 1] == handle, "with this window page");
      }
    });
    std::uint32_t want_windows = 0, mirrored = 0;
    for (const auto& [path, page] : model_.pages()) {
      for (const oriel::page_handle window : page.windows) {
        want_windows += static_cast<bool>(window);
      }
    }
    for (const auto& [hash, page] : mirror_.pages) {
      mirrored += static_cast<std::uint32_t>(page.windows.size());
    }
    expect(pages == model_.pages().size() && windows == want_windows, "the tree has no less");
    expect(!options_.hashes_differ || (mirror_.pages.size() == pages && mirrored == windows),
           "the mirror has no more");
    check_pools(pages, unlocked);
  }

  /// Free + held by requests + in the tree = capacity.
  void check_pools(std::uint32_t pages, std::uint32_t unlocked) {
    bool is_any_forgotten = false;
    for (const request& r : requests_) {
      is_any_forgotten = is_any_forgotten || r.is_forgotten;
      for (const oriel::page_handle h : r.full) {
        owned_[0][to_index(h.id)] = true;
      }
      for (std::size_t kind = 0; kind < kinds(); ++kind) {
        for (const auto& [page, h] : r.windows[kind]) {
          owned_[kind + 1][to_index(h.id)] = true;
        }
        for (std::size_t i = 0; r.is_reserved && i < r.fresh_windows[kind].second.size(); ++i) {
          owned_[kind + 1][to_index(r.fresh_windows[kind].second[i].id)] = true;
        }
      }
    }
    if (is_any_forgotten) {
      return;  // Their leases hold pages that nobody can find.
    }
    expect(tree_.full_pages() == pages && tree_.evictable_full_pages() == unlocked, "counts");
    for (std::size_t pool = 0; pool < pools_.size(); ++pool) {
      const auto owned = std::count(owned_[pool].begin(), owned_[pool].end(), true);
      expect(
          pools_[pool].available() + static_cast<std::uint32_t>(owned) == pools_[pool].capacity(),
          "free + used + evictable = capacity");
    }
  }

  life_options options_;
  std::mt19937_64 random_;
  std::uint64_t operation_ = 0, now_ = 0;
  std::vector<pool_type> pools_;
  std::vector<std::vector<std::uint64_t>> bytes_;  // [pools][pages]
  event_mirror mirror_;
  std::vector<oriel::cache_namespace> spaces_;
  tree_type tree_;
  prefix_model model_;
  std::map<std::uint32_t, place> by_full_;      // full page id
  std::map<event_mirror::key, place> by_hash_;  // ambiguous where hashes collide
  std::vector<request> requests_;
  life_counts counts_;
  oriel::borrowed_pages lent_;
  std::vector<std::vector<bool>> owned_ = std::vector<std::vector<bool>>(pools_.size());
  std::vector<oriel::token_id> hashed_;
  std::vector<oriel::chain_hash> links_;
};
