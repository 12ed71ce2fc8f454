// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `step_program`: what a device does in one step of a model, as a list of typed operations over
/// named buffers. Made by host code alone, which decides the order of the launches, where each
/// buffer lies, and what has to be sent; a CUDA executor enqueues it (engine_cuda/), tests
/// interpret it on the host with the host's kernels.
///
///     forward    embed, layers, last norm, logits of the rows that asked
///     draft      one MTP block over rows whose hidden states are sent
///     decode     forward with logits of every row, sampling, verification of the drafts behind
///                them, then every MTP block over what was accepted: the next drafts. Nothing of
///                it waits for the host, so one captured graph does it.
///
/// A program is for a bucket: numbers of rows and sequences up to which it serves any batch. The
/// real numbers are inputs (`row_counts`), so a captured graph serves changing batches.
///
/// Memory of a program, in this order, each buffer at a multiple of 256 bytes:
///
///     inputs     sent before each run, in one copy
///     outputs    fetched behind it, in one copy
///     scratch    buffers that are never needed at the same time share their place
#pragma once

#include <oriel/core/dtype.hpp>
#include <oriel/kernels/attention.hpp>
#include <oriel/kernels/device_gemm.hpp>
#include <oriel/kernels/grouped_gemm.hpp>
#include <oriel/kernels/moe_permute.hpp>
#include <oriel/kernels/rope.hpp>
#include <oriel/kernels/router_logits.hpp>
#include <oriel/kernels/sample.hpp>
#include <oriel/model/geometry.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <tuple>
#include <variant>
#include <vector>

namespace oriel::engine {

// What a program is made for -------------------------------------------------------------------

enum class weight_role : std::uint8_t {
  embedding,
  input_norm,
  post_attention_norm,
  qkv,
  o,
  sinks,
  gate_up,
  down,
  router,
  correction_bias,
  expert_gate_up,
  expert_down,
  enorm,
  hnorm,
  eh_proj,
  final_norm,  ///< of the model (layer no_layer), or of an MTP block
  lm_head
};
inline constexpr std::uint32_t no_layer = UINT32_MAX;

struct weight_name {
  weight_role role;
  std::uint32_t layer = no_layer;  ///< as program_model::layer

  friend bool operator==(const weight_name&, const weight_name&) = default;
  friend bool operator<(const weight_name& a, const weight_name& b) noexcept {
    return std::tuple(a.role, a.layer) < std::tuple(b.role, b.layer);
  }
};

/// Who multiplies with a matrix, or with a layer's experts.
enum class product_kind : std::uint8_t {
  plain,         ///< device_gemm.hpp, experts grouped_gemm.hpp: of program_model::compute
  block_scaled,  ///< device_gemm.hpp: e4m3 with one plain grid of scales
  grouped,       ///< grouped_gemm.hpp: e4m3, packed, with any grid of scales
  packed         ///< grouped_gemm.hpp: bf16, packed; what device_gemm.hpp refuses
};
/// Are its operands e4m3 with scales?
[[nodiscard]] constexpr bool is_scaled(product_kind kind) noexcept {
  return kind == product_kind::block_scaled || kind == product_kind::grouped;
}
/// Of the matrices that are not plain.
using product_kinds = std::map<weight_name, product_kind>;
/// Are some of e4m3?
[[nodiscard]] inline bool has_scaled(const product_kinds& kinds) noexcept {
  for (const auto& [name, kind] : kinds) {
    if (is_scaled(kind)) {
      return true;
    }
  }
  return false;
}

/// The model as programs see it. `layers` are the model's, then those of the MTP blocks in use.
struct program_model {
  const model_geometry* geometry = nullptr;
  dtype compute = dtype::bf16;  ///< f32 or bf16: of matrices, and where activations are rounded
  dtype kv = dtype::bf16;
  std::uint32_t page_size = 16;
  std::uint32_t context_tokens = 0;
  std::uint32_t multiprocessors = 132;      ///< of the device
  std::vector<std::uint32_t> pool_of = {};  ///< [layers]: whose tables a layer reads
  std::uint32_t mtp_blocks = 0;             ///< in use
  bool chains_hidden = false;               ///< blocks are told the output of the one before
  product_kinds products = {};              ///< scaled_products.hpp, packed_products.hpp
  /// Rows of a decoding sequence at most: 1 and its drafts. Sequences of no more rows are attended
  /// to with splits of their own where the context is long, in steps with prompts, too.
  std::uint32_t decode_rows_max = 1;
  /// Order-fixed: every dense product of every program, of either kind, is planned for so many
  /// rows, so that an element is computed by one algorithm in whatever step it is. 0: for the rows
  /// of its bucket, which is faster where these are few.
  std::uint32_t product_rows = 0;

  [[nodiscard]] std::uint32_t layers() const noexcept {
    return static_cast<std::uint32_t>(pool_of.size());
  }
  [[nodiscard]] const layer_geometry& layer(std::uint32_t index) const noexcept {
    const std::size_t main = geometry->layers.size();
    return index < main ? geometry->layers[index] : geometry->mtp_layers[index - main];
  }
  [[nodiscard]] std::uint32_t pools() const noexcept;
};

enum class program_kind : std::uint8_t { forward, draft, decode };

/// The key of a program, and of its graph. Counts are upper bounds.
struct program_shape {
  program_kind kind = program_kind::forward;
  std::uint32_t sequences = 0;
  std::uint32_t rows = 0;        ///< tokens of the batch
  std::uint32_t logit_rows = 0;  ///< of `decode`: rows
  std::uint32_t drafts = 0;      ///< of `decode`: behind the last token of a sequence
  std::uint32_t block = 0;       ///< of `draft`: which
  bool drafts_next = false;      ///< of `decode`: with the MTP blocks behind it

  friend bool operator==(const program_shape&, const program_shape&) = default;
  friend bool operator<(const program_shape& a, const program_shape& b) noexcept {
    const auto key = [](const program_shape& s) {
      return std::tuple(
          s.kind, s.sequences, s.rows, s.logit_rows, s.drafts, s.block, s.drafts_next);
    };
    return key(a) < key(b);
  }
};

/// What `shape` is served by: numbers of sequences are rounded up to 1, 2, 4, 8 and multiples of 8,
/// rows of prompts to powers of two from 16 on. Decoding steps have (1 + drafts) rows a sequence,
/// so a graph is named by (sequences, drafts). Never above `most`.
[[nodiscard]] program_shape bucket_of(const program_shape& shape, const program_shape& most);

/// program_model::product_rows for programs within these limits: a power of two that none of their
/// products exceeds, 1,024 at least. So it is the same for engines that differ a little, as with
/// and without drafts, and they read each other's pages.
/// @param most  sequences, rows and logit_rows of `forward` and `draft`
[[nodiscard]] std::uint32_t order_fixed_rows(const program_model& model,
                                             const program_shape& most,
                                             std::uint32_t drafts_max) noexcept;

// What a program is made of --------------------------------------------------------------------

enum class buffer_id : std::uint32_t {};
inline constexpr buffer_id no_buffer{UINT32_MAX};

enum class buffer_role : std::uint8_t { input, output, scratch };

struct program_buffer {
  const char* name = "";
  std::size_t size_bytes = 0;
  buffer_role role = buffer_role::scratch;
  std::size_t offset_bytes = 0;  ///< from the beginning of the program's memory
  /// First and last operation that touch it; of inputs and outputs the whole program.
  std::size_t first_use = 0, last_use = 0;
};

/// Rows of a matrix in a buffer.
struct matrix_slice {
  buffer_id buffer = no_buffer;
  dtype type = dtype::f32;
  std::size_t offset = 0;  ///< elements
  std::size_t stride = 0;  ///< elements from one row to the next
};

/// Rows as a product reads them: f32 or bf16, or e4m3 with scales, as quantize_rows leaves them: of
/// group g and row r scales[g * scale_stride + r].
struct operand_slice {
  matrix_slice values;
  buffer_id scales = no_buffer;  ///< [ceil(columns / 128), scale_stride] f32; of e4m3 alone
  std::size_t scale_stride = 0;  ///< rows, rounded up to a multiple of 4
};

/// How many rows an operation has: an entry of the input `row_counts`.
enum class row_set : std::uint8_t { rows, logit_rows, sequences, carried_rows, draft_rows };
inline constexpr std::size_t row_sets = 5;

struct embed_op {
  buffer_id tokens;
  matrix_slice out;
  row_set rows;
};
struct rope_table_op {
  std::uint32_t kind;  ///< of step_program::ropes
  buffer_id positions, table;
  row_set rows;
};
/// Writes what its readers read, so that no kernel stands between.
struct norm_op {
  weight_name weight;
  matrix_slice x;
  operand_slice out;
  matrix_slice plain;  ///< where `out` is e4m3: the same rows in bf16, for who reads them so; or
                       ///< no buffer
  row_set rows;
};
struct gemm_op {
  weight_name weight;
  cuda::gemm_plan plan;
  matrix_slice x, out;
  bool accumulate;
  buffer_id workspace;
  row_set rows;
};
/// f32 or bf16 to e4m3, `width` elements a row.
struct quantize_op {
  std::uint32_t width;
  matrix_slice x;
  operand_slice out;
  row_set rows;
};
/// A product with an e4m3 matrix, or with a packed one of bf16, which has no scales. Computes the
/// rows up to the next multiple of 4; `out` has them.
struct scaled_gemm_op {
  weight_name weight;
  std::variant<cuda::block_scaled_gemm_plan, cuda::grouped_gemm_plan> plan;
  operand_slice x;
  matrix_slice out;
  bool accumulate;
  buffer_id workspace;
  row_set rows;
};
/// Turns the KV heads of x, [rows, q_heads + kv_heads] heads, and writes its query heads as
/// attention reads them: to `q` in bf16; or `q` is x.
struct rope_op {
  std::uint32_t kind, q_heads, kv_heads;
  matrix_slice x, q;
  buffer_id table;
  row_set rows;
};
struct append_op {
  std::uint32_t layer;
  attention_shape shape;
  matrix_slice k, v;
  buffer_id sequences;
  row_set rows;
};
/// For the sequences of so many rows as the plan's limits say; others are another operation's.
struct attend_op {
  std::uint32_t layer;
  cuda::attention_plan plan;
  matrix_slice q, out;  ///< q of plan.q_type
  buffer_id sequences, workspace;
  row_set rows;
};
struct swiglu_op {
  std::uint32_t inter;
  matrix_slice gate_up;
  operand_slice out;
  row_set rows;
};
/// The router's product: one order of sums for any number of rows.
struct router_op {
  std::uint32_t layer;
  cuda::router_logits_plan plan;
  matrix_slice x;  ///< of program_model::compute; a device has it in bf16
  matrix_slice logits;
  row_set rows;
};
struct route_op {
  std::uint32_t layer;
  matrix_slice logits;
  buffer_id ids, weights;
  row_set rows;
};
/// The experts of a layer on routed rows, added to `out`.
struct experts_op {
  std::uint32_t layer;
  cuda::moe_permute_plan permute;
  dtype type;       ///< of the experts: bf16 (for `compute`) or e4m3
  operand_slice x;  ///< [rows, hidden] of `type`
  buffer_id ids, weights;
  matrix_slice out;        ///< [rows, hidden], f32
  buffer_id permutation;   ///< the plan's workspace
  matrix_slice act;        ///< [rows * top_k, intermediate] of `compute`: behind SwiGLU
  operand_slice act_e4m3;  ///< where `type` is e4m3: `act`, quantised
  matrix_slice y;          ///< [rows * top_k, hidden], f32
  row_set rows;
  std::uint32_t multiprocessors;  ///< that the products are planned for
};
struct gather_op {
  std::uint32_t width;
  matrix_slice x;
  buffer_id index;
  matrix_slice out;
  row_set rows;
};
struct sample_op {
  cuda::sample_plan plan;
  matrix_slice logits;
  buffer_id asked, out, workspace;
  std::size_t first;  ///< element of `out`
  row_set rows;
};
struct verify_op {
  buffer_id chains, sampled, drafts, verdicts;
};
/// What the rows of MTP block `block` are told, and which rows get logits.
struct draft_rows_op {
  std::uint32_t block;
  buffer_id spans, known, verdicts, sampled, drafted;  ///< read
  buffer_id tokens, logit_rows;                        ///< written
};

using operation = std::variant<embed_op,
                               rope_table_op,
                               norm_op,
                               gemm_op,
                               quantize_op,
                               scaled_gemm_op,
                               rope_op,
                               append_op,
                               attend_op,
                               swiglu_op,
                               router_op,
                               route_op,
                               experts_op,
                               gather_op,
                               sample_op,
                               verify_op,
                               draft_rows_op>;

/// Calls visit(buffer) for every buffer that the operation touches.
template <class Visit>
void visit_buffers(const operation& op, Visit&& visit);

/// Buffers that are filled from a batch (step_inputs.hpp). no_buffer: the program has none.
struct program_inputs {
  buffer_id row_counts = no_buffer;  ///< [row_sets] u32
  buffer_id tokens = no_buffer;      ///< [rows]
  buffer_id positions = no_buffer;   ///< [rows]
  std::vector<buffer_id> sequences;  ///< [pools]: [sequences] paged_sequence
  /// `forward`: [sequences] paged_sequence, as the full pool's rows are written: not those of a
  /// heal, whose keys are cached.
  buffer_id written = no_buffer;
  buffer_id logit_rows = no_buffer;        ///< [logit_rows]; none where every row has logits
  buffer_id hidden = no_buffer;            ///< `draft`: [rows, hidden]
  buffer_id sample_rows = no_buffer;       ///< [rows] sample_row
  buffer_id chains = no_buffer;            ///< [sequences] verify_chain
  buffer_id drafts = no_buffer;            ///< [rows] token_id
  buffer_id greedy_rows = no_buffer;       ///< [sequences] sample_row: how drafts are chosen
  buffer_id carried = no_buffer;           ///< [carried_rows, hidden]
  buffer_id carried_index = no_buffer;     ///< [carried_rows] 0, 1, 2, ...
  buffer_id told_index = no_buffer;        ///< [draft_rows] rows of carried | hidden
  buffer_id draft_positions = no_buffer;   ///< [draft_rows]
  std::vector<buffer_id> draft_sequences;  ///< [pools]
  buffer_id draft_spans = no_buffer;       ///< [sequences] draft_span
  buffer_id known = no_buffer;             ///< [carried_rows] token_id
};

/// Buffers that are fetched. no_buffer: the program has none.
struct program_outputs {
  buffer_id logits = no_buffer;    ///< [logit_rows, vocabulary] f32
  buffer_id hidden = no_buffer;    ///< [rows, hidden] f32: the residual stream
  buffer_id sampled = no_buffer;   ///< [rows] sampled_token
  buffer_id verdicts = no_buffer;  ///< [sequences] chain_verdict
  buffer_id drafted = no_buffer;   ///< [mtp_blocks, sequences] sampled_token
};

struct step_program {
  program_shape shape;
  std::vector<program_buffer> buffers;
  std::vector<operation> operations;
  std::vector<host::rope_plan> ropes;
  program_inputs inputs;
  program_outputs outputs;
  std::size_t rows_of[row_sets] = {};  ///< upper bounds
  std::size_t input_bytes = 0;         ///< [0, input_bytes) is sent
  std::size_t output_bytes = 0;        ///< the output_bytes behind are fetched
  std::size_t memory_bytes = 0;

  [[nodiscard]] const program_buffer& operator[](buffer_id id) const noexcept {
    return buffers[static_cast<std::size_t>(id)];
  }
};

/// Makes the program of a bucket. O(layers^2) for the layout of its memory.
/// @throws engine::error when a kernel does not fit the geometry
[[nodiscard]] step_program make_program(const program_model& model, const program_shape& shape);

template <class Visit>
void visit_buffers(const operation& op, Visit&& visit) {
  const auto all = [&](auto... ids) { (visit(ids), ...); };
  struct visitor {
    const decltype(all)& touch;
    void touch_operand(const operand_slice& s) const {
      if (s.values.buffer != no_buffer) {
        touch(s.values.buffer);
      }
      if (s.scales != no_buffer) {
        touch(s.scales);
      }
    }
    void operator()(const embed_op& o) const { touch(o.tokens, o.out.buffer); }
    void operator()(const rope_table_op& o) const { touch(o.positions, o.table); }
    void operator()(const norm_op& o) const {
      touch(o.x.buffer);
      touch_operand(o.out);
      touch_operand({o.plain});
    }
    void operator()(const gemm_op& o) const { touch(o.x.buffer, o.out.buffer, o.workspace); }
    void operator()(const quantize_op& o) const {
      touch(o.x.buffer);
      touch_operand(o.out);
    }
    void operator()(const scaled_gemm_op& o) const {
      touch(o.out.buffer, o.workspace);
      touch_operand(o.x);
    }
    void operator()(const rope_op& o) const { touch(o.x.buffer, o.q.buffer, o.table); }
    void operator()(const append_op& o) const { touch(o.k.buffer, o.v.buffer, o.sequences); }
    void operator()(const attend_op& o) const {
      touch(o.q.buffer, o.out.buffer, o.sequences, o.workspace);
    }
    void operator()(const swiglu_op& o) const {
      touch(o.gate_up.buffer);
      touch_operand(o.out);
    }
    void operator()(const router_op& o) const { touch(o.x.buffer, o.logits.buffer); }
    void operator()(const route_op& o) const { touch(o.logits.buffer, o.ids, o.weights); }
    void operator()(const experts_op& o) const {
      touch(o.ids, o.weights, o.out.buffer, o.permutation, o.act.buffer, o.y.buffer);
      touch_operand(o.x);
      touch_operand(o.act_e4m3);
    }
    void operator()(const gather_op& o) const { touch(o.x.buffer, o.index, o.out.buffer); }
    void operator()(const sample_op& o) const {
      touch(o.logits.buffer, o.asked, o.out, o.workspace);
    }
    void operator()(const verify_op& o) const { touch(o.chains, o.sampled, o.drafts, o.verdicts); }
    void operator()(const draft_rows_op& o) const {
      touch(o.spans, o.known, o.verdicts, o.sampled, o.drafted, o.tokens, o.logit_rows);
    }
  };
  std::visit(visitor{all}, op);
}

}  // namespace oriel::engine
