// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The KV copy kernel's program on the host: the machine that kernels/cuda/detail/kv_copy_agent.cuh
/// asks for. Bulk copies come when the random numbers say, in any order that a device may take;
/// until then their stage holds poison. The mover waits for its stores as late as it may: other
/// threads run ahead of it to the next barrier.
#pragma once

#include <oriel/core/random.hpp>

#include <cuda/detail/kv_copy_agent.cuh>

#include <kernels/attention_case.hpp>

#include <array>
#include <cstring>
#include <deque>
#include <vector>

namespace oriel::test {

class copy_machine {
 public:
  template <class T>
  struct var {
    std::array<T, 32> of;
  };

  explicit copy_machine(std::uint64_t seed)
      : random_(seed, 73),
        plain_(detail::kv_stages * detail::kv_stage_bytes),
        copied_(detail::kv_stages * detail::kv_stage_bytes) {}

  template <class F>
  [[nodiscard]] var<kv_page_pair> lanes(F&& f) const {
    var<kv_page_pair> pairs{};
    for (std::uint32_t lane = 32; lane-- > 0;) {
      pairs.of[lane] = f(lane);
    }
    return pairs;
  }
  [[nodiscard]] kv_page_pair lane(const var<kv_page_pair>& pairs, std::uint32_t i) const {
    return pairs.of.at(i);
  }

  void load(std::uint32_t stage, const detail::kv_piece& piece) {
    mover_arrives();
    REQUIRE(piece.target.bytes <= detail::kv_stage_bytes);
    REQUIRE(piece.target.bytes % 16 == 0);
    REQUIRE(reinterpret_cast<std::uintptr_t>(piece.from) % 16 == 0);
    REQUIRE(reinterpret_cast<std::uintptr_t>(piece.target.to) % 16 == 0);
    for (const pending_load& l : loads_) {
      REQUIRE(l.stage != stage);  // Its barrier has one phase at a time.
    }
    targets_.at(stage) = piece.target;
    std::memset(this->stage(stage), 0xFF, detail::kv_stage_bytes);
    std::memset(seen(stage), 0xFF, detail::kv_stage_bytes);
    loads_.push_back({stage, piece.from, piece.target.bytes});
    pass();
  }
  void wait_load(std::uint32_t stage, std::uint32_t parity) {
    pass();
    while (ended_.at(stage) % 2 == parity) {  // The phase of this parity is the current one.
      REQUIRE(go_on());
    }
  }
  [[nodiscard]] const detail::kv_piece_target& target(std::uint32_t stage) const {
    return targets_.at(stage);
  }
  /// As threads see it.
  [[nodiscard]] std::byte* stage(std::uint32_t i) const {
    return plain_.data() + i * detail::kv_stage_bytes;
  }

  void store(std::uint32_t stage, std::byte* to, std::uint32_t bytes) {
    mover_arrives();
    stores_.push_back({stage, to, bytes, {}, false, false});
    pass();
  }
  template <std::uint32_t N>
  void wait_read() {
    pass();
    awaited_ = stores_.size() > N ? stores_.size() - N : 0;
  }
  void wait_written() {
    while (go_on()) {
    }
  }

  template <class F>
  void move(F&& f) {
    f();
  }
  template <class F>
  void each(F&& f) {
    const bool backwards = random_.next_below(2) == 0;
    for (std::uint32_t i = 0; i < detail::kv_permute_threads; ++i) {
      f(backwards ? detail::kv_permute_threads - 1 - i : i, detail::kv_permute_threads);
    }
  }
  void meet() { mover_arrives(); }
  /// What other threads wrote, they may have written before the mover came here.
  void publish() {
    std::memcpy(seen(0), stage(0), detail::kv_stages * detail::kv_stage_bytes);
    mover_arrives();
    pass();
  }

  /// The block ends: what was not read from its shared memory never will be.
  void end() {
    REQUIRE(loads_.empty());
    for (pending_store& s : stores_) {
      if (!s.is_read) {
        std::memset(s.to, 0xFF, s.bytes);
      }
    }
  }

 private:
  struct pending_load {
    std::uint32_t stage;
    const std::byte* from;
    std::uint32_t bytes;
  };
  struct pending_store {
    std::uint32_t stage;
    std::byte* to;
    std::uint32_t bytes;
    std::vector<std::byte> read;
    bool is_read, is_written;
  };

  /// As bulk copies see it.
  [[nodiscard]] std::byte* seen(std::uint32_t i) const {
    return copied_.data() + i * detail::kv_stage_bytes;
  }
  /// The mover is past its last wait_read.
  void mover_arrives() {
    for (std::size_t i = 0; i < awaited_; ++i) {
      while (!stores_[i].is_read) {
        REQUIRE(go_on());
      }
    }
  }
  /// Some time passes.
  void pass() {
    for (std::uint32_t n = random_.next_below(4); n > 0 && go_on(); --n) {
    }
  }
  /// One step of one copy. False: there is none.
  bool go_on() {
    std::vector<std::uint32_t> can;  // loads, then stores
    for (std::uint32_t i = 0; i < loads_.size(); ++i) {
      can.push_back(i);
    }
    const auto loads = static_cast<std::uint32_t>(loads_.size());
    for (std::uint32_t i = 0; i < stores_.size(); ++i) {
      if (!stores_[i].is_written) {
        can.push_back(loads + i);
      }
    }
    if (can.empty()) {
      return false;
    }
    const std::uint32_t which = can[random_.next_below(static_cast<std::uint32_t>(can.size()))];
    which < loads ? finish_load(which) : step_store(stores_[which - loads]);
    return true;
  }
  void finish_load(std::uint32_t i) {
    const pending_load l = loads_[i];
    loads_.erase(loads_.begin() + i);
    std::memcpy(stage(l.stage), l.from, l.bytes);
    std::memcpy(seen(l.stage), l.from, l.bytes);
    ++ended_.at(l.stage);
  }
  void step_store(pending_store& s) {
    if (!s.is_read) {
      s.read.assign(seen(s.stage), seen(s.stage) + s.bytes);
      s.is_read = true;
    } else {
      std::memcpy(s.to, s.read.data(), s.bytes);
      s.is_written = true;
    }
  }

  random_stream random_;
  aligned_bytes plain_, copied_;  // [stages][stage bytes]
  std::array<detail::kv_piece_target, detail::kv_stages> targets_{};
  std::array<std::uint32_t, detail::kv_stages> ended_{};  // phases of each barrier
  std::deque<pending_load> loads_;
  std::deque<pending_store> stores_;  // in the order of their groups
  std::size_t awaited_ = 0;           // of the first so many the mover waits for the reads
};

/// All blocks of one launch, last first.
template <detail::kv_permutation P>
void run_copy_blocks(const detail::kv_copy_call& call, std::uint32_t blocks, std::uint64_t seed) {
  for (std::uint32_t block = blocks; block-- > 0;) {
    copy_machine machine(seed * 1000 + block);
    const detail::kv_pieces pieces(call, block, blocks);
    if constexpr (P == detail::kv_permutation::none) {
      detail::copy_pieces(pieces, machine);
    } else {
      detail::permute_pieces<P>(call, pieces, machine);
    }
    machine.end();
  }
}

/// What cuda::run_kv_copy does by multiprocessors.
inline void run_copy(const cuda::kv_copy_plan& plan, const kv_copy_args& args, std::uint64_t seed) {
  REQUIRE(plan.way == cuda::kv_copy_way::multiprocessors);
  for (std::size_t first = 0; first < args.layers.size(); first += detail::kv_copy_layers) {
    const std::size_t left = args.layers.size() - first;
    const auto call = detail::make_kv_copy_call(
        plan,
        args,
        args.layers.subspan(first, std::min<std::size_t>(left, detail::kv_copy_layers)));
    using enum detail::kv_permutation;
    if (!plan.permutes) {
      run_copy_blocks<none>(call, plan.blocks, seed);
    } else if (plan.shape.to == kv_order::device) {
      run_copy_blocks<to_device>(call, plan.blocks, seed);
    } else {
      run_copy_blocks<to_host>(call, plan.blocks, seed);
    }
  }
}

}  // namespace oriel::test
