// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Tests of the tests. The library is compiled with its planted bugs (core/mutation.hpp); each is
// switched on in a child process, which runs simulations and then the numbered cases until
// something fails. A mutant that nothing kills is a hole in the tests, and fails this program.
//
//     test.mutants [K N]     part K of N of the list: 0 1 is all of it
//     test.mutants NAME      one mutant, "a+b" two at once, "" none
#include "mutants/mutant_cases.hpp"
#include "mutants/mutant_list.hpp"
#include "sim/simulation.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

namespace {

/// A planted bug. The name says what is wrong, `kin` whose bug it is: cases, R and F are numbers of
/// the specification that tests share, project#number an incident elsewhere.
struct mutant {
  const char* name;
  const char* kin;           ///< whose bug it is
  bool is_harmless = false;  ///< nothing may fail
};

constexpr mutant all_mutants[] = {
    {"", "no mutant", true},
    // What a match may claim.
    {"match_full_prompt", "case 36, R9: N where N - 1 is meant"},
    {"boundary_needs_window_tokens", "W where W - 1 is meant"},
    {"boundary_needs_too_few", "a hit without its whole window"},
    {"boundaries_at_node_ends", "section 3: a match ends where nodes happened to split"},
    {"kinds_agree_in_one_pass", "section 1: the order of the kinds matters"},
    {"table_keeps_its_gaps", "a child that cannot be found any more"},
    {"weak_keys", "A.4: every key is the same: slower, never wrong", true},
    {"weak_keys+key_is_believed", "A.4: tokens are not compared"},
    {"namespace_is_ignored", "case 37"},
    {"fields_without_length", "section 7: framing"},
    // Pins and locks.
    {"pin_believes_hashes", "R14, R18: a stale or unverified match is borrowed"},
    {"match_of_another_root_stands", "a match outlives its namespace"},
    {"locked_pages_are_evicted", "I5, R14"},
    {"lease_ends_inside_a_node", "R10: a lease keeps what it does not hold"},
    {"node_grows_under_a_lease", "R10"},
    {"split_loses_the_lock", "case 20"},
    {"unlock_goes_on_above_a_lock", "case 20: unlocked twice"},
    {"pinned_window_can_be_evicted", "I5"},
    {"ended_lease_keeps_its_pins", "case 45"},
    {"windows_are_unpinned_twice", "section 4: exactly once"},
    {"published_windows_are_not_pinned", "I5"},
    {"parked_run_is_forgotten", "R10: evictable, but never evicted"},
    // Accounts.
    {"evictable_pages_count_twice", "R8"},
    {"locked_pages_count_as_evictable", "R8"},
    {"freed_counts_what_others_hold", "case 33"},
    // A tree and its pools.
    {"pages_of_two_sizes", "a lease of 160 tokens lends 10 pages of 32"},
    {"windows_of_two_sizes", "boundaries that no ring can resume at"},
    // Events.
    {"hashes_of_events_have_to_be_asked_for", "a sink that aborts its tree far away"},
    {"tree_tells_of_its_end", "a listener that went before the tree is called"},
    // Publish, split, retention.
    {"split_loses_window_bits", "case 20"},
    {"split_loses_the_parent_hash", "case 39"},
    {"switched_page_is_not_told", "case 22: the table keeps its own page"},
    {"switch_leaves_the_table", "case 22"},
    {"publish_takes_every_window_page", "sglang#31486: out-of-window pages published"},
    {"retention_keeps_no_tail", "vllm#48435"},
    {"retention_keeps_everything", "vllm#54661: windows eat the cache"},
    {"interim_publish_keeps_its_tail", "section 5: loose pages push out the windows of forks"},
    {"forks_are_not_seen", "section 5: a fork loses its window to the next chunk"},
    {"slack_page_is_dropped", "case 28"},
    // Eviction.
    {"freed_window_keeps_its_bit", "case 30, R7, R12"},
    {"full_page_leaves_its_windows", "R7, R10"},
    {"tail_goes_before_loose", "case 26"},
    {"hit_refreshes_the_whole_path", "case 6"},
    {"newest_run_goes_first", "case 33: the order is not LRU"},
    // Rings, sequences, pools.
    {"release_counts_from_the_length", "case 13"},
    {"ring_is_one_page_short", "case 15"},
    {"ring_hands_over_scratch", "case 43"},
    {"ring_reuses_a_shared_page", "case 32"},
    {"window_never_slides", "case 15, sglang#28246"},
    {"reused_page_keeps_its_handle", "R18"},
    {"generation_is_ignored", "R7, R18"},
    {"rejected_rows_count", "F39"},
    {"shortfall_keeps_full_pages", "case 35, R11"},
    {"windows_need_no_room", "section 2: refused at once"},
    // Heal.
    {"heal_has_no_floor", "case 43"},
    {"heal_starts_one_row_late", "section 6"},
    {"heal_ignores_safe_windows", "section 6: more rows than stated"},
};

/// Runs seeds in a child until one fails.
std::string kill_by_seeds(std::uint64_t first, std::uint64_t end) {
  return sim::run_isolated([&] {
    for (std::uint64_t seed = first; seed < end; ++seed) {
      if (const std::string why = sim::run(sim::make_scenario(seed)).failure; !why.empty()) {
        return "seed " + std::to_string(seed) + ": " + why;
      }
    }
    return std::string();
  });
}

/// What kills the mutants that are on, or nothing. Cheap tries first.
std::string killer(const char* program, std::uint64_t seeds) {
  const std::uint64_t few = std::min<std::uint64_t>(seeds, 300);
  std::string how = kill_by_seeds(1, few);
  how = how.empty() ? mutants::kill_by_cases(program, "", 60) : how;
  return how.empty() ? kill_by_seeds(few, seeds) : how;
}

}  // namespace

int main(int count, char** arguments) {
  ::setenv("ORIEL_TEST_SCALE", "0.01", 0);
  const std::uint64_t seeds = 2000;
  const auto check = [&](const mutant& m) {
    return mutants::is_as_it_should(m, [&](const mutant&) { return killer(arguments[0], seeds); });
  };
  const std::span<const mutant> all = all_mutants;
  if (count != 3) {
    return mutants::run_all(all, count, arguments, check);
  }
  const auto part = static_cast<std::size_t>(std::atoi(arguments[1]));
  const auto parts = static_cast<std::size_t>(std::atoi(arguments[2]));
  std::vector<mutant> some;
  for (std::size_t at = part; at < all.size(); at += parts) {
    some.push_back(all[at]);
  }
  return mutants::run_all(std::span<const mutant>(some), 1, arguments, check);
}
