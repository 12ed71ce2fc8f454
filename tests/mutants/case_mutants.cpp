// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Tests of the tests, as in mutants.cpp: tiers, routing and scheduling are compiled with their
// planted bugs, and each must make its case fail; those of the segment store some case or some
// life.
//
//     test.case_mutants          all of the list
//     test.case_mutants NAME     one mutant, "" none
#define CATCH_CONFIG_RUNNER
#include "sim/isolated.hpp"
#include "tier/redis_server.hpp"
#include "tier/segment_life.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>

#include <catch2/catch.hpp>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

struct mutant {
  const char* name;
  const char* kin;  ///< whose bug it is: R, F and I are numbers of docs/reliability.md
  bool is_harmless = false;
  const char* killer =
      "";  ///< the case that finds it; none: some case of the segment store, or a life
  const char* needs = "";  ///< a program, without which it is left out
};

constexpr mutant all_mutants[] = {
    {"", "no mutant", true},
    // The record.
    {"header_checksum_is_ignored", "F1, F2: a torn tail is taken as sound"},
    {"slice_checksum_is_ignored", "F2: no checksum"},
    {"identity_is_not_compared", "F16, F18"},
    {"key_is_believed", "F18: 16 bytes of a link are believed"},
    {"place_is_not_compared", "F3"},
    {"generation_is_ignored", "F4, R18"},
    // Recovery.
    {"scan_believes_any_place", "F3: every get looks again: slower, never wrong", true},
    {"scan_stops_at_the_first_hole", "F1: what lies behind a torn record is lost"},
    {"youngest_record_is_believed", "a torn rewrite hides an acknowledged page"},
    {"tombstones_are_not_replayed", "I17"},
    {"snapshot_is_believed", "F12"},
    {"recovered_segments_count_as_synced", "F11: a sync after a restart covers nothing"},
    // Writes and syncs.
    {"failed_put_is_visible", "R3, F8"},
    {"put_is_acknowledged_early", "F10: what was acknowledged is lost"},
    {"tombstone_is_not_written", "I17"},
    {"deletion_is_not_synced", "F11"},
    {"sync_is_acknowledged_early", "F11"},
    {"failed_sync_is_trusted", "F9"},
    {"get_overtakes_a_put", "order on one key"},
    {"drop_does_not_wait_for_puts", "order on one key"},
    // Reads and reclaim.
    {"failed_load_keeps_its_entry", "R16"},
    {"pin_holds_nothing", "R5, F27"},
    {"usage_is_not_counted", "R15"},
    {"tenant_has_no_share", "I8"},
    {"window_is_carried_alone", "F28"},
    {"window_stays_without_its_full_page", "F28"},
    {"carried_records_are_not_synced", "F11: what was durable is not any more"},
    {"removed_names_are_not_synced", "F11: segments come back without their tombstones"},
    // Host memory, its thread, shards; Redis; layers; movement between tiers.
    {.name = "memory_gap_in_table", .kin = "the index", .killer = "memory_store is a kv_store"},
    {.name = "memory_chain_goes_from_its_head", .kin = "R4", .killer = "a chain goes from its end"},
    {.name = "memory_use_is_not_seen", .kin = "S3-FIFO is FIFO", .killer = "what is used stays"},
    {.name = "memory_drop_takes_next_session",
     .kin = "I9, I17",
     .killer = "memory_store is a kv_store"},
    {.name = "memory_min_share_is_ignored",
     .kin = "I8",
     .killer = "a flood of one tenant takes nobody below what he is sure of"},
    {.name = "memory_windows_stay_behind",
     .kin = "F28",
     .killer = "with a full page go its window pages, and windows go alone"},
    {.name = "memory_copy_starts_slice_over",
     .kin = "wrong bytes",
     .killer = "memory_store is a kv_store"},
    {.name = "memory_late_put_keeps_its_slot",
     .kin = "I1",
     .killer = "a put that comes too late gives its slot back"},
    {.name = "memory_never_expires", .kin = "TTL", .killer = "memory_store is a kv_store"},
    {.name = "memory_tokens_are_believed", .kin = "F18", .killer = "memory_store is a kv_store"},
    {.name = "thread_backlog_has_no_deadlines",
     .kin = "F15",
     .killer = "a deadline holds though the store takes nothing"},
    {.name = "shard_never_looks_back",
     .kin = "join loses pages",
     .killer = "sharded_store is a kv_store while nodes join, drain and leave"},
    {.name = "shard_load_is_not_bounded",
     .kin = "bounded loads",
     .killer = "no node has more than 1.25 of the mean, and a change moves its share"},
    {.name = "shard_keys_overlap",
     .kin = "I17: a page comes back",
     .killer = "a page that is erased on its way does not arrive"},
    {.name = "breaker_never_probes",
     .kin = "F14: never back",
     .killer = "a node that fails is out, is probed, and comes back"},
    {.name = "redis_late_reply_fills_slices", .kin = "F16", .killer = "lie: a late reply"},
    {.name = "redis_late_command_is_forgotten", .kin = "F16", .killer = "lie: a late reply"},
    {.name = "redis_identity_is_not_compared",
     .kin = "F16, F17",
     .killer = "lie: replies in another order"},
    {.name = "redis_payload_is_not_checked",
     .kin = "F2",
     .killer = "lie: flipped bits in the payload"},
    {.name = "redis_goes_on_out_of_step",
     .kin = "F16",
     .killer = "the value of another page ends the connection: what follows is no better"},
    {.name = "redis_length_is_believed",
     .kin = "F16: memory for a liar",
     .killer = "a length beyond all records ends the connection at once"},
    {.name = "redis_breaker_never_opens",
     .kin = "F14",
     .killer = "greetings of old servers, users and databases"},
    {.name = "redis_breaker_never_closes",
     .kin = "F14: never back",
     .killer = "the breaker opens after failures, refuses at once, probes, and closes"},
    {.name = "redis_drop_without_epoch",
     .kin = "I17",
     .killer = "a drop of one store is seen by another, and costs two small keys",
     .needs = "redis-server"},
    {.name = "redis_drops_of_others_are_not_heard",
     .kin = "I17",
     .killer = "a drop of one store is seen by another, and costs two small keys",
     .needs = "redis-server"},
    {.name = "redis_epochs_are_not_compared",
     .kin = "I17",
     .killer = "a drop of one store is seen by another, and costs two small keys",
     .needs = "redis-server"},
    {.name = "gate_opens_before_acknowledged",
     .kin = "F22",
     .killer = "a layer opens when all its reads are acknowledged (F22)"},
    {.name = "failed_read_counts_as_ready",
     .kin = "F20",
     .killer = "k of n loads fail: exactly the layers that lack something stay shut (F20)"},
    {.name = "layers_load_in_wrong_order",
     .kin = "stalls",
     .killer = "every slice of every page is in one read, in order"},
    {.name = "one_page_makes_a_layer",
     .kin = "F22",
     .killer = "a layer opens when all its reads are acknowledged (F22)"},
    {.name = "read_takes_first_layers",
     .kin = "wrong bytes",
     .killer = "a layer opens when all its reads are acknowledged (F22)"},
    {.name = "cancel_lets_go_at_once",
     .kin = "F21",
     .killer = "a load may be cancelled in the middle: pages stay held until acknowledged (F21)"},
    {.name = "joined_gate_does_not_wait",
     .kin = "F22",
     .killer = "behind the gate of a layer its KV is there, and that of later layers need not be"},
    {.name = "lent_prefix_forgets_the_device",
     .kin = "wrong pages",
     .killer = "behind the gate of a layer its KV is there, and that of later layers need not be"},
    {.name = "late_fetch_is_retried",
     .kin = "F15: two deadlines",
     .killer = "F15: a gate is shut at the deadline of its fetch, whatever the store does"},
    {.name = "leaving_page_is_not_counted",
     .kin = "write-back evicts too many",
     .killer = "an eviction hands a few pages to write-back tiers, not the whole cache"},
    {.name = "fetch_needs_one_page_less",
     .kin = "F28",
     .killer = "a plan asks only for what is there, and needs all that it asks for"},
    // Routing.
    {.name = "strand_is_taken_whole",
     .kin = "a jump does not look where the prompt left",
     .killer = "answers equal the definition, whatever workers do"},
    {.name = "gap_is_jumped",
     .kin = "a jump lands beyond a gap",
     .killer = "answers equal the definition, whatever workers do"},
    {.name = "boundary_is_the_full_length",
     .kin = "plain overlap, as other routers count",
     .killer = "answers equal the definition, whatever workers do"},
    {.name = "safe_beyond_the_prompt",
     .kin = "a boundary behind the divergence",
     .killer = "answers equal the definition, whatever workers do"},
    {.name = "window_stops_at_its_strand",
     .kin = "a window that began before the branch is not seen",
     .killer = "answers equal the definition, whatever workers do"},
    {.name = "window_crosses_any_strand",
     .kin = "and one that did not is",
     .killer = "answers equal the definition, whatever workers do"},
    {.name = "index_kinds_agree_in_one_pass",
     .kin = "the order of the kinds matters",
     .killer = "kinds lower each other's boundary until all agree"},
    {.name = "far_tiers_count_as_device",
     .kin = "tiers are mixed up",
     .killer = "answers equal the definition, whatever workers do"},
    {.name = "removal_leaves_the_summary",
     .kin = "a holder's figures are stale",
     .killer = "answers equal the definition, whatever workers do"},
    {.name = "table_believes_its_tags",
     .kin = "links that share 64 bits",
     .killer = "answers equal the definition, whatever workers do"},
    {.name = "table_forgets_what_went_past",
     .kin = "an entry that no probe finds",
     .killer = "answers equal the definition, whatever workers do"},
    {.name = "stored_twice_counts_twice",
     .kin = "pages that nobody has stay",
     .killer = "answers equal the definition, whatever workers do"},
    {.name = "split_keeps_the_holder",
     .kin = "a worker's pages behind a gap are lost",
     .killer = "answers equal the definition, whatever workers do"},
    {.name = "branch_hint_is_believed",
     .kin = "where another prompt left, not this one",
     .killer = "answers equal the definition, whatever workers do"},
    {.name = "removed_worker_is_left_behind",
     .kin = "removal",
     .killer = "answers equal the definition, whatever workers do"},
    {.name = "duplicates_are_applied",
     .kin = "an old event undoes a new one",
     .killer = "a sure row is the worker's truth at its sequence number, an unsure one no more"},
    {.name = "lost_events_are_forgiven",
     .kin = "pages whose removal was lost",
     .killer = "a sure row is the worker's truth at its sequence number, an unsure one no more"},
    {.name = "replay_is_not_counted",
     .kin = "half a replay makes sure",
     .killer = "a sure row is the worker's truth at its sequence number, an unsure one no more"},
    {.name = "held_events_are_forgotten",
     .kin = "what came early is lost",
     .killer = "a sure row is the worker's truth at its sequence number, an unsure one no more"},
    {.name = "new_epoch_keeps_pages",
     .kin = "pages of before the restart",
     .killer = "a sure row is the worker's truth at its sequence number, an unsure one no more"},
    {.name = "removed_worker_is_heard",
     .kin = "late events bring a worker back",
     .killer = "a new epoch begins with nothing; the old one and a removed worker are not heard"},
    // Scheduling.
    {.name = "guard_forgets_the_work_ahead",
     .kin = "the theorem",
     .killer = "the guard says what its definition says"},
    {.name = "guard_demands_nothing",
     .kin = "the theorem",
     .killer = "the guard says what its definition says"},
    {.name = "guard_serves_the_youngest",
     .kin = "the theorem",
     .killer = "the guard says what its definition says"},
    {.name = "demand_is_ignored",
     .kin = "the theorem",
     .killer = "plans keep their laws in every state that can be drawn"},
    {.name = "twins_go_together",
     .kin = "F29",
     .killer = "plans keep their laws in every state that can be drawn"},
    {.name = "one_pool_is_enough",
     .kin = "case 35",
     .killer = "plans keep their laws in every state that can be drawn"},
    {.name = "older_ones_make_room",
     .kin = "the theorem",
     .killer = "plans keep their laws in every state that can be drawn"},
    {.name = "failed_plan_preempts",
     .kin = "R11",
     .killer = "plans keep their laws in every state that can be drawn"},
    {.name = "prompts_keep_no_share",
     .kin = "prompts starve",
     .killer = "plans keep their laws in every state that can be drawn"},
    {.name = "ranks_take_equal_tokens",
     .kin = "ranks wait",
     .killer = "all work is done, no rank waits while it has work, and none has much more than its "
               "share"},
    // Drafts.
    {.name = "bonus_from_the_row_before",
     .kin = "the bonus token of the wrong row",
     .killer = "greedy_match: the target's tokens come out, however many drafts agree"},
    {.name = "bonus_is_not_counted",
     .kin = "accept length is off by one",
     .killer = "greedy_match: the target's tokens come out, however many drafts agree"},
    {.name = "one_random_for_a_chain",
     .kin = "consecutive tokens are correlated",
     .killer = "chains whose length follows what was accepted leave the distribution alone"},
    {.name = "residual_is_the_target",
     .kin = "a rejected draft is replaced from p, not from max(0, p - q)",
     .killer = "all accepted, none, some, and no mass where the other has it"},
    {.name = "residual_is_not_renormalised",
     .kin = "a rest of mass falls on one token",
     .killer = "all accepted, none, some, and no mass where the other has it"},
    {.name = "residual_takes_the_accept_random",
     .kin = "one number, two decisions",
     .killer = "sampled drafts leave the target's joint distribution, under every filter"},
    {.name = "residual_takes_the_draft_random",
     .kin = "the replacement knows what it replaces",
     .killer = "sampled drafts leave the target's joint distribution, under every filter"},
    {.name = "accept_ignores_the_proposal",
     .kin = "accepted with p instead of p / q",
     .killer = "sampled drafts leave the target's joint distribution, under every filter"},
    {.name = "draft_takes_the_accept_random",
     .kin = "one number, two decisions",
     .killer = "sampled drafts leave the target's joint distribution, under every filter"},
    {.name = "proposal_forgets_the_temperature",
     .kin = "filters on one side only",
     .killer = "sampled drafts leave the target's joint distribution, under every filter"},
    {.name = "lookup_keeps_the_first",
     .kin = "an old occurrence hides the recent one",
     .killer = "prompt_lookup drafts what the obvious search finds"},
    {.name = "lookup_takes_the_shortest",
     .kin = "a short match hides the long one",
     .killer = "prompt_lookup drafts what the obvious search finds"},
    {.name = "unjudged_drafts_count_as_rejected",
     .kin = "acceptance behind a rejection",
     .killer = "a curve learns acceptance by place, and counts only what was judged"},
    {.name = "any_acceptance_pays",
     .kin = "gain_min is ignored: noise makes it draft",
     .killer = "a gain below gain_min is no reason to draft"},
    {.name = "tries_are_free",
     .kin = "tries slow decoding down",
     .killer = "with acceptance near zero, auto is no slower than 0.97 of plain decoding"},
    {.name = "nothing_is_tried_again",
     .kin = "never back",
     .killer = "auto recovers when acceptance comes back, and stops when it goes"},
};

std::string chosen;
std::string failing_case;

struct first_failure : Catch::TestEventListenerBase {
  using TestEventListenerBase::TestEventListenerBase;
  void testCaseEnded(const Catch::TestCaseStats& stats) override {
    if (failing_case.empty() && stats.totals.assertions.failed != 0) {
      failing_case = stats.testInfo.name;
    }
  }
};

/// A name as Catch2 wants it on its command line.
std::string quoted(const std::string& name) {
  std::string out;
  for (const char c : name) {
    out += c == ',' || c == '[' ? std::string{'\\', c} : std::string{c};
  }
  return out;
}

/// @param seconds  until a child counts as hanging: some mutants wait for what never comes
std::string kill_by(const char* program, const std::string& cases, unsigned seconds) {
  return sim::run_isolated(
      [&] {
        oriel::set_contract_handler(nullptr);  // Some cases want to see an abort.
        const std::vector<const char*> arguments{
            program, "--filenames-as-tags", cases.c_str(), "--abort", "--out", "/dev/null"};
        Catch::Session session;
        if (session.applyCommandLine(static_cast<int>(arguments.size()), arguments.data()) != 0) {
          return std::string("no session");
        }
        return session.run() == 0 ? std::string() : "case: " + failing_case;
      },
      seconds);
}

std::string kill_by_lives() {
  return sim::run_isolated([] {
    for (std::uint64_t seed = 1; seed <= 400; ++seed) {
      oriel_test::segment_life life(
          oriel_test::make_life(400'000 + seed, seed % 4 == 0, seed % 3 != 0));
      if (const std::string why = life.run(); !why.empty()) {
        return "life: " + why;
      }
    }
    return std::string();
  });
}

bool is_as_it_should(const mutant& m, const char* program) {
  const char* const name = m.name[0] == '\0' ? "(none)" : m.name;
  if (m.needs[0] != '\0' && is_missing(m.needs)) {
    std::printf("skip  %-36s there is no %s\n", name, m.needs);
    return true;
  }
  chosen = m.name;
  std::string how;
  if (m.killer[0] != '\0') {
    ::setenv("ORIEL_TEST_SCALE", "0.1", 1);
    how = kill_by(program, quoted(m.killer), 8);
  } else {
    ::setenv("ORIEL_TEST_SCALE", "0.01", 1);
    how = kill_by(program, "[#page_record_test]~[life],[#segment_store_test]~[life]", 60);
    how = how.empty() ? kill_by_lives() : how;
  }
  const bool fine = how.empty() == m.is_harmless;
  std::printf("%s  %-36s %s\n    %s\n",
              fine ? "ok  " : "HOLE",
              name,
              m.kin,
              how.empty() ? "survives" : how.c_str());
  std::fflush(stdout);
  return fine;
}

}  // namespace

CATCH_REGISTER_LISTENER(first_failure)

bool oriel::detail::mutant_was_chosen(const char* name) noexcept {
  return !chosen.empty() && chosen == name;
}

int main(int count, char** arguments) {
  int holes = 0, met = 0;
  for (const mutant& m : all_mutants) {
    if (count < 2 || std::string(arguments[1]) == m.name) {
      ++met;
      holes += is_as_it_should(m, arguments[0]) ? 0 : 1;
    }
  }
  return met != 0 && holes == 0 ? 0 : 1;
}
