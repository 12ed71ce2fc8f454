// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// For attention tests: random conversations (`token_stream`) and a poisoned page pool with one
/// attention layer over it (`attention_bench`), driven as an engine would: append, then attend.
#pragma once

#include <oriel/core/executor.hpp>
#include <oriel/core/random.hpp>
#include <oriel/kernels/attention.hpp>
#include <oriel/kernels/kv_append.hpp>

#include <catch2/catch.hpp>
#include <support/aligned_bytes.hpp>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

namespace oriel::test {

/// Claims many workers and runs tasks backwards: an order no serial loop would take.
struct backward_executor {
  std::uint32_t workers = 5;
  [[nodiscard]] std::uint32_t concurrency() const noexcept { return workers; }
  void run_tasks(std::uint32_t tasks, task_function f, void* context) noexcept {
    for (std::uint32_t t = tasks; t-- > 0;) {
      f(context, t, t % workers);
    }
  }
};

/// q, k and v of every position of one conversation.
struct token_stream {
  std::uint32_t length;
  std::vector<float> q;  ///< [length, q_heads, head_dim_qk]
  std::vector<float> k;  ///< [length, kv_heads, head_dim_qk]
  std::vector<float> v;  ///< [length, kv_heads, head_dim_vo]
};

/// Roughly normal: the sum of four uniforms, variance 1.
inline float random_normal(random_stream& random) {
  float sum = 0.0f;
  for (int i = 0; i < 4; ++i) {
    sum += random.next_uniform(-1.0f, 1.0f);
  }
  return sum * 0.866f;
}

inline std::vector<float> random_floats(random_stream& random, std::size_t n) {
  std::vector<float> x(n);
  std::generate(x.begin(), x.end(), [&] { return random_normal(random); });
  return x;
}

inline token_stream random_tokens(const attention_shape& s,
                                  std::uint32_t length,
                                  random_stream& random) {
  return {length,
          random_floats(random, std::size_t{length} * s.q_heads * s.head_dim_qk),
          random_floats(random, std::size_t{length} * s.kv_heads * s.head_dim_qk),
          random_floats(random, std::size_t{length} * s.kv_heads * s.head_dim_vo)};
}

/// One conversation's part of a step: positions [first, first + rows) of `tokens`.
struct chunk {
  const token_stream* tokens;
  std::uint32_t table;  ///< which of the bench's block tables holds it
  std::uint32_t first;
  std::uint32_t rows;
  std::uint32_t first_key = 0;
};

/// One attention layer over a pool whose pages are handed out in random order.
class attention_bench {
 public:
  attention_bench(const attention_shape& shape, std::uint32_t pages, std::uint64_t seed)
      : shape_(shape),
        k_bytes_(round_up(
            k_bytes_per_page(shape.page_size, shape.kv_heads, shape.head_dim_qk, shape.kv))),
        v_bytes_(round_up(
            v_bytes_per_page(shape.page_size, shape.kv_heads, shape.head_dim_vo, shape.kv))),
        memory_((k_bytes_ + v_bytes_ + 64) * pages),
        q_padding_((seed ^ seed / 16) % 2 == 0 ? 8 : 3),
        free_pages_(pages) {
    std::iota(free_pages_.begin(), free_pages_.end(), 0u);
    random_stream random(seed, 77);
    for (std::uint32_t i = pages; i > 1; --i) {
      std::swap(free_pages_[i - 1], free_pages_[random.next_below(i)]);
    }
  }

  [[nodiscard]] const attention_shape& shape() const { return shape_; }

  /// A table for `tokens` positions; a ring of just so many pages that a window and a chunk of
  /// `chunk_max` fit if `chunk_max` is not 0. Returns its index.
  std::uint32_t add_table(std::uint32_t tokens, std::uint32_t chunk_max = 0) {
    std::uint32_t pages = (tokens + shape_.page_size - 1) / shape_.page_size;
    if (chunk_max != 0) {
      pages = (shape_.window_tokens + chunk_max + shape_.page_size - 2) / shape_.page_size + 1;
    }
    REQUIRE(pages <= free_pages_.size());
    tables_.emplace_back(free_pages_.end() - pages, free_pages_.end());
    free_pages_.resize(free_pages_.size() - pages);
    is_ring_.push_back(chunk_max != 0);
    return static_cast<std::uint32_t>(tables_.size() - 1);
  }

  /// Appends the chunks' K and V, then attends; rows of the chunks one after the other.
  std::vector<float> step(std::span<const chunk> chunks,
                          isa path,
                          executor_ref executor,
                          const std::vector<float>& sinks) {
    append(chunks, executor);
    return attend(chunks, path, executor, sinks);
  }

  void append(std::span<const chunk> chunks, executor_ref executor) {
    for (const chunk& c : chunks) {
      const paged_sequence sequence = sequence_of(c);
      const std::size_t k_stride = std::size_t{shape_.kv_heads} * shape_.head_dim_qk;
      const std::size_t v_stride = std::size_t{shape_.kv_heads} * shape_.head_dim_vo;
      const kv_append_args args{.kv = view(),
                                .k = c.tokens->k.data() + c.first * k_stride,
                                .v = c.tokens->v.data() + c.first * v_stride,
                                .k_stride = k_stride,
                                .v_stride = v_stride,
                                .v_scale = 1.0f,
                                .sequences = {&sequence, 1}};
      shape_.kv == dtype::e4m3 ? reference::kv_append(shape_, args)
                               : host::run_kv_append(shape_, args, executor);
    }
  }

  std::vector<float> attend(std::span<const chunk> chunks,
                            isa path,
                            executor_ref executor,
                            const std::vector<float>& sinks) const {
    return call(chunks, sinks, [&](const attention_args& args, std::uint32_t rows) {
      const auto plan = host::plan_attention(shape_, rows, executor.concurrency(), path);
      REQUIRE(plan);
      const aligned_bytes workspace(plan->workspace_bytes);
      host::run_attention(*plan, args, workspace.span(), executor);
    });
  }

  /// What `attend` should give. `round_q`: from queries rounded to bf16.
  std::vector<float> expect(std::span<const chunk> chunks,
                            const std::vector<float>& sinks,
                            bool round_q = false) const {
    return call(chunks, sinks, [&](attention_args args, std::uint32_t rows) {
      std::vector<float> q(args.q, args.q + rows * args.q_stride);
      if (round_q) {
        std::transform(q.begin(), q.end(), q.begin(), round_to_bf16);
      }
      args.q = q.data();
      reference::attention(shape_, args);
    });
  }

  [[nodiscard]] std::span<std::byte> pool() const { return memory_.span(); }
  [[nodiscard]] kv_layer_view view() const {
    return {memory_.data(), memory_.data() + k_bytes_, k_bytes_ + v_bytes_ + 64};
  }
  [[nodiscard]] paged_sequence sequence_of(const chunk& c) const {
    const auto& table = tables_[c.table];
    const auto ring = is_ring_[c.table] ? static_cast<std::uint32_t>(table.size()) : 0u;
    return {table.data(), ring, c.first, c.rows, c.first_key};
  }
  [[nodiscard]] float scale() const {
    return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim_qk));
  }

  /// Calls f(args, rows) with the queries of the chunks; returns what it put into args.out.
  template <class F>
  std::vector<float> call(std::span<const chunk> chunks,
                          const std::vector<float>& sinks,
                          F&& f) const {
    const std::size_t q_row = std::size_t{shape_.q_heads} * shape_.head_dim_qk;
    const std::size_t q_stride = q_row + q_padding_;
    std::vector<paged_sequence> sequences;
    std::vector<float> q;
    std::uint32_t rows = 0;
    for (const chunk& c : chunks) {
      sequences.push_back(sequence_of(c));
      for (std::uint32_t r = 0; r < c.rows; ++r) {
        const float* row = c.tokens->q.data() + (c.first + r) * q_row;
        q.insert(q.end(), row, row + q_row);
        q.insert(q.end(), q_stride - q_row, std::numeric_limits<float>::quiet_NaN());
      }
      rows += c.rows;
    }
    std::vector<float> out(std::size_t{rows} * shape_.q_heads * shape_.head_dim_vo, -1e30f);
    f(attention_args{.out = out.data(),
                     .q = q.data(),
                     .q_stride = q_stride,
                     .kv = view(),
                     .sequences = sequences,
                     .sinks = sinks.empty() ? nullptr : sinks.data(),
                     .scale = scale()},
      rows);
    return out;
  }

 private:
  static std::size_t round_up(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

  attention_shape shape_;
  std::size_t k_bytes_;
  std::size_t v_bytes_;
  aligned_bytes memory_;
  std::size_t q_padding_;  ///< elements behind a row of q
  std::vector<std::uint32_t> free_pages_;
  std::vector<std::vector<std::uint32_t>> tables_;
  std::vector<bool> is_ring_;
};

/// Rows of f32, rounded to bf16. `is_aligned`: rows begin at multiples of 16 bytes.
class rounded_rows {
 public:
  rounded_rows(const float* x, std::size_t rows, std::size_t stride, bool is_aligned)
      : stride_(is_aligned ? (stride + 7) / 8 * 8 : stride), rows_(rows * stride_) {
    for (std::size_t row = 0; row < rows; ++row) {
      std::transform(x + row * stride, x + (row + 1) * stride, &rows_[row * stride_], to_bf16);
    }
  }
  [[nodiscard]] const bf16* data() const { return rows_.data(); }
  [[nodiscard]] const std::vector<bf16>& rows() const { return rows_; }
  [[nodiscard]] std::size_t stride() const { return stride_; }

 private:
  std::size_t stride_;
  std::vector<bf16> rows_;
};

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

inline std::vector<isa> paths_here() {
  std::vector<isa> paths;
  for (const isa path : {isa::scalar, isa::avx2, isa::avx512, isa::avx512_bf16}) {
    if (is_supported(path)) {
      paths.push_back(path);
    }
  }
  return paths;
}

inline std::string describe(const attention_shape& s, isa path) {
  return std::string(name_of(path)) + " " + name_of(s.kv) + " heads " + std::to_string(s.q_heads) +
         "/" + std::to_string(s.kv_heads) + " dims " + std::to_string(s.head_dim_qk) + "/" +
         std::to_string(s.head_dim_vo) + " page " + std::to_string(s.page_size) + " window " +
         std::to_string(s.window_tokens);
}

}  // namespace oriel::test
