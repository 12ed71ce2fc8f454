// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// The products of a block's warpgroups (wgmma) and the division of its registers (setmaxnreg).
#pragma once

#include "matrix.hpp"
#include "shared_watch.hpp"

#include <ptx_machine/program/index_bits.hpp>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

namespace oriel::ptx_machine {

/// The executor's registers. A product reads and writes them while the warp is elsewhere.
class warp_registers {
 public:
  virtual ~warp_registers() = default;
  virtual void read(std::uint32_t warp, std::uint32_t index, lanes_b32& values) const = 0;
  virtual void write(std::uint32_t warp, std::uint32_t index, const lanes_b32& values) = 0;
};

/// One wgmma.mma_async as a warp issues it.
struct product {
  product_shape shape;
  bool accumulate = true;            ///< scale-d
  std::span<const std::uint32_t> d;  ///< shape.n / 2 register indexes
  std::span<const std::uint32_t> a;  ///< 4 register indexes, or none: `a_descriptor`
  std::uint64_t a_descriptor = 0, b_descriptor = 0;
};

/// Registers of a warp that products in flight use: bit i % 64 of word i / 64 is register i.
struct registers_in_flight {
  index_bits accumulators;  ///< not to be read nor written
  index_bits operands;      ///< not to be written
};

/// Products are collected until all four warps have issued them, and are performed in order, at any
/// time before the wait that covers them. Accumulators hold NaN (0xFFFFFFFF) from issue to that
/// wait.
class warpgroups {
 public:
  warpgroups(std::span<const std::byte> shared,
             std::uint32_t warps,
             warp_registers& registers,
             shared_watch& watch);

  /// wgmma.fence.
  void fence(const issuer& who);
  /// wgmma.mma_async. Descriptors and scale-d have to be the same in all lanes: that is the
  /// executor's to check.
  /// @throws machine_error  no fence before, registers written since the fence, accumulators partly
  ///         in flight, the four warps at odds, descriptors that point nowhere, races
  void multiply(const issuer& who, const product& p);
  /// wgmma.commit_group.
  void commit(const issuer& who);
  /// wgmma.wait_group: false where other warps of the group have still to issue products that it
  /// covers: the warp waits and tries again.
  [[nodiscard]] bool try_wait(const issuer& who, std::uint32_t groups_pending_max);

  /// nullptr where nothing of the warp is in flight; else valid until its next call here.
  [[nodiscard]] const registers_in_flight* in_flight(std::uint32_t warp) const;

  /// How many warpgroups have a product that all four warps have issued.
  [[nodiscard]] std::uint32_t ready() const;
  /// Performs the first product of the nth of those.
  void perform(std::uint32_t nth);
  /// A warp ends.
  /// @throws machine_error  products that nobody has waited for
  void end(const issuer& who) const;

 private:
  /// Registers of one warp that products in flight add to.
  struct accumulator {
    product_shape shape;
    std::vector<std::uint32_t> registers{};
    std::vector<std::uint32_t> values{};  ///< [register, lane]
    std::uint64_t last_product = 0;       ///< the number of the last one
  };
  struct queued {
    product_shape shape;
    bool accumulate = true;
    std::uint32_t first_d[4] = {};      ///< by warp: which accumulator
    std::vector<std::uint32_t> a[4]{};  ///< registers, by warp
    std::uint64_t a_descriptor = 0, b_descriptor = 0;
    std::vector<std::uint32_t> a_chunks{}, b_chunks{};
    std::uint32_t issued = 0;  ///< bit w: by warp w of the group
    std::uint32_t instruction = 0;
    shared_watch::clocks with[4]{};
  };
  struct operand_in_flight {
    std::uint64_t product = 0;
    std::vector<std::uint32_t> registers;
  };
  struct warp_state {
    bool fenced = false;
    std::uint64_t issued = 0;               ///< products
    std::vector<std::uint64_t> group_ends;  ///< products issued at each commit
    std::vector<accumulator> accumulators;
    std::vector<operand_in_flight> operands;
    registers_in_flight in_flight;
    /// What registers of products held at the last fence, or after the last product.
    std::unordered_map<std::uint32_t, std::vector<std::uint32_t>> seen;
  };
  struct group_state {
    std::deque<queued> queue;
    std::uint64_t performed = 0;  ///< products; the queue's first has this number
  };

  queued& queue_up(const issuer& who, const product& p);
  void check_unwritten(std::uint32_t warp, std::uint32_t index, const char* what);
  void take_accumulators(const issuer& who, const product& p);
  void take_operands(const issuer& who, const product& p);
  void watch_reads(std::uint32_t group, const queued& q, std::uint64_t number);
  void perform_first(std::uint32_t group);
  void finish(std::uint32_t warp, std::uint64_t products);

  std::span<const std::byte> shared_;
  warp_registers* registers_;
  shared_watch* watch_;
  std::vector<warp_state> warps_;
  std::vector<group_state> groups_;
  std::vector<double> a_values_, b_values_;
};

/// setmaxnreg: the block's registers move between its warps.
class register_pool {
 public:
  /// @param registers_per_thread  at launch: registers_at_launch(), or less where the kernel says
  ///         .maxnreg
  register_pool(std::uint32_t warps, std::uint32_t registers_per_thread);

  /// setmaxnreg.inc: false where the pool has too few: the warp waits and tries again.
  [[nodiscard]] bool try_increase(const issuer& who, std::uint32_t registers);
  void decrease(const issuer& who, std::uint32_t registers);
  /// The block ends. @throws machine_error where a warpgroup's warps have not all executed the same
  void end() const;

 private:
  void note(const issuer& who, std::uint32_t registers, bool increase);

  struct change {
    std::uint32_t registers = 0;
    bool increase = false;
    std::uint32_t warps = 0;  ///< how many of the four have done it
  };
  std::vector<std::uint32_t> now_;            ///< registers per thread, by warp
  std::vector<std::size_t> done_;             ///< changes done, by warp
  std::vector<std::vector<change>> changes_;  ///< by warpgroup
  std::uint32_t pool_ = 0;                    ///< of 32 registers: one for each lane of a warp
};

/// What a compiler lets a thread of such a block have, which is what a kernel with setmaxnreg is
/// launched with.
[[nodiscard]] std::uint32_t registers_at_launch(std::uint32_t threads,
                                                std::uint32_t blocks_per_multiprocessor_min);

}  // namespace oriel::ptx_machine
