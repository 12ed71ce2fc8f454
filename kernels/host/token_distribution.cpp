// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Questions to a token_distribution. Masses are integers, so every path answers the same.
#include "detail/sample_kernels.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/kernels/sample.hpp>

#include <algorithm>

namespace oriel {
namespace {

/// Place of `id` in the distribution, or the number of kept tokens if it is not there.
std::size_t place_of(const token_distribution& d, token_id id) noexcept {
  const std::uint32_t index = to_index(id);
  if (d.ids.empty()) {
    return std::min<std::size_t>(index, d.weights.size());
  }
  const auto at = std::lower_bound(d.ids.begin(), d.ids.end(), index);
  return at != d.ids.end() && *at == index ? static_cast<std::size_t>(at - d.ids.begin())
                                           : d.weights.size();
}

/// The token in whose share of [0, d.total) `mass` falls.
token_id token_at(const token_distribution& d, std::uint64_t mass) noexcept {
  constexpr std::size_t stride = 4'096;
  const detail::sample_kernels& kernels = detail::sample_kernels_for(best_isa());
  std::size_t first = 0;
  for (; d.weights.size() - first > stride; first += stride) {
    const std::uint64_t part = kernels.mass(d.weights.data() + first, stride);
    if (mass < part) {
      break;
    }
    mass -= part;
  }
  for (std::size_t i = first; i < d.weights.size(); ++i) {
    const std::uint64_t own = mass_of(d.weights[i]);
    if (mass < own) {
      return token_id{d.ids.empty() ? static_cast<std::uint32_t>(i) : d.ids[i]};
    }
    mass -= own;
  }
  constexpr bool total_is_sum_of_masses = false;
  ORIEL_EXPECTS(total_is_sum_of_masses);
  return token_id{0};
}

/// `random` / 2^64 of `total`: uniform over [0, total), to within total / 2^64.
std::uint64_t scale(std::uint64_t random, std::uint64_t total) noexcept {
  __extension__ using wide = unsigned __int128;
  return static_cast<std::uint64_t>((wide{random} * total) >> 64);
}

}  // namespace

float probability_of(const token_distribution& d, token_id id) noexcept {
  const std::size_t place = place_of(d, id);
  if (place == d.weights.size() || d.total == 0) {
    return 0.0f;
  }
  return static_cast<float>(static_cast<double>(mass_of(d.weights[place])) /
                            static_cast<double>(d.total));
}

token_id draw(const token_distribution& d, std::uint64_t random) noexcept {
  ORIEL_EXPECTS(d.total > 0);
  return token_at(d, scale(random, d.total));
}

token_id draw_without(const token_distribution& d,
                      token_id excluded,
                      std::uint64_t random) noexcept {
  const std::size_t place = place_of(d, excluded);
  if (place == d.weights.size()) {
    return draw(d, random);
  }
  // The others keep their shares; the excluded one's is stepped over.
  const std::uint64_t hole = mass_of(d.weights[place]);
  ORIEL_EXPECTS(d.total > hole);
  const detail::sample_kernels& kernels = detail::sample_kernels_for(best_isa());
  const std::uint64_t before = kernels.mass(d.weights.data(), static_cast<std::uint32_t>(place));
  const std::uint64_t mass = scale(random, d.total - hole);
  return token_at(d, mass < before ? mass : mass + hole);
}

}  // namespace oriel
