// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Real trees tell an index what they have; the index then answers what the trees would.
#include "support/scale.hpp"

#include <oriel/core/random.hpp>
#include <oriel/kv/paged_allocator.hpp>
#include <oriel/prefix/order_lru.hpp>
#include <oriel/prefix/radix_tree.hpp>
#include <oriel/route/event_batch.hpp>
#include <oriel/route/prefix_index.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <memory>

namespace tree_index_test {

using namespace oriel;

namespace {

constexpr std::uint32_t page_size = 4;
const std::vector<std::uint32_t> windows = {8, 14};
const cache_namespace space({.tenant_salt = "tenant", .model = "test"});

/// A worker's cache, and what it sends.
struct cache {
  using pool = paged_allocator<>;
  using tree_type = radix_tree<pool, lru_order, keep_branch_points, event_forwarder>;

  std::vector<pool> pools;
  event_forwarder forwarder;
  tree_type tree;
  event_batch batch;
  prefix_index& index;
  std::uint64_t now = 0, sent = 0;

  cache(prefix_index& to, std::uint32_t worker)
      : pools{pool(96), pool(40), pool(40)},
        forwarder{this,
                  [](void* self, const cache_event& event) noexcept {
                    static_cast<cache*>(self)->on_event(event);
                  }},
        tree(pools, {.page_size = page_size, .windows = windows}, {}, forwarder),
        batch(worker_id{worker}, 1, 16),
        index(to) {}

  void send(const worker_event& event) {
    ++sent;
    if (index.apply(event) != event_outcome::applied) {
      FAIL("not applied");
    }
  }
  void on_event(const cache_event& event) {
    batch.take(event, [this](const worker_event& e) { send(e); });
  }
  void flush() {
    batch.flush([this](const worker_event& e) { send(e); });
  }

  std::vector<page_handle> pages(std::uint32_t which, std::uint32_t count) {
    std::vector<page_handle> taken(count);
    if (!pools[which].try_allocate(taken)) {
      if (which == 0) {
        tree.evict_full(count, ++now);
      } else {
        tree.evict_window(which - 1, count);
      }
      REQUIRE(pools[which].try_allocate(taken));
    }
    return taken;
  }
  void run(std::span<const token_id> tokens) {
    const auto whole = static_cast<std::uint32_t>(tokens.size()) / page_size;
    const prefix_match match = tree.match(space, tokens);
    auto lease = tree.pin(space, tokens, match, {match.heal_tokens, 0}, ++now);
    const std::uint32_t first = lease.full_tokens() / page_size;
    const auto full = pages(0, whole - first);
    std::vector<std::vector<page_handle>> tails(windows.size());
    std::vector<window_page_span> offered(windows.size());
    for (std::uint32_t kind = 0; kind < windows.size(); ++kind) {
      tails[kind] = pages(1 + kind, std::min(whole, 5u));
      offered[kind] = {whole - std::min(whole, 5u), tails[kind]};
    }
    auto fresh = tree.reserve({.first_page = first, .full = full, .windows = offered});
    tree.commit(lease, fresh, tokens, ++now);
    pools[0].release(full);
    for (std::uint32_t kind = 0; kind < windows.size(); ++kind) {
      pools[1 + kind].release(tails[kind]);
    }
    tree.release(lease, {}, ++now);
  }
};

}  // namespace

TEST_CASE("an index that trees talk to answers what they would") {
  constexpr std::uint32_t workers = 3;
  std::uint64_t sent = 0, safe = 0, clipped = 0;
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    INFO("seed " << seed);
    random_stream draw(seed);
    prefix_index index({.page_size = page_size, .windows = windows, .workers = workers});
    std::vector<std::unique_ptr<cache>> caches;
    for (std::uint32_t worker = 0; worker < workers; ++worker) {
      caches.push_back(std::make_unique<cache>(index, worker));
    }
    prefix_answer answer;
    std::vector<std::vector<token_id>> prompts;
    for (std::uint64_t i = 0; i < scaled(600); ++i) {
      std::vector<token_id> tokens;
      if (!prompts.empty() && draw.next_below(5) != 0) {
        tokens = prompts[draw.next_below(static_cast<std::uint32_t>(prompts.size()))];
        tokens.resize(draw.next_below(static_cast<std::uint32_t>(tokens.size())));
      }
      const std::size_t length =
          std::min<std::size_t>(tokens.size() + 8 + draw.next_below(40), 120);
      while (tokens.size() < length) {
        tokens.push_back(token_id{draw.next_below(50)});
      }
      prompts.push_back(tokens);
      cache& c = *caches[draw.next_below(workers)];
      c.run(tokens);
      c.flush();

      const auto& prompt = prompts[draw.next_below(static_cast<std::uint32_t>(prompts.size()))];
      std::vector<chain_hash> links((prompt.size() - 1) / page_size);
      hash_pages(space.digest(), std::span(prompt).first(prompt.size() - 1), page_size, links);
      index.look_up(links, answer);
      for (std::uint32_t worker = 0; worker < workers; ++worker) {
        const prefix_match match = caches[worker]->tree.match(space, prompt);
        const worker_prefix& row = answer[worker_id{worker}];
        REQUIRE(row.full_pages[0] * page_size == match.heal_tokens);
        REQUIRE(row.safe_pages[0] * page_size == match.window_safe_tokens);
        safe += match.window_safe_tokens > 0;
        clipped += match.window_safe_tokens < match.heal_tokens;
      }
    }
    for (const auto& c : caches) {
      sent += c->sent;
      c->tree.clear();
      c->flush();
    }
    CHECK(index.memory().pages == 0);
  }
  CHECK(safe > scaled(200));
  CHECK(clipped > scaled(200));
  CHECK(sent > scaled(1000));
}

}  // namespace tree_index_test
