// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/core/mutation.hpp>
#include <oriel/kernels/draft_rows.hpp>
#include <oriel/kernels/verify_chains.hpp>
#include <oriel/tier/stream_mover.hpp>

#include <engine/error.hpp>
#include <engine/packed_products.hpp>
#include <engine/program_runner.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>

namespace oriel::engine {
namespace {

std::uint32_t rows_of(const step_rows& s) {
  return static_cast<std::uint32_t>(s.tokens.size());
}

std::uint32_t rows_of(std::span<const step_rows* const> batch) {
  std::uint32_t rows = 0;
  for (const step_rows* const s : batch) {
    rows += rows_of(*s);
  }
  return rows;
}

std::uint32_t logit_rows_of(std::span<const step_rows* const> batch) {
  std::uint32_t rows = 0;
  for (const step_rows* const s : batch) {
    rows += s->logit_rows;
  }
  return rows;
}

bool heals(const step_rows& s) {
  return s.heal != nullptr && s.first_position < s.heal->length;
}

/// Rows of a heal before its end: not all layers have what they need for them.
std::uint32_t healing_rows_of(const step_rows& s) {
  return heals(s) ? std::min(rows_of(s), s.heal->length - s.first_position) : 0;
}

constexpr std::size_t of(row_set rows) {
  return static_cast<std::size_t>(rows);
}

program_shape largest_batch(const runner_limits& limits) {
  return {.sequences = limits.sequences_max,
          .rows = limits.rows_max,
          .logit_rows = limits.logit_rows_max};
}

/// With what depends on the batches that will come.
program_model completed(program_model model,
                        const runner_limits& limits,
                        std::uint32_t drafts_max,
                        bool order_fixed) {
  model.decode_rows_max = 1 + drafts_max;
  model.product_rows = order_fixed ? order_fixed_rows(model, largest_batch(limits), drafts_max) : 0;
  return model;
}

/// No program needs more than one of these.
std::vector<program_shape> largest_shapes(const program_model& model,
                                          const program_shape& most,
                                          std::uint32_t drafts_max) {
  std::vector<program_shape> shapes{most};
  for (std::uint32_t block = 0; block < model.mtp_blocks; ++block) {
    shapes.push_back(most);
    shapes.back().kind = program_kind::draft;
    shapes.back().block = block;
  }
  for (const bool drafts_next : {false, true}) {
    // Fewer drafts may need more: the splits of short steps have a workspace.
    for (std::uint32_t drafts = 0; drafts <= drafts_max; ++drafts) {
      if (!drafts_next || model.mtp_blocks != 0) {
        shapes.push_back(bucket_of({.kind = program_kind::decode,
                                    .sequences = most.sequences,
                                    .drafts = drafts,
                                    .drafts_next = drafts_next},
                                   most));
      }
    }
  }
  return shapes;
}

void cover(backend_needs& needs, const step_program& p) {
  needs.input_bytes = std::max(needs.input_bytes, p.input_bytes);
  needs.output_bytes = std::max(needs.output_bytes, p.output_bytes);
  needs.memory_bytes = std::max(needs.memory_bytes, p.memory_bytes);
}

}  // namespace

program_model program_model_of(const model_geometry& model,
                               const pool_plan& plan,
                               const runner_limits& limits,
                               dtype compute,
                               dtype kv,
                               std::uint32_t multiprocessors) {
  program_model m{.geometry = &model,
                  .compute = compute,
                  .kv = kv,
                  .page_size = plan.options().page_size,
                  .context_tokens = limits.context_tokens,
                  .multiprocessors = multiprocessors};
  for (std::uint32_t layer = 0; layer < plan.layers(); ++layer) {
    m.pool_of.push_back(to_index(plan.home(layer).pool));
  }
  m.mtp_blocks = m.layers() - static_cast<std::uint32_t>(model.layers.size());
  return m;
}

std::uint32_t step_multiprocessors(std::uint32_t multiprocessors, bool has_tiers) noexcept {
  const std::uint32_t copies = has_tiers ? mover_multiprocessors() : 0;
  return multiprocessors > copies ? multiprocessors - copies : 1;
}

program_model program_model_of(const runner_setup& setup,
                               dtype compute,
                               std::uint32_t multiprocessors) {
  program_model m = program_model_of(setup.model,
                                     setup.pools.plan(),
                                     setup.limits,
                                     compute,
                                     setup.kv,
                                     step_multiprocessors(multiprocessors, setup.tiers != 0));
  m.chains_hidden = setup.chains_hidden;
  return m;
}

std::vector<kv_layer_shape> moved_shapes_of(const runner_setup& setup) {
  std::vector<kv_layer_shape> shapes = kv_shapes_of(setup.model.layers, setup.kv);
  const std::vector<kv_layer_shape> blocks = kv_shapes_of(setup.model.mtp_layers, setup.kv);
  const std::size_t used = setup.pools.plan().layers() - shapes.size();
  shapes.insert(shapes.end(), blocks.begin(), blocks.begin() + static_cast<std::ptrdiff_t>(used));
  return shapes;
}

std::vector<std::uint32_t> table_entries_of(const pool_plan& plan, std::uint32_t context_tokens) {
  std::vector<std::uint32_t> entries{plan.pages_for(full_pool, context_tokens)};
  for (std::uint32_t kind = 0; kind < plan.window_kinds(); ++kind) {
    entries.push_back(plan.ring(kind).ring_pages());
  }
  return entries;
}

backend_needs backend_needs_of(const program_model& model,
                               const runner_limits& limits,
                               std::span<const std::uint32_t> pages_max,
                               std::uint32_t drafts_max,
                               bool order_fixed) {
  const program_model m = completed(model, limits, drafts_max, order_fixed);
  backend_needs needs{.table_entries =
                          table_mirror(pages_max, limits.sequences_max).entries().size()};
  for (const program_shape& shape : largest_shapes(m, largest_batch(limits), drafts_max)) {
    cover(needs, make_program(m, shape));
  }
  return needs;
}

program_runner::program_runner(const program_model& model,
                               const runner_limits& limits,
                               std::span<const std::uint32_t> pages_max,
                               std::uint32_t drafts_max,
                               step_backend& backend,
                               bool order_fixed)
    : model_(completed(model, limits, drafts_max, order_fixed)),
      limits_(limits),
      drafts_max_(drafts_max),
      backend_(backend),
      arithmetic_(backend.arithmetic()),
      most_(largest_batch(limits)),
      tables_(pages_max, limits.sequences_max) {
  if (!arithmetic_.empty()) {  // The host's products do not depend on how many rows there are.
    arithmetic_ += order_fixed ? fmt::format("products for {} rows, ", model_.product_rows)
                               : std::string("products by bucket, ");
    if (const std::uint64_t digest = digest_of(model_.products); digest != 0) {
      arithmetic_ += fmt::format("matrices {:016x}, ", digest);
    }
  }
  for (const program_shape& shape : largest_shapes(model_, most_, drafts_max)) {
    cover(needs_, program_for(shape));
  }
  needs_.table_entries = tables_.entries().size();
  backend_.take_memory(needs_);
}

/// The program of a bucket. The largest ones are made first: what they need is there.
const step_program& program_runner::program_for(const program_shape& shape) {
  const auto found = programs_.find(shape);
  if (found != programs_.end()) {
    return found->second;
  }
  step_program made = make_program(model_, shape);
  const bool is_planned = needs_.table_entries == 0;
  if (!is_planned &&
      (made.input_bytes > needs_.input_bytes || made.output_bytes > needs_.output_bytes ||
       made.memory_bytes > needs_.memory_bytes)) {
    throw error(fmt::format("a step of {} rows needs {} bytes on the device, {} were taken",
                            shape.rows,
                            made.memory_bytes,
                            needs_.memory_bytes));
  }
  return programs_.emplace(shape, std::move(made)).first->second;
}

template <class T>
std::span<T> program_runner::input(const step_program& program, buffer_id id) {
  const program_buffer& b = program[id];
  return {reinterpret_cast<T*>(backend_.inputs().data() + b.offset_bytes),
          b.size_bytes / sizeof(T)};
}

template <class T>
std::span<const T> program_runner::output(const step_program& program, buffer_id id) const {
  const program_buffer& b = program[id];
  return {
      reinterpret_cast<const T*>(backend_.outputs().data() + b.offset_bytes - program.input_bytes),
      b.size_bytes / sizeof(T)};
}

void program_runner::send_tables(std::span<const step_rows* const> batch) {
  for (std::uint32_t pool = 0; pool < model_.pools(); ++pool) {
    for (std::uint32_t i = 0; i < batch.size(); ++i) {
      tables_.set(pool, i, batch[i]->tables[pool]);
    }
    backend_.need_pages(pool, tables_.pages_in_use(pool));
  }
  if (!tables_.changes().empty()) {
    backend_.send_tables(tables_.entries(), tables_.changes());
    tables_.forget_changes();
  }
}

void program_runner::fill_sequence(paged_sequence& to,
                                   std::uint32_t pool,
                                   std::uint32_t member,
                                   const step_rows& rows,
                                   std::uint32_t first_position,
                                   std::uint32_t count,
                                   std::uint32_t first_key) const {
  to = {.pages = backend_.tables() + tables_.index_of(pool, member),
        .ring_pages = rows.tables[pool].ring_pages,
        .first_position = first_position,
        .rows = count,
        .first_key = first_key};
}

/// Tokens, positions and sequences. Sequences behind the batch have no rows.
void program_runner::fill_rows(const step_program& program,
                               std::span<const step_rows* const> batch) {
  const program_inputs& in = program.inputs;
  const std::span<std::uint32_t> counts = input<std::uint32_t>(program, in.row_counts);
  std::ranges::fill(counts, 0u);
  counts[of(row_set::rows)] = rows_of(batch);
  counts[of(row_set::logit_rows)] = logit_rows_of(batch);
  counts[of(row_set::sequences)] = static_cast<std::uint32_t>(batch.size());
  const std::span<token_id> tokens = input<token_id>(program, in.tokens);
  const std::span<std::uint32_t> positions = input<std::uint32_t>(program, in.positions);
  std::size_t row = 0;
  for (const step_rows* const s : batch) {
    ORIEL_EXPECTS(s->first_position + s->tokens.size() <= limits_.context_tokens);
    std::ranges::copy(s->tokens, tokens.begin() + static_cast<std::ptrdiff_t>(row));
    std::iota(positions.begin() + static_cast<std::ptrdiff_t>(row),
              positions.begin() + static_cast<std::ptrdiff_t>(row + s->tokens.size()),
              s->first_position);
    row += s->tokens.size();
  }
  std::fill(tokens.begin() + static_cast<std::ptrdiff_t>(row), tokens.end(), token_id{0});
  std::fill(positions.begin() + static_cast<std::ptrdiff_t>(row), positions.end(), 0u);
  for (std::uint32_t pool = 0; pool < model_.pools(); ++pool) {
    const std::span<paged_sequence> parts = input<paged_sequence>(program, in.sequences[pool]);
    std::ranges::fill(parts, paged_sequence{});
    for (std::uint32_t i = 0; i < batch.size(); ++i) {
      const step_rows& s = *batch[i];
      fill_sequence(parts[i], pool, i, s, s.first_position, rows_of(s), s.first_key);
    }
  }
}

/// A heal runs all its rows in all layers: those below a layer's frontier are wrong there, and no
/// row that is right reads them. What was never written is not read, so they are numbers; full
/// layers write nothing that is cached.
void program_runner::fill_heals(const step_program& program,
                                std::span<const step_rows* const> batch) {
  const std::span<paged_sequence> written = input<paged_sequence>(program, program.inputs.written);
  std::ranges::copy(input<paged_sequence>(program, program.inputs.sequences[0]), written.begin());
  for (std::uint32_t i = 0; i < batch.size(); ++i) {
    const step_rows& s = *batch[i];
    if (!heals(s)) {
      continue;
    }
    ORIEL_EXPECTS(!s.gate);  // Cut off, it would read keys below the heal's end that did not come.
    ORIEL_EXPECTS(s.heal->layers() == model_.geometry->layers.size() &&
                  s.first_position >= s.heal->first_row());
    if (!ORIEL_MUTANT(program_heals_write_cached_rows)) {
      written[i].first_key = s.heal->length;
    }
    for (std::uint32_t pool = 1; pool < model_.pools(); ++pool) {
      if (!s.heal->reads_window_at_safe_length() &&
          !ORIEL_MUTANT(program_heals_read_what_nobody_wrote)) {
        input<paged_sequence>(program, program.inputs.sequences[pool])[i].first_key =
            s.heal->first_row();
      }
    }
  }
}

void program_runner::fill_logit_rows(const step_program& program,
                                     std::span<const step_rows* const> batch) {
  const std::span<std::uint32_t> index = input<std::uint32_t>(program, program.inputs.logit_rows);
  std::uint32_t row = 0;
  std::size_t next = 0;
  for (const step_rows* const s : batch) {
    row += rows_of(*s);
    for (std::uint32_t i = s->logit_rows; i-- > 0;) {
      index[next++] = row - 1 - i;
    }
  }
  std::fill(index.begin() + static_cast<std::ptrdiff_t>(next), index.end(), 0u);
}

/// The residual streams of the batch's rows, for as long as they are asked for.
void program_runner::keep_hidden(std::span<const float> from,
                                 std::span<const step_rows* const> batch,
                                 std::vector<float>& values,
                                 std::vector<hidden_rows>& rows) const {
  values.assign(from.begin(), from.end());
  rows.clear();
  std::size_t at = 0;
  for (const step_rows* const s : batch) {
    const std::size_t count = s->tokens.size() * model_.geometry->hidden;
    const std::uint32_t left_out = healing_rows_of(*s);
    rows.push_back(
        {s->first_position + left_out,
         std::span(values).subspan(at, count).subspan(left_out * model_.geometry->hidden)});
    at += count;
  }
}

/// The program of a batch, its inputs and tables, and the logits as the first part to be fetched.
const step_program& program_runner::begin(std::span<const step_rows> batch,
                                          program_kind kind,
                                          std::uint32_t block) {
  ORIEL_EXPECTS(!batch.empty() && batch.size() <= limits_.sequences_max);
  is_cut_off_.assign(batch.size(), false);
  batch_.clear();
  for (const step_rows& s : batch) {
    batch_.push_back(&s);
  }
  const std::uint32_t rows = rows_of(batch_), logit_rows = logit_rows_of(batch_);
  ORIEL_EXPECTS(rows != 0 && rows <= limits_.rows_max && logit_rows <= limits_.logit_rows_max);
  const step_program& p =
      program_for(bucket_of({.kind = kind,
                             .sequences = static_cast<std::uint32_t>(batch.size()),
                             .rows = rows,
                             .logit_rows = logit_rows,
                             .block = block},
                            most_));
  send_tables(batch_);
  fill_rows(p, batch_);
  fill_logit_rows(p, batch_);
  parts_.clear();
  if (logit_rows != 0) {
    parts_.push_back({p.outputs.logits,
                      0,
                      std::size_t{logit_rows} * model_.geometry->vocabulary * sizeof(float)});
  }
  return p;
}

/// Of the batch that ran; zeros of those that were cut off. @returns empty where nobody asked
std::span<const float> program_runner::logits_of(const step_program& program) {
  const std::size_t vocabulary = model_.geometry->vocabulary;
  const std::size_t count = logit_rows_of(batch_) * vocabulary;
  if (count == 0) {
    return {};
  }
  const std::span<const float> logits = output<float>(program, program.outputs.logits).first(count);
  if (std::ranges::find(is_cut_off_, true) == is_cut_off_.end()) {
    return logits;
  }
  logits_.assign(logits.begin(), logits.end());
  auto row = logits_.begin();
  for (std::size_t i = 0; i < batch_.size(); ++i) {
    const auto end = row + static_cast<std::ptrdiff_t>(batch_[i]->logit_rows * vocabulary);
    if (is_cut_off_[i]) {
      std::fill(row, end, 0.0f);
    }
    row = end;
  }
  return logits_;
}

/// Whose keys do not come reads its own alone from that layer on: nothing that is not in place is
/// read, what comes of it are numbers, and the others' rows do not notice.
class program_runner::batch_gate {
 public:
  batch_gate(program_runner& of, const step_program& program) : of_(of), program_(program) {}

  bool wait(std::uint32_t layer) {
    if (std::exchange(asked_, layer) == layer && !ORIEL_MUTANT(gate_is_asked_by_each_attention)) {
      return true;  // Its prompts are attended to apart from its few rows.
    }
    bool is_open = true;
    for (std::size_t i = 0; i < of_.batch_.size(); ++i) {
      const step_rows& s = *of_.batch_[i];
      layer_gate_ref gate = s.gate;
      if (!gate || of_.is_cut_off_[i] || gate.wait(layer)) {
        continue;
      }
      if (std::exchange(is_open, false)) {
        of_.backend_.settle();
      }
      of_.is_cut_off_[i] = true;
      for (std::uint32_t pool = 0; pool < of_.model_.pools(); ++pool) {
        if (!ORIEL_MUTANT(cut_off_sequence_reads_on)) {
          of_.input<paged_sequence>(program_, program_.inputs.sequences[pool])[i].first_key =
              s.first_position;
        }
      }
    }
    return is_open;
  }

 private:
  program_runner& of_;
  const step_program& program_;
  std::uint32_t asked_ = ~std::uint32_t{0};  // the layer
};

std::span<const float> program_runner::forward(std::span<const step_rows> batch) {
  const step_program& p = begin(batch, program_kind::forward, 0);
  fill_heals(p, batch_);
  const std::uint32_t rows = rows_of(batch_);
  const std::size_t hidden = std::size_t{rows} * model_.geometry->hidden;
  if (model_.mtp_blocks != 0) {
    parts_.push_back({p.outputs.hidden, 0, hidden * sizeof(float)});
  }
  batch_gate gate(*this, p);
  const bool is_gated =
      std::ranges::any_of(batch, [](const step_rows& s) { return static_cast<bool>(s.gate); });
  backend_.run(p, false, parts_, is_gated ? layer_gate_ref(gate) : layer_gate_ref());
  counts_.layer_rows += std::uint64_t{rows} * model_.geometry->layers.size();
  for (const step_rows& s : batch) {
    counts_.heal_layer_rows += std::uint64_t{healing_rows_of(s)} * model_.geometry->layers.size();
  }
  if (model_.mtp_blocks != 0) {
    keep_hidden(output<float>(p, p.outputs.hidden).first(hidden), batch_, hidden_, hidden_of_);
  } else {
    hidden_of_.assign(batch.size(), {});
  }
  return logits_of(p);
}

std::span<const float> program_runner::forward_mtp(std::uint32_t head,
                                                   std::span<const step_rows> batch,
                                                   mtp_rows output_rows) {
  ORIEL_EXPECTS(head < model_.mtp_blocks);
  const step_program& p = begin(batch, program_kind::draft, head);
  const std::span<float> told = input<float>(p, p.inputs.hidden);
  std::size_t at = 0;
  for (const step_rows& s : batch) {
    const std::size_t count = s.tokens.size() * model_.geometry->hidden;
    std::copy_n(s.hidden, count, told.begin() + static_cast<std::ptrdiff_t>(at));
    at += count;
  }
  std::fill(told.begin() + static_cast<std::ptrdiff_t>(at), told.end(), 0.0f);
  if (output_rows == mtp_rows::all) {
    parts_.push_back({p.outputs.hidden, 0, at * sizeof(float)});
  }
  backend_.run(p, false, parts_);
  counts_.layer_rows += rows_of(batch_);
  if (output_rows == mtp_rows::all) {
    keep_hidden(output<float>(p, p.outputs.hidden).first(at), batch_, mtp_hidden_, mtp_hidden_of_);
  }
  return logits_of(p);
}

/// How each row is sampled, and the drafts that are judged by what comes.
void program_runner::fill_sampling(const step_program& program,
                                   std::span<const decoding_rows> batch) {
  const program_inputs& in = program.inputs;
  const std::span<sample_row> asked = input<sample_row>(program, in.sample_rows);
  const std::span<verify_chain> chains = input<verify_chain>(program, in.chains);
  const std::span<token_id> drafts = input<token_id>(program, in.drafts);
  std::uint32_t row = 0, draft = 0;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    const step_rows& s = batch[i].rows;
    const std::uint32_t count = rows_of(s);
    chains[i] = {.first_row = row, .first_draft = draft, .drafts = count - 1};
    for (std::uint32_t r = 0; r < count; ++r) {
      asked[row++] = {.filters = filters_of(*batch[i].sampling),
                      .seed = batch[i].sampling->seed,
                      .position = std::uint64_t{s.first_position} + 1 + r};
      if (r != 0) {
        drafts[draft++] = s.tokens[r];
      }
    }
  }
}

/// The rows of MTP blocks: those that were open, then those of the step.
void program_runner::fill_drafting(const step_program& program,
                                   std::span<const decoding_rows> batch) {
  const program_inputs& in = program.inputs;
  const std::size_t hidden = model_.geometry->hidden;
  const std::span<float> carried = input<float>(program, in.carried);
  const std::span<token_id> known = input<token_id>(program, in.known);
  const std::span<std::uint32_t> carried_index = input<std::uint32_t>(program, in.carried_index);
  const std::span<std::uint32_t> told = input<std::uint32_t>(program, in.told_index);
  const std::span<std::uint32_t> positions = input<std::uint32_t>(program, in.draft_positions);
  const std::span<draft_span> spans = input<draft_span>(program, in.draft_spans);
  std::ranges::fill(told, 0u);
  std::ranges::fill(positions, 0u);
  std::iota(carried_index.begin(), carried_index.end(), 0u);
  const auto first_computed =
      static_cast<std::uint32_t>(program.rows_of[of(row_set::carried_rows)]);
  std::uint32_t row = 0, open_row = 0, computed_row = 0;
  for (std::uint32_t i = 0; i < batch.size(); ++i) {
    const decoding_rows& d = batch[i];
    const auto open = static_cast<std::uint32_t>(d.known.size());
    const std::uint32_t count = rows_of(d.rows), first = d.rows.first_position - open;
    ORIEL_EXPECTS(open < model_.mtp_blocks && d.carried.size() == open * hidden);
    spans[i] = {.first_row = row,
                .rows = open + count,
                .first_known = open_row,
                .known = open,
                .first_sampled = computed_row};
    std::ranges::copy(d.carried, carried.begin() + static_cast<std::ptrdiff_t>(open_row * hidden));
    std::ranges::copy(d.known, known.begin() + static_cast<std::ptrdiff_t>(open_row));
    for (std::uint32_t r = 0; r < open + count; ++r) {
      told[row + r] = r < open ? open_row + r : first_computed + computed_row + (r - open);
      positions[row + r] = first + r;
    }
    row += open + count;
    open_row += open;
    computed_row += count;
  }
  for (std::uint32_t pool = 0; pool < model_.pools(); ++pool) {
    const std::span<paged_sequence> parts =
        input<paged_sequence>(program, in.draft_sequences[pool]);
    std::ranges::fill(parts, paged_sequence{});
    for (std::uint32_t i = 0; i < batch.size(); ++i) {
      const decoding_rows& d = batch[i];
      fill_sequence(parts[i],
                    pool,
                    i,
                    d.rows,
                    positions[spans[i].first_row],
                    spans[i].rows,
                    d.first_draft_key);
    }
  }
  const std::span<sample_row> greedy = input<sample_row>(program, in.greedy_rows);
  std::ranges::fill(greedy, sample_row{.filters = {.temperature = 0.0f}, .seed = 0, .position = 0});
  const std::span<std::uint32_t> counts = input<std::uint32_t>(program, in.row_counts);
  counts[of(row_set::carried_rows)] = open_row;
  counts[of(row_set::draft_rows)] = row;
}

std::optional<decoded_rows> program_runner::decode(std::span<const decoding_rows> batch,
                                                   bool drafts_next) {
  ORIEL_EXPECTS(!batch.empty() && batch.size() <= limits_.sequences_max);
  ORIEL_EXPECTS(!drafts_next || model_.mtp_blocks != 0);
  is_cut_off_.assign(batch.size(), false);
  batch_.clear();
  std::uint32_t drafts = 0;
  for (const decoding_rows& d : batch) {
    ORIEL_EXPECTS(!d.rows.tokens.empty() && !d.rows.gate);
    batch_.push_back(&d.rows);
    drafts = std::max(drafts, rows_of(d.rows) - 1);
  }
  ORIEL_EXPECTS(drafts <= drafts_max_);
  const step_program& p =
      program_for(bucket_of({.kind = program_kind::decode,
                             .sequences = static_cast<std::uint32_t>(batch.size()),
                             .drafts = drafts,
                             .drafts_next = drafts_next},
                            most_));
  const std::uint32_t rows = rows_of(batch_);
  send_tables(batch_);
  fill_rows(p, batch_);
  fill_sampling(p, batch);
  if (drafts_next) {
    fill_drafting(p, batch);
  }
  const std::size_t width = model_.geometry->hidden;
  const std::size_t first = p.rows_of[of(row_set::carried_rows)] * width, count = rows * width;
  parts_.clear();
  parts_.push_back({p.outputs.sampled, 0, rows * sizeof(sampled_token)});
  if (p.outputs.drafted != no_buffer) {
    parts_.push_back({p.outputs.drafted, 0, p[p.outputs.drafted].size_bytes});
  }
  if (p.outputs.hidden != no_buffer) {
    parts_.push_back({p.outputs.hidden, first * sizeof(float), count * sizeof(float)});
  }
  backend_.run(p, true, parts_);
  counts_.layer_rows += std::uint64_t{rows} * model_.geometry->layers.size();
  if (p.outputs.hidden != no_buffer) {
    keep_hidden(
        output<float>(p, p.outputs.hidden).subspan(first, count), batch_, hidden_, hidden_of_);
  } else {
    hidden_of_.assign(batch.size(), {});
  }
  decoded_rows result{.sampled = output<sampled_token>(p, p.outputs.sampled).first(rows)};
  if (p.outputs.drafted != no_buffer) {
    result.drafted = output<sampled_token>(p, p.outputs.drafted);
    result.drafted_stride = p.shape.sequences;
  }
  return result;
}

}  // namespace oriel::engine
