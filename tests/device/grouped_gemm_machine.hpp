// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The grouped product's program on the host: the machines that grouped_gemm_program.cuh asks for,
/// as loops over the threads. wgmma and movmatrix are modelled from the tables of the PTX ISA,
/// written here a second time and not with the functions of mma_fragment.cuh.
#pragma once

#include <cuda/detail/grouped_gemm_units.hpp>

#include <catch2/catch.hpp>
#include <device/products_under_way.hpp>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

namespace oriel::test {

/// All stages of a block's items, one behind the other: the ring of stages is the device's own. A
/// stage is poisoned before it is filled.
template <dtype Type>
class host_gemm_producer {
 public:
  using thread_state = detail::gemm_producer_thread<Type>;
  static constexpr std::uint32_t stage_bytes = detail::gemm_stage<Type>::bytes;

  host_gemm_producer() : threads_(detail::warpgroup_threads) {
    std::memset(static_cast<void*>(threads_.data()), 0xAB, threads_.size() * sizeof(thread_state));
  }
  template <class F>
  void each(F&& f) {
    for (std::uint32_t thread = 0; thread < threads_.size(); ++thread) {
      f(thread, threads_[thread]);
    }
  }
  void begin_stage() {
    stages.emplace_back(stage_bytes, std::byte{0xFF});  // NaNs of either type.
    written_.assign(stage_bytes, false);
  }
  void copy_piece(const std::byte* from) {
    REQUIRE(reinterpret_cast<std::uintptr_t>(from) % 16 == 0);
    put(0, from, detail::gemm_piece_bytes);
  }
  [[nodiscard]] detail::gemm_chunks chunks(std::uint32_t to, const std::byte* from) const {
    return {to, from};
  }
  void copy_chunk(const detail::gemm_chunks& chunks,
                  std::uint32_t to,
                  std::uint32_t units,
                  std::uint32_t bytes) {
    to += chunks.to;
    const std::byte* from = chunks.from;
    from += std::size_t{units} * 16;
    if (to % 16 != 0 || bytes > 16 || reinterpret_cast<std::uintptr_t>(from) % 16 != 0) {
      FAIL("a copy of 16 bytes that is not aligned");
    }
    std::array<std::byte, 16> chunk{};
    if (bytes != 0) {
      std::memcpy(chunk.data(), from, bytes);
    }
    put(to, chunk.data(), chunk.size());
  }
  void copy_whole_chunk(const detail::gemm_chunks& chunks, std::uint32_t to, std::uint32_t units) {
    copy_chunk(chunks, to, units, 16);
  }
  void copy_scale(std::uint32_t to, const float* from) {
    put(to, reinterpret_cast<const std::byte*>(from), sizeof *from);
  }
  void end_stage() {}

  std::vector<std::vector<std::byte>> stages;

 private:
  /// Each byte of a stage once at most.
  void put(std::uint32_t to, const std::byte* from, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; ++i) {
      if (written_.at(to + i)) {
        FAIL("two copies to one place");
      }
      written_[to + i] = true;
    }
    std::memcpy(stages.back().data() + to, from, bytes);
  }
  std::vector<thread_state> threads_;
  std::vector<bool> written_;
};

/// Products run as late as they may: when they are waited for. A stage that is given back is
/// poisoned at once, as if the producer had begun to fill it again.
template <dtype Type>
class host_gemm_consumer {
 public:
  using thread_state = detail::gemm_thread<Type>;

  explicit host_gemm_consumer(const std::vector<std::vector<std::byte>>& stages)
      : stages_(stages),
        shared_(base + std::size_t{slots} * stage_size),
        threads_(detail::warpgroup_threads) {
    std::memset(static_cast<void*>(threads_.data()), 0xFF, threads_.size() * sizeof(thread_state));
    CHECK(shared_.size() < 1u << 18);  // A descriptor's address has 18 bits.
  }

  template <class F>
  void each(F&& f) {
    for (std::uint32_t thread = 0; thread < threads_.size(); ++thread) {
      f(thread, threads_[thread]);
    }
  }
  [[nodiscard]] std::uint32_t wait_stage() {
    REQUIRE(waited_ - released_ < slots);
    const std::uint32_t at = place_of(waited_);
    std::memcpy(shared_.data() + at, stages_.at(waited_).data(), stage_size);
    ++waited_;
    return at;
  }
  /// Of the stage that was waited for last.
  [[nodiscard]] const std::byte* stage_bytes() const {
    return shared_.data() + place_of(waited_ - 1);
  }
  void release() {
    REQUIRE(released_ < waited_);
    std::memset(shared_.data() + place_of(released_), 0xFF, stage_size);
    ++released_;
  }
  template <std::uint32_t Columns>
  void forget_sums() {
    for (thread_state& t : threads_) {
      std::fill_n(t.sum, Columns / 2, std::numeric_limits<float>::quiet_NaN());
    }
  }
  template <std::uint32_t>
  void begin_multiply() {
    products_.begin();
  }
  void commit_multiply() { products_.commit(); }
  template <std::uint32_t, std::uint32_t Pending>
  void wait_multiply() {
    products_.wait(Pending);
    CHECK(waited_ - released_ <= 2);
  }
  template <std::uint32_t Columns, std::uint32_t Size>
  void add(float (thread_state::*to)[Size], std::uint64_t w, std::uint64_t x, bool accumulate) {
    products_.add(
        [=, this] { multiply<Columns>(to, operand(w, 64), operand(x, Columns), accumulate); });
  }
  template <std::uint32_t Count>
  void transpose_pairs() {
    for (std::uint32_t i = 0; i < Count; ++i) {
      for (std::uint32_t warp = 0; warp < 4; ++warp) {
        std::uint16_t matrix[8][8];
        for (std::uint32_t lane = 0; lane < 32; ++lane) {
          const std::uint32_t x = threads_[warp * 32 + lane].pair[i];
          matrix[lane / 4][lane % 4 * 2] = static_cast<std::uint16_t>(x & 0xFFFF);
          matrix[lane / 4][lane % 4 * 2 + 1] = static_cast<std::uint16_t>(x >> 16);
        }
        for (std::uint32_t lane = 0; lane < 32; ++lane) {
          threads_[warp * 32 + lane].pair[i] =
              matrix[lane % 4 * 2][lane / 4] |
              static_cast<std::uint32_t>(matrix[lane % 4 * 2 + 1][lane / 4]) << 16;
        }
      }
    }
  }
  std::uint32_t late_part = detail::gemm_no_late_part;

  /// Every stage was waited for and given back, and nothing is under way.
  [[nodiscard]] bool is_done() const {
    return waited_ == stages_.size() && released_ == waited_ && products_.is_empty();
  }

 private:
  static constexpr std::uint32_t base = 1024;  // So that address 0 is nothing's.
  static constexpr std::uint32_t slots = detail::gemm_tile<Type>::stages;
  static constexpr std::uint32_t stage_size = host_gemm_producer<Type>::stage_bytes;
  static constexpr std::uint32_t element_bytes = Type == dtype::bf16 ? 2 : 1;

  /// The address of a stage, by its number.
  [[nodiscard]] static std::uint32_t place_of(std::size_t stage) {
    return base + static_cast<std::uint32_t>(stage % slots) * stage_size;
  }

  /// One instruction: D = (D) + A B^T over 32 bytes of k.
  template <std::uint32_t Columns, std::uint32_t Size>
  void multiply(float (thread_state::*to)[Size],
                const std::vector<float>& a,
                const std::vector<float>& b,
                bool accumulate) {
    constexpr std::uint32_t depth = 32 / element_bytes;
    for (std::uint32_t thread = 0; thread < 128; ++thread) {
      for (std::uint32_t r = 0; r < Columns / 2; ++r) {
        const std::uint32_t row = thread / 32 * 16 + (thread % 32 >> 2) + (r >> 1 & 1) * 8;
        const std::uint32_t column = (r >> 2) * 8 + thread % 4 * 2 + (r & 1);
        float& d = (threads_[thread].*to)[r];
        float sum = accumulate ? d : 0.0f;
        for (std::uint32_t k = 0; k < depth; ++k) {
          sum += a[row * depth + k] * b[column * depth + k];
        }
        d = sum;
      }
    }
  }

  /// `rows` x 32 bytes that a descriptor without swizzle denotes, K-major.
  [[nodiscard]] std::vector<float> operand(std::uint64_t desc, std::uint32_t rows) const {
    REQUIRE((desc & ~0x0000'3FFF'3FFF'3FFFull) == 0);
    const std::size_t start = (desc & 0x3FFF) << 4, leading = (desc >> 16 & 0x3FFF) << 4,
                      stride = (desc >> 32 & 0x3FFF) << 4;
    constexpr std::uint32_t depth = 32 / element_bytes, per_core = 16 / element_bytes;
    std::vector<float> x(rows * depth);
    for (std::uint32_t row = 0; row < rows; ++row) {
      for (std::uint32_t k = 0; k < depth; ++k) {
        const std::byte* const at = shared_.data() + start + row / 8 * stride +
                                    k / per_core * leading + row % 8 * 16 +
                                    k % per_core * element_bytes;
        if constexpr (Type == dtype::bf16) {
          std::uint16_t bits;
          std::memcpy(&bits, at, sizeof bits);
          x[row * depth + k] = to_float(static_cast<bf16>(bits));
        } else {
          x[row * depth + k] = to_float(static_cast<e4m3>(*at));
        }
      }
    }
    return x;
  }

  const std::vector<std::vector<std::byte>>& stages_;
  std::vector<std::byte> shared_;
  std::vector<thread_state> threads_;
  std::size_t waited_ = 0, released_ = 0;
  products_under_way products_;
};

/// Items before each group, as the kernel's table has them.
inline std::vector<std::uint32_t> items_before(const detail::grouped_gemm_call& call) {
  std::vector<std::uint32_t> items{0};
  for (std::uint32_t group = 0; group < call.shape.groups; ++group) {
    items.push_back(items.back() + detail::items_of(call, group));
  }
  return items;
}

template <dtype Type, bool Swiglu, dtype Out>
void multiply_on_host(const cuda::grouped_gemm_plan& plan, const detail::grouped_gemm_call& call) {
  const auto items = items_before(call);
  for (std::uint32_t block = plan.blocks; block-- > 0;) {  // An order no device would take.
    const detail::gemm_items of_block{items.data(), plan.blocks, block};
    host_gemm_producer<Type> producer;
    detail::for_each_item(call, of_block, [&](const detail::grouped_gemm_work& work) {
      detail::produce_item<Type>(call, work, producer);
    });
    for (std::uint32_t warpgroup = 0; warpgroup < detail::gemm_consumers; ++warpgroup) {
      host_gemm_consumer<Type> consumer(producer.stages);
      detail::consume_items<Type, Swiglu, Out>(call, of_block, warpgroup, consumer);
      REQUIRE(consumer.is_done());
    }
  }
}

/// What cuda::run_grouped_gemm enqueues, on the host.
template <class Out>
void run_grouped_gemm_on_host(const cuda::grouped_gemm_plan& plan,
                              const grouped_gemm_args<Out>& args) {
  const auto call = detail::make_grouped_gemm_call(plan, args);
  constexpr dtype out = std::is_same_v<Out, bf16> ? dtype::bf16 : dtype::f32;
  if (plan.shape.weights == dtype::bf16) {
    plan.shape.swiglu ? multiply_on_host<dtype::bf16, true, out>(plan, call)
                      : multiply_on_host<dtype::bf16, false, out>(plan, call);
  } else {
    plan.shape.swiglu ? multiply_on_host<dtype::e4m3, true, out>(plan, call)
                      : multiply_on_host<dtype::e4m3, false, out>(plan, call);
  }
}

}  // namespace oriel::test
