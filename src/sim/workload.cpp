// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/sim/workload.hpp>

#include <limits>

namespace oriel::sim {
namespace {

/// A bijection that scatters: the finalizer of SplitMix64 (G. Steele, D. Lea, C. Flood, 2014).
constexpr std::uint64_t scattered(std::uint64_t x) noexcept {
  x = (x ^ x >> 30) * 0xBF58'476D'1CE4'E5B9u;
  x = (x ^ x >> 27) * 0x94D0'49BB'1331'11EBu;
  return x ^ x >> 31;
}

constexpr std::uint64_t step = 0x9E37'79B9'7F4A'7C15u;

/// Different for different numbers: `low` alone is a bijection.
constexpr chain_hash hash_of(std::uint64_t number) noexcept {
  return {scattered(number + step), scattered(number * step + 2 * step)};
}

/// Clone 0 has none.
chain_hash salt_of(std::uint32_t clone) noexcept {
  return clone == 0 || ORIEL_MUTANT(clones_share_links) ? chain_hash{}
                                                        : hash_of(std::uint64_t{clone} << 32);
}

constexpr chain_hash salted(chain_hash link, chain_hash salt) noexcept {
  return {link.low ^ salt.low, link.high ^ salt.high};
}

}  // namespace

std::uint64_t workload::input_tokens() const noexcept {
  std::uint64_t sum = 0;
  for (const workload_request& r : requests) {
    sum += r.input_tokens;
  }
  return sum;
}

chain_hash link_of(std::uint32_t page, std::uint32_t clone) noexcept {
  return salted(hash_of(page), salt_of(clone));
}

void links_of_pages(std::span<const std::uint32_t> pages,
                    std::uint32_t clone,
                    std::span<chain_hash> out) noexcept {
  ORIEL_EXPECTS(out.size() == pages.size());
  const chain_hash salt = salt_of(clone);
  for (std::size_t i = 0; i < pages.size(); ++i) {
    out[i] = salted(hash_of(pages[i]), salt);
  }
}

void salt_links(std::span<const chain_hash> links,
                std::uint32_t clone,
                std::span<chain_hash> out) noexcept {
  ORIEL_EXPECTS(out.size() == links.size());
  const chain_hash salt = salt_of(clone);
  for (std::size_t i = 0; i < links.size(); ++i) {
    out[i] = salted(links[i], salt);
  }
}

workload_view::workload_view(const workload& of, const clone_options& options) noexcept
    : of_(&of), options_(options) {
  ORIEL_EXPECTS(options.clones > 0);
  ORIEL_EXPECTS(options.hours > 0.0);
  ORIEL_EXPECTS(std::uint64_t{options.clones} * of.name_spaces <=
                std::numeric_limits<std::uint32_t>::max());
}

double workload_view::start_s(std::uint64_t session) const noexcept {
  const random_stream starts = stream_for(options_.seed, draw_purpose::session_starts);
  return starts.bits(session) * 0x1p-32 * options_.hours * 3600.0;
}

}  // namespace oriel::sim
