// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/kernels/draft_rows.hpp>
#include <oriel/kernels/verify_chains.hpp>

#include <engine/step_program_builder.hpp>

#include <utility>

namespace oriel::engine {

/// Embedding and the model's layers over the batch's rows, whose residual stream is `x`.
void program_builder::main_pass(const matrix_slice& x) {
  p_.operations.emplace_back(embed_op{p_.inputs.tokens, x, row_set::rows});
  const auto layers = static_cast<std::uint32_t>(g_.layers.size());
  const pass rows{
      .rows = row_set::rows,
      .count = shape_.rows,
      .per_sequence = shape_.kind == program_kind::decode ? 1 + shape_.drafts : shape_.rows,
      .sequences = p_.inputs.sequences,
      .x = x,
      .rope_tables = rope_tables(p_.inputs.positions, row_set::rows, shape_.rows, 0, layers)};
  for (std::uint32_t l = 0; l < layers; ++l) {
    layer(l, rows);
  }
}

void program_builder::make_forward() {
  p_.inputs.written = input<paged_sequence>("written rows", shape_.sequences);
  p_.inputs.logit_rows = input<std::uint32_t>("logit rows", shape_.logit_rows);
  const matrix_slice x =
      matrix("residual stream", shape_.rows, g_.hidden, dtype::f32, buffer_role::output);
  p_.outputs.hidden = x.buffer;
  main_pass(x);
  if (shape_.logit_rows != 0) {
    const matrix_slice last = matrix("last rows", shape_.logit_rows, g_.hidden);
    p_.operations.emplace_back(
        gather_op{g_.hidden, x, p_.inputs.logit_rows, last, row_set::logit_rows});
    p_.outputs.logits = head({weight_role::final_norm},
                             last,
                             shape_.logit_rows,
                             row_set::logit_rows,
                             buffer_role::output)
                            .buffer;
  }
}

/// One MTP block over rows that are told `told`; leaves its residual stream in rows.x.
void program_builder::block(std::uint32_t s, const matrix_slice& told, buffer_id tokens, pass& r) {
  const std::uint32_t index = static_cast<std::uint32_t>(g_.layers.size()) + s;
  const matrix_slice embedded = matrix("embedded rows", r.count, g_.hidden);
  p_.operations.emplace_back(embed_op{tokens, embedded, r.rows});
  // [rows, 2 * hidden]: embedding first, hidden second.
  const matrix_slice pair =
      matrix("embedding, hidden", r.count, 2 * std::size_t{g_.hidden}, model_.compute);
  norm({weight_role::enorm, index}, embedded, {pair}, r.rows);
  norm({weight_role::hnorm, index}, told, {columns_from(pair, g_.hidden)}, r.rows);
  // In e4m3 a group of columns may lie across the two, so it is quantised when both are there.
  const weight_name eh_proj{weight_role::eh_proj, index};
  multiply({.weight = eh_proj,
            .n = g_.hidden,
            .k = 2 * g_.hidden,
            .x = as_operand(eh_proj, pair, 2 * g_.hidden, r.rows),
            .out = r.x,
            .rows = r.rows});
  layer(index, r);
}

void program_builder::make_draft() {
  const std::uint32_t index = static_cast<std::uint32_t>(g_.layers.size()) + shape_.block;
  p_.inputs.logit_rows = input<std::uint32_t>("logit rows", shape_.logit_rows);
  p_.inputs.hidden = input<float>("hidden states", std::size_t{shape_.rows} * g_.hidden);
  const matrix_slice x =
      matrix("residual stream", shape_.rows, g_.hidden, dtype::f32, buffer_role::output);
  p_.outputs.hidden = x.buffer;
  pass rows{.rows = row_set::rows,
            .count = shape_.rows,
            .per_sequence = shape_.rows,
            .sequences = p_.inputs.sequences,
            .x = x,
            .rope_tables =
                rope_tables(p_.inputs.positions, row_set::rows, shape_.rows, index, index + 1)};
  const matrix_slice told{p_.inputs.hidden, dtype::f32, 0, g_.hidden};
  block(shape_.block, told, p_.inputs.tokens, rows);
  if (shape_.logit_rows != 0) {
    const matrix_slice last = matrix("last rows", shape_.logit_rows, g_.hidden);
    p_.operations.emplace_back(
        gather_op{g_.hidden, x, p_.inputs.logit_rows, last, row_set::logit_rows});
    p_.outputs.logits = head({weight_role::final_norm, index},
                             last,
                             shape_.logit_rows,
                             row_set::logit_rows,
                             buffer_role::output)
                            .buffer;
  }
}

void program_builder::sample(const matrix_slice& logits,
                             buffer_id asked,
                             buffer_id out,
                             std::size_t first,
                             std::uint32_t count,
                             row_set rows) {
  const auto plan = planned(cuda::plan_sample(g_.vocabulary, count), "sampling");
  p_.operations.emplace_back(sample_op{
      plan, logits, asked, out, add("sampling workspace", plan.workspace_bytes), first, rows});
}

/// Every MTP block over the rows that were open before the step and those it computed.
/// @param hiddens  [carried_rows + rows, hidden]
void program_builder::draft_blocks(const matrix_slice& hiddens) {
  program_inputs& in = p_.inputs;
  const std::size_t carried = rows_of(row_set::carried_rows);
  const std::uint32_t count = rows_of(row_set::draft_rows);
  const auto first_layer = static_cast<std::uint32_t>(g_.layers.size());
  in.carried = input<float>("carried hidden states", carried * g_.hidden);
  in.carried_index = input<std::uint32_t>("carried rows", carried);
  in.told_index = input<std::uint32_t>("told rows", count);
  in.draft_positions = input<std::uint32_t>("draft positions", count);
  in.draft_sequences = sequence_inputs("draft sequences");
  in.draft_spans = input<draft_span>("draft spans", shape_.sequences);
  in.known = input<token_id>("known tokens", carried);
  in.greedy_rows = input<sample_row>("how drafts are chosen", shape_.sequences);
  p_.outputs.drafted =
      add("drafted",
          std::size_t{model_.mtp_blocks} * shape_.sequences * sizeof(sampled_token),
          buffer_role::output);
  const matrix_slice front{hiddens.buffer, dtype::f32, 0, g_.hidden};
  p_.operations.emplace_back(gather_op{g_.hidden,
                                       {in.carried, dtype::f32, 0, g_.hidden},
                                       in.carried_index,
                                       front,
                                       row_set::carried_rows});
  matrix_slice told = matrix("told rows", count, g_.hidden);
  p_.operations.emplace_back(gather_op{g_.hidden, front, in.told_index, told, row_set::draft_rows});
  const std::vector<buffer_id> tables = rope_tables(
      in.draft_positions, row_set::draft_rows, count, first_layer, first_layer + model_.mtp_blocks);
  for (std::uint32_t s = 0; s < model_.mtp_blocks; ++s) {
    const buffer_id tokens = add("draft tokens", count * sizeof(token_id));
    const buffer_id last = add("draft logit rows", shape_.sequences * sizeof(std::uint32_t));
    p_.operations.emplace_back(draft_rows_op{.block = s,
                                             .spans = in.draft_spans,
                                             .known = in.known,
                                             .verdicts = p_.outputs.verdicts,
                                             .sampled = p_.outputs.sampled,
                                             .drafted = p_.outputs.drafted,
                                             .tokens = tokens,
                                             .logit_rows = last});
    pass rows{.rows = row_set::draft_rows,
              .count = count,
              .per_sequence = model_.mtp_blocks + shape_.drafts,
              .sequences = in.draft_sequences,
              .x = matrix("draft residual stream", count, g_.hidden),
              .rope_tables = tables};
    block(s, told, tokens, rows);
    const matrix_slice said = matrix("last rows", shape_.sequences, g_.hidden);
    p_.operations.emplace_back(gather_op{g_.hidden, rows.x, last, said, row_set::sequences});
    const matrix_slice logits = head({weight_role::final_norm, first_layer + s},
                                     said,
                                     shape_.sequences,
                                     row_set::sequences,
                                     buffer_role::scratch);
    sample(logits,
           in.greedy_rows,
           p_.outputs.drafted,
           std::size_t{s} * shape_.sequences,
           shape_.sequences,
           row_set::sequences);
    told = model_.chains_hidden ? rows.x : told;
  }
}

void program_builder::make_decode() {
  program_inputs& in = p_.inputs;
  const std::size_t carried = rows_of(row_set::carried_rows);
  in.sample_rows = input<sample_row>("how rows are sampled", shape_.rows);
  in.chains = input<verify_chain>("chains", shape_.sequences);
  in.drafts = input<token_id>("drafts", std::size_t{shape_.sequences} * shape_.drafts);
  p_.outputs.sampled = add("sampled", shape_.rows * sizeof(sampled_token), buffer_role::output);
  p_.outputs.verdicts =
      add("verdicts", shape_.sequences * sizeof(chain_verdict), buffer_role::output);
  const bool keeps_hidden = model_.mtp_blocks != 0;
  matrix_slice hiddens = matrix("residual stream",
                                carried + in_fours(shape_.rows),
                                g_.hidden,
                                dtype::f32,
                                keeps_hidden ? buffer_role::output : buffer_role::scratch);
  p_.outputs.hidden = keeps_hidden ? hiddens.buffer : no_buffer;
  hiddens.offset = carried * g_.hidden;
  main_pass(hiddens);
  const matrix_slice logits =
      head({weight_role::final_norm}, hiddens, shape_.rows, row_set::rows, buffer_role::scratch);
  sample(logits, in.sample_rows, p_.outputs.sampled, 0, shape_.rows, row_set::rows);
  p_.operations.emplace_back(
      verify_op{in.chains, p_.outputs.sampled, in.drafts, p_.outputs.verdicts});
  if (shape_.drafts_next) {
    draft_blocks(hiddens);
  }
}

step_program program_builder::make() {
  ORIEL_EXPECTS(shape_.sequences != 0 && shape_.rows != 0);
  const auto set = [&](row_set rows) -> std::size_t& {
    return p_.rows_of[static_cast<std::size_t>(rows)];
  };
  set(row_set::rows) = shape_.rows;
  set(row_set::logit_rows) = shape_.kind == program_kind::decode ? shape_.rows : shape_.logit_rows;
  set(row_set::sequences) = shape_.sequences;
  if (shape_.drafts_next) {
    set(row_set::carried_rows) = carried_rows_of(model_, shape_.sequences);
    set(row_set::draft_rows) = set(row_set::carried_rows) + shape_.rows;
  }
  p_.inputs.row_counts = input<std::uint32_t>("row counts", row_sets);
  p_.inputs.tokens = input<token_id>("tokens", shape_.rows);
  p_.inputs.positions = input<std::uint32_t>("positions", shape_.rows);
  p_.inputs.sequences = sequence_inputs("sequences");
  gemm_workspace_ = add("workspace of products", 0);
  switch (shape_.kind) {
    case program_kind::forward:
      make_forward();
      break;
    case program_kind::draft:
      make_draft();
      break;
    case program_kind::decode:
      make_decode();
      break;
  }
  place_buffers(p_);
  return std::move(p_);
}

}  // namespace oriel::engine
