// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `workload_builder`: puts a workload together, session by session.
#pragma once

#include <oriel/sim/workload.hpp>

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace oriel::sim {

///     workload_builder b(64);
///     b.begin_session(name_space, start_s);
///     const std::uint32_t first = b.add({.input_tokens = 200, ...}, names, {});
///     b.add({...}, more_names, {&first, 1});   // waits for it
///     const workload w = b.finish();
///
/// The output's pages are those that a later request of the same agent has at these places, the
/// first that goes on from this one's input; beyond them, ids of their own:
///
///     input      |  0  1  2  3 |
///     output                   | 4  5  6 |
///     next input |  0  1  2  3   7  8 |            so the output's are 7, 8, and one of its own
///
/// Requests that go on from each other share one place in workload::pages.
///
/// *Thread safety* none. *Memory* that of the workload, and some 50 bytes a distinct page.
class workload_builder {
 public:
  struct facts {
    std::uint32_t input_tokens = 0;  ///< > 0
    std::uint32_t output_tokens = 0;
    double arrival_s = 0.0;   ///< >= 0, after the session's start
    double gap_s = 0.0;       ///< >= 0; more than gap_max_s counts as that
    std::uint32_t agent = 0;  ///< within the session: 0 the parent, others its sub-agents
  };

  /// @pre page_tokens > 0
  explicit workload_builder(std::uint32_t page_tokens);

  /// Requests added since belong to it. Pages compare with those of sessions in the same name
  /// space. @pre name spaces are numbered from 0 without gaps
  void begin_session(std::uint32_t name_space, double start_s);

  /// @param names  of the input's whole pages, and maybe of a last one that is not: equal in one
  ///               name space where the tokens of the page are
  /// @param waits  what add returned before in this session
  /// @returns the request's index. O(pages) @throws std::bad_alloc
  std::uint32_t add(const facts& f,
                    std::span<const std::uint32_t> names,
                    std::span<const std::uint32_t> waits);

  /// All that was added. The builder is empty then.
  [[nodiscard]] workload finish();

 private:
  struct agent_request {
    std::uint32_t index = 0;
    std::vector<std::uint32_t> pages;  // of the input; then of the output too
  };
  struct agent_chain {
    std::vector<std::uint32_t> names;  // of its last request
    std::vector<agent_request> requests;
  };

  void find_pages(const agent_chain& chain,
                  std::span<const std::uint32_t> names,
                  std::vector<std::uint32_t>& pages);
  void end_session();
  void add_output(std::vector<agent_request>& requests, std::size_t i);
  void place(std::vector<agent_request>& requests);
  void link_followers();

  workload built_;
  std::uint32_t name_space_ = 0;
  std::vector<agent_chain> agents_;  // of the session
  // The page of (name space, name) where a chain begins, and of (page before, name).
  std::unordered_map<std::uint64_t, std::uint32_t> first_, next_;
};

}  // namespace oriel::sim
