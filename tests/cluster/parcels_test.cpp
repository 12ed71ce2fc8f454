// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "../src/sim/cluster/fleet_mirror.hpp"
#include "support/scale.hpp"

#include <oriel/core/random.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>

using namespace oriel;

TEST_CASE("parcels take as much room as were under way at once") {
  sim::parcels<std::uint64_t> parcels;
  std::map<std::uint32_t, std::uint64_t> model;
  random_stream draw(1);
  std::size_t most = 0;
  for (std::uint64_t i = 0; i < scaled(20'000); ++i) {
    if (model.size() < 50 && draw.next_below(2) == 0) {
      REQUIRE(model.emplace(parcels.keep(i), i).second);
    } else if (!model.empty()) {
      const auto at =
          std::next(model.begin(), draw.next_below(static_cast<std::uint32_t>(model.size())));
      REQUIRE(parcels.take(at->first) == at->second);
      model.erase(at);
    }
    most = std::max(most, model.size());
    REQUIRE(parcels.places() == most);
  }
}

TEST_CASE("a letter has its own links") {
  std::vector<chain_hash> links{{1, 2}, {3, 4}};
  sim::parcels<sim::letter> letters;
  const std::uint32_t number = letters.keep({7, worker_event{.first_page = 5, .links = links}});
  links.assign(2, {});
  const sim::letter l = letters.take(number);
  CHECK(l.router == 7);
  CHECK(l.opened().first_page == 5);
  REQUIRE(l.opened().links.size() == 2);
  CHECK(l.opened().links[1] == chain_hash{3, 4});
}
