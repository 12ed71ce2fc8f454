// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Tests of the tests, as in mutants.cpp: tiers, routing, scheduling and the simulator's core are
// compiled with their planted bugs, and each must make its case fail; those of the segment store
// some case or some life.
//
//     test.case_mutants          all of the list
//     test.case_mutants NAME     one mutant, "" none
#define CATCH_CONFIG_RUNNER
#include "mutants/mutant_cases.hpp"
#include "mutants/mutant_list.hpp"
#include "sim/isolated.hpp"
#include "tier/redis_server.hpp"
#include "tier/segment_life.hpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>

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
    {"scan_reads_half_of_a_segment", "what was written is not all read"},
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
    {.name = "small_layers_come_in_lumps",
     .kin = "stalls",
     .killer = "loads of 80 % of their layers' compute stall a step by the first layer's alone"},
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
    {.name = "rate_counts_the_steps",
     .kin = "a tier looks slow: requests that are alone wait",
     .killer = "a tier is as fast as it is, however seldom a step looks at what has come"},
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
    {.name = "score_counts_plain_overlap",
     .kin = "plain overlap, as other routers count",
     .killer =
         "a worker whose windows are gone is no hit; where workers heal it costs what a heal does"},
    {.name = "duplicates_are_free",
     .kin = "greedy: sessions move for a moment's wait",
     .killer =
         "a session moves when waiting costs more than computing twice, not when it costs as much"},
    {.name = "ties_go_to_the_first",
     .kin = "ties always pick worker 0",
     .killer = "of equal workers all take their turns, and nobody begins with number 0 by rule"},
    {.name = "load_counts_when_work_starts",
     .kin = "load counted only when decode starts",
     .killer = "load counts from the decision on, before anybody reports or starts"},
    {.name = "no_slow_start",
     .kin = "who is back gets all at once",
     .killer = "who is new among others gets one request at first, and its share in the end"},
    {.name = "silent_workers_stay",
     .kin = "F35",
     .killer = "a silent worker is ejected, what it had is tried elsewhere, and its late answers "
               "count for nothing"},
    {.name = "attempts_are_not_compared",
     .kin = "F35: answered twice",
     .killer = "random lives: each accepted request ends once, and no load of it is left"},
    {.name = "repeated_ids_are_new",
     .kin = "load counted twice",
     .killer = "a request that is asked for again is the same one, and an ended one stays ended"},
    {.name = "decode_load_is_kept",
     .kin = "load leaks",
     .killer = "random lives: each accepted request ends once, and no load of it is left"},
    {.name = "retries_have_no_budget",
     .kin = "a storm of retries",
     .killer = "attempts and retries have a budget; after the first token nothing is repeated"},
    {.name = "admission_has_no_bound",
     .kin = "F32",
     .killer = "overload is refused with the time after which it is no longer one"},
    {.name = "tenant_limits_are_ignored",
     .kin = "F32",
     .killer = "a tenant's bucket: bursts pass, then its rate; others do not notice"},
    {.name = "tenants_have_equal_weights",
     .kin = "weights",
     .killer =
         "waiting tenants get seconds as their weights, and a burst of one does not delay another"},
    {.name = "leases_are_taken_away",
     .kin = "two holders",
     .killer = "embedded_state_store is a state_store"},
    {.name = "lag_is_ignored",
     .kin = "an old view is gone by",
     .killer = "a view that is too old is not gone by, and is again when it is young"},
    {.name = "nobody_asks_for_replays",
     .kin = "F36: lost for good",
     .killer = "lost events are noticed, asked for, and the view is whole again"},
    {.name = "lost_logs_are_not_noticed",
     .kin = "a restarted Redis is not heard",
     .killer = "a stream that begins anew with lower numbers is read from its start",
     .needs = "redis-server"},
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
    {.name = "ranks_take_the_longest_first",
     .kin = "the order of service",
     .killer = "a rank computes its prompts in the order in which they are given"},
    {.name = "silence_counts_while_degraded",
     .kin = "an outage of the store takes all workers with it",
     .killer = "while the shared state is away nobody is ejected for silence; then it counts anew"},
    {.name = "tenants_pay_twice",
     .kin = "charged by one estimate, given back by another",
     .killer = "a tenant's bucket: bursts pass, then its rate; others do not notice"},
    // The simulator's core.
    {.name = "loop_forgets_who_was_first",
     .kin = "runs that differ",
     .killer = "events happen by time, those of one instant in the order of planning"},
    {.name = "loop_cancels_whoever_has_the_slot",
     .kin = "an event is lost",
     .killer = "what is cancelled does not happen"},
    {.name = "names_stand_for_chains",
     .kin = "hits that are none",
     .killer = "a name stands for its page alone, an id for all before it"},
    {.name = "output_is_never_seen_again",
     .kin = "hits that are not counted",
     .killer = "an output's pages are those that the next request goes on from"},
    {.name = "gaps_have_no_end",
     .kin = "a closed loop of people",
     .killer = "an output's pages are those that the next request goes on from"},
    {.name = "clones_share_links",
     .kin = "hits that are none",
     .killer = "clones share nothing but the shape"},
    {.name = "barrier_waits_for_nobody",
     .kin = "the layer barrier",
     .killer = "a layer ends with the slowest rank, and the experts with all"},
    {.name = "held_out_points_are_fitted",
     .kin = "errors of the fit are told as predictions",
     .killer = "two rates fitted to half of the published points tell the other half"},
    {.name = "server_starts_over",
     .kin = "work in is not work out",
     .killer = "nobody has a lower mean sojourn than the least work first"},
    {.name = "server_forgets_the_order",
     .kin = "every policy is the same",
     .killer = "the least work first is as good as the best of all schedules"},
    {.name = "server_does_not_ask_its_guard",
     .kin = "the theorem",
     .killer = "a server without preemption keeps the guard's bound"},
    // The simulated fleet.
    {.name = "sim_fills_demanded_steps",
     .kin = "the theorem, with several prompts in a step",
     .killer = "nobody waits longer than the guard promised, in overload too"},
    {.name = "sim_twins_go_together",
     .kin = "equal prompts are computed twice",
     .killer = "of two equal prompts at once the second waits for the first, chunk by chunk"},
    {.name = "sim_gaps_are_not_mended",
     .kin = "F36",
     .killer = "F36: events are lost and late: gaps are seen, hits fall a little"},
    {.name = "sim_cancelled_keeps_its_lease",
     .kin = "F21",
     .killer = "F21: cancelled anywhere, a request ends once and leaves nothing"},
    {.name = "sim_dead_worker_answers",
     .kin = "F35",
     .killer =
         "F35: a worker dies: its requests are tried elsewhere, none is lost or answered twice"},
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

/// A name as Catch2 wants it on its command line.
std::string quoted(const std::string& name) {
  std::string out;
  for (const char c : name) {
    out += c == ',' || c == '[' ? std::string{'\\', c} : std::string{c};
  }
  return out;
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

std::string killer(const mutant& m, const char* program) {
  if (m.killer[0] != '\0') {
    ::setenv("ORIEL_TEST_SCALE", "0.1", 1);
    return mutants::kill_by_cases(program, quoted(m.killer), 8);
  }
  ::setenv("ORIEL_TEST_SCALE", "0.01", 1);
  const std::string how = mutants::kill_by_cases(
      program, "[#page_record_test]~[life],[#segment_store_test]~[life]", 60);
  return how.empty() ? kill_by_lives() : how;
}

}  // namespace

int main(int count, char** arguments) {
  return mutants::run_all(
      std::span<const mutant>(all_mutants), count, arguments, [&](const mutant& m) {
        if (m.needs[0] != '\0' && is_missing(m.needs)) {
          std::printf("skip  %-44s there is no %s\n", mutants::shown(m.name), m.needs);
          return true;
        }
        return mutants::is_as_it_should(m,
                                        [&](const mutant& on) { return killer(on, arguments[0]); });
      });
}
