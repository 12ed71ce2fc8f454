// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/random.hpp>
#include <oriel/sim/workload.hpp>
#include <oriel/sim/workload_builder.hpp>

#include <catch2/catch.hpp>
#include <support/scale.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>
#include <vector>

namespace oriel::sim::workload_test {
namespace {

using ids = std::vector<std::uint32_t>;

ids pages_of(const workload& w, std::uint32_t request) {
  const auto pages = w.pages_of(w.requests[request]);
  return {pages.begin(), pages.end()};
}

TEST_CASE("an output's pages are those that the next request goes on from") {
  workload_builder b(10);
  b.begin_session(0, 5.0);
  // 40 tokens and 35: pages 4, 5, 6 of the output; the next has 4 and 5.
  const auto first = b.add({.input_tokens = 40, .output_tokens = 35}, ids{1, 2, 3, 4}, {});
  const auto second =
      b.add({.input_tokens = 69, .output_tokens = 5, .arrival_s = 3.0, .gap_s = 1.5},
            ids{1, 2, 3, 4, 7, 8, 9},  // the last is not whole
            {&first, 1});
  // This one leaves it in the middle: its output and the one before are their own.
  const auto third =
      b.add({.input_tokens = 39, .output_tokens = 1, .gap_s = 1e6}, ids{1, 2, 5}, {&second, 1});
  const workload w = b.finish();

  const ids a = pages_of(w, first), c = pages_of(w, second), d = pages_of(w, third);
  REQUIRE(a.size() == 7);
  REQUIRE(c.size() == 7);
  REQUIRE(d.size() == 4);
  CHECK(std::equal(a.begin(), a.begin() + 6, c.begin()));
  CHECK(a[6] !=
        c[6]);  // the first one's output; and the second one's, whose page 6 begins in its input
  CHECK((d[0] == a[0] && d[1] == a[1] && d[2] != a[2] && d[3] != a[3]));
  CHECK(w.distinct_pages == 4 + 2 + 1 + 1 + 2);
  CHECK(w.sessions.size() == 1);
  CHECK(w.sessions[0].start_s == 5.0);
  CHECK(w.requests[third].gap_s == gap_max_s);
  CHECK(w.requests[second].arrival_s == 3.0);
  CHECK(w.input_tokens() == 40 + 69 + 39);
  // Reusable: of the first N - 1 tokens.
  CHECK(w.reusable_pages(w.requests[first]) == 3);
  CHECK(w.reusable_pages(w.requests[second]) == 6);
  CHECK(w.links_of(w.requests[second]).size() == 6);
}

TEST_CASE("requests that go on from each other share their place") {
  workload_builder b(10);
  b.begin_session(0, 0.0);
  b.add({.input_tokens = 20, .output_tokens = 10}, ids{1, 2}, {});
  b.add({.input_tokens = 40, .output_tokens = 10}, ids{1, 2, 3, 4}, {});
  b.add({.input_tokens = 60, .output_tokens = 0}, ids{1, 2, 3, 4, 5, 6}, {});
  const workload w = b.finish();
  CHECK(w.pages.size() == 6);
  CHECK(w.distinct_pages == 6);
  CHECK(w.requests[0].first_page == w.requests[2].first_page);
}

TEST_CASE("a name stands for its page alone, an id for all before it") {
  workload_builder b(10);
  b.begin_session(0, 0.0);
  b.add({.input_tokens = 30}, ids{1, 2, 3}, {});
  b.add({.input_tokens = 30}, ids{4, 2, 3}, {});  // the same pages behind another
  b.begin_session(0, 0.0);
  b.add({.input_tokens = 30}, ids{1, 2, 5}, {});  // the same name space
  b.begin_session(1, 0.0);
  b.add({.input_tokens = 30}, ids{1, 2, 3}, {});  // another
  const workload w = b.finish();
  const ids a = pages_of(w, 0), c = pages_of(w, 1), d = pages_of(w, 2), e = pages_of(w, 3);
  CHECK((a[0] != c[0] && a[1] != c[1] && a[2] != c[2]));
  CHECK((a[0] == d[0] && a[1] == d[1] && a[2] != d[2]));
  CHECK((a[0] != e[0] && a[1] != e[1] && a[2] != e[2]));
  CHECK(w.name_spaces == 2);
}

TEST_CASE("followers are those that wait, and sub-agents have chains of their own") {
  workload_builder b(10);
  b.begin_session(0, 0.0);
  const auto parent = b.add({.input_tokens = 20, .output_tokens = 20}, ids{1, 2}, {});
  const auto child =
      b.add({.input_tokens = 20, .output_tokens = 20, .agent = 1}, ids{8, 9}, {&parent, 1});
  const ids both = {parent, child};
  const auto joined = b.add({.input_tokens = 50}, ids{1, 2, 3, 4, 5}, both);
  const workload w = b.finish();
  const auto followers = [&](std::uint32_t i) {
    const auto f = w.followers_of(w.requests[i]);
    return ids(f.begin(), f.end());
  };
  CHECK(followers(parent) == ids{child, joined});
  CHECK(followers(child) == ids{joined});
  CHECK(followers(joined).empty());
  // The parent's output is where the parent goes on, though the child came between.
  CHECK(pages_of(w, parent)[3] == pages_of(w, joined)[3]);
  CHECK(pages_of(w, child)[2] != pages_of(w, joined)[2]);
}

/// Beside a set of whole chains.
TEST_CASE("ids are equal exactly where chains are") {
  for (std::uint64_t seed = 1; seed <= scaled(20); ++seed) {
    INFO("seed " << seed);
    random_stream draw(seed);
    workload_builder b(4);
    std::vector<std::pair<std::uint32_t, ids>> inputs;  // name space and names, by request
    for (std::uint32_t s = 0; s < 6; ++s) {
      const std::uint32_t space = s < 3 ? s : draw.next_below(3);
      b.begin_session(space, s);
      ids names;
      for (std::uint32_t i = 0; i < 12; ++i) {
        names.resize(draw.next_below(static_cast<std::uint32_t>(names.size()) + 1));
        for (std::uint32_t more = draw.next_below(6); more > 0; --more) {
          names.push_back(draw.next_below(3));
        }
        b.add(
            {.input_tokens = static_cast<std::uint32_t>(4 * names.size() + 1 + draw.next_below(3)),
             .output_tokens = draw.next_below(12),
             .agent = draw.next_below(2)},
            names,
            {});
        inputs.emplace_back(space, names);
      }
    }
    const workload w = b.finish();
    REQUIRE(w.requests.size() == inputs.size());
    std::map<std::pair<std::uint32_t, ids>, std::uint32_t> id_of;  // of a chain
    std::map<std::uint32_t, std::pair<std::uint32_t, ids>> chain_of;
    for (std::uint32_t i = 0; i < inputs.size(); ++i) {
      const auto& [space, names] = inputs[i];
      const ids pages = pages_of(w, i);
      REQUIRE(pages.size() == (w.requests[i].input_tokens + w.requests[i].output_tokens) / 4);
      for (std::size_t p = 0; p < pages.size(); ++p) {
        REQUIRE(pages[p] < w.distinct_pages);
        REQUIRE(w.links[w.requests[i].first_page + p] == link_of(pages[p], 0));
        if (p < names.size()) {
          const std::pair chain{space, ids(names.data(), names.data() + p + 1)};
          REQUIRE(id_of.try_emplace(chain, pages[p]).first->second == pages[p]);
          REQUIRE(chain_of.try_emplace(pages[p], chain).first->second == chain);
        }
      }
    }
  }
}

TEST_CASE("clones share nothing but the shape") {
  workload_builder b(10);
  b.begin_session(0, 0.0);
  b.add({.input_tokens = 40}, ids{1, 2, 3, 4}, {});
  b.begin_session(1, 0.0);
  b.add({.input_tokens = 40}, ids{1, 2, 3, 4}, {});
  const workload w = b.finish();
  const workload_view view(w, {.clones = 500, .hours = 2.0, .seed = 7});
  CHECK(view.sessions() == 1000);
  CHECK(view.requests() == 1000);
  std::set<std::pair<std::uint64_t, std::uint64_t>> links;
  std::set<std::uint32_t> spaces;
  std::vector<chain_hash> salted(3);
  double sum_s = 0.0;
  for (std::uint64_t s = 0; s < view.sessions(); ++s) {
    const workload_request& r = w.requests[view.session(s).first_request];
    const std::uint32_t clone = view.clone_of(s);
    spaces.insert(view.name_space(r, clone));
    salt_links(w.links_of(r), clone, salted);
    for (std::uint32_t i = 0; i < 3; ++i) {
      CHECK(salted[i] == link_of(w.pages[r.first_page + i], clone));
      links.insert({salted[i].low, salted[i].high});
    }
    REQUIRE((view.start_s(s) >= 0.0 && view.start_s(s) < 7'200.0));
    sum_s += view.start_s(s);
  }
  CHECK(spaces.size() == 1000);
  CHECK(links.size() == 3000);
  CHECK(sum_s / 1000 == Approx(3'600.0).margin(4 * 7'200.0 / std::sqrt(12.0 * 1000)));
  // Starts depend on the seed, and scale with H.
  const workload_view longer(w, {.clones = 500, .hours = 3.0, .seed = 7});
  const workload_view other(w, {.clones = 500, .hours = 2.0, .seed = 8});
  CHECK(longer.start_s(123) == Approx(1.5 * view.start_s(123)));
  CHECK(other.start_s(123) != view.start_s(123));
  CHECK(view.measure_begin_s() == 1'800.0);
  CHECK(view.measure_end_s() == 7'200.0);
}

}  // namespace
}  // namespace oriel::sim::workload_test
