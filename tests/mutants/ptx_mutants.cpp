// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// Tests of the tests, as in mutants.cpp: the kernels' own PTX with planted bugs, and the unchanged
// test of devices has to fail over the machine that runs PTX on the host.
//
//     test.ptx_mutants          all of the list
//     test.ptx_mutants NAME     one mutant, "" none
#include "mutants/mutant_list.hpp"
#include "mutants/mutant_program.hpp"

#include <span>
#include <string>

namespace {

struct mutant {
  const char* name;
  const char* kin;     ///< what goes wrong
  const char* killer;  ///< the case that finds it
  const char* edit;    ///< as ptx_machine/program/mutant.hpp says
  bool is_harmless = false;
};

constexpr const char* attention_shapes = "cuda attention on a grid*";
constexpr const char* attention_in_bf16 = "cuda attention with outputs in bf16*";
constexpr const char* products = "cuda grouped_gemm: exact*";
constexpr const char* copies = "cuda kv_copy by multiprocessors*";
constexpr const char* router = "cuda router: one graph*";
constexpr const char* samples = "cuda samples*";
constexpr const char* routes = "cuda moe*";
constexpr const char* appends = "cuda kv_append*";
constexpr const char* norms = "cuda rms_norm has the bits*";

constexpr mutant all_mutants[] = {
    {"", "no mutant", attention_shapes, "", true},
    {"", "no mutant", attention_in_bf16, "", true},
    {"", "no mutant", products, "", true},
    {"", "no mutant", copies, "", true},
    {"", "no mutant", router, "", true},
    {"", "no mutant", samples, "", true},
    {"", "no mutant", routes, "", true},
    {"", "no mutant", appends, "", true},
    {"", "no mutant", norms, "", true},
    {"attention_queries_are_not_published",
     "products do not see what threads copied",
     attention_in_bf16,
     "drop fence.proxy.async in attention_kernel nth 1"},
    {"attention_cleared_values_are_not_published",
     "nor the zeros of keys that no row sees",
     attention_shapes,
     "drop fence.proxy.async in attention_kernel nth 2"},
    {"attention_values_are_not_published",
     "nor V as the converter wrote it",
     attention_shapes,
     "drop fence.proxy.async in attention_dimsILj192ELj128ELNS_5dtypeE2E nth 3"},
    {"attention_products_are_not_fenced",
     "they take registers as they were",
     attention_shapes,
     "drop wgmma.fence in attention_kernel nth 1"},
    {"attention_group_is_not_committed",
     "a wait does not cover it",
     attention_shapes,
     "drop wgmma.commit in attention_kernel nth 1"},
    {"attention_waits_for_a_group_too_few",
     "registers are read in flight",
     attention_shapes,
     "flip wgmma.wait_group 0 1 in attention_kernel nth 1"},
    {"attention_takes_an_item_too_early",
     "nobody has found it yet",
     attention_shapes,
     "true mbarrier.try_wait in attention_kernel nth 2"},
    {"attention_reads_k_before_it_is_full",
     "the tile before",
     attention_shapes,
     "true mbarrier.try_wait in attention_kernel nth 3"},
    {"attention_loads_before_a_stage_is_free",
     "K goes where a product reads",
     attention_shapes,
     "true mbarrier.try_wait in attention_kernel nth 1"},
    {"attention_waits_for_the_other_phase",
     "a parity turned over",
     attention_shapes,
     "flip mbarrier.try_wait 2 1 in attention_kernel nth 2"},
    {"attention_stage_wants_one_more",
     "an mbarrier's count is off by one",
     attention_shapes,
     "flip mbarrier.init 1 3 in attention_kernel nth 1"},
    {"attention_stage_expects_other_bytes",
     "an mbarrier's bytes are off",
     attention_shapes,
     "flip mbarrier.arrive.expect_tx 2 16 in attention_kernel nth 1"},
    {"attention_stage_never_goes_back",
     "who loads waits for ever",
     attention_shapes,
     "drop mbarrier.arrive.shared in attention_kernel"},
    {"gemm_operands_are_not_published",
     "copies of threads, as in attention",
     products,
     "drop fence.proxy.async in grouped_gemm_kernel"},
    {"gemm_products_are_not_fenced",
     "as in attention",
     products,
     "drop wgmma.fence in grouped_gemm_kernel"},
    {"gemm_waits_for_a_group_too_few",
     "as in attention",
     products,
     "flip wgmma.wait_group 0 1 in grouped_gemm_kernel"},
    {"gemm_copies_do_not_arrive",
     "a stage is never full",
     products,
     "drop cp.async.mbarrier.arrive in grouped_gemm_kernel"},
    {"gemm_reads_a_stage_before_it_is_full",
     "as in attention",
     products,
     "true mbarrier.try_wait in grouped_gemm_kernel nth 2"},
    {"gemm_loads_before_a_stage_is_free",
     "as in attention",
     products,
     "true mbarrier.try_wait in grouped_gemm_kernel nth 1"},
    {"copy_stage_is_not_published",
     "a store does not see what threads wrote",
     copies,
     "drop fence.proxy.async in kv_copy_kernel"},
    {"copy_mbarriers_are_not_published",
     "a bulk copy may not find its mbarrier",
     copies,
     "drop fence.mbarrier_init in kv_copy_kernel"},
    {"copy_waits_for_a_store_too_few",
     "a stage is loaded while it is read",
     copies,
     "flip cp.async.bulk.wait_group.read 0 1 in kv_copy_kernel"},
    {"copy_leaves_before_its_stores",
     "its shared memory goes with it",
     copies,
     "drop cp.async.bulk.wait_group in kv_copy_kernel nth 2"},
    {"copy_threads_do_not_meet",
     "a stage is stored half written",
     copies,
     "drop bar.sync in kv_copy_kernel nth 3"},
    {"attention_scores_are_not_fenced",
     "products take registers that the softmax wrote",
     attention_shapes,
     "drop wgmma.fence in attention_kernel nth 2"},
    {"attention_swizzle_is_another",
     "a descriptor's bits of the layout",
     attention_shapes,
     "flip wgmma.mma_async.sync.aligned.m64n64k16 34 4611686018427387904 in attention_kernel"},
    {"attention_mbarriers_are_not_published",
     "as in the copy kernel",
     attention_shapes,
     "drop fence.mbarrier_init in attention_kernel"},
    {"attention_barrier_has_no_threads",
     "a named barrier's count",
     attention_shapes,
     "flip bar.sync 1 128 in attention_kernel nth 3"},
    {"attention_registers_never_fit",
     "nobody gives up what others wait for",
     attention_shapes,
     "drop setmaxnreg.dec in attention_kernel"},
    {"attention_turn_is_not_passed",
     "a warpgroup waits for the other one for ever",
     attention_shapes,
     "drop bar.arrive in attention_kernel nth 2"},
    {"attention_last_turn_is_not_taken",
     "a block ends with an arrival that nobody waits for",
     attention_shapes,
     "drop bar.sync in attention_kernel nth 9"},
    {"attention_first_turn_is_not_passed",
     "nobody begins",
     attention_shapes,
     "drop bar.arrive in attention_kernel nth 1"},
    {"gemm_registers_are_too_many",
     "more than all others give up",
     products,
     "flip setmaxnreg.inc 0 32 in grouped_gemm_kernel"},
    {"gemm_reads_the_table_too_early",
     "one warp writes it for more groups than it has lanes",
     products,
     "drop bar.sync in grouped_gemm_kernel nth 1"},
    {"sample_biases_do_not_wait_for_penalties",
     "both change a token",
     samples,
     "drop bar.sync in sample_kernel nth 3"},
    {"attention_queries_do_not_arrive",
     "an item is never handed over",
     attention_in_bf16,
     "drop cp.async.mbarrier.arrive in attention_kernel"},
    {"sample_copies_are_not_waited_for",
     "a row is read before it is there",
     samples,
     "drop cp.async.wait_all in sample_kernel"},
    {"router_reads_a_stage_too_early",
     "a wait for copies lets one more be under way",
     router,
     "drop cp.async.wait_group in router nth 1"},
    {"router_forgets_a_group",
     "its wait covers too little",
     router,
     "drop cp.async.commit_group in router nth 4"},
    {"sample_blocks_do_not_meet",
     "the cluster's barrier",
     samples,
     "drop barrier.cluster in sample_kernel"},
    {"sample_counts_before_all_have_cleared",
     "a block's barrier",
     samples,
     "drop bar.sync in sample_kernel nth 11"},
    {"sample_messages_are_not_waited_for",
     "a row's largest logit is not yet told",
     samples,
     "true mbarrier.try_wait in sample_kernel nth 1"},
    {"sample_message_goes_to_another_set",
     "a round's messages come to the one before",
     samples,
     "flip st.async 0 128 in sample_kernel nth 1"},
    {"sample_reads_flags_too_early",
     "a block's barrier before a relaxed arrival",
     samples,
     "drop bar.sync in sample_kernel nth 1"},
    {"sample_rows_are_done_again_too_early",
     "some warps still ask whether they are",
     samples,
     "drop bar.sync in sample_kernel nth 58"},
    {"route_lanes_do_not_meet", "a warp's barrier", routes, "drop bar.warp.sync in moe_route"},
    {"permute_lanes_do_not_meet", "the same", routes, "drop bar.warp.sync in moe_permute"},
    {"append_reads_sums_too_early",
     "a block's barrier",
     appends,
     "drop bar.sync in kv_append nth 2"},
    {"norm_reads_sums_too_early", "the same", norms, "drop bar.sync in rms_norm nth 2"},
};

std::string quoted(const char* text) {
  return '\'' + std::string(text) + "' ";
}

std::string killer(const mutant& m) {
  return mutants::kill_by_program(
      "LD_LIBRARY_PATH=" + quoted(ORIEL_PTX_LIBRARIES) + "ORIEL_TEST_SCALE=0.1 ORIEL_PTX_SEED=0 " +
          (m.is_harmless ? "" : "ORIEL_PTX_MUTANT=" + quoted(m.edit)) + "timeout -s KILL " +
          std::to_string(mutants::seconds_for(m, 300)) + ' ' + quoted(ORIEL_TEST_CUDA) +
          quoted(m.killer) + "--abort --warn NoTests",
      !m.is_harmless);
}

}  // namespace

int main(int count, char** arguments) {
  return mutants::run_all(
      std::span<const mutant>(all_mutants), count, arguments, [](const mutant& m) {
        return mutants::is_as_it_should(m, killer);
      });
}
