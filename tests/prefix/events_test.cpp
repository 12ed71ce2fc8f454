// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Who hears of a tree's changes, from when to when.
#include "prefix/tree_world.hpp"
#include "support/death.hpp"

#include <memory>

namespace events_test {

using namespace oriel;

namespace {

using pool_type = paged_allocator<>;

struct listener {
  std::uint64_t heard = 0;
  std::set<std::uint64_t> hashes;
  void on_event(const cache_event& event) noexcept {
    ++heard;
    if (event.kind != cache_event_kind::cleared) {
      hashes.insert(event.hash.low);
    }
  }
};
/// Goes by tokens and handles.
struct unhashed_listener {
  static constexpr bool needs_hashes = false;
  std::vector<token_id> tokens;
  bool has_hashes = false;
  void on_event(const cache_event& event) noexcept {
    has_hashes = has_hashes || event.hash != chain_hash{} || event.parent != chain_hash{};
    if (event.kind == cache_event_kind::stored && event.pool == 0) {
      tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
    }
  }
};
template <class Forwarder, class Listener>
concept forwards_to = requires(Forwarder f, Listener& l) {
  f.forward_to(l);
};
static_assert(forwards_to<event_forwarder, listener>);
static_assert(forwards_to<event_forwarder, unhashed_listener>);
static_assert(!forwards_to<unhashed_forwarder, listener>);

struct asked_listener : listener {
  std::uint64_t asked = 0;
  bool lets_go_soon(std::uint32_t, page_handle) noexcept {
    ++asked;
    return true;
  }
};

/// A tree that forwards its events, and pools for it.
template <class Forwarder = event_forwarder>
struct forwarding_world {
  using tree_type = radix_tree<pool_type, lru_order, keep_branch_points, Forwarder>;

  std::vector<pool_type> pools = std::vector<pool_type>(2, pool_type(16));
  std::optional<tree_type> tree;
  cache_namespace space{namespace_fields{.tenant_salt = "t"}};

  forwarding_world() {
    tree.emplace(std::span(pools), radix_tree_options{.page_size = 4, .windows = {6}});
  }
  /// Publishes four pages and their windows; their handles are the tree's alone but for `kept`.
  void publish(std::span<page_handle> kept = {}) {
    const std::vector<token_id> tokens = tokens_from(0, 16);
    auto held = tree->pin(space, tokens, tree->match(space, tokens), {}, 1);
    std::vector<page_handle> full(4), windows(4);
    REQUIRE(pools[0].try_allocate(full));
    REQUIRE(pools[1].try_allocate(windows));
    const window_page_span offered{.first_page = 0, .pages = windows};
    auto fresh = tree->reserve({.first_page = 0, .full = full, .windows = {&offered, 1}});
    tree->commit(held, fresh, tokens, 2);
    tree->release(held, {}, 3);
    for (std::size_t i = 0; i < kept.size(); ++i) {
      kept[i] = full[i];
      pools[0].add_ref(full[i]);
    }
    pools[0].release(full);
    pools[1].release(windows);
  }
};

}  // namespace

TEST_CASE("a tree that goes gives back its pages and tells nobody") {
  forwarding_world w;
  auto hears = std::make_unique<asked_listener>();
  w.tree->events().forward_to(*hears);
  page_handle kept[2];
  w.publish(kept);
  CHECK(hears->heard >= 4);
  const std::uint64_t heard = hears->heard, asked = hears->asked;
  SECTION("while somebody listens") {
    w.tree.reset();
    CHECK(hears->heard == heard);
    CHECK(hears->asked == asked);
  }
  SECTION("who is gone") {
    hears.reset();
    w.tree.reset();
  }
  CHECK(w.pools[0].available() == 14);
  CHECK(w.pools[1].available() == 16);
}

TEST_CASE("a tree does not go while it is leased") {
  forwarding_world w;
  w.publish();
  const std::vector<token_id> tokens = tokens_from(0, 16);
  auto held = w.tree->pin(w.space, tokens, w.tree->match(w.space, tokens), {}, 4);
  REQUIRE(held);
  CHECK(aborts([&] { w.tree.reset(); }));
}

TEST_CASE("who was taken out hears nothing, and nobody else can take him out") {
  forwarding_world w;
  asked_listener first;
  listener second;
  w.tree->events().forward_to(first);
  w.publish();
  const std::uint64_t heard = first.heard, asked = first.asked;
  CHECK(heard != 0);
  w.tree->events().stop_forwarding_to(second);
  CHECK(w.tree->events().object == &first);
  w.tree->events().forward_to(second);  // It has nothing to be asked.
  page_handle kept[1];
  w.tree->clear();
  w.publish(kept);
  CHECK(second.heard > 1);
  CHECK(w.tree->evict_full(4, 5).full == 3);
  CHECK(first.heard == heard);
  CHECK(first.asked == asked);
  w.tree->events().stop_forwarding_to(second);
  const std::uint64_t last = second.heard;
  w.tree->clear();
  CHECK(second.heard == last);
  w.pools[0].release(kept);
}

TEST_CASE("a tree whose events have hashes keeps them, though nobody asked") {
  forwarding_world w;
  listener hears;
  w.tree->events().forward_to(hears);
  w.publish();
  CHECK(hears.hashes.size() == 4);
  CHECK(!hears.hashes.contains(0));
  CHECK(w.tree->options().keeps_hash_chain);
  CHECK(!radix_tree<pool_type>(w.pools, {.windows = {6}}).options().keeps_hash_chain);
}

TEST_CASE("who goes by tokens and handles costs the tree no hashes") {
  forwarding_world<unhashed_forwarder> w;
  unhashed_listener hears;
  w.tree->events().forward_to(hears);
  w.publish();
  CHECK(hears.tokens == tokens_from(0, 16));
  CHECK(!hears.has_hashes);
  CHECK(!w.tree->options().keeps_hash_chain);
}

}  // namespace events_test
