// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "support/scale.hpp"

#include <oriel/core/random.hpp>
#include <oriel/route/event_batch.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <vector>

namespace event_batch_test {

using namespace oriel;

namespace {

using sent_event = std::tuple<worker_event_kind,
                              std::uint32_t,  // tier
                              std::uint32_t,  // pool
                              std::uint32_t,  // first page
                              std::uint64_t,  // parent
                              std::uint64_t,  // sequence
                              std::vector<std::uint64_t>>;

struct sender {
  event_batch batch;
  std::vector<sent_event> sent;
  explicit sender(std::size_t pages_max) : batch(worker_id{3}, 1, pages_max) {}
  void operator()(const worker_event& e) {
    std::vector<std::uint64_t> links;
    for (const chain_hash link : e.links) {
      links.push_back(link.low);
    }
    sent.emplace_back(e.kind, e.tier, e.pool, e.first_page, e.parent.low, e.sequence, links);
  }
};

/// Page `at` of chain `chain`.
chain_hash link(std::uint32_t chain, std::uint32_t at) {
  return {chain * 1'000 + at + 1, 7};
}

}  // namespace

TEST_CASE("pages that are taken together are sent as pages that are taken one by one") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    INFO("seed " << seed);
    random_stream draw(seed);
    const std::size_t pages_max = 1 + draw.next_below(12);
    sender one(pages_max), other(pages_max);
    std::uint32_t chain = 0, at = 50;  // Mostly the next event goes on where the last one ended.
    for (std::uint64_t i = 0; i < scaled(2'000); ++i) {
      chain = draw.next_below(8) == 0 ? draw.next_below(3) : chain;
      at = draw.next_below(4) == 0 ? draw.next_below(100) : std::min(at, 100u);
      const bool goes_down = draw.next_below(2) != 0;
      const std::uint32_t pages = 1 + draw.next_below(draw.next_below(3) == 0 ? 30 : 3);
      const std::uint32_t first = goes_down ? at - std::min(at, pages - 1) : at;
      const std::uint32_t end = goes_down ? at + 1 : at + pages;
      cache_event event{
          .kind = draw.next_below(6) == 0 ? cache_event_kind::removed : cache_event_kind::stored,
          .pool = draw.next_below(10) == 0 ? 1u : 0u};
      std::vector<chain_hash> links;
      for (std::uint32_t page = first; page < end; ++page) {
        links.push_back(link(chain, page));
      }
      if (goes_down) {
        std::ranges::reverse(links);
      }
      const auto parent_of = [&](std::uint32_t page) {
        return page == 0 ? chain_hash{} : link(chain, page - 1);
      };
      for (std::uint32_t k = 0; k < end - first; ++k) {
        event.page = goes_down ? end - 1 - k : first + k;
        event.hash = link(chain, event.page);
        event.parent = parent_of(event.page);
        one.batch.take(event, one);
      }
      event.page = first;
      event.hash = {};
      event.parent = parent_of(first);
      other.batch.take_pages(event, links, goes_down, other);
      at = goes_down ? first - (first != 0) : end;
      if (draw.next_below(20) == 0) {
        one.batch.flush(one);
        other.batch.flush(other);
      }
      REQUIRE(one.sent == other.sent);
    }
    CHECK(one.sent.size() > scaled(100));
  }
}

}  // namespace event_batch_test
