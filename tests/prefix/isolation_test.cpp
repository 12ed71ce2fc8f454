// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Nobody finds what another namespace keeps.
#include "prefix/tree_world.hpp"
#include "support/scale.hpp"

#include <catch2/catch.hpp>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

using namespace oriel;

TEST_CASE("case 37: the same tokens under another salt are not there", "[prefix]") {
  tree_world w({.windows = {4}});
  const auto tokens = tokens_from(0, 17);
  w.run(tokens);
  const namespace_fields mine{.tenant_salt = "a", .model = "m"};
  CHECK(w.tree.match(cache_namespace(mine), tokens).window_safe_tokens == 16);
  for (namespace_fields other :
       {namespace_fields{.tenant_salt = "b", .model = "m"},
        namespace_fields{.tenant_salt = "", .model = "am"},
        namespace_fields{.tenant_salt = "am"},
        namespace_fields{.tenant_salt = "a", .model = "", .adapter = "m"},
        namespace_fields{.tenant_salt = "a", .model = "m", .rope = "x"},
        namespace_fields{.tenant_salt = "a", .model = "m", .arithmetic = "avx512"},
        namespace_fields{.tenant_salt = shared_salt, .model = "m"}}) {
    CHECK(w.tree.match(cache_namespace(other), tokens).full_tokens == 0);
  }
}

TEST_CASE("a match of a namespace that ended in between belongs to nobody", "[prefix]") {
  tree_world w({});
  const cache_namespace other({.tenant_salt = "b", .model = "m"});
  const auto tokens = tokens_from(0, 9);
  auto keeper = w.pin(tokens);  // The namespace exists as long as this lease.
  const prefix_match found = w.match(tokens);
  w.release(keeper);
  auto theirs = w.tree.pin(other, tokens, w.tree.match(other, tokens), {}, ++w.now);
  auto mine = w.tree.pin(w.space, tokens, found, pin_extent::hit(found), ++w.now);
  w.grow(mine, tokens, {});
  CHECK(w.tree.match(other, tokens).full_tokens == 0);
  CHECK(w.match(tokens).full_tokens == 8);
}

TEST_CASE("a match of one namespace pins nothing in another", "[prefix]") {
  tree_world w({});
  const cache_namespace other({.tenant_salt = "b", .model = "m"});
  const auto tokens = tokens_from(0, 9);
  w.run(tokens);
  const prefix_match found = w.match(tokens);
  const auto held = w.tree.pin(other, tokens, found, pin_extent::hit(found), ++w.now);
  CHECK(held.full_tokens() == 0);
}

TEST_CASE("a million probes of others' prefixes hit nothing", "[prefix]") {
  // Fields that say the same when they are glued, or that imitate a length prefix.
  const std::vector<std::string> words = {"",
                                          "a",
                                          "aa",
                                          "org_1",
                                          "2345",
                                          "org_12345",
                                          std::string(8, '\0'),
                                          std::string("a\0", 2),
                                          std::string("\1\0\0\0\0\0\0\0a", 9)};
  std::vector<cache_namespace> spaces;
  for (const std::string& salt : words) {
    for (const std::string& model : words) {
      spaces.emplace_back(namespace_fields{.tenant_salt = salt, .model = model});
      spaces.emplace_back(namespace_fields{
          .tenant_salt = salt, .adapter = model, .rope = model.empty() ? "rope" : ""});
    }
  }
  std::vector<paged_allocator<>> pools;
  pools.emplace_back(4'096);
  pools.emplace_back(4'096);
  radix_tree<paged_allocator<>> tree(pools, {.page_size = 2, .windows = {3}});
  std::mt19937_64 random(37);
  // Every second namespace publishes; the prompts are the same few.
  std::vector<std::vector<token_id>> prompts;
  for (std::uint32_t i = 0; i < 8; ++i) {
    prompts.push_back(tokens_from(i / 2, 9));
    prompts.back()[5] = token_id{i};
  }
  std::uint32_t published = 0;
  for (std::size_t i = 0; i < spaces.size(); i += 2) {
    for (const auto& prompt : prompts) {
      auto lease = tree.pin(spaces[i], prompt, {}, {8, 8}, i);
      std::vector<page_handle> full(4 - lease.full_tokens() / 2), window(4);
      REQUIRE(pools[0].try_allocate(full));
      REQUIRE(pools[1].try_allocate(window));
      const window_page_span span{.first_page = 0, .pages = window};
      auto fresh = tree.reserve(
          {.first_page = lease.full_tokens() / 2, .full = full, .windows = std::span(&span, 1)});
      published += tree.commit(lease, fresh, prompt, i).full_pages;
      tree.release(lease, {}, i);
      pools[0].release(full);
      pools[1].release(window);
    }
  }
  CHECK(published == tree.full_pages());
  std::uint64_t cross_hits = 0, own_hits = 0;
  for (std::uint64_t i = 0; i < scaled(1'000'000); ++i) {
    const std::size_t space = random() % spaces.size();
    const prefix_match m = tree.match(spaces[space], prompts[random() % prompts.size()]);
    if (space % 2 != 0) {
      cross_hits += m.full_tokens != 0 || m.window_safe_tokens != 0;
    } else {
      own_hits += m.full_tokens == 8;
    }
  }
  CHECK(cross_hits == 0);
  CHECK(own_hits > scaled(1'000'000) / 3);
}

TEST_CASE("a dropped namespace that a lease keeps alive takes no node from others", "[prefix]") {
  std::vector<paged_allocator<>> pools;
  pools.emplace_back(4u);
  radix_tree<paged_allocator<>> tree(pools, {.page_size = 1, .windows = {}, .namespaces_max = 1});
  const cache_namespace dropped({.tenant_salt = "x"}), next({.tenant_salt = "y"});
  const std::vector<token_id> tokens = {token_id{1}, token_id{2}};
  auto held = tree.pin(dropped, tokens, tree.match(dropped, tokens), {}, 1);
  tree.drop(dropped);

  // A node for the next root, and one for each page.
  for (std::uint32_t i = 0; i < 4; ++i) {
    const std::vector<token_id> other = {token_id{10 + i}, token_id{2}};
    auto lease = tree.pin(next, other, tree.match(next, other), {}, 4);
    REQUIRE(lease);
    page_handle page;
    REQUIRE(pools[0].try_allocate({&page, 1}));
    auto fresh = tree.reserve({.first_page = 0, .full = {&page, 1}});
    CHECK(tree.commit(lease, fresh, other, 5).full_pages == 1);
    pools[0].release(page);
    tree.release(lease, {}, 6);
  }
  CHECK(tree.full_pages() == 4);
  tree.release(held, {}, 7);
  CHECK(tree.audit() == nullptr);
}
