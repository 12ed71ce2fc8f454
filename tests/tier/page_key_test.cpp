// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kv/pool_plan.hpp>
#include <oriel/tier/page_key.hpp>

#include <catch2/catch.hpp>

#include <set>
#include <vector>

namespace page_key_test {

using namespace oriel;

namespace {

std::vector<token_id> tokens_of(std::uint32_t count, std::uint32_t first = 0) {
  std::vector<token_id> tokens;
  for (std::uint32_t i = 0; i < count; ++i) {
    tokens.push_back(token_id{first + i});
  }
  return tokens;
}

const page_shape shape{.page_size = 4, .slice_bytes = {{64, 64}, {128}}, .window_tokens = {6}};

}  // namespace

TEST_CASE("a chain grows a page at a time, and says the same as all at once", "[tier]") {
  const cache_namespace space({.tenant_salt = "a", .model = "m"});
  const page_digest start = chain_start(space, shape);
  const std::vector<token_id> tokens = tokens_of(23);
  std::vector<page_digest> whole, grown;
  extend_chain(start, tokens, 4, whole);
  REQUIRE(whole.size() == 5);
  for (std::size_t length = 0; length <= tokens.size(); ++length) {
    extend_chain(start, std::span(tokens).first(length), 4, grown);
    CHECK(grown.size() == length / 4);
  }
  CHECK(grown == whole);
}

TEST_CASE("every token before, and everything that bytes depend on, is in a link", "[tier]") {
  std::set<page_digest> seen;
  const auto is_new =
      [&](const cache_namespace& space, const page_shape& of, const std::vector<token_id>& tokens) {
        std::vector<page_digest> links;
        extend_chain(chain_start(space, of), tokens, 4, links);
        return seen.insert(links.back()).second;
      };
  const std::vector<token_id> tokens = tokens_of(12);
  const cache_namespace space({.tenant_salt = "org_1", .model = "2345"});
  CHECK(is_new(space, shape, tokens));
  CHECK(!is_new(space, shape, tokens));
  CHECK(is_new(cache_namespace({.tenant_salt = "org_12345"}), shape, tokens));
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    std::vector<token_id> other = tokens;
    other[i] = token_id{99};
    CHECK(is_new(space, shape, other));
  }
  for (const page_shape& other :
       {page_shape{.page_size = 4, .slice_bytes = {{128}, {128}}, .window_tokens = {6}},
        page_shape{.page_size = 4, .slice_bytes = {{64, 64, 128}}, .window_tokens = {6}},
        page_shape{.page_size = 4, .slice_bytes = {{64, 64}, {128}}, .window_tokens = {7}},
        page_shape{
            .page_size = 4, .slice_bytes = {{64, 64}, {128}}, .window_tokens = {6}, .ranks = 2},
        page_shape{.page_size = 4,
        .slice_bytes = {{64, 64}, {128}},
        .window_tokens = {6},
        .rank = 1,
        .ranks = 2}}) {
    CHECK(is_new(space, other, tokens));
  }
}

TEST_CASE("keys of two pools differ", "[tier]") {
  const page_digest link = chain_start(cache_namespace({.tenant_salt = "a"}), shape);
  CHECK(page_key{link, 0} != page_key{link, 1});
  CHECK(page_key{link, 0} < page_key{link, 1});
}

TEST_CASE("the shape of a plan's pages: slices by layers, windows by kinds", "[tier]") {
  const kv_layer_shape full{.kv_heads = 1, .head_dim_qk = 8, .head_dim_vo = 16};
  kv_layer_shape window = full, soft = full;
  window.window_tokens = 24;
  soft.window_tokens = 40;
  soft.is_soft = true;
  const pool_plan plan =
      *pool_plan::make(std::vector{full, window, full, window, soft}, {.page_size = 32});
  const page_shape of = page_shape_of(plan);
  CHECK(of.page_size == 32);
  CHECK(of.window_tokens == std::vector<std::uint32_t>{24, 40});
  REQUIRE(of.slice_bytes.size() == 3);
  const std::uint64_t slice = plan.layout(full_pool).slice_bytes(0);
  CHECK(slice >= 32 * (8 + 16) * 2);
  CHECK(of.slice_bytes[0] == std::vector{slice, slice});
  CHECK(of.slice_bytes[1].size() == 2);
  CHECK(of.slice_bytes[2].size() == 1);
}

}  // namespace page_key_test
