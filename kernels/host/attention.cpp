// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// The schedule of attention: which worker computes which split of which block, and where partials
// wait. The arithmetic is in detail/attention_body.hpp; nothing here can change a bit of it.
#include "detail/attention_task.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/kernels/attention.hpp>

#include <algorithm>

namespace oriel::host {
namespace {

using detail::attention_ahead;
using detail::attention_block;
using detail::attention_rows;
using detail::attention_scratch;
using detail::attention_steps;

/// Partials that may wait for their fold, per worker, where a block's splits run in parallel.
constexpr std::uint32_t slots_per_worker = 4;

/// Where a block begins in the batch.
struct block_origin {
  std::uint32_t sequence;
  std::uint32_t token;  ///< first row of the block in its sequence
  std::uint32_t row;    ///< the same row in the batch
};

/// One split of one block, to be computed into one slot.
struct split_job {
  std::uint32_t item;
  std::uint32_t split;
  std::uint32_t split_last;  ///< of the block, exclusive
  bool is_first;
};

std::uint32_t tokens_per_block(const attention_shape& s) noexcept {
  return std::max(1u, detail::block_rows_target / (s.q_heads / s.kv_heads));
}

/// Hands out pieces of the workspace; with a null base it only counts.
class carver {
 public:
  explicit carver(std::byte* base) noexcept : base_(base) {}

  template <class T>
  T* take(std::size_t n) noexcept {
    std::byte* p = base_ != nullptr ? base_ + used_ : nullptr;
    used_ += (n * sizeof(T) + 63) / 64 * 64;
    return reinterpret_cast<T*>(p);
  }
  [[nodiscard]] std::size_t used_bytes() const noexcept { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

/// The workspace: block origins, jobs of a wave, then per-worker scratch and per-slot partials.
class attention_workspace {
 public:
  attention_workspace(const attention_shape& s,
                      std::uint32_t rows_max,
                      std::uint32_t concurrency,
                      std::byte* base) noexcept
      : shape_(s),
        rows_(std::min(tokens_per_block(s), rows_max) * (s.q_heads / s.kv_heads)),
        slots_(concurrency > 1 ? concurrency * slots_per_worker : 0) {
    carver all(base);
    origins = all.take<block_origin>(rows_max);
    jobs = all.take<split_job>(slots_);
    const std::size_t head_bytes = all.used_bytes();
    scratch_base_ = base != nullptr ? base + head_bytes : nullptr;
    scratch_bytes_ = carve_scratch(nullptr, nullptr);
    slot_base_ = base != nullptr ? scratch_base_ + scratch_bytes_ * concurrency : nullptr;
    slot_bytes_ = carve_rows(nullptr, nullptr);
    size_bytes = head_bytes + scratch_bytes_ * concurrency + slot_bytes_ * slots_;
  }

  [[nodiscard]] attention_scratch scratch(std::uint32_t worker) const noexcept {
    attention_scratch s{};
    carve_scratch(scratch_base_ + worker * scratch_bytes_, &s);
    return s;
  }
  [[nodiscard]] attention_rows slot(std::uint32_t index) const noexcept {
    attention_rows r{};
    carve_rows(slot_base_ + index * slot_bytes_, &r);
    return r;
  }
  [[nodiscard]] std::uint32_t slots() const noexcept { return slots_; }

  block_origin* origins;
  split_job* jobs;
  std::size_t size_bytes;

 private:
  std::size_t carve_rows(std::byte* base, attention_rows* out) const noexcept {
    carver c(base);
    const attention_rows r{c.take<float>(rows_),
                           c.take<float>(rows_),
                           c.take<float>(rows_ * detail::out_stride(shape_))};
    if (out != nullptr) {
      *out = r;
    }
    return c.used_bytes();
  }
  std::size_t carve_scratch(std::byte* base, attention_scratch* out) const noexcept {
    carver c(base);
    const std::size_t rows_bytes = carve_rows(nullptr, nullptr);
    attention_scratch s{c.take<float>(rows_ * detail::query_stride(shape_)),
                        c.take<float>(rows_ * detail::score_stride),
                        {},
                        {}};
    std::byte* const partial = c.take<std::byte>(rows_bytes);
    std::byte* const state = c.take<std::byte>(rows_bytes);
    if (out != nullptr) {
      carve_rows(partial, &s.partial);
      carve_rows(state, &s.state);
      *out = s;
    }
    return c.used_bytes();
  }

  attention_shape shape_;
  std::size_t rows_;
  std::uint32_t slots_;
  std::byte* scratch_base_;
  std::byte* slot_base_;
  std::size_t scratch_bytes_;
  std::size_t slot_bytes_;
};

attention_steps steps_for(isa path, dtype kv) noexcept {
  switch (path) {
#if defined(__x86_64__)
    case isa::avx512_bf16:
      return detail::attention_steps_avx512_bf16(kv);
    case isa::avx512:
      return detail::attention_steps_avx512(kv);
    case isa::avx2:
      return detail::attention_steps_avx2(kv);
#endif
    default:
      return detail::attention_steps_scalar(kv);
  }
}

/// One call: a list of items (block x KV head) and the ways to run them.
class attention_run {
 public:
  attention_run(const attention_plan& plan,
                const attention_args& args,
                const attention_workspace& workspace) noexcept
      : plan_(plan),
        args_(args),
        workspace_(workspace),
        steps_(steps_for(plan.path, plan.shape.kv)) {
    const std::uint32_t tokens = tokens_per_block(plan.shape);
    std::uint32_t row = 0;
    for (std::uint32_t i = 0; i < args.sequences.size(); ++i) {
      const std::uint32_t rows = args.sequences[i].rows;
      ORIEL_EXPECTS(rows <= plan.rows_max - row);
      for (std::uint32_t token = 0; token < rows; token += tokens) {
        workspace.origins[blocks_++] = {i, token, row + token};
      }
      row += rows;
    }
  }

  [[nodiscard]] std::uint32_t items() const noexcept { return blocks_ * plan_.shape.kv_heads; }

  /// Each item on one worker, from its first split to its last.
  void run_items(executor_ref executor) const noexcept {
    executor.for_each(items(), [&](std::uint32_t task, std::uint32_t worker) {
      const std::uint32_t item = items() - 1 - task;  // The longest rows come last.
      const std::uint32_t stride = executor.concurrency();
      const attention_block block = block_of(item);
      const attention_block next = block_of(item >= stride ? item - stride : item);
      const attention_scratch scratch = workspace_.scratch(worker);
      steps_.pack_queries(block, scratch);
      steps_.begin(block, scratch.state);
      for (std::uint32_t s = first_split(block); s < last_split(block); ++s) {
        const attention_ahead ahead =
            s + 1 < last_split(block)
                ? attention_ahead{&block, s + 1}
                : attention_ahead{item >= stride ? &next : nullptr, first_split(next)};
        steps_.split(block, s, ahead, scratch, scratch.partial);
        steps_.fold(block, s, scratch.partial, scratch.state);
      }
      steps_.finish(block, scratch.state);
    });
  }

  /// Few items, many workers: waves of splits in parallel, folded in order between waves.
  void run_splits(executor_ref executor) const noexcept {
    split_job next{.item = 0, .split = 0, .split_last = 0, .is_first = true};
    while (next.item < items()) {
      std::uint32_t jobs = 0;
      while (jobs < workspace_.slots() && next.item < items()) {
        if (next.is_first) {
          const attention_block block = block_of(next.item);
          next.split = first_split(block);
          next.split_last = last_split(block);
        }
        workspace_.jobs[jobs++] = next;
        next.is_first = ++next.split == next.split_last;
        next.item += next.is_first ? 1 : 0;
      }
      executor.for_each(jobs, [&](std::uint32_t task, std::uint32_t worker) {
        const split_job& job = workspace_.jobs[task];
        const attention_block block = block_of(job.item);
        const attention_scratch scratch = workspace_.scratch(worker);
        steps_.pack_queries(block, scratch);
        const std::uint32_t later = task + executor.concurrency();
        const split_job& next_job = workspace_.jobs[later < jobs ? later : task];
        const attention_block later_block = block_of(next_job.item);
        const attention_ahead ahead{later < jobs ? &later_block : nullptr, next_job.split};
        steps_.split(block, job.split, ahead, scratch, workspace_.slot(task));
      });
      fold_jobs(jobs);
    }
  }

 private:
  /// Folds a wave, in order, into the state of the item in progress (worker 0's, idle by now).
  void fold_jobs(std::uint32_t jobs) const noexcept {
    const attention_rows state = workspace_.scratch(0).state;
    for (std::uint32_t i = 0; i < jobs; ++i) {
      const split_job& job = workspace_.jobs[i];
      const attention_block block = block_of(job.item);
      if (job.is_first) {
        steps_.begin(block, state);
      }
      steps_.fold(block, job.split, workspace_.slot(i), state);
      if (job.split + 1 == job.split_last) {
        steps_.finish(block, state);
      }
    }
  }

  [[nodiscard]] std::uint32_t first_split(const attention_block& b) const noexcept {
    return detail::first_key(b, b.first_position) / detail::split_tokens;
  }
  [[nodiscard]] std::uint32_t last_split(const attention_block& b) const noexcept {
    return (b.first_position + b.tokens - 1) / detail::split_tokens + 1;
  }

  /// Items of one KV head are neighbours: they share K and V.
  [[nodiscard]] attention_block block_of(std::uint32_t item) const noexcept {
    const attention_shape& s = plan_.shape;
    const block_origin origin = workspace_.origins[item % blocks_];
    const paged_sequence& sequence = args_.sequences[origin.sequence];
    const std::uint32_t kv_head = item / blocks_, group = s.q_heads / s.kv_heads;
    const std::size_t first_head = std::size_t{kv_head} * group;
    return {.shape = &s,
            .sequence = &sequence,
            .k = args_.kv.k + kv_head * k_bytes_per_page(s.page_size, 1, s.head_dim_qk, s.kv),
            .v = args_.kv.v + kv_head * v_bytes_per_page(s.page_size, 1, s.head_dim_vo, s.kv),
            .page_stride_bytes = args_.kv.page_stride_bytes,
            .q = args_.q + std::size_t{origin.row} * args_.q_stride + first_head * s.head_dim_qk,
            .q_stride = args_.q_stride,
            .out = args_.out + (std::size_t{origin.row} * s.q_heads + first_head) * s.head_dim_vo,
            .sinks = args_.sinks != nullptr ? args_.sinks + kv_head * group : nullptr,
            .scale_log2e = args_.scale * 0x1.715476p0f,
            .first_position = sequence.first_position + origin.token,
            .tokens = std::min(tokens_per_block(s), sequence.rows - origin.token),
            .group = group};
  }

  const attention_plan& plan_;
  const attention_args& args_;
  const attention_workspace& workspace_;
  attention_steps steps_;
  std::uint32_t blocks_ = 0;
};

const char* problem_with(const attention_shape& s) noexcept {
  if (s.kv_heads == 0 || s.q_heads % s.kv_heads != 0 || s.q_heads == 0) {
    return "attention: kv_heads does not divide q_heads";
  }
  if (s.q_heads / s.kv_heads > 16) {
    return "attention: more than 16 query heads per KV head";
  }
  if (s.head_dim_qk - 1 > 255 || s.head_dim_vo - 1 > 255) {
    return "attention: a head dim is outside 1 to 256";
  }
  if (s.page_size == 0 || s.page_size % kv_tile_tokens != 0) {
    return "attention: page_size is no multiple of 16";
  }
  return s.kv == dtype::e4m3 ? "attention: no host kernel for e4m3 KV" : nullptr;
}

}  // namespace

result<attention_plan> plan_attention(const attention_shape& shape,
                                      std::uint32_t rows_max,
                                      std::uint32_t concurrency,
                                      isa path) noexcept {
  if (const char* problem = problem_with(shape)) {
    return failure{errc::unsupported_shape, 0, problem};
  }
  if (!is_supported(path)) {
    return failure{errc::unsupported_shape, 0, "attention: this CPU lacks the path"};
  }
  if (concurrency == 0) {
    return failure{errc::unsupported_shape, 0, "attention: concurrency is 0"};
  }
  const attention_workspace workspace(shape, rows_max, concurrency, nullptr);
  return attention_plan{.shape = shape,
                        .path = path,
                        .rows_max = rows_max,
                        .concurrency = concurrency,
                        .workspace_bytes = workspace.size_bytes};
}

void run_attention(const attention_plan& plan,
                   const attention_args& args,
                   std::span<std::byte> workspace,
                   executor_ref executor) noexcept {
  ORIEL_EXPECTS(workspace.size() >= plan.workspace_bytes);
  ORIEL_EXPECTS(reinterpret_cast<std::uintptr_t>(workspace.data()) % 64 == 0);
  ORIEL_EXPECTS(executor.concurrency() <= plan.concurrency && args.scale > 0.0f);
  ORIEL_EXPECTS(args.q_stride >= std::size_t{plan.shape.q_heads} * plan.shape.head_dim_qk);
  const attention_workspace pieces(plan.shape, plan.rows_max, plan.concurrency, workspace.data());
  const attention_run run(plan, args, pieces);
  if (executor.concurrency() > 1 && run.items() < 4 * executor.concurrency()) {
    run.run_splits(executor);
  } else {
    run.run_items(executor);
  }
}

}  // namespace oriel::host
