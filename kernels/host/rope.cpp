// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
// One path for all CPUs: unfused f32 products and sums have one correct result, so the compiler may
// vectorise as it likes. Sines and cosines are taken in double precision of the f32 angle and
// rounded once.
#include <oriel/core/contract.hpp>
#include <oriel/kernels/rope.hpp>

#include <cmath>

namespace oriel::host {
namespace {

constexpr std::uint32_t rows_per_task = 16;

std::uint32_t tasks_for(std::size_t rows) noexcept {
  return static_cast<std::uint32_t>((rows + rows_per_task - 1) / rows_per_task);
}

/// Calls f(row) for each row, some rows per task.
template <class F>
void for_each_row(executor_ref executor, std::size_t rows, F&& f) noexcept {
  executor.for_each(tasks_for(rows), [&](std::uint32_t task, std::uint32_t) {
    const std::size_t first = std::size_t{task} * rows_per_task;
    const std::size_t last = first + rows_per_task < rows ? first + rows_per_task : rows;
    for (std::size_t row = first; row < last; ++row) {
      f(row);
    }
  });
}

/// Rotates one head. The two halves do not overlap.
void rotate(float* x, const float* cosine, const float* sine, std::uint32_t pairs) noexcept {
  float* y = x + pairs;
  for (std::uint32_t j = 0; j < pairs; ++j) {
    const float a = x[j], b = y[j];
    x[j] = a * cosine[j] - b * sine[j];
    y[j] = b * cosine[j] + a * sine[j];
  }
}

}  // namespace

result<rope_plan> plan_rope(const rope_shape& shape) noexcept {
  const bool fits = shape.rotary_dims % 2 == 0 && shape.rotary_dims <= shape.head_dim &&
                    shape.rotary_dims <= 2 * rope_pairs_max;
  if (!fits || !(shape.theta > 0.0) || (shape.rotary_dims > 0 && shape.rope_base_dims == 0)) {
    return failure{errc::unsupported_shape, 0, "rope: rotary_dims odd or too large, or theta <= 0"};
  }
  rope_plan plan{.shape = shape, .pairs = shape.rotary_dims / 2, .frequency = {}};
  const double theta = static_cast<float>(shape.theta);
  for (std::uint32_t j = 0; j < plan.pairs; ++j) {
    // Rounded to f32 where the models' own code does: exponent, power, reciprocal.
    const float exponent = static_cast<float>(2 * j) / static_cast<float>(shape.rope_base_dims);
    plan.frequency[j] = 1.0f / static_cast<float>(std::pow(theta, double{exponent}));
  }
  return plan;
}

void fill_rope_table(const rope_plan& plan,
                     std::span<const std::uint32_t> positions,
                     std::span<float> table,
                     executor_ref executor) noexcept {
  ORIEL_EXPECTS(table.size() >= plan.table_size(positions.size()));
  for_each_row(executor, positions.size(), [&](std::size_t row) {
    float* cosine = table.data() + plan.table_size(row);
    float* sine = cosine + plan.pairs;
    for (std::uint32_t j = 0; j < plan.pairs; ++j) {
      const double angle = static_cast<float>(positions[row]) * plan.frequency[j];
      cosine[j] = static_cast<float>(std::cos(angle));
      sine[j] = static_cast<float>(std::sin(angle));
    }
  });
}

void run_rope(const rope_plan& plan,
              const rope_args& args,
              std::span<const float> table,
              executor_ref executor) noexcept {
  ORIEL_EXPECTS(table.size() >= plan.table_size(args.positions.size()));
  if (plan.pairs == 0) {
    return;
  }
  for_each_row(executor, args.positions.size(), [&](std::size_t row) {
    const float* cosine = table.data() + plan.table_size(row);
    float* x = args.x + row * args.x_stride;
    for (std::uint32_t head = 0; head < args.heads; ++head) {
      rotate(x + std::size_t{head} * plan.shape.head_dim, cosine, cosine + plan.pairs, plan.pairs);
    }
  });
}

void run_rope(const rope_plan& plan,
              const rope_qk_args& args,
              std::span<const float> table,
              executor_ref executor) noexcept {
  ORIEL_EXPECTS(table.size() >= plan.table_size(args.positions.size()));
  const std::size_t width = std::size_t{args.q_heads} * plan.shape.head_dim;
  for_each_row(executor, args.positions.size(), [&](std::size_t row) {
    const float* cosine = table.data() + plan.table_size(row);
    const float* sine = cosine + plan.pairs;
    float* x = args.x + row * args.x_stride;
    bf16* q = args.q + row * args.q_stride;
    for (std::size_t head = 0; head < width; head += plan.shape.head_dim) {
      for (std::uint32_t j = 0; j < plan.pairs; ++j) {
        const float a = x[head + j], b = x[head + plan.pairs + j];
        q[head + j] = to_bf16(a * cosine[j] - b * sine[j]);
        q[head + plan.pairs + j] = to_bf16(b * cosine[j] + a * sine[j]);
      }
      for (std::size_t d = head + 2 * plan.pairs; d < head + plan.shape.head_dim; ++d) {
        q[d] = to_bf16(x[d]);
      }
    }
    for (std::uint32_t head = 0; head < args.kv_heads; ++head) {
      rotate(x + width + std::size_t{head} * plan.shape.head_dim, cosine, sine, plan.pairs);
    }
  });
}

}  // namespace oriel::host
