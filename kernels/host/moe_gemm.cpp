// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/for_rows.hpp"
#include "detail/row_kernels.hpp"
#include "detail/workspace.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/kernels/moe_gemm.hpp>

#include <algorithm>
#include <cstring>

namespace oriel::host {
namespace {

/// Bytes that one block's rows (gathered x, act, y) may take: they stay in a large cache, and the
/// workspace does not grow with the chunk.
constexpr std::size_t block_bytes = std::size_t{16} << 20;

/// Equal slices of whole units, at most 8; 1 when the extent has no such parts.
std::uint32_t slices_of(std::uint32_t extent, std::uint32_t unit) noexcept {
  for (std::uint32_t slices = 8; slices > 1; slices /= 2) {
    if (extent % (slices * unit) == 0) {
      return slices;
    }
  }
  return 1;
}

/// Bytes from one packed slice to the next.
std::size_t slice_bytes(const gemm_plan& slice) noexcept {
  return detail::whole_lines(slice.packed_bytes);
}

/// Consecutive rows of one expert inside a block.
struct segment {
  std::uint32_t expert;
  std::uint32_t begin;  ///< row of the block
  std::uint32_t rows;
};

/// Scratch of one worker. Bytes, for a plan whose slices and block_rows are set.
std::size_t worker_bytes(const moe_gemm_plan& plan) noexcept {
  return detail::whole_lines(std::size_t{plan.block_rows} * plan.gate_up.shape.n * sizeof(float)) +
         detail::whole_lines(std::max(plan.gate_up.workspace_bytes, plan.down.workspace_bytes));
}

std::size_t workspace_bytes(const moe_gemm_plan& plan) noexcept {
  const std::size_t rows = plan.block_rows;
  return plan.permute.workspace_bytes +
         detail::whole_lines(std::min<std::size_t>(rows, plan.shape.experts) * sizeof(segment)) +
         2 * detail::whole_lines(rows * plan.shape.hidden * sizeof(float)) +
         detail::whole_lines(rows * plan.shape.inter * sizeof(float)) +
         plan.concurrency * worker_bytes(plan);
}

/// Routed rows per block: as many as block_bytes hold, but enough to batch a decode step.
std::uint32_t block_rows_of(const moe_gemm_shape& shape, std::uint32_t tokens_max) noexcept {
  const std::size_t row_bytes = (2 * std::size_t{shape.hidden} + shape.inter) * sizeof(float);
  const std::size_t rows = std::max<std::size_t>(block_bytes / row_bytes, 64);
  return static_cast<std::uint32_t>(
      std::min<std::size_t>(rows, std::size_t{tokens_max} * shape.top_k));
}

/// One call in progress.
class moe_run {
 public:
  moe_run(const moe_gemm_plan& plan,
          const moe_gemm_args& args,
          std::span<std::byte> workspace,
          executor_ref executor) noexcept
      : plan_(plan),
        args_(args),
        executor_(executor),
        kernels_(detail::row_kernels_for(plan.gate_up.path)) {
    detail::workspace_cutter cutter(workspace);
    const std::size_t pairs = std::size_t{args.tokens} * plan.shape.top_k;
    const auto permute_bytes = cutter.take<std::byte>(plan.permute.workspace_bytes);
    rows_ = run_moe_permute(plan.permute, {args.ids, pairs}, permute_bytes);
    const std::size_t rows = plan.block_rows;
    segments_ = cutter.take<segment>(std::min<std::size_t>(rows, plan.shape.experts));
    gathered_ = cutter.take<float>(rows * plan.shape.hidden).data();
    y_ = cutter.take<float>(rows * plan.shape.hidden).data();
    act_ = cutter.take<float>(rows * plan.shape.inter).data();
    workers_ = cutter.take<std::byte>(plan.concurrency * worker_bytes(plan));
  }

  void operator()() noexcept {
    const auto pairs = static_cast<std::uint32_t>(rows_.pair_of_row.size());
    std::uint32_t expert = 0;
    for (std::uint32_t begin = 0; begin < pairs;) {
      const std::uint32_t end = cut_block(begin, expert);
      gather();
      run_slices(
          plan_.gate_up_slices,
          [this](const segment& s, std::uint32_t slice, std::uint32_t w) { gate_up(s, slice, w); });
      run_slices(plan_.down_slices, [this](const segment& s, std::uint32_t slice, std::uint32_t w) {
        down(s, slice, w);
      });
      combine(begin, end);
      begin = end;
    }
  }

 private:
  /// Fills the segments of the block that begins at row `begin`: whole experts while they fit, or a
  /// part of one that alone does not. @returns the first row after the block
  std::uint32_t cut_block(std::uint32_t begin, std::uint32_t& expert) noexcept {
    block_begin_ = begin;
    segment_count_ = 0;
    const std::uint32_t limit = begin + plan_.block_rows;
    std::uint32_t at = begin;
    for (; expert < plan_.shape.experts; ++expert) {
      const std::uint32_t end = rows_.expert_offsets[expert + 1];
      if (end > limit && at != begin) {
        return at;
      }
      const std::uint32_t stop = std::min(end, limit);
      if (stop > at) {
        segments_[segment_count_++] = {.expert = expert, .begin = at - begin, .rows = stop - at};
      }
      at = stop;
      if (end > limit) {
        return at;
      }
    }
    return at;
  }

  [[nodiscard]] const float* token_row(std::uint32_t row) const noexcept {
    const std::size_t token = rows_.pair_of_row[block_begin_ + row] / plan_.shape.top_k;
    return args_.x + token * args_.x_stride;
  }

  /// Copies the rows of x that a product needs side by side; a single row is read where it is.
  void gather() noexcept {
    std::uint32_t longest = 0;
    for (std::uint32_t i = 0; i < segment_count_; ++i) {
      longest = std::max(longest, segments_[i].rows);
    }
    if (longest < 2) {
      return;
    }
    const std::size_t hidden = plan_.shape.hidden;
    const segment& last = segments_[segment_count_ - 1];
    detail::for_rows(
        executor_, last.begin + last.rows, hidden, [&](std::uint32_t begin, std::uint32_t end) {
          for (std::uint32_t row = begin; row < end; ++row) {
            std::memcpy(gathered_ + row * hidden, token_row(row), hidden * sizeof(float));
          }
        });
  }

  /// Runs `f(segment, slice, worker)` for every slice of every segment. Slices of one expert are
  /// neighbours, so one thread reads its weights as one stream.
  template <class F>
  void run_slices(std::uint32_t slices, F&& f) noexcept {
    executor_.for_each(segment_count_ * slices, [&](std::uint32_t task, std::uint32_t worker) {
      f(segments_[task / slices], task % slices, worker);
    });
  }

  [[nodiscard]] std::span<std::byte> worker_space(std::uint32_t worker) const noexcept {
    const std::size_t bytes = worker_bytes(plan_);
    return workers_.subspan(worker * bytes, bytes);
  }

  /// One slice of act = swiglu(gate_up(x)).
  void gate_up(const segment& s, std::uint32_t slice, std::uint32_t worker) noexcept {
    detail::workspace_cutter cutter(worker_space(worker));
    const std::size_t n = plan_.gate_up.shape.n, columns = n / 2;
    float* product = cutter.take<float>(plan_.block_rows * n).data();
    const auto scratch = cutter.take<std::byte>(plan_.gate_up.workspace_bytes);
    serial_executor serial;
    const bool alone = s.rows == 1;
    run_gemm(
        plan_.gate_up,
        {.out = product,
         .out_stride = n,
         .x = alone ? token_row(s.begin) : gathered_ + std::size_t{s.begin} * plan_.shape.hidden,
         .x_stride = plan_.shape.hidden,
         .weights = args_.gate_up[s.expert] + slice * slice_bytes(plan_.gate_up),
         .rows = s.rows},
        scratch,
        serial);
    const bool bf16 = plan_.shape.activation == dtype::bf16;
    for (std::size_t row = 0; row < s.rows; ++row) {
      float* out = act_ + (s.begin + row) * plan_.shape.inter + slice * columns;
      const float* gate = product + row * n;
      kernels_.swiglu(out, gate, gate + columns, static_cast<std::uint32_t>(columns), bf16);
    }
  }

  /// One slice of y = down(act).
  void down(const segment& s, std::uint32_t slice, std::uint32_t worker) noexcept {
    const std::size_t n = plan_.down.shape.n;
    serial_executor serial;
    run_gemm(plan_.down,
             {.out = y_ + std::size_t{s.begin} * plan_.shape.hidden + slice * n,
              .out_stride = plan_.shape.hidden,
              .x = act_ + std::size_t{s.begin} * plan_.shape.inter,
              .x_stride = plan_.shape.inter,
              .weights = args_.down[s.expert] + slice * slice_bytes(plan_.down),
              .rows = s.rows},
             worker_space(worker).first(detail::whole_lines(plan_.down.workspace_bytes)),
             serial);
  }

  /// Adds the block's rows [begin, end) to their tokens. Blocks come in ascending expert order and
  /// a token's slots are in that order too, so the sum has one order whatever the blocks were.
  void combine(std::uint32_t begin, std::uint32_t end) noexcept {
    const std::size_t hidden = plan_.shape.hidden, top_k = plan_.shape.top_k;
    detail::for_rows(
        executor_, args_.tokens, hidden * top_k, [&](std::uint32_t first, std::uint32_t last) {
          for (std::size_t token = first; token < last; ++token) {
            float* out = args_.out + token * args_.out_stride;
            if (begin == 0) {
              std::fill_n(out, hidden, 0.0f);
            }
            for (std::size_t pair = token * top_k; pair < (token + 1) * top_k; ++pair) {
              const std::uint32_t row = rows_.row_of_pair[pair];
              if (row >= begin && row < end) {
                const float* y = y_ + (row - begin) * hidden;
                kernels_.add_scaled(out, y, args_.weights[pair], plan_.shape.hidden);
              }
            }
          }
        });
  }

  const moe_gemm_plan& plan_;
  const moe_gemm_args& args_;
  executor_ref executor_;
  const detail::row_kernels& kernels_;
  moe_permutation rows_;
  std::span<segment> segments_;
  float* gathered_ = nullptr;  ///< [block_rows, hidden]
  float* act_ = nullptr;       ///< [block_rows, inter]
  float* y_ = nullptr;         ///< [block_rows, hidden]
  std::span<std::byte> workers_;
  std::uint32_t block_begin_ = 0;  ///< row of the permutation
  std::uint32_t segment_count_ = 0;
};

/// Packs rows [first, first + rows) of a matrix that is cut into slices of `slice_rows`, which
/// stand at row `slice_first` of their slice.
void pack_sliced(const gemm_plan& slice_plan,
                 const void* rows_of_w,
                 std::uint32_t first,
                 std::uint32_t rows,
                 std::uint32_t slice_rows,
                 std::uint32_t slice_first,
                 std::byte* packed) noexcept {
  const auto* source = static_cast<const std::byte*>(rows_of_w);
  const std::size_t row_bytes = slice_plan.shape.k * size_bytes(slice_plan.shape.weights);
  for (std::uint32_t row = first; row < first + rows;) {
    const std::uint32_t slice = row / slice_rows, within = row % slice_rows;
    const std::uint32_t count = std::min(slice_rows - within, first + rows - row);
    pack_gemm_weights(slice_plan,
                      source + (row - first) * row_bytes,
                      slice_first + within,
                      count,
                      packed + slice * slice_bytes(slice_plan));
    row += count;
  }
}

}  // namespace

result<moe_gemm_plan> plan_moe_gemm(const moe_gemm_shape& shape,
                                    std::uint32_t tokens_max,
                                    std::uint32_t concurrency,
                                    isa path,
                                    gemm_backend backend) noexcept {
  if (shape.hidden == 0 || shape.inter == 0 || shape.activation == dtype::e4m3 ||
      concurrency == 0) {
    return failure{errc::unsupported_shape, 0, "moe_gemm: empty row, e4m3 activation or no worker"};
  }
  const auto permute =
      plan_moe_permute({.experts = shape.experts, .top_k = shape.top_k, .tokens_max = tokens_max});
  if (!permute) {
    return permute.error();
  }
  moe_gemm_plan plan{};
  plan.shape = shape;
  plan.tokens_max = tokens_max;
  plan.concurrency = concurrency;
  plan.permute = *permute;
  plan.block_rows = block_rows_of(shape, tokens_max);
  plan.gate_up_slices = slices_of(shape.inter, 64);
  plan.down_slices = slices_of(shape.hidden, 128);
  const gemm_shape gate_up{
      .n = 2 * (shape.inter / plan.gate_up_slices), .k = shape.hidden, .weights = shape.weights};
  const gemm_shape down{
      .n = shape.hidden / plan.down_slices, .k = shape.inter, .weights = shape.weights};
  const auto gate_up_plan = plan_gemm(gate_up, plan.block_rows, 1, path, backend);
  const auto down_plan = plan_gemm(down, plan.block_rows, 1, path, backend);
  if (!gate_up_plan || !down_plan) {
    return gate_up_plan ? down_plan.error() : gate_up_plan.error();
  }
  plan.gate_up = *gate_up_plan;
  plan.down = *down_plan;
  plan.gate_up_bytes = plan.gate_up_slices * slice_bytes(plan.gate_up);
  plan.down_bytes = plan.down_slices * slice_bytes(plan.down);
  plan.workspace_bytes = workspace_bytes(plan);
  return plan;
}

void pack_moe_gate_up(const moe_gemm_plan& plan,
                      const void* rows_of_w,
                      std::uint32_t first_row,
                      std::uint32_t rows,
                      std::byte* packed) noexcept {
  const std::uint32_t inter = plan.shape.inter, columns = plan.gate_up.shape.n / 2;
  ORIEL_EXPECTS(first_row <= 2 * inter && rows <= 2 * inter - first_row);
  const std::size_t row_bytes = plan.shape.hidden * size_bytes(plan.shape.weights);
  const auto* source = static_cast<const std::byte*>(rows_of_w);
  const std::uint32_t gate_rows = first_row < inter ? std::min(rows, inter - first_row) : 0;
  pack_sliced(plan.gate_up, source, first_row, gate_rows, columns, 0, packed);
  if (rows > gate_rows) {
    pack_sliced(plan.gate_up,
                source + gate_rows * row_bytes,
                first_row + gate_rows - inter,
                rows - gate_rows,
                columns,
                columns,
                packed);
  }
}

void pack_moe_down(const moe_gemm_plan& plan,
                   const void* rows_of_w,
                   std::uint32_t first_row,
                   std::uint32_t rows,
                   std::byte* packed) noexcept {
  ORIEL_EXPECTS(first_row <= plan.shape.hidden && rows <= plan.shape.hidden - first_row);
  pack_sliced(plan.down, rows_of_w, first_row, rows, plan.down.shape.n, 0, packed);
}

void run_moe_gemm(const moe_gemm_plan& plan,
                  const moe_gemm_args& args,
                  std::span<std::byte> workspace,
                  executor_ref executor) noexcept {
  ORIEL_EXPECTS(args.tokens <= plan.tokens_max);
  ORIEL_EXPECTS(workspace.size() >= plan.workspace_bytes);
  ORIEL_EXPECTS(executor.concurrency() <= plan.concurrency);
  ORIEL_EXPECTS(args.gate_up.size() == plan.shape.experts);
  ORIEL_EXPECTS(args.down.size() == plan.shape.experts);
  moe_run(plan, args, workspace, executor)();
}

}  // namespace oriel::host
