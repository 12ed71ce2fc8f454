// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a seed stands for: sizes and habits of one simulated engine, and a list of operations. The
/// list is explicit, and an operation means something after any of the others are taken out, so
/// that a failing list can be made small.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sim {

/// Sizes, drawn anew for every seed (swarm testing).
struct setup {
  std::uint32_t page_size = 4;
  std::vector<std::uint32_t> layers;   ///< [layers] window in tokens, 0: full
  std::vector<std::uint32_t> windows;  ///< [kinds] in the order in which their layers appear
  std::uint32_t ring_slack = 1, tree_slack = 1, heal_slack = 0;
  std::uint32_t step_tokens = 8;
  std::uint32_t context = 64;        ///< the longest sequence
  std::vector<std::uint32_t> pages;  ///< [1 + kinds] capacity of each pool
  std::uint32_t alphabet = 100;      ///< different tokens
  std::uint32_t tenants = 1;
  std::uint32_t leases_max = 64, namespaces_max = 8, tenant_shares = 1;
  std::uint32_t order = 0;  ///< which evict order
  bool with_events = false, with_chain = false, heals = true, writes_garbage = true;
  bool plain = false;  ///< roomy, no cancellation, no eviction by hand: hit rates are checked
  std::uint32_t keep_every = 0, dense_head = 0;  ///< retention, in tokens
  bool branch_points = false;
};

class dice;

/// The sizes that the next draws stand for.
[[nodiscard]] setup draw_setup(dice& draw);

enum class verb : std::uint8_t {
  start,         ///< session a: tenant b, shared prompt c, d tokens of its own
  say,           ///< session a: d more tokens
  edit,          ///< session a: the token at b per mille becomes another
  branch,        ///< session a := the first c per mille of session b
  submit,        ///< session a asks for b tokens; c: how it reuses, d: what happens before the pin
  resume,        ///< a preempted request comes back
  step,          ///< request a: one step of b rows, or 1 + c drafts of which d are right
  publish,       ///< request a: reserve and commit
  reserve,       ///< request a: only reserve
  commit,        ///< request a: commit what it reserved
  abort,         ///< request a: abort what it reserved
  drop_windows,  ///< request a: unpin the windows it started from
  trim,          ///< request a: give back spare window pages
  finish,        ///< request a ends as b says, and publishes if c
  cancel,        ///< request a ends at once
  preempt,       ///< request a publishes, lets go of everything and waits
  evict_full,    ///< a pages
  evict_window,  ///< of kind a, b pages
  probe,         ///< with session a, tenant b, the first c per mille of its tokens
  drop_space,    ///< the namespace of tenant a
  clear,
};

struct operation {
  verb what = verb::probe;
  std::uint32_t a = 0, b = 0, c = 0, d = 0;
  std::uint32_t salt = 0;  ///< where it draws tokens from
};

struct scenario {
  std::uint64_t seed = 0;
  setup sizes;
  std::vector<operation> operations;
};

/// The same for ever for one seed.
[[nodiscard]] scenario make_scenario(std::uint64_t seed);

/// One line, as a person reads it.
[[nodiscard]] std::string describe(const operation& op);
[[nodiscard]] std::string describe(const setup& sizes);

}  // namespace sim
