// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/core/executor.hpp>
#include <oriel/kernels/attention.hpp>

#include <cuda/captured.hpp>
#include <cuda/device_array.hpp>

#include <device/device_order.hpp>
#include <kernels/attention_bounds.hpp>
#include <kernels/attention_case.hpp>
#include <support/scale.hpp>

namespace attention_test {

using namespace oriel;        // NOLINT: a test
using namespace oriel::test;  // NOLINT

namespace {

std::uint32_t pool_pages(const attention_shape& s) {
  return 4000 / s.page_size + 8;
}

cuda::attention_plan plan_for(const attention_shape& shape,
                              std::uint32_t sequences,
                              std::uint32_t rows,
                              std::uint32_t keys_max,
                              std::uint32_t per_sequence,
                              std::uint32_t per_sequence_min = 1) {
  const auto plan = cuda::plan_attention(shape,
                                         {.sequences_max = sequences,
                                          .rows_max = rows,
                                          .rows_per_sequence_max = per_sequence,
                                          .keys_max = keys_max,
                                          .rows_per_sequence_min = per_sequence_min});
  REQUIRE(plan);
  return *plan;
}

/// The bench's pages on the device, in its order, and the tables and parts of a call.
class device_call {
 public:
  device_call(const attention_bench& bench, const attention_args& args, std::uint32_t rows)
      : pages_(device_pages(bench)),
        rows_(rows),
        has_aligned_rows_(plan_for(bench.shape(), 1, 1, 1, 1).unit ==
                          cuda::attention_unit::tensor_core),
        q_stride_(rounded(args).stride()),
        q_(std::span<const float>(args.q, rows * args.q_stride)),
        q_bf16_(rounded(args).rows()),
        sinks_(std::span<const float>(args.sinks, args.sinks ? bench.shape().q_heads : 0)),
        tables_(std::size_t{args.sequences.size()} * table_entries),
        sequences_(args.sequences.size()),
        args_(args) {
    const kv_layer_view host = bench.view();
    args_.kv = {pages_.data(), pages_.data() + (host.v - host.k), host.page_stride_bytes};
    args_.sinks = args.sinks != nullptr ? sinks_.data() : nullptr;
    args_.sequences = {sequences_.data(), sequences_.size()};
    set(bench, args);
  }

  /// Other queries and parts, as many as before; what the device reads is overwritten in place.
  void set(const attention_bench& bench, const attention_args& args) {
    const std::span<const paged_sequence> sequences = args.sequences;
    REQUIRE(sequences.size() == sequences_.size());
    ORIEL_REQUIRE_CUDA(cudaMemcpy(q_.data(), args.q, q_.size() * sizeof(float), cudaMemcpyDefault));
    const rounded_rows q = rounded(args);
    ORIEL_REQUIRE_CUDA(
        cudaMemcpy(q_bf16_.data(), q.data(), q_bf16_.size() * sizeof(bf16), cudaMemcpyDefault));
    std::vector<std::uint32_t> tables(tables_.size(), 0xFFFFFFFFu);
    std::vector<paged_sequence> parts(sequences.begin(), sequences.end());
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const std::size_t keys = parts[i].first_position + parts[i].rows;
      const std::size_t pages =
          parts[i].ring_pages != 0 ? parts[i].ring_pages
                                   : (keys + bench.shape().page_size - 1) / bench.shape().page_size;
      REQUIRE(pages <= table_entries);
      std::copy_n(parts[i].pages, pages, tables.begin() + static_cast<long>(i * table_entries));
      parts[i].pages = tables_.data() + i * table_entries;
    }
    ORIEL_REQUIRE_CUDA(cudaMemcpy(
        tables_.data(), tables.data(), tables.size() * sizeof(std::uint32_t), cudaMemcpyDefault));
    ORIEL_REQUIRE_CUDA(cudaMemcpy(
        sequences_.data(), parts.data(), parts.size() * sizeof(paged_sequence), cudaMemcpyDefault));
  }

  /// Outputs, with room for all rows of the call. Those that a run leaves out stay as they are.
  template <class Out>
  [[nodiscard]] device_array<Out> room(const cuda::attention_plan& plan) const {
    return device_array<Out>(std::size_t{rows_} * plan.shape.q_heads * plan.shape.head_dim_vo);
  }
  /// Enqueues, with queries as the plan wants them.
  template <class Out>
  void run(const cuda::attention_plan& plan,
           const device_array<Out>& out,
           const device_array<std::byte>& workspace,
           cudaStream_t stream = nullptr) const {
    const auto enqueue = [&]<class T>(const T* q, std::size_t stride) {
      REQUIRE(cuda::run_attention(plan,
                                  basic_attention_args<T, Out>{.out = out.data(),
                                                               .q = q,
                                                               .q_stride = stride,
                                                               .kv = args_.kv,
                                                               .sequences = args_.sequences,
                                                               .sinks = args_.sinks,
                                                               .scale = args_.scale},
                                  {workspace.data(), workspace.size()},
                                  stream));
    };
    if (plan.q_type == dtype::f32) {
      enqueue(q_.data(), args_.q_stride);
    } else {
      enqueue(q_bf16_.data(), q_stride_);
    }
  }
  /// Runs, with outputs and a workspace that begin poisoned.
  template <class Out = float>
  [[nodiscard]] std::vector<Out> attend(const cuda::attention_plan& plan) const {
    const device_array<Out> out = room<Out>(plan);
    const device_array<std::byte> workspace(plan.workspace_bytes);
    run(plan, out, workspace);
    return out.to_host();
  }

 private:
  static constexpr std::size_t table_entries = 256;

  [[nodiscard]] rounded_rows rounded(const attention_args& args) const {
    return {args.q, rows_, args.q_stride, has_aligned_rows_};
  }

  static device_array<std::byte> device_pages(const attention_bench& bench) {
    const aligned_bytes pages(bench.pool().size());
    const kv_layer_view host = bench.view();
    reorder_pages(bench.shape(),
                  static_cast<std::uint32_t>(bench.pool().size() / host.page_stride_bytes),
                  true,
                  host,
                  {pages.data(), pages.data() + (host.v - host.k), host.page_stride_bytes});
    return device_array<std::byte>(std::span<const std::byte>(pages.span()));
  }

  device_array<std::byte> pages_;
  std::uint32_t rows_;
  bool has_aligned_rows_;  ///< as the tensor-core unit wants those in bf16
  std::size_t q_stride_;   ///< of q_bf16_
  device_array<float> q_;
  device_array<bf16> q_bf16_;
  device_array<float> sinks_;
  device_array<std::uint32_t> tables_;
  device_array<paged_sequence> sequences_;
  attention_args args_;
};

std::vector<float> attend(const attention_bench& bench,
                          std::span<const chunk> chunks,
                          const std::vector<float>& sinks,
                          std::uint32_t keys_max,
                          std::uint32_t per_sequence) {
  return bench.call(chunks, sinks, [&](const attention_args& args, std::uint32_t rows) {
    const device_call call(bench, args, rows);
    const auto plan = plan_for(bench.shape(),
                               static_cast<std::uint32_t>(chunks.size()) + 1,
                               rows + 2,
                               keys_max,
                               per_sequence);
    std::ranges::copy(call.attend(plan), args.out);
  });
}

/// Kinds 0 to 2 have a tensor-core unit, 3 and 4 the generic one; from 5 on again, in e4m3.
attention_shape shape_of(int kind, std::uint32_t group, std::uint32_t page, std::uint32_t window) {
  const bool is_e4m3 = kind >= 5;
  kind %= 5;
  return {.q_heads = 2 * group,
          .kv_heads = 2,
          .head_dim_qk = kind == 0   ? 192u
                         : kind == 1 ? 128u
                         : kind == 2 ? 64u
                                     : 80u,
          .head_dim_vo = kind < 2    ? 128u
                         : kind == 2 ? 64u
                                     : 96u,
          .page_size = page,
          .window_tokens = window,
          .kv = is_e4m3     ? dtype::e4m3
                : kind == 4 ? dtype::f32
                            : dtype::bf16};
}

}  // namespace

/// Where a device is slow (ORIEL_TEST_SCALE below 0.3) a long sequence is one that two of the windows pass.
const std::uint32_t long_length = scaled(10) <= 2 ? 560 : 2500;

TEST_CASE("cuda attention agrees with the reference", "[long]") {
  const int kind = GENERATE(0, 1, 2, 3, 4, 5, 6, 7, 8);
  const std::uint32_t group = GENERATE(8u, 16u);
  const std::uint32_t window = GENERATE(0u, 128u, 512u, 1024u);
  const std::uint32_t length = GENERATE(1u, 130u, long_length);
  const attention_shape shape = shape_of(kind, group, length > 500 ? 64 : 16, window);
  INFO(describe(shape, isa::scalar) << " length " << length);
  random_stream random(length + window + group, 71);
  const auto sinks = random_sinks(shape, random);
  serial_executor serial;
  const token_stream a = random_tokens(shape, length, random);
  const token_stream b = random_tokens(shape, 9, random);
  attention_bench bench(shape, pool_pages(shape), length);
  const chunk whole[] = {{&a, bench.add_table(length), 0, length}, {&b, bench.add_table(9), 0, 9}};
  bench.append(whole, serial);
  for (const std::uint32_t rows : {1u, 4u, 8u, 33u}) {
    if (rows > length) {
      continue;
    }
    INFO("rows " << rows);
    const chunk part[] = {{&a, 0, length - rows, rows}, {&b, 1, 0, 0}, {&b, 1, 8, 1}};
    const auto expected = bench.expect(part, sinks, shape.kv != dtype::f32);
    const double bound = error_bound(shape, a, keys_seen(shape, length)) +
                         error_bound(shape, b, keys_seen(shape, 9));
    // Twice: a tensor core truncates where the bound assumes that sums are rounded.
    CHECK(largest_difference(attend(bench, part, sinks, length + 9, rows), expected) <= 2 * bound);
  }
}

TEST_CASE("cuda attention on a grid of small shapes", "[grid]") {
  const int kind = GENERATE(0, 1, 2, 3, 4, 5, 6, 7, 8);
  const std::uint32_t window = GENERATE(0u, 128u);
  const std::uint32_t length = kind == 0 && window == 0 ? 1030 : 150;  // 1030: two splits.
  const attention_shape shape = shape_of(kind, 16, 16, window);
  INFO(describe(shape, isa::scalar));
  random_stream random(window, 75);
  const auto sinks = random_sinks(shape, random);
  serial_executor serial;
  const token_stream a = random_tokens(shape, length, random);
  attention_bench bench(shape, pool_pages(shape), 5);
  const chunk all{&a, bench.add_table(length, window != 0 ? length : 0), 0, length};
  bench.append({&all, 1}, serial);
  const double bound = error_bound(shape, a, keys_seen(shape, length));
  for (const std::uint32_t rows : {1u, 4u, 9u}) {  // One warpgroup, one, two.
    INFO("rows " << rows);
    const chunk part{&a, 0, length - rows, rows};
    const auto expected = bench.expect({&part, 1}, sinks, shape.kv != dtype::f32);
    const auto found = attend(bench, {&part, 1}, sinks, length, rows);
    CHECK(largest_difference(found, expected) <= 2 * bound);  // Twice: as above.
  }
}

TEST_CASE("cuda attention has the same bits for decoding, verifying, chunks, pages and rings",
          "[long]") {
  const int kind = GENERATE(0, 1, 2, 5, 6, 7);
  const std::uint32_t window = GENERATE(0u, 512u);
  constexpr std::uint32_t length = 2048 + 3, rows = 8;  // On both sides of a split's border.
  const attention_shape shape = shape_of(kind, 16, 16, window);
  random_stream random(window, 72);
  const auto sinks = random_sinks(shape, random);
  serial_executor serial;
  const token_stream a = random_tokens(shape, length, random);
  attention_bench bench(shape, pool_pages(shape), 1);
  const chunk all{&a, bench.add_table(length), 0, length}, last{&a, 0, length - rows, rows};
  bench.append({&all, 1}, serial);
  const auto expected = attend(bench, {&last, 1}, sinks, length, 100);
  CHECK(same_bits(attend(bench, {&last, 1}, sinks, 9000, rows), expected));
  std::vector<float> one_by_one;
  for (std::uint32_t row = length - rows; row < length; ++row) {
    const chunk c{&a, 0, row, 1};
    const auto out = attend(bench, {&c, 1}, sinks, length, 1);
    one_by_one.insert(one_by_one.end(), out.begin(), out.end());
  }
  CHECK(same_bits(one_by_one, expected));
  attention_shape other_pages = shape;
  other_pages.page_size = 48;
  attention_bench paged(other_pages, pool_pages(other_pages), 2);
  paged.add_table(length, window != 0 ? length : 0);
  paged.append({&all, 1}, serial);
  CHECK(same_bits(attend(paged, {&last, 1}, sinks, length, rows), expected));
}

TEST_CASE("cuda attention merges more splits than a round of the merge takes", "[long]") {
  constexpr std::uint32_t length =
      17 * 1024 + 3;  // 18 splits: a round of 16 and more, or eight warps a row.
  const attention_shape shape = shape_of(2, 8, 128, 0);
  random_stream random(8, 76);
  const auto sinks = random_sinks(shape, random);
  serial_executor serial;
  const token_stream a = random_tokens(shape, length, random);
  attention_bench bench(shape, length / shape.page_size + 8, 6);
  const chunk all{&a, bench.add_table(length), 0, length};
  bench.append({&all, 1}, serial);
  for (const std::uint32_t rows : {1u, 8u}) {
    INFO("rows " << rows);
    const chunk last{&a, 0, length - rows, rows};
    const auto expected = attend(bench, {&last, 1}, sinks, length, 100);  // Folded in registers.
    CHECK(same_bits(attend(bench, {&last, 1}, sinks, length, rows), expected));
  }
}

TEST_CASE("cuda attention of decoding sequences and of prompts apart has the bits of one call") {
  const int kind = GENERATE(0, 1, 2, 3);
  constexpr std::uint32_t length = 3'000, few = 4;
  const attention_shape shape = shape_of(kind, 16, 64, 0);
  random_stream random(6, 75);
  const auto sinks = random_sinks(shape, random);
  serial_executor serial;
  const token_stream a = random_tokens(shape, length, random);
  attention_bench bench(shape, pool_pages(shape), 5);
  const chunk all{&a, bench.add_table(length), 0, length};
  bench.append({&all, 1}, serial);
  const chunk step[] = {{&a, 0, length - 1, 1},
                        {&a, 0, 100, 30},
                        {&a, 0, 0, 0},
                        {&a, 0, length - few, few},
                        {&a, 0, length - few - 1, few + 1},
                        {&a, 0, 5, 1}};
  const auto expected = attend(bench, step, sinks, length, 100);
  const auto found = bench.call(step, sinks, [&](const attention_args& args, std::uint32_t rows) {
    const device_call call(bench, args, rows);
    const auto out = call.room<float>(plan_for(shape, 7, rows, length, 100));
    for (const auto& [least, most] : {std::pair{1u, few}, std::pair{few + 1, 100u}}) {
      const auto plan = plan_for(shape, 7, rows, length, most, least);
      call.run(plan, out, device_array<std::byte>(plan.workspace_bytes));
    }
    std::ranges::copy(out.to_host(), args.out);
  });
  CHECK(same_bits(found, expected));
}

TEST_CASE("a captured graph of cuda attention serves other lengths") {
  const attention_shape shape = shape_of(0, 16, 64, 0);
  random_stream random(5, 73);
  serial_executor serial;
  const token_stream a = random_tokens(shape, 1500, random);
  attention_bench bench(shape, pool_pages(shape), 3);
  const chunk all{&a, bench.add_table(1500), 0, 1500};
  bench.append({&all, 1}, serial);
  const chunk first[] = {{&a, 0, 1499, 1}, {&a, 0, 30, 1}};
  const chunk second[] = {{&a, 0, 63, 1}, {&a, 0, 1023, 1}};
  bench.call(first, {}, [&](const attention_args& args, std::uint32_t rows) {
    device_call call(bench, args, rows);
    const auto plan = plan_for(shape, 2, 2, 1500, 1);
    const device_array<std::byte> workspace(plan.workspace_bytes);
    const auto out = call.room<float>(plan);
    captured graph([&](cudaStream_t stream) { call.run(plan, out, workspace, stream); });
    for (const chunk* chunks : {first, second, first}) {
      const std::span<const chunk> parts(chunks, 2);
      const auto replayed = bench.call(parts, {}, [&](const attention_args& now, std::uint32_t) {
        call.set(bench, now);
        graph.launch();
        std::ranges::copy(out.to_host(), now.out);
      });
      CHECK(same_bits(replayed, attend(bench, parts, {}, 1500, 1)));
    }
  });
}

TEST_CASE("cuda attention with outputs in bf16 gives the same, rounded") {
  const int kind = GENERATE(0, 3, 4);
  const attention_shape shape = shape_of(kind, 8, 64, 0);
  constexpr std::uint32_t length = 1030;  // A row with one split and one whose two are merged.
  random_stream random(1, 74);
  serial_executor serial;
  const token_stream a = random_tokens(shape, length, random);
  attention_bench bench(shape, pool_pages(shape), 4);
  const chunk all{&a, bench.add_table(length), 0, length};
  bench.append({&all, 1}, serial);
  const chunk part[] = {{&a, 0, length - 1, 1}, {&a, 0, 20, 1}};
  auto expected = attend(bench, part, {}, length, 1);
  std::transform(expected.begin(), expected.end(), expected.begin(), round_to_bf16);
  const auto got = bench.call(part, {}, [&](const attention_args& args, std::uint32_t rows) {
    const device_call call(bench, args, rows);
    const std::vector<bf16> rounded = call.attend<bf16>(plan_for(shape, 2, rows, length, 1));
    std::transform(rounded.begin(), rounded.end(), args.out, [](bf16 x) { return to_float(x); });
  });
  CHECK(same_bits(got, expected));
}

TEST_CASE("cuda attention has the same bits where a thread block has many items") {
  const int kind = GENERATE(0, 2, 5, 7);
  const std::uint32_t window = GENERATE(0u, 128u), most = GENERATE(1u, 20u);
  constexpr std::uint32_t length = 210;
  const attention_shape shape = shape_of(kind, 16, 16, window);
  INFO(describe(shape, isa::scalar) << " rows " << most);
  random_stream random(window + most, 76);
  const auto sinks = random_sinks(shape, random);
  serial_executor serial;
  const token_stream a = random_tokens(shape, length, random);
  attention_bench bench(shape, pool_pages(shape), 6);
  const chunk all{&a, bench.add_table(length), 0, length};
  bench.append({&all, 1}, serial);
  std::vector<chunk> step;
  for (const std::uint32_t end : {210u, 64u, 150u, 131u, 40u}) {
    step.push_back({&a, 0, end - most, most});
    step.push_back({&a, 0, end, 0});
  }
  bench.call(step, sinks, [&](const attention_args& args, std::uint32_t rows) {
    const device_call call(bench, args, rows);
    std::vector<std::vector<bf16>> found;
    for (const std::uint32_t blocks : {132u, 1u, 3u}) {
      const auto plan =
          cuda::plan_attention(shape,
                               {.sequences_max = static_cast<std::uint32_t>(step.size()),
                                .rows_max = rows,
                                .rows_per_sequence_max = most,
                                .keys_max = length,
                                .multiprocessors = blocks});
      REQUIRE(plan);
      found.push_back(call.attend<bf16>(*plan));
    }
    CHECK(std::ranges::all_of(found, [&](const auto& x) { return x == found[0]; }));
  });
}

}  // namespace attention_test
