// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// A block without an executor: what the tests of asynchrony ask things of.
#pragma once

#include "async.hpp"
#include "memory_map.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace oriel::ptx_machine {

class plain_registers final : public warp_registers {
 public:
  explicit plain_registers(std::uint32_t warps) : values_(std::size_t{warps} * count * 32) {}
  void read(std::uint32_t warp, std::uint32_t index, lanes_b32& values) const override {
    std::memcpy(values, &values_[(std::size_t{warp} * count + index) * 32], sizeof(values));
  }
  void write(std::uint32_t warp, std::uint32_t index, const lanes_b32& values) override {
    std::memcpy(&values_[(std::size_t{warp} * count + index) * 32], values, sizeof(values));
  }
  std::uint32_t& at(std::uint32_t warp, std::uint32_t index, std::uint32_t lane) {
    return values_[(std::size_t{warp} * count + index) * 32 + lane];
  }

 private:
  static constexpr std::uint32_t count = 64;
  std::vector<std::uint32_t> values_;
};

inline constexpr std::uint32_t shared_bytes = 32768;
inline constexpr std::uint32_t everybody = 0xFFFFFFFF;

/// A block of eight warps, and global memory of 4096 bytes that the memory map knows.
struct test_block {
  explicit test_block(std::uint64_t seed = 1, bool watch = true, std::uint32_t rank_in_cluster = 0)
      : async({.shared = shared,
               .warps = 8,
               .registers_per_thread = 168,
               .registers = &registers,
               .rank_in_cluster = rank_in_cluster,
               .seed = seed,
               .watch_races = watch,
               .place = [](std::uint32_t i) { return "instruction " + std::to_string(i); }}),
        rank(rank_in_cluster) {
    memory_map::of_process().add(address(0), sizeof(global));
    for (std::size_t i = 0; i < sizeof(global); ++i) {
      global[i] = std::byte(i * 7 + i / 256);
    }
  }
  ~test_block() { memory_map::of_process().remove(address(0)); }
  test_block(const test_block&) = delete;
  test_block& operator=(const test_block&) = delete;

  [[nodiscard]] std::uint64_t address(std::size_t offset) const {
    return reinterpret_cast<std::uint64_t>(global + offset);
  }
  /// An mbarrier as kernels begin: one thread initialises it, a fence, a barrier of all.
  void mbarrier(std::uint32_t offset, std::uint32_t count) {
    async.init(warp(0), offset, count);
    async.fence_mbarrier_init(warp(0));
    async.watch().barrier(0xFF, 0xFF);
  }
  static issuer warp(std::uint32_t w, std::uint32_t instruction = 1) {
    return {.warp = w, .instruction = instruction};
  }
  bool wait(std::uint32_t w, std::uint32_t offset, std::uint32_t parity) {
    for (int tries = 0; tries < 100; ++tries) {
      if (async.try_wait(warp(w), offset, parity)) {
        return true;
      }
      async.step();
    }
    return false;
  }
  void touch(std::uint32_t w, access kind, std::uint32_t offset, std::uint32_t bytes = 4) {
    const std::uint32_t offsets[32] = {offset};
    async.watch().lanes(warp(w, 10 + w), kind, 1, offsets, bytes);
  }
  [[nodiscard]] bool holds(std::uint32_t offset, std::size_t from, std::size_t bytes) const {
    return std::equal(shared.begin() + offset,
                      shared.begin() + offset + static_cast<std::ptrdiff_t>(bytes),
                      global + from);
  }
  [[nodiscard]] bool garbage(std::uint32_t offset, std::size_t bytes) const {
    return std::all_of(shared.begin() + offset,
                       shared.begin() + offset + static_cast<std::ptrdiff_t>(bytes),
                       [](std::byte b) { return b == std::byte{0xFF}; });
  }

  alignas(16) std::byte global[4096];
  std::vector<std::byte> shared = std::vector<std::byte>(shared_bytes);
  plain_registers registers{8};
  block_async async;
  std::uint32_t rank;
};

/// All warps of two blocks meet at the barrier of their cluster.
inline void cluster_barrier(test_block& a, test_block& b) {
  shared_watch::cluster_clocks all;
  for (test_block* block : {&a, &b}) {
    for (std::uint32_t w = 0; w < 8; ++w) {
      shared_watch::join(all, block->async.watch().release_to_cluster(w));
    }
  }
  for (test_block* block : {&a, &b}) {
    for (std::uint32_t w = 0; w < 8; ++w) {
      block->async.watch().acquire(w, block->async.watch().seen_here(all));
    }
  }
}

/// An st.async of a warp to another block, of bytes that are all `value`.
inline void send(test_block& from,
                 std::uint32_t warp,
                 test_block& to,
                 std::uint32_t offset,
                 std::uint32_t mbarrier,
                 std::uint8_t value,
                 std::size_t bytes = 8) {
  const std::vector<std::byte> message(bytes, std::byte{value});
  const sender by{test_block::warp(warp),
                  from.rank,
                  std::make_shared<const shared_watch::cluster_clocks>(
                      from.async.watch().release_to_cluster(warp))};
  to.async.store_async(by, offset, message, mbarrier);
}

inline std::string message(const auto& what) {
  try {
    what();
  } catch (const machine_error& e) {
    return e.what();
  }
  return "";
}

inline bool says(const std::string& text, const std::string& part) {
  INFO(text);
  const bool found = text.find(part) != std::string::npos;
  CHECK(found);
  return found;
}

}  // namespace oriel::ptx_machine
