// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `step_scheduler`: what the next step of an engine does. Pure: it looks at who is queued, who
/// runs and what room the pools have, and says who is admitted, who gets how many rows, and who has
/// to make room. It holds nothing and changes nothing, so a plan that is not carried out leaves no
/// trace.
///
///     const step_plan& plan = scheduler.plan({queued, running, room, oldest});
///
///     budget   |dddd|pppppppppppppppppppppppp|      d: decode rows, one each (and its drafts)
///                   |<-   prefill_share    ->|      p: prompts, in the order of service
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/sched/order.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

namespace oriel {

struct step_options {
  std::uint32_t budget_tokens = 512;  ///< rows of a step, at least sequences_max of them decode
  /// Of the budget, what prompts get while any has something to compute, however many decode.
  double prefill_share = 0.25;
  std::uint32_t sequences_max = 1;  ///< running at once
};

/// A request that waits.
struct queued_request {
  service_facts facts = {};
  std::span<const std::uint32_t> pages = {};  ///< [pools] that its longest form needs
  bool is_held = false;  ///< for a twin that runs, or for pages of lower tiers: not now
  /// Names the first page that it has to compute, by all tokens up to its end; 0: it has none. Of
  /// several with one name the first is admitted, the others wait until that page is there.
  std::uint64_t next_page = 0;
};

/// A request that has pages.
struct running_sequence {
  service_facts facts = {};
  std::span<const std::uint32_t> pages = {};   ///< [pools] that were promised to it
  std::uint32_t missing_rows = 1;              ///< tokens without KV
  std::uint32_t rows_max = ~std::uint32_t{0};  ///< a chunk ends there: a heal does
  bool decodes = false;          ///< its prompt is done: missing_rows are its last token and drafts
  std::uint32_t idle_steps = 0;  ///< since it got rows: who waited longest decodes first
  double recompute_s = 0.0;      ///< what it costs to compute again what it has
  double swap_s = std::numeric_limits<double>::infinity();  ///< and to bring it back from a tier
};

/// How a sequence that makes room comes by its KV again.
enum class preemption_way : std::uint8_t { recompute, swap };

struct preemption {
  std::uint32_t running = 0;  ///< index
  preemption_way way = preemption_way::recompute;
  friend bool operator==(const preemption&, const preemption&) = default;
};

/// What a scheduler sees. `room` is what nobody was promised.
struct step_state {
  std::span<const queued_request> queued = {};
  std::span<const running_sequence> running = {};
  std::span<const std::uint32_t> room = {};  ///< [pools] pages
  /// What the guard demands: an index into queued, or queued.size() + one into running; none:
  /// nothing.
  std::uint32_t demanded = no_demand;

  static constexpr std::uint32_t no_demand = ~std::uint32_t{0};
};

struct step_plan {
  std::vector<preemption> preempt;   ///< first
  std::vector<std::uint32_t> admit;  ///< queued, in order
  std::vector<std::uint32_t> rows;   ///< [running, then admitted]; 0: none in this step
};

/// The parts that do not depend on the order. Used by step_scheduler.
class step_planner {
 public:
  explicit step_planner(const step_options& options);
  [[nodiscard]] const step_options& options() const noexcept { return options_; }

  /// @param ranks  [queued, then running] of the order @param is_strict  of the order
  const step_plan& plan(const step_state& state, std::span<const double> ranks, bool is_strict);

 private:
  struct place {
    double rank, arrived_s;
    std::uint32_t index;  // queued, then running
  };
  void sort(const step_state& state, std::span<const double> ranks);
  void admit(const step_state& state, bool is_strict);
  bool make_room(const step_state& state, const queued_request& wanted);
  [[nodiscard]] bool has_room(const queued_request& wanted) const noexcept;
  [[nodiscard]] bool has_twin(const step_state& state, const queued_request& wanted) const noexcept;
  void share_rows(const step_state& state);

  step_options options_;
  step_plan plan_;
  std::vector<place> order_;
  std::vector<std::uint32_t> room_;      // [pools]
  std::vector<bool> is_preempted_;       // [running]
  std::vector<std::uint32_t> decoders_;  // running
  std::uint32_t slots_ = 0;
};

/// @tparam Order  of service among prompts, queued or running
///
/// The rules:
///
///  - Sequences that decode come first, one row each (and their drafts); but prompts keep
///    prefill_share of the budget. Where not all can decode, who waited longest does.
///  - Prompts share the rest in the order of service, in chunks. Who is queued is admitted in that
///    order as long as slots and pages of every pool are there for its longest form. Who does not
///    fit is passed, unless the order is strict. Of twins the second is passed.
///  - Whom the guard demands comes before all others. If it is queued and does not fit, sequences
///    that arrived after it make room: those first whose KV is cheapest to get back. If all of them
///    would not be enough, none does.
///
/// *Thread safety* none. *Memory* a few words for each queued and running request, kept.
template <service_order Order>
class step_scheduler {
 public:
  /// @pre budget_tokens >= sequences_max > 0, prefill_share in [0, 1)
  explicit step_scheduler(const step_options& options, Order order = {})
      : planner_(options), order_(std::move(order)) {}

  /// Valid until the next call. O((queued + running) log). @throws std::bad_alloc
  const step_plan& plan(const step_state& state) {
    ranks_.clear();
    for (const queued_request& q : state.queued) {
      ranks_.push_back(order_.rank(q.facts));
    }
    for (const running_sequence& r : state.running) {
      ranks_.push_back(order_.rank(r.facts));
    }
    return planner_.plan(state, ranks_, Order::is_strict);
  }

  [[nodiscard]] const step_options& options() const noexcept { return planner_.options(); }
  [[nodiscard]] const Order& order() const noexcept { return order_; }

 private:
  step_planner planner_;
  Order order_;
  std::vector<double> ranks_;
};

}  // namespace oriel
