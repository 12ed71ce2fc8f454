// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Tests of the tests, as in mutants.cpp: programs of device kernels with planted bugs, races above
// all, and each must make its case fail on the host.
//
//     test.device_mutants          all of the list
//     test.device_mutants NAME     one mutant, "" none
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

constexpr const char* copies =
    "the copy kernel writes the reference's bytes whatever order its copies come in";

constexpr const char* products =
    "grouped products of small integers*";  // A comma would part two names.

constexpr const char* late =
    "wide items of grouped products leave under the products of the next one";

constexpr const char* attention =
    "the device's attention agrees with the reference within its roundings";

constexpr const char* streams =
    "loads and stores beside a compute: nothing is read early or touched late";

constexpr const char* stages =
    "pages of a device go down and come up whole\\, in the order of each key";

constexpr mutant all_mutants[] = {
    {"", "no mutant", "", true},
    // The pipe of the copy kernel.
    {"stage_is_stored_before_it_is_full", "poison goes out", copies},
    {"stage_is_loaded_while_it_is_read", "a piece goes where the one before should", copies},
    {"stage_is_permuted_into_while_it_is_read", "the same, by threads", copies},
    {"threads_do_not_wait_for_the_mover", "the same, by those that run ahead of it", copies},
    {"permuted_stage_is_not_published", "bulk copies do not see what threads wrote", copies},
    {"block_leaves_before_its_stores", "its shared memory goes with it", copies},
    {"runs_cross_pools",
     "one copy goes through two allocations",
     "parts of two allocations that touch by chance are two runs"},
    {"e4m3_append_writes_cached_rows",
     "a heal's wrong rows go into shared pages",
     "the device's append writes the values of the host's"},
    {"append_leaves_groups_unfinished",
     "V of keys that a block took over is not written",
     "the device's append finds the rows of many sequences\\, and leaves no group unfinished"},
    {"far_tokens_have_no_mass",
     "top_p is of a smaller whole",
     "top_p reaches tokens far below the first where those near it hold too little"},
    {"top_p_trusts_near_masses",
     "the last token that is kept is one too early",
     "the last token of top_p does not depend on near masses"},
    {"sample_copies_are_not_waited_for",
     "a row is sampled before it is there",
     "the device's sampling draws the host's tokens"},
    {"route_bound_has_no_margin",
     "an expert that a near choice undervalues is lost",
     "choices that near ones cannot tell apart are told apart"},
    // The grouped product's ring.
    {"gemm_stage_goes_back_under_its_products", "bf16 operands are overwritten", products},
    {"gemm_part_is_added_before_it_is_there", "e4m3 sums of the k tile before", products},
    {"gemm_stage_goes_back_with_its_scales", "e4m3 scales are overwritten", products},
    {"gemm_last_item_is_kept", "a block ends before it has stored what it kept", late},
    {"gemm_late_parts_are_lost_where_k_is_short", "an item is kept over one not stored", late},
    {"gemm_late_parts_meet_in_one_place", "an item's rows are written over each other", late},
    {"router_stage_is_read_before_it_is_there",
     "x and weights of the k tile before",
     "the router's product of small integers is the reference's in every tile"},
    {"gemm_last_tile_is_copied_whole", "what lies behind k is multiplied", products},
    {"gemm_sigmoid_forgets_the_rest",
     "log2(e) has 24 bits: sigmoids far from 0.5 are off",
     "the epilogue's silu is near in f32\\, and under a rounding to bf16"},
    // Kernels that write a product's operand.
    {"norm_quantises_what_it_did_not_round",
     "rows in e4m3 are not those of two kernels",
     "the device's RMSNorm writes operands with the bits of a kernel behind it"},
    {"swiglu_quantises_what_it_did_not_round",
     "the same",
     "the device's SwiGLU writes e4m3 with the bits of quantisation behind it"},
    {"rope_leaves_what_does_not_turn",
     "attention reads queries that nobody wrote",
     "rope writes query heads as attention reads them\\, with the bits of rounding behind it"},
    // Attention: the product of a tile runs under the softmax of the next.
    {"attention_stage_goes_back_under_its_product", "V is overwritten", attention},
    {"attention_queries_go_back_under_their_product", "the next item's meet K", attention},
    {"attention_weights_are_packed_under_a_product", "those of the next tile meet V", attention},
    {"attention_out_shrinks_under_a_product", "what comes after is not shrunk", attention},
    // Streams and events.
    {"copies_do_not_wait_for_their_fence", "a page is filled while others read it", streams},
    {"event_stands_before_its_copy", "it is done before its copy is", streams},
    {"compute_waits_for_the_copy_before", "a layer is read while it comes", streams},
    {"one_wait_opens_all", "the same, from the second layer on", streams},
    {"failed_copy_opens_its_layer", "what never comes is read", streams},
    {"half_a_copy_is_not_waited_for", "a page is given away and then written to", streams},
    {"load_is_done_with_its_first_copy", "the same", streams},
    {"load_goes_while_it_is_waited_for", "its events serve another load", streams},
    // Between the pools of a device and stores.
    {"load_takes_another_set", "a queued copy's pairs are overwritten by the next move's", stages},
    {"mover_forgets_the_fence", "a page goes down before the step that writes it", stages},
    {"store_reads_what_is_still_copied", "a store is given a stage too early", stages},
    {"get_is_done_before_its_copy", "a page is published, or its layer read, too early", stages},
    {"lost_device_keeps_its_sets",
     "puts wait for room that never comes",
     "a lost device ends loads with its failure\\, and frees their sets"},
    {"others_moves_are_not_waited_for",
     "a wait that does not wait",
     "who waits for a copy waits for those of another store that are before it"},
};

}  // namespace

int main(int count, char** arguments) {
  ::setenv("ORIEL_TEST_SCALE", "0.1", 0);
  return mutants::run_all(
      std::span<const mutant>(all_mutants), count, arguments, [&](const mutant& m) {
        return mutants::is_as_it_should(m, [&](const mutant& on) {
          return mutants::kill_by_cases(arguments[0], on.killer, mutants::seconds_for(on, 60));
        });
      });
}
