// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Tests of the simulation with tiers: the library is compiled with its planted bugs
// (core/mutation.hpp), and each must make some world fail.
//
//     test.tier_sim_mutants          all of the list
//     test.tier_sim_mutants NAME     one mutant, "" none
#include "mutants/mutant_list.hpp"
#include "sim/isolated.hpp"
#include "tier_simulation.hpp"

#include <cstdint>
#include <span>
#include <string>

namespace {

struct mutant {
  const char* name;
  const char* kin;  ///< whose bug it is: R, F and I are numbers of docs/reliability.md
  bool is_harmless = false;
};

constexpr mutant all_mutants[] = {
    {"", "no mutant", true},
    // Down.
    {"world_publishes_before_its_fence", "R1: what is copied was not written yet"},
    {"copy_does_not_hold_its_page", "R6: handed out while it is copied"},
    {"copies_have_no_bound", "I15"},
    {"refused_page_counts_as_kept", "liveness: never offered again"},
    {"align_names_the_page_before", "R3: another page's key"},
    // Up.
    {"failed_fetch_is_published", "R3, F20"},
    {"fetch_publishes_past_a_hole", "F20"},
    {"window_hole_is_published", "F20, F28"},
    {"ended_fetch_lets_go_at_once", "F21: a store still writes to the page"},
    {"cancelled_fetch_is_kept", "F21: its lease and its pages leak"},
    {"failed_begin_is_kept", "F24: the same"},
    {"fetch_has_no_deadline", "F15"},
    {"fetch_asks_on_without_time", "F15"},
    {"fetches_have_no_bound", "I15"},
    // Deletions, expiry.
    {"drop_skips_a_tier", "I17"},
    {"failed_drop_is_not_told", "I17: a deletion that failed is taken for done"},
    {"tombstones_are_not_replayed", "I17: deleted pages are back after a restart"},
    {"memory_never_expires", "an expired page is served"},
    // Records, verified.
    {"slice_checksum_is_ignored", "F2, F16"},
    {"identity_is_not_compared+key_is_believed", "F16: another page, another tenant"},
    // Pools below a tree.
    {"locked_pages_are_evicted", "R14, F27"},
};

constexpr std::uint64_t seeds_max = 2'500;

std::string first_kill() {
  return sim::run_isolated(
      [] {
        for (std::uint64_t seed = 1; seed <= seeds_max; ++seed) {
          if (std::string wrong = sim::run(sim::make_tier_scenario(seed)).failure; !wrong.empty()) {
            return "seed " + std::to_string(seed) + ": " + wrong;
          }
        }
        return std::string();
      },
      120);
}

}  // namespace

int main(int count, char** arguments) {
  return mutants::run_all(
      std::span<const mutant>(all_mutants), count, arguments, [](const mutant& m) {
        return mutants::is_as_it_should(m, [](const mutant&) { return first_kill(); });
      });
}
