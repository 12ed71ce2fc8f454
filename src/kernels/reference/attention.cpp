// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/attention.hpp>
#include <oriel/kernels/reference/kv_element.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace oriel::reference {
namespace {

/// One query head of one row: o = sum_j w_j v_j, w = softmax over the keys and the sink.
void attend(const attention_shape& shape,
            const attention_args& args,
            const paged_sequence& sequence,
            std::uint32_t row,
            std::uint32_t q_head,
            const float* q,
            float* out) {
  const std::uint32_t position = sequence.first_position + row;
  const std::uint32_t kv_head = q_head / (shape.q_heads / shape.kv_heads);
  const std::uint32_t window = shape.window_tokens;
  const std::uint32_t first_key =
      std::max(sequence.first_key, window != 0 && position >= window ? position + 1 - window : 0);

  std::vector<double> weights;
  double largest = args.sinks ? args.sinks[q_head] : -std::numeric_limits<double>::infinity();
  for (std::uint32_t key = first_key; key <= position; ++key) {
    double score = 0.0;
    for (std::uint32_t d = 0; d < shape.head_dim_qk; ++d) {
      score += double{q[d]} * kv_value<kv_part::k>(shape, args.kv, sequence, key, kv_head, d);
    }
    weights.push_back(score * args.scale);
    largest = std::max(largest, weights.back());
  }
  double sum = args.sinks ? std::exp(args.sinks[q_head] - largest) : 0.0;
  for (double& weight : weights) {
    weight = std::exp(weight - largest);
    sum += weight;
  }
  for (std::uint32_t d = 0; d < shape.head_dim_vo; ++d) {
    double value = 0.0;
    for (std::uint32_t key = first_key; key <= position; ++key) {
      value += weights[key - first_key] *
               kv_value<kv_part::v>(shape, args.kv, sequence, key, kv_head, d);
    }
    out[d] = static_cast<float>(value / sum);
  }
}

}  // namespace

void attention(const attention_shape& shape, const attention_args& args) {
  std::size_t row = 0;
  for (const paged_sequence& sequence : args.sequences) {
    for (std::uint32_t r = 0; r < sequence.rows; ++r, ++row) {
      for (std::uint32_t head = 0; head < shape.q_heads; ++head) {
        const std::size_t index = row * shape.q_heads + head;
        attend(shape,
               args,
               sequence,
               r,
               head,
               args.q + row * args.q_stride + std::size_t{head} * shape.head_dim_qk,
               args.out + index * shape.head_dim_vo);
      }
    }
  }
}

}  // namespace oriel::reference
