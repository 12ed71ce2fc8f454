// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The attention kernels' programs on the host: the machine that kernels/cuda/detail/
/// attention_program.cuh and attention_generic_agent.cuh ask for, as loops over the threads. wgmma
/// is modelled from the tables of the PTX ISA (register fragments, matrix descriptor), written here
/// a second time and not with the functions of mma_fragment.cuh.
#pragma once

#include <oriel/kernels/attention.hpp>

#include <cuda/detail/attention_convert.cuh>
#include <cuda/detail/attention_generic_agent.cuh>
#include <cuda/detail/attention_merge.cuh>
#include <cuda/detail/attention_program.cuh>
#include <cuda/detail/attention_units.hpp>

#include <catch2/catch.hpp>
#include <device/products_under_way.hpp>
#include <kernels/attention_case.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

namespace oriel::test {

/// A model of wgmma.m64nNk16 with bf16 operands, f32 accumulators.
namespace wgmma {

inline float bf16_at(const std::byte* p) {
  std::uint16_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return to_float(static_cast<bf16>(bits));
}

/// `rows` x 16 elements that a descriptor without swizzle denotes, K-major. Bits 0-13 are the
/// address, 16-29 the offset between core matrices along K, 32-45 along M or N, each in 16 bytes.
inline std::vector<float> operand(const std::byte* shared, std::uint64_t desc, std::uint32_t rows) {
  expect_in_thread((desc & ~0x0000'3FFF'3FFF'3FFFull) == 0,
                   "a descriptor has a base offset, a swizzle or something reserved");
  const std::size_t start = (desc & 0x3FFF) << 4, leading = (desc >> 16 & 0x3FFF) << 4,
                    stride = (desc >> 32 & 0x3FFF) << 4;
  std::vector<float> x(rows * 16);
  for (std::uint32_t row = 0; row < rows; ++row) {
    for (std::uint32_t k = 0; k < 16; ++k) {
      const std::size_t core = start + row / 8 * stride + k / 8 * leading;
      x[row * 16 + k] = bf16_at(shared + core + row % 8 * 16 + k % 8 * 2);
    }
  }
  return x;
}

/// A 64 x 16 from the registers a(thread, 0..3) of 128 threads.
template <class F>
std::vector<float> operand_in_registers(F&& a) {
  std::vector<float> x(64 * 16);
  for (std::uint32_t thread = 0; thread < 128; ++thread) {
    const std::uint32_t group = thread % 32 >> 2, in_group = thread % 4;
    for (std::uint32_t i = 0; i < 8; ++i) {  // a0 to a7, two to a register, low half first.
      const std::uint32_t row = thread / 32 * 16 + group + ((i >> 1) & 1) * 8;
      const std::uint32_t column = in_group * 2 + (i & 1) + (i >> 2) * 8;
      const std::uint32_t bits = a(thread, i / 2) >> (i % 2 * 16) & 0xFFFF;
      x[row * 16 + column] = to_float(static_cast<bf16>(bits));
    }
  }
  return x;
}

/// d(thread, register) (+)= a * b^T. `n`: rows of b.
template <class F>
void multiply(const std::vector<float>& a,
              const std::vector<float>& b,
              std::uint32_t n,
              bool accumulate,
              F&& d) {
  for (std::uint32_t thread = 0; thread < 128; ++thread) {
    for (std::uint32_t r = 0; r < n / 2; ++r) {
      const std::uint32_t row = thread / 32 * 16 + (thread % 32 >> 2) + (r >> 1 & 1) * 8;
      const std::uint32_t column = (r >> 2) * 8 + thread % 4 * 2 + (r & 1);
      const float* x = a.data() + row * 16;
      const float* y = b.data() + column * 16;
      float sum = accumulate ? d(thread, r) : 0.0f;
      for (std::uint32_t k = 0; k < 16; ++k) {
        sum += x[k] * y[k];
      }
      d(thread, r) = sum;
    }
  }
}

}  // namespace wgmma

/// A thread block: its shared memory (the two stages that a consumer may hold; the ring of stages
/// is the device's own) and the meetings of its warpgroups. A stage is poisoned as soon as all have
/// given it back, as if the producer had begun to fill it again.
template <class Dims>
class host_block {
 public:
  static constexpr std::uint32_t stages = 2;

  host_block(const detail::attention_call& call, const detail::attention_work& work)
      : call_(call),
        work_(work),
        shared_(base + call.warpgroups * Dims::query_bytes + stages * Dims::stage_bytes +
                (Dims::is_scaled ? Dims::raw_bytes : 0)),
        next_tile_(work.first_tile()),
        meeting_(call.warpgroups) {
    std::memset(shared_.data(), 0xFF, shared_.size());
    CHECK(shared_.size() < 1u << 18);  // A descriptor's address has 18 bits.
    for (auto& x : releases_) {
      x = call.warpgroups;
    }
  }

  [[nodiscard]] std::byte* at(std::uint32_t address) { return shared_.data() + address; }
  [[nodiscard]] static std::uint32_t queries(std::uint32_t warpgroup) {
    return base + warpgroup * Dims::query_bytes;
  }
  /// Of a tile, by its number in the item.
  [[nodiscard]] std::uint32_t k_stage(std::uint32_t index) const {
    return queries(call_.warpgroups) + index % stages * Dims::stage_bytes;
  }
  [[nodiscard]] std::uint32_t v_stage(std::uint32_t index) const {
    return k_stage(index) + Dims::k_bytes;
  }

  /// What the loaders do for the item.
  void load_queries() {
    const auto copy =
        [&](std::uint32_t to, const bf16* from, std::uint32_t units, std::uint32_t bytes) {
          is_right_ &= to % 16 == 0 && reinterpret_cast<std::uintptr_t>(from) % 16 == 0;
          std::memset(at(queries(0) + to), 0, 16);
          std::memcpy(at(queries(0) + to), from + units * 8, bytes);
        };
    for (std::uint32_t thread = detail::loader_threads; thread-- > 0;) {
      detail::copy_queries<Dims>(call_, work_, thread, copy);
    }
  }
  /// The next item's queries come.
  void release_queries(std::uint32_t warpgroup) {
    std::memset(at(queries(warpgroup)), 0xFF, Dims::query_bytes);
  }
  void meet() { meeting_.arrive_and_wait(); }
  /// What the producer warp does for the next tile, and the converters. @pre all have met, and all
  /// but one wait
  void produce() {
    const std::uint32_t index = next_tile_ - work_.first_tile();
    is_right_ &= releases_[index % stages].exchange(0) == call_.warpgroups;
    landing_ = Dims::is_scaled ? k_stage(stages - 1) + Dims::stage_bytes : k_stage(index);
    k_bytes_ = v_bytes_ = 0;
    for (std::uint32_t lane = 0; lane < detail::warp_threads; ++lane) {
      const auto piece = detail::piece_of(call_, work_, next_tile_, lane);
      detail::copy_piece<Dims>(call_, work_, next_tile_, piece, *this);
    }
    const auto keys =
        detail::copied_keys(call_, work_, next_tile_);  // What the barriers were told.
    is_right_ &= k_bytes_ == (keys.hi - keys.lo) * Dims::k_key_bytes;
    is_right_ &= v_bytes_ == (keys.hi - keys.lo) * Dims::v_key_bytes;
    if constexpr (Dims::is_scaled) {
      for (std::uint32_t thread = detail::converter_threads; thread-- > 0;) {
        detail::convert_tile<Dims>(work_, next_tile_, thread, at(landing_), at(k_stage(index)));
      }
      std::memset(at(landing_), 0xFF, Dims::raw_bytes);
    }
    ++next_tile_;
  }
  void copy_k(std::uint32_t to, const std::byte* from, std::uint32_t bytes) {
    copy(to, from, bytes);
    k_bytes_ += bytes;
  }
  void copy_v(std::uint32_t to, const std::byte* from, std::uint32_t bytes) {
    copy((Dims::is_scaled ? Dims::raw_k_bytes : Dims::k_bytes) + to, from, bytes);
    v_bytes_ += bytes;
  }
  void release(std::uint32_t index) {
    if (++releases_[index % stages] == call_.warpgroups) {
      std::memset(at(k_stage(index)), 0xFF, Dims::stage_bytes);
    }
  }
  /// Bulk copies were aligned, as long as the barriers were told, and to stages that nobody held.
  [[nodiscard]] bool is_right() const { return is_right_; }

 private:
  static constexpr std::uint32_t base = 1024;  // So that address 0 is nothing's.

  void copy(std::uint32_t to, const std::byte* from, std::uint32_t bytes) {
    is_right_ &=
        to % 16 == 0 && bytes % 16 == 0 && reinterpret_cast<std::uintptr_t>(from) % 16 == 0;
    std::memcpy(at(landing_ + to), from, bytes);
  }

  const detail::attention_call& call_;
  const detail::attention_work& work_;
  std::vector<std::byte> shared_;
  std::uint32_t next_tile_;
  std::barrier<> meeting_;
  std::array<std::atomic<std::uint32_t>, stages> releases_;  ///< of the tile there, by warpgroups
  std::uint32_t landing_ = 0;                                ///< where bulk copies bring the tile
  std::uint32_t k_bytes_ = 0, v_bytes_ = 0;
  bool is_right_ = true;
};

/// A consumer warpgroup. `at_once`: when its products run, as products_under_way says.
template <class Dims>
class host_consumer {
 public:
  using thread_state = detail::attention_thread<Dims>;

  host_consumer(host_block<Dims>& block, std::uint32_t warpgroup, bool at_once)
      : block_(block),
        warpgroup_(warpgroup),
        products_(at_once),
        threads_(detail::warpgroup_threads) {
    std::memset(static_cast<void*>(threads_.data()), 0xFF, threads_.size() * sizeof(thread_state));
  }

  template <class F>
  void each(F&& f) {
    for (std::uint32_t thread = 0; thread < threads_.size(); ++thread) {
      f(thread, threads_[thread]);
    }
  }
  template <class Says, class F>
  void each_in_warps_with(Says&& says, F&& f) {
    for (auto warp = threads_.begin(); warp != threads_.end(); warp += detail::warp_threads) {
      if (std::any_of(warp, warp + detail::warp_threads, says)) {
        std::for_each(warp, warp + detail::warp_threads, f);
      }
    }
  }
  [[nodiscard]] std::uint32_t queries_address() const { return block_.queries(warpgroup_); }
  [[nodiscard]] std::byte* wait_values() { return block_.at(block_.v_stage(waited_ - 1)); }
  [[nodiscard]] const float* scales() {
    return reinterpret_cast<const float*>(block_.at(block_.v_stage(waited_ - 1)) + Dims::v_bytes);
  }
  void publish_to_all() { block_.meet(); }
  void take_turn() {}  // For speed alone.
  void pass_turn() {}
  void release_queries() {
    ++queries_released_;
    block_.release_queries(warpgroup_);
  }
  [[nodiscard]] std::uint32_t wait_k() {
    block_.meet();  // All have released the tile before the last.
    if (warpgroup_ == 0) {
      block_.produce();
    }
    block_.meet();
    return block_.k_stage(waited_++);
  }
  std::uint32_t wait_v() const { return block_.v_stage(released_); }
  void release() { block_.release(released_++); }
  void begin_scores() { products_.begin(); }
  void begin_values() { products_.begin(); }
  void commit_multiply() { products_.commit(); }
  void finish_weights() {}  // A compiler for the host moves nothing past a product.
  template <std::uint32_t Pending>
  void wait_multiply() {
    products_.wait(Pending);
  }
  void add_scores(std::uint64_t q, std::uint64_t k, bool accumulate) {
    products_.add([=, this] {
      wgmma::multiply(
          wgmma::operand(block_.at(0), q, 64),
          wgmma::operand(block_.at(0), k, detail::tile_keys),
          detail::tile_keys,
          accumulate,
          [&](std::uint32_t t, std::uint32_t r) -> float& { return threads_[t].score[r]; });
    });
  }
  void add_values(std::uint32_t step, std::uint64_t v) {
    products_.add([=, this] {
      const auto weight = [&](std::uint32_t t, std::uint32_t j) {
        return threads_[t].weight[step * 4 + j];
      };
      wgmma::multiply(
          wgmma::operand_in_registers(weight),
          wgmma::operand(block_.at(0), v, Dims::vo),
          Dims::vo,
          true,
          [&](std::uint32_t t, std::uint32_t r) -> float& { return threads_[t].out[r]; });
    });
  }
  /// All of `tiles` were waited for and given back, the queries once, and nothing is under way.
  [[nodiscard]] bool is_done(std::uint32_t tiles) const {
    return waited_ == tiles && released_ == tiles && queries_released_ == 1 && products_.is_empty();
  }
  using pair_member = float (thread_state::*)[2];
  void quad_max(pair_member m) {
    exchange(m, [](float a, float b) { return std::fmax(a, b); });
  }
  void quad_sum(pair_member m) {
    exchange(m, [](float a, float b) { return a + b; });
  }
  void exchange_in_quads() {
    const auto before = threads_;
    each([&](std::uint32_t thread, thread_state& t) {
      for (std::uint32_t i = 0; i < Dims::vo / 8; ++i) {
        t.weight[i] = before[thread / 4 * 4 + i % 4].weight[i / 4 * 4 + thread % 4];
      }
    });
  }

 private:
  template <class F>
  void exchange(pair_member m, F&& f) {
    for (std::uint32_t step = 1; step < 4; step *= 2) {
      auto before = threads_;
      each([&](std::uint32_t thread, thread_state& t) {
        for (int half = 0; half < 2; ++half) {
          (t.*m)[half] = f((before[thread].*m)[half], (before[thread ^ step].*m)[half]);
        }
      });
    }
  }

  host_block<Dims>& block_;
  std::uint32_t warpgroup_;
  products_under_way products_;
  std::vector<thread_state> threads_;
  std::uint32_t waited_ = 0, released_ = 0;  ///< tiles of the item
  std::uint32_t queries_released_ = 0;
};

/// A warp of the generic kernel.
class host_warp {
 public:
  template <class F>
  void each(F&& f) {
    for (std::uint32_t lane = 0; lane < detail::warp_threads; ++lane) {
      f(lane, lanes_[lane]);
    }
  }
  using member = float detail::generic_lane::*;
  void all_max(member m) {
    exchange(m, [](float a, float b) { return std::fmax(a, b); });
  }
  void all_sum(member m) {
    exchange(m, [](float a, float b) { return a + b; });
  }
  [[nodiscard]] float of_lane(member m, std::uint32_t lane) const { return lanes_[lane].*m; }

 private:
  template <class F>
  void exchange(member m, F&& f) {
    for (std::uint32_t step = 1; step < detail::warp_threads; step *= 2) {
      const auto before = std::to_array(lanes_);
      each([&](std::uint32_t lane, detail::generic_lane& l) {
        l.*m = f(before[lane].*m, before[lane ^ step].*m);
      });
    }
  }
  detail::generic_lane lanes_[detail::warp_threads];
};

/// A warp that merges. Its registers and factors begin poisoned.
class host_merge_warp {
 public:
  host_merge_warp() {
    std::memset(static_cast<void*>(lanes_), 0xFF, sizeof lanes_);
    std::memset(static_cast<void*>(factors_), 0xFF, sizeof factors_);
  }
  template <class F>
  void each(F&& f) {
    for (std::uint32_t lane = detail::warp_threads; lane-- > 0;) {
      f(lane, lanes_[lane]);
    }
  }
  template <class Of>
  void max_up_to_lane(Of of) {
    for (std::uint32_t lane = 1; lane < detail::warp_threads; ++lane) {
      of(lanes_[lane]) = std::fmax(of(lanes_[lane]), of(lanes_[lane - 1]));
    }
  }
  template <class Of, class From>
  void from_lane_below(Of of, From from) {
    for (std::uint32_t lane = 1; lane < detail::warp_threads; ++lane) {
      of(lanes_[lane]) = from(lanes_[lane - 1]);
    }
  }
  template <class Of>
  void rotate(Of of, std::uint32_t lanes) {
    auto before = std::to_array(lanes_);
    for (std::uint32_t lane = 0; lane < detail::warp_threads; ++lane) {
      of(lanes_[lane]) = of(before[(lane + detail::warp_threads - lanes) % detail::warp_threads]);
    }
  }
  template <class Of>
  [[nodiscard]] float of_lane(Of of, std::uint32_t lane) {
    return of(lanes_[lane]);
  }
  [[nodiscard]] detail::merge_factor* factors() { return factors_; }
  void meet() {}

 private:
  detail::merge_lane lanes_[detail::warp_threads];
  detail::merge_factors factors_;
};

/// The merge of a call, its units in an order no device would take.
inline void merge_on_host(const detail::attention_call& call, std::uint32_t multiprocessors) {
  const detail::merge_shape shape = detail::merge_shape_of(call, multiprocessors);
  for (std::uint32_t unit = shape.units; unit-- > 0;) {
    host_merge_warp warp;
    call.shape.head_dim_vo == 128 ? detail::merge_unit<128>(call, shape.is_deep, unit, warp)
                                  : detail::merge_unit<64>(call, shape.is_deep, unit, warp);
  }
}

/// `at_once`: when products run.
template <class Dims>
void attend_item_on_host(const detail::attention_call& call,
                         const detail::attention_work& work,
                         bool at_once) {
  host_block<Dims> block(call, work);
  std::atomic<bool> done = true;
  block.load_queries();
  const auto consume = [&](std::uint32_t warpgroup) {
    host_consumer<Dims> consumer(block, warpgroup, at_once);
    detail::attend_item<Dims>(call, work, warpgroup, consumer);
    if (!consumer.is_done(work.last_tile() - work.first_tile())) {
      done = false;
    }
  };
  std::vector<std::jthread> others;
  for (std::uint32_t warpgroup = 1; warpgroup < call.warpgroups; ++warpgroup) {
    others.emplace_back([&, warpgroup] { consume(warpgroup); });
  }
  consume(0);
  others.clear();
  REQUIRE(done);
  REQUIRE(block.is_right());
}

/// Items and rows before each sequence, as the kernel's tables have them.
struct item_tables {
  explicit item_tables(const detail::attention_call& call) : items{0}, rows{0} {
    for (const paged_sequence& s : call.args.sequences) {
      items.push_back(items.back() + detail::items_of(call, s));
      rows.push_back(rows.back() + s.rows);
    }
  }
  std::vector<std::uint32_t> items, rows;
};

template <class Dims>
void attend_on_host(const cuda::attention_plan& plan, const detail::attention_call& call) {
  const item_tables tables(call);
  bool at_once = true;                                     // Every other item.
  for (std::uint32_t block = plan.blocks; block-- > 0;) {  // An order no device would take.
    detail::for_each_item(call,
                          tables.items.data(),
                          tables.rows.data(),
                          block,
                          plan.blocks,
                          [&](const detail::attention_work& work) {
                            attend_item_on_host<Dims>(call, work, at_once = !at_once);
                          });
  }
  if (plan.splits_max != 0) {
    merge_on_host(call, plan.limits.multiprocessors);
  }
}

template <dtype Kv>
void attend_generic_on_host(const detail::attention_call& call) {
  for (std::uint64_t index = 0;; ++index) {
    host_warp warp;
    if (!detail::attend_generic<Kv>(call, index, warp)) {
      return;
    }
  }
}

template <dtype Kv>
void attend_with_dims(const cuda::attention_plan& plan, const detail::attention_call& call) {
  if (plan.shape.head_dim_qk == 192) {
    attend_on_host<detail::attention_dims<192, 128, Kv>>(plan, call);
  } else if (plan.shape.head_dim_qk == 128) {
    attend_on_host<detail::attention_dims<128, 128, Kv>>(plan, call);
  } else {
    attend_on_host<detail::attention_dims<64, 64, Kv>>(plan, call);
  }
}

/// What cuda::run_attention enqueues, on the host. The workspace begins poisoned.
template <class T, class Out>
void run_attention_on_host(const cuda::attention_plan& plan,
                           const basic_attention_args<T, Out>& args) {
  std::vector<std::byte> memory(plan.workspace_bytes + 256);
  std::memset(memory.data(), 0xFF, memory.size());
  void* workspace = memory.data();
  std::size_t room = memory.size();
  REQUIRE(std::align(256, plan.workspace_bytes, workspace, room) != nullptr);
  const auto call = detail::make_attention_call(plan, args, static_cast<std::byte*>(workspace));
  if (plan.unit == cuda::attention_unit::generic) {
    plan.shape.kv == dtype::bf16   ? attend_generic_on_host<dtype::bf16>(call)
    : plan.shape.kv == dtype::e4m3 ? attend_generic_on_host<dtype::e4m3>(call)
                                   : attend_generic_on_host<dtype::f32>(call);
  } else if (plan.shape.kv == dtype::e4m3) {
    attend_with_dims<dtype::e4m3>(plan, call);
  } else {
    attend_with_dims<dtype::bf16>(plan, call);
  }
}

/// The same of queries in f32, rounded where the plan wants them so.
template <class Out>
void run_attention_on_host(const cuda::attention_plan& plan,
                           const attention_args& args,
                           std::uint32_t rows,
                           Out* out) {
  const auto run = [&]<class T>(const T* q, std::size_t stride) {
    run_attention_on_host(plan,
                          basic_attention_args<T, Out>{.out = out,
                                                       .q = q,
                                                       .q_stride = stride,
                                                       .kv = args.kv,
                                                       .sequences = args.sequences,
                                                       .sinks = args.sinks,
                                                       .scale = args.scale});
  };
  if (plan.q_type == dtype::f32) {
    run(args.q, args.q_stride);
  } else {
    const rounded_rows q(
        args.q, rows, args.q_stride, plan.unit == cuda::attention_unit::tensor_core);
    run(q.data(), q.stride());
  }
}

}  // namespace oriel::test
