// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `host_backend`: runs step programs on the host, operation by operation, in the memory that they
/// plan: with the host's kernels, packed weights and pools, where a device would have its own. What
/// a program does not write before it reads it, or what two live buffers share, shows in its
/// numbers: before each run everything but the inputs is NaN. The operations are the parts':
/// `host_step_products`, `host_step_operations`.
#pragma once

#include "support/host_step_memory.hpp"
#include "support/host_step_operations.hpp"
#include "support/host_step_products.hpp"
#include "support/host_step_weights.hpp"

#include <catch2/catch.hpp>
#include <device/fake_streams.hpp>
#include <engine/aligned_bytes.hpp>
#include <engine/program_runner.hpp>
#include <engine/weights.hpp>

#include <algorithm>
#include <cstring>
#include <limits>
#include <span>
#include <utility>
#include <variant>
#include <vector>

namespace oriel::test {

class host_backend final : public engine::step_backend {
 public:
  /// @param layers_kv  [layers], pages as the host has them
  /// @param e4m3_weights  the model again, plain, loaded with keeps_e4m3: for products of e4m3
  host_backend(const model_geometry& model,
               const engine::model_weights& weights,
               std::vector<pool_layer> layers_kv,
               const engine::model_weights* e4m3_weights = nullptr)
      : weights_(model, weights),
        products(memory_, weights_, e4m3_weights),
        operations(memory_, weights_, std::move(layers_kv)) {}
  host_backend(const host_backend&) = delete;  // Its parts refer to each other.
  host_backend& operator=(const host_backend&) = delete;

  void take_memory(const engine::backend_needs& needs) override {
    taken = needs;
    memory_.take(needs.memory_bytes);
    inputs_ = engine::aligned_bytes(needs.input_bytes);
    outputs_ = engine::aligned_bytes(needs.output_bytes);
    tables_.assign(needs.table_entries, 0);
  }
  std::span<std::byte> inputs() noexcept override { return {inputs_.data(), inputs_.size()}; }
  std::span<const std::byte> outputs() const noexcept override {
    return {outputs_.data(), outputs_.size()};
  }
  const std::uint32_t* tables() const noexcept override { return tables_.data(); }
  void send_tables(std::span<const std::uint32_t> entries,
                   std::span<const engine::table_range> changes) override {
    for (const engine::table_range& range : changes) {
      std::copy_n(entries.begin() + static_cast<std::ptrdiff_t>(range.first),
                  range.count,
                  tables_.begin() + static_cast<std::ptrdiff_t>(range.first));
    }
  }
  const char* arithmetic() const noexcept override { return named; }
  void need_pages(std::uint32_t pool, std::uint32_t pages) override {
    operations.need_pages(pool, pages);
  }

  void run(const engine::step_program& program,
           bool repeats,
           std::span<const engine::fetched_part> parts,
           layer_gate_ref gate) override {
    memory_.begin(program);
    operations.last_router_gap = std::numeric_limits<float>::infinity();
    const auto send_inputs = [&] {
      std::memcpy(memory_.data(), inputs_.data(), program.input_bytes);
    };
    enqueue([&] { memory_.poison(); });
    enqueue(send_inputs);
    for (const engine::operation& op : program.operations) {
      if (const auto* o = std::get_if<engine::attend_op>(&op); o != nullptr && gate) {
        ++gated_attentions;
        if (!gate.wait(o->layer)) {
          enqueue(send_inputs);
        }
      }
      enqueue([&] { std::visit([&](const auto& o) { interpret(o); }, op); });
    }
    if (moves != nullptr) {
      REQUIRE(moves->mark());
    }
    settle();
    std::memset(outputs_.data(), 0xFF, outputs_.size());
    for (const engine::fetched_part& part : parts) {
      const std::size_t at = program[part.buffer].offset_bytes + part.first_byte;
      REQUIRE(part.first_byte + part.size_bytes <= program[part.buffer].size_bytes);
      std::memcpy(outputs_.data() + at - program.input_bytes, memory_.data() + at, part.size_bytes);
    }
    ++runs;
    computed_rows += memory_.count_of(engine::row_set::rows);
    graph_runs += repeats ? 1 : 0;
    drafting_runs += program.shape.drafts_next ? 1 : 0;
  }

  void settle() override {
    bool is_done = device == nullptr;
    enqueue([&] { is_done = true; });
    while (!is_done) {
      REQUIRE(device->step());
    }
  }
  page_mover* mover() noexcept override { return moves; }

  engine::backend_needs taken;
  const char* named = "";  ///< the arithmetic; set before a runner is made
  std::size_t runs = 0, computed_rows = 0, graph_runs = 0, drafting_runs = 0, gated_attentions = 0;
  /// Operations run in its stream 0, when it pleases. Null: at once.
  fake_device* device = nullptr;
  page_mover* moves = nullptr;

 private:
  host_step_memory memory_;
  host_step_weights weights_;

 public:
  host_step_products products;
  host_step_operations operations;

 private:
  /// What the task refers to stays until `settle`.
  void enqueue(fake_device::task task) {
    if (device == nullptr) {
      task();
      return;
    }
    device->run(0, std::move(task));
    device->steps(3);
  }

  /// By whoever has it.
  template <class Operation>
  void interpret(const Operation& o) {
    if constexpr (requires { products.interpret(o); }) {
      products.interpret(o);
    } else {
      operations.interpret(o);
    }
  }

  engine::aligned_bytes inputs_, outputs_;
  std::vector<std::uint32_t> tables_;
};

}  // namespace oriel::test
