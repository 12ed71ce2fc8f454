// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Tests of the tests, as in mutants.cpp: engine, pools and tree are compiled with the bugs that
// drafting and devices invite, and each must make its case fail.
//
//     test.draft_mutants          all of the list
//     test.draft_mutants NAME     one mutant, "" none
#include "mutants/mutant_cases.hpp"
#include "mutants/mutant_list.hpp"

#include <cstdlib>
#include <span>

namespace {

struct mutant {
  const char* name;
  const char* kin;     ///< what goes wrong
  const char* killer;  ///< the case that finds it
  bool is_harmless = false;
};

constexpr const char* from_scratch =
    "drafts do not depend on chunks\\, companions\\, or what was accepted before";
constexpr const char* after_a_hit =
    "after a hit\\, blocks have what the cache has of their rows\\, and nothing else";
constexpr const char* exact = "drafts change nothing: one full layer in four";

constexpr const char* drawn =
    "drawn drafts leave the model's joint distribution\\, through the engine";
constexpr const char* penalties =
    "penalties\\, biases and log-probabilities: the same with drafts\\, hits and preemptions";

constexpr const char* by_programs = "a heal by step programs gives the cold run's logits and pages";
constexpr const char* failing_tiers =
    "reuse is exact on a device: through tiers that fail now and then";
constexpr const char* drafts_and_tiers = "reuse is exact on a device: drafts and tiers";

constexpr mutant all_mutants[] = {
    {"", "no mutant", from_scratch, true},
    {"", "no mutant", after_a_hit, true},
    {"", "no mutant", exact, true},
    {"blocks_are_told_the_row_itself", "ids are shifted once less", from_scratch},
    {"chunks_end_with_a_guess", "the id behind a chunk is not the next chunk's", from_scratch},
    {"open_rows_count_as_final", "rows that were told drafts stay", from_scratch},
    {"first_block_is_used_again",
     "each block has its own weights",
     "MTP logits equal the oracle's"},
    {"hidden_stands_first", "embedding first, hidden second", "MTP logits equal the oracle's"},
    {"blocks_are_told_normed_hidden",
     "the residual stream, before the final norm",
     "MTP logits equal the oracle's"},
    {"positions_move_with_the_block", "all blocks run at a row's own position", from_scratch},
    {"prompts_skip_the_blocks", "blocks run in prefill", from_scratch},
    {"missing_rows_are_not_counted", "what a hit did without is counted", after_a_hit},
    {"rejection_forgets_the_history",
     "a row is judged as if the drafts before it were not used",
     "drawn drafts leave penalised\\, biased distributions alone\\, through the engine"},
    {"open_rows_are_published", "a page that others read is written", after_a_hit},
    {"unwritten_rows_are_read", "behind a heal or a gap", after_a_hit},
    {"stop_does_not_end_a_chain",
     "tokens behind the stop token",
     "a stop token among accepted drafts ends the answer where plain decoding ends it"},
    {"cut_drafts_count_as_rejected",
     "drafts behind a stop token",
     "a stop token among accepted drafts ends the answer where plain decoding ends it"},
    {"penalties_forget_the_drafts", "a row does not see the drafts before it as used", penalties},
    {"prompts_count_as_drafting",
     "plain steps look slow by what the prompt took",
     "what blocks take for a prompt does not make drafts look cheap"},
    {"unchanged_pages_are_not_needed",
     "page 0 has no memory on a device",
     "a table that names page 0 alone needs it"},
    {"products_are_planned_for_their_bucket",
     "a hit was computed by another algorithm than what would have been",
     "order-fixed\\, a matrix is multiplied by one plan in all programs"},
    {"heads_are_rounded_before_they_are_quantised",
     "e4m3 rows are not those of the heads",
     "who computes rows writes them as their product reads them"},
    {"few_rows_are_a_prompt",
     "one thread block goes through a long context for a row that decodes",
     "every sequence of a step is attended to once\\, few rows over a long context in splits"},
    {"program_heals_write_cached_rows", "a heal's wrong rows go into shared pages", by_programs},
    {"program_heals_read_what_nobody_wrote",
     "what is multiplied by zero is no number",
     by_programs},
    {"gate_is_asked_by_each_attention",
     "a layer that came is waited for once more",
     "a gate is asked once a layer\\, though few rows and prompts are attended to apart"},
    {"cut_off_sequence_reads_on", "a layer that did not come is read", failing_tiers},
    {"cut_off_is_asked_after_drafting",
     "the answer is that of the blocks' batch",
     drafts_and_tiers},
    {"names_forget_the_chain",
     "pages of another reading are found",
     "pages of another reading of the blocks are not found\\, the model's serve all others"},
    {"draft_takes_the_accept_random", "a draft's own number decides whether it stays", drawn},
    {"residual_is_the_target", "what stands in for a draft is drawn as if there were none", drawn},
    {"soft_failure_ends_a_fetch",
     "one page that only drafts read costs all the others",
     "a step joins whatever becomes of the soft kind\\, and is lent what has come"},
    {"soft_pages_are_waited_for",
     "a fetch waits for what nobody needs",
     "a page of the soft kind that does not come ends no fetch"},
    {"soft_looks_are_waited_for",
     "a fetch waits to hear of what nobody needs",
     "nobody waits to hear whether there are pages of the soft kind"},
    {"last_token_has_drafts", "rows behind max_tokens", exact},
    {"rejected_rows_count",
     "F39: rejected rows stay",
     "rows that were rolled back are never read\\, in any pool"},
    {"ring_is_one_page_short",
     "F39: the ring holds no drafts beside the window",
     "rows that were rolled back are never read\\, in any pool"},
    {"boundary_needs_soft_pages",
     "losing what drafts keep loses a hit",
     "a boundary does not need pages of the soft kind"},
    {"soft_gap_is_lent",
     "a page that is not there is lent",
     "a lease lends the soft pages before its boundary up to the first gap"},
    {"soft_pages_are_unpinned_unseen",
     "what came after the pin is unpinned",
     "a soft page that comes while a boundary is pinned is not unpinned with it"},
};

}  // namespace

int main(int count, char** arguments) {
  ::setenv("ORIEL_TEST_SCALE", "0.1", 1);
  return mutants::run_all(
      std::span<const mutant>(all_mutants), count, arguments, [&](const mutant& m) {
        return mutants::is_as_it_should(m, [&](const mutant& on) {
          return mutants::kill_by_cases(arguments[0], on.killer, mutants::seconds_for(on, 20));
        });
      });
}
