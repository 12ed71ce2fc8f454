// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/hash.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/tier/placement.hpp>

#include <algorithm>
#include <utility>

namespace oriel {
namespace {

std::uint64_t hash_of(std::uint64_t a, std::uint64_t b) noexcept {
  const std::uint64_t words[2] = {a, b};
  return hash64(std::as_bytes(std::span(words)));
}

}  // namespace

std::uint64_t place_by_session::operator()(const store_item& item) const noexcept {
  return item.owner.session == 0 ? item.key.link.prefix64()
                                 : hash_of(item.owner.tenant, item.owner.session);
}

std::vector<std::uint32_t> assign_sets(std::span<const std::uint64_t> names,
                                       std::uint32_t set_count,
                                       std::uint32_t points) {
  std::vector<std::uint32_t> nodes(set_count, ~std::uint32_t{0});
  if (names.empty() || points == 0) {
    return nodes;
  }
  // By position; of two at one position the smaller name, so that the order of names is no matter.
  struct point {
    std::uint64_t position, name;
    std::uint32_t node;
  };
  std::vector<point> circle;
  circle.reserve(names.size() * points);
  for (std::uint32_t node = 0; node < names.size(); ++node) {
    for (std::uint32_t i = 0; i < points; ++i) {
      circle.push_back({hash_of(names[node], i), names[node], node});
    }
  }
  std::ranges::sort(circle, [](const point& a, const point& b) {
    return std::pair(a.position, a.name) < std::pair(b.position, b.name);
  });
  const std::uint32_t load_max =
      ORIEL_MUTANT(shard_load_is_not_bounded) ? set_count : sets_max(set_count, names.size());
  std::vector<std::uint32_t> loads(names.size(), 0);
  for (std::uint32_t set = 0; set < set_count; ++set) {
    auto at =
        std::ranges::lower_bound(circle, hash_of(set, ~std::uint64_t{0}), {}, &point::position);
    for (;; ++at) {
      at = at == circle.end() ? circle.begin() : at;
      if (loads[at->node] < load_max) {
        break;
      }
    }
    nodes[set] = at->node;
    ++loads[at->node];
  }
  return nodes;
}

}  // namespace oriel
