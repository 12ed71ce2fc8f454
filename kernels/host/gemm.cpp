// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/contract.hpp>
#include <oriel/kernels/gemm.hpp>

#include <host/detail/gemm_kernel.hpp>
#include <host/detail/gemm_onednn.hpp>

#include <algorithm>
#include <cstring>

#if defined(__unix__)
#include <unistd.h>
#endif

namespace oriel::host {
namespace {

using detail::chunk_lanes;
using detail::gemm_kernel;

constexpr std::uint32_t slice_rows_max = 512;     // Rows packed at a time; bounds the workspace.
constexpr std::uint32_t tasks_per_worker = 4;     // Slack against an uneven machine.
constexpr std::size_t parallel_pack_min = 65536;  // Elements of x below which one thread packs.

// Bytes of packed x that are multiplied by one panel after the other: as much as stays in the L2
// cache beside a panel. A matter of speed alone; no bit depends on it.
std::size_t macro_bytes() noexcept {
  static const std::size_t bytes = [] {
#if defined(_SC_LEVEL2_CACHE_SIZE)
    if (const long l2_bytes = ::sysconf(_SC_LEVEL2_CACHE_SIZE); l2_bytes > 0) {
      return static_cast<std::size_t>(l2_bytes) / 8 * 5;
    }
#endif
    return std::size_t{640} * 1024;
  }();
  return bytes;
}

constexpr std::size_t divide_up(std::size_t a, std::size_t b) noexcept {
  return (a + b - 1) / b;
}

std::uint32_t steps_of(const gemm_shape& shape, const gemm_kernel& kernel) noexcept {
  return static_cast<std::uint32_t>(divide_up(shape.k, kernel.k_per_step));
}

// 32-bit lanes of one packed row of x.
std::size_t row_lanes_of(const gemm_shape& shape, const gemm_kernel& kernel) noexcept {
  return divide_up(std::size_t{steps_of(shape, kernel)} * kernel.x_lanes_per_step, chunk_lanes) *
         chunk_lanes;
}

std::size_t panel_bytes_of(const gemm_shape& shape, const gemm_kernel& kernel) noexcept {
  return std::size_t{steps_of(shape, kernel)} * kernel.panel_width * sizeof(std::uint32_t);
}

// Weights of either backend: [panel, step, width] lanes of 32 bits, padded with zeros.
struct packed_layout {
  std::uint32_t width;
  std::uint32_t steps;  // padded
};

packed_layout layout_of(const gemm_plan& plan) noexcept {
  const gemm_kernel& kernel = detail::gemm_kernel_for(plan.path, plan.shape.weights);
  const std::uint32_t steps = steps_of(plan.shape, kernel);
  if (plan.backend == gemm_backend::onednn) {
    constexpr std::uint32_t padding = detail::onednn_step_padding;
    return {.width = detail::onednn_panel_width,
            .steps = static_cast<std::uint32_t>(divide_up(steps, padding)) * padding};
  }
  return {.width = kernel.panel_width, .steps = steps};
}

// The lane at step `s` of a plain row: one f32, or two bf16. Beyond the row's end there are zeros.
std::uint32_t weight_lane(const std::byte* row, std::size_t row_bytes, std::uint32_t s) noexcept {
  std::uint32_t lane = 0;
  const std::size_t at = std::size_t{s} * sizeof lane;
  if (at < row_bytes) {
    std::memcpy(&lane, row + at, std::min(sizeof lane, row_bytes - at));
  }
  return lane;
}

// One slice of rows on its way through the tasks.
struct slice {
  const gemm_plan& plan;
  const gemm_args& args;
  const gemm_kernel& kernel;
  std::uint32_t* x;  // packed, [rows, row_lanes]
  std::uint32_t first_row;
  std::uint32_t rows;
  std::uint32_t steps;
  std::size_t row_lanes;
  std::size_t panel_bytes;
  std::uint32_t blocks;  // rows are cut into equal blocks: 15 rows are 8 + 7, not 14 + 1

  [[nodiscard]] std::uint32_t block_begin(std::uint32_t block) const noexcept {
    return static_cast<std::uint32_t>(std::uint64_t{rows} * block / blocks);
  }

  void pack(std::uint32_t block) const noexcept {
    const std::uint32_t begin = block_begin(block), end = block_begin(block + 1);
    kernel.pack_block(args.x + std::size_t{first_row + begin} * args.x_stride,
                      args.x_stride,
                      end - begin,
                      plan.shape.k,
                      x + begin * row_lanes);
  }

  // Blocks [block, block_end) times panels [panel, panel_end). Panels go round in the outer loop:
  // each is read once from memory while the blocks of x stay in the cache, and each block fetches
  // its share of the next panel.
  void multiply(std::uint32_t block,
                std::uint32_t block_end,
                std::uint32_t panel,
                std::uint32_t panel_end) const noexcept {
    const std::uint32_t count = block_end - block;
    const std::uint32_t together = count == 1 ? panel_end - panel : 1;
    const auto chunks = static_cast<std::uint32_t>(row_lanes / chunk_lanes);
    const auto next_lines =
        count == 1 ? 0 : static_cast<std::uint32_t>(divide_up(panel_bytes, 64 * chunks * count));
    for (; panel < panel_end; panel += together) {
      const std::uint32_t column = panel * kernel.panel_width;
      const std::byte* weights = args.weights + panel * panel_bytes;
      const std::byte* next = weights + panel_bytes;
      for (std::uint32_t b = block; b < block_end; ++b, next += 64 * chunks * next_lines) {
        const std::uint32_t begin = block_begin(b);
        kernel.multiply(
            {.x = x + begin * row_lanes,
             .panel = weights,
             .out = args.out + std::size_t{first_row + begin} * args.out_stride + column,
             .out_stride = args.out_stride,
             .next = next,
             .next_lines = next_lines,
             .rows = block_begin(b + 1) - begin,
             .columns = std::min(together * kernel.panel_width, plan.shape.n - column),
             .steps = steps,
             .accumulate = args.accumulate});
      }
    }
  }
};

void run_slice(const slice& work, executor_ref executor) noexcept {
  const std::uint32_t workers = executor.concurrency();
  const std::uint32_t panels =
      static_cast<std::uint32_t>(divide_up(work.plan.shape.n, work.kernel.panel_width));
  if (workers == 1 || std::size_t{work.rows} * work.plan.shape.k < parallel_pack_min) {
    for (std::uint32_t block = 0; block < work.blocks; ++block) {
      work.pack(block);
    }
  } else {
    executor.for_each(work.blocks, [&](std::uint32_t block, std::uint32_t) { work.pack(block); });
  }
  // A grid of tasks: macro blocks of rows that fit the cache x ranges of panels.
  const std::size_t block_bytes =
      divide_up(work.rows, work.blocks) * work.row_lanes * sizeof(std::uint32_t);
  const auto macro = static_cast<std::uint32_t>(
      std::clamp<std::size_t>(macro_bytes() / block_bytes, 1, work.blocks));
  const auto macros = static_cast<std::uint32_t>(divide_up(work.blocks, macro));
  const std::uint32_t ranges = workers == 1 ? 1 : std::min(panels, workers * tasks_per_worker);
  executor.for_each(macros * ranges, [&](std::uint32_t task, std::uint32_t) {
    const std::uint32_t block = task / ranges * macro, range = task % ranges;
    work.multiply(block,
                  std::min(block + macro, work.blocks),
                  static_cast<std::uint32_t>(std::uint64_t{panels} * range / ranges),
                  static_cast<std::uint32_t>(std::uint64_t{panels} * (range + 1) / ranges));
  });
}

}  // namespace

result<gemm_plan> plan_gemm(const gemm_shape& shape,
                            std::uint32_t rows_max,
                            [[maybe_unused]] std::uint32_t concurrency,
                            isa path,
                            gemm_backend backend) noexcept {
  if (shape.n == 0 || shape.k == 0) {
    return failure{errc::unsupported_shape, 0, "a matrix without rows or columns"};
  }
  if (shape.weights != dtype::f32 && shape.weights != dtype::bf16) {
    return failure{errc::unsupported_shape, 0, "weights must be f32 or bf16"};
  }
  if (!is_supported(path)) {
    return failure{errc::unsupported_shape, 0, "this CPU lacks the instruction set asked for"};
  }
  if (backend == gemm_backend::onednn) {
#if defined(ORIEL_HAS_ONEDNN)
    return detail::plan_onednn_gemm(shape, rows_max, concurrency, path);
#else
    return failure{errc::unsupported_shape, 0, "built without oneDNN"};
#endif
  }
  const gemm_kernel& kernel = detail::gemm_kernel_for(path, shape.weights);
  const std::size_t panels = divide_up(shape.n, kernel.panel_width);
  return gemm_plan{.shape = shape,
                   .path = path,
                   .backend = gemm_backend::own,
                   .packed_bytes = panels * panel_bytes_of(shape, kernel),
                   .workspace_bytes = std::min(std::max(rows_max, 1u), slice_rows_max) *
                                      row_lanes_of(shape, kernel) * sizeof(std::uint32_t)};
}

void pack_gemm_weights(const gemm_plan& plan,
                       const void* rows_of_w,
                       std::uint32_t first_row,
                       std::uint32_t rows,
                       std::byte* packed) noexcept {
  const gemm_shape& shape = plan.shape;
  ORIEL_EXPECTS(first_row <= shape.n && rows <= shape.n - first_row);
  const auto [width, steps] = layout_of(plan);
  const std::size_t panel_lanes = std::size_t{steps} * width;
  const std::size_t row_bytes = shape.k * size_bytes(shape.weights);
  const auto* from = static_cast<const std::byte*>(rows_of_w);
  const std::uint32_t end = first_row + rows;
  const std::uint32_t padded_end =
      end == shape.n ? static_cast<std::uint32_t>(divide_up(end, width)) * width : end;
  // One cache line of each row at a time, panel by panel: both sides are touched once.
  for (std::uint32_t row = first_row; row < padded_end;) {
    const std::uint32_t row_end = std::min(padded_end, (row / width + 1) * width);
    auto* panel = reinterpret_cast<std::uint32_t*>(packed) + row / width * panel_lanes;
    for (std::uint32_t s0 = 0; s0 < steps; s0 += chunk_lanes) {
      for (std::uint32_t r = row; r < row_end; ++r) {
        const std::byte* source = from + std::size_t{r - first_row} * row_bytes;
        for (std::uint32_t s = s0; s < std::min(s0 + chunk_lanes, steps); ++s) {
          panel[std::size_t{s} * width + r % width] =
              r < end ? weight_lane(source, row_bytes, s) : 0;
        }
      }
    }
    row = row_end;
  }
}

void run_gemm(const gemm_plan& plan,
              const gemm_args& args,
              std::span<std::byte> workspace,
              executor_ref executor) noexcept {
  ORIEL_EXPECTS(workspace.size() >= plan.workspace_bytes);
  ORIEL_EXPECTS(reinterpret_cast<std::uintptr_t>(workspace.data()) % 64 == 0);
  ORIEL_EXPECTS(reinterpret_cast<std::uintptr_t>(args.weights) % 64 == 0);
#if defined(ORIEL_HAS_ONEDNN)
  if (plan.backend == gemm_backend::onednn) {
    detail::run_onednn_gemm(plan, args, workspace, executor);
    return;
  }
#endif
  const gemm_kernel& kernel = detail::gemm_kernel_for(plan.path, plan.shape.weights);
  const std::size_t row_lanes = row_lanes_of(plan.shape, kernel);
  const auto capacity = static_cast<std::uint32_t>(std::min<std::size_t>(
      workspace.size() / (row_lanes * sizeof(std::uint32_t)), slice_rows_max));
  for (std::uint32_t row = 0; row < args.rows; row += capacity) {
    const std::uint32_t rows = std::min(capacity, args.rows - row);
    run_slice({.plan = plan,
               .args = args,
               .kernel = kernel,
               .x = reinterpret_cast<std::uint32_t*>(workspace.data()),
               .first_row = row,
               .rows = rows,
               .steps = steps_of(plan.shape, kernel),
               .row_lanes = row_lanes,
               .panel_bytes = panel_bytes_of(plan.shape, kernel),
               .blocks = static_cast<std::uint32_t>(divide_up(rows, kernel.rows_max))},
              executor);
  }
}

}  // namespace oriel::host
