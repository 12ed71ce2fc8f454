// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// Sessions on workers, for benches of the index and the router: they share a system prompt of 100
/// pages that every worker has; each is on one to three workers, device and host, with windows at
/// the end of each of 20 turns. A prompt is one of them, and 30 pages more that nobody has.
#pragma once

#include <oriel/core/random.hpp>
#include <oriel/route/prefix_index.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

namespace oriel {

using link_chain = std::vector<chain_hash>;

inline constexpr std::uint32_t system_pages = 100, unknown_pages = 30, turns = 20;

inline void extend(link_chain& c, std::size_t pages, random_stream& draw) {
  while (c.size() < pages) {
    const auto token = token_id{draw.next_bits()};
    c.push_back(next_link(c.empty() ? chain_hash{1, 2} : c.back(), {&token, 1}));
  }
}

/// @tparam Index  what takes events: a prefix_index, or a router
template <class Index>
struct session_fleet {
  Index index;
  std::vector<std::uint64_t> sequences;
  std::vector<link_chain> prompts;
  prefix_answer answer = {};

  template <class Options>
  session_fleet(const Options& options, std::uint32_t workers)
      : index(options), sequences(workers) {}

  void send(std::uint32_t worker,
            worker_event_kind what,
            std::uint8_t tier,
            std::uint32_t pool,
            const link_chain& c,
            std::uint32_t first,
            std::uint32_t end) {
    const auto outcome = index.apply({.worker = worker_id{worker},
                                      .kind = what,
                                      .tier = tier,
                                      .pool = pool,
                                      .first_page = first,
                                      .epoch = 1,
                                      .sequence = ++sequences[worker],
                                      .parent = first > 0 ? c[first - 1] : chain_hash{},
                                      .links = std::span(c).subspan(first, end - first)});
    if (outcome != event_outcome::applied) {
      std::abort();
    }
  }
  /// A prompt as a worker computes it: turn after turn.
  void serve(std::uint32_t worker, const link_chain& c, std::uint32_t end) {
    using kind = worker_event_kind;
    for (std::uint32_t turn = 0; turn < turns; ++turn) {
      const std::uint32_t from = end * turn / turns, to = end * (turn + 1) / turns;
      for (std::uint8_t tier = 0; tier < 2; ++tier) {
        send(worker, kind::stored, tier, 0, c, from, to);
        send(worker, kind::stored, tier, 1, c, to - std::min(to, 3u), to);
      }
    }
  }
  void add_sessions(std::uint32_t count, std::uint32_t pages, std::uint32_t copies_max) {
    random_stream draw(1);
    link_chain trunk;
    extend(trunk, system_pages, draw);
    const auto workers = static_cast<std::uint32_t>(sequences.size());
    for (std::uint32_t worker = 0; worker < workers; ++worker) {
      serve(worker, trunk, system_pages);
    }
    for (std::uint32_t i = 0; i < count; ++i) {
      link_chain& c = prompts.emplace_back(trunk);
      extend(c, pages, draw);
      const std::uint32_t copies = copies_max < workers ? 1 + draw.next_below(copies_max) : workers;
      const std::uint32_t first = draw.next_below(workers);
      for (std::uint32_t k = 0; k < copies; ++k) {
        serve((first + k) % workers, c, pages - unknown_pages);
      }
    }
  }
};

}  // namespace oriel
