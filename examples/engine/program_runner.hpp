// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `program_runner`: a step_runner that has programs (step_program.hpp) run by somebody else, a
/// `step_backend`: a CUDA device, or in tests the host. It chooses the bucket, makes the program
/// once, fills its inputs from the batch, sends changed page tables, and reads what comes back.
#pragma once

#include <oriel/core/contract.hpp>
#include <oriel/kv/pool_plan.hpp>

#include <engine/step_program.hpp>
#include <engine/step_runner.hpp>
#include <engine/table_mirror.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace oriel::engine {

/// A part of an output that somebody will read.
struct fetched_part {
  buffer_id buffer = no_buffer;
  std::size_t first_byte = 0, size_bytes = 0;
};

/// Memory that a backend takes once.
struct backend_needs {
  std::size_t input_bytes = 0, output_bytes = 0;
  std::size_t memory_bytes = 0;  ///< of a program, inputs and outputs included
  std::size_t table_entries = 0;
};

/// The model as the programs of a runner see it.
/// @param plan  of the KV of the model's layers, then of the MTP blocks in use
[[nodiscard]] program_model program_model_of(const model_geometry& model,
                                             const pool_plan& plan,
                                             const runner_limits& limits,
                                             dtype compute,
                                             dtype kv,
                                             std::uint32_t multiprocessors);
/// Of a device's multiprocessors those that steps are planned for. Beside them copies to and from
/// tiers, both ways at once, take mover_multiprocessors: attention, which has one block on each,
/// would wait for their end (docs/kernels.md).
[[nodiscard]] std::uint32_t step_multiprocessors(std::uint32_t multiprocessors,
                                                 bool has_tiers) noexcept;
/// The same for a runner, on a device with so many multiprocessors; without its `products`.
[[nodiscard]] program_model program_model_of(const runner_setup& setup,
                                             dtype compute,
                                             std::uint32_t multiprocessors);
/// [layers] what each layer of the runner's pools keeps: what moves between them and tiers.
[[nodiscard]] std::vector<kv_layer_shape> moved_shapes_of(const runner_setup& setup);
/// [pools] entries of a sequence's page table, at most.
[[nodiscard]] std::vector<std::uint32_t> table_entries_of(const pool_plan& plan,
                                                          std::uint32_t context_tokens);
/// What a program_runner of these arguments asks its backend for. Makes the largest programs.
/// @throws engine::error when a kernel does not fit the geometry
[[nodiscard]] backend_needs backend_needs_of(const program_model& model,
                                             const runner_limits& limits,
                                             std::span<const std::uint32_t> pages_max,
                                             std::uint32_t drafts_max,
                                             bool order_fixed);

/// Runs programs, one after the other. Errors of a device are engine::error.
class step_backend {
 public:
  virtual ~step_backend() = default;

  /// Called once, before anything else. @throws engine::error, std::bad_alloc
  virtual void take_memory(const backend_needs& needs) = 0;
  /// Where the inputs of the next run are written: needs.input_bytes, 256-byte aligned.
  [[nodiscard]] virtual std::span<std::byte> inputs() noexcept = 0;
  /// Where outputs lie behind a run: as in the program, from its first output on.
  [[nodiscard]] virtual std::span<const std::byte> outputs() const noexcept = 0;
  /// Address of the page tables, as kernels see them.
  [[nodiscard]] virtual const std::uint32_t* tables() const noexcept = 0;
  /// Copies the changed entries.
  virtual void send_tables(std::span<const std::uint32_t> entries,
                           std::span<const table_range> changes) = 0;
  /// Pages [0, pages) of a pool are about to be used.
  virtual void need_pages(std::uint32_t pool, std::uint32_t pages) = 0;
  /// As step_runner::arithmetic, of everything but how products are planned; empty: the host's.
  [[nodiscard]] virtual const char* arithmetic() const noexcept = 0;
  /// Sends the inputs, runs, fetches the parts and waits for them. A program that `repeats` is
  /// worth a captured graph; it keeps its address.
  /// @param gate  asked before each attention of each layer of the model: it blocks until what that
  ///              reads is in place. False: the inputs have changed, and are sent again first
  virtual void run(const step_program& program,
                   bool repeats,
                   std::span<const fetched_part> parts,
                   layer_gate_ref gate = {}) = 0;
  /// In the middle of a run, called by its gate: blocks until what was enqueued has run, so that
  /// inputs may be changed.
  virtual void settle() = 0;
  /// As step_runner::mover.
  [[nodiscard]] virtual page_mover* mover() noexcept { return nullptr; }

 protected:
  step_backend() = default;
  step_backend(const step_backend&) = default;
  step_backend& operator=(const step_backend&) = default;
};

/// Thread safety: none. Memory: the backend's is taken in the constructor, for the largest buckets;
/// programs are made when their bucket is met first. A sequence whose gate says no reads no
/// more of its cached keys; its rows run on, for nobody. A heal runs its rows from the first one in
/// every layer, where the host leaves out those below a layer's frontier: about twice the
/// layer-rows of its plan, in one program for all.
class program_runner final : public step_runner {
 public:
  /// @param pages_max  [pools] entries of a sequence's page table, at most
  /// @param drafts_max  of one sequence and step; decides model.decode_rows_max
  /// @param backend    outlives the runner
  /// @param order_fixed  decides model.product_rows
  /// @throws engine::error when a kernel does not fit the geometry, or the backend's memory fails
  program_runner(const program_model& model,
                 const runner_limits& limits,
                 std::span<const std::uint32_t> pages_max,
                 std::uint32_t drafts_max,
                 step_backend& backend,
                 bool order_fixed = true);

  std::span<const float> forward(std::span<const step_rows> batch) override;
  std::span<const float> forward_mtp(std::uint32_t head,
                                     std::span<const step_rows> batch,
                                     mtp_rows output = mtp_rows::with_logits) override;
  std::optional<decoded_rows> decode(std::span<const decoding_rows> batch,
                                     bool drafts_next) override;
  [[nodiscard]] bool has_decode() const noexcept override { return true; }
  [[nodiscard]] hidden_rows hidden_of(std::size_t sequence) const noexcept override {
    return hidden_of_[sequence];
  }
  [[nodiscard]] hidden_rows mtp_hidden_of(std::size_t entry) const noexcept override {
    return mtp_hidden_of_[entry];
  }
  [[nodiscard]] bool is_cut_off(std::size_t sequence) const noexcept override {
    ORIEL_EXPECTS(sequence < is_cut_off_.size());
    return is_cut_off_[sequence];
  }
  [[nodiscard]] page_mover* mover() noexcept override { return backend_.mover(); }
  [[nodiscard]] const runner_limits& limits() const noexcept override { return limits_; }
  [[nodiscard]] const runner_counts& counts() const noexcept override { return counts_; }
  [[nodiscard]] const char* arithmetic() const noexcept override { return arithmetic_.c_str(); }
  [[nodiscard]] std::uint64_t workspace_bytes() const noexcept override {
    return needs_.memory_bytes;
  }
  /// Programs made so far; the shapes of those that decode are the keys of graphs.
  [[nodiscard]] const std::map<program_shape, step_program>& programs() const noexcept {
    return programs_;
  }

 private:
  /// Asks the gates of a batch.
  class batch_gate;

  const step_program& program_for(const program_shape& shape);
  const step_program& begin(std::span<const step_rows> batch,
                            program_kind kind,
                            std::uint32_t block);
  [[nodiscard]] std::span<const float> logits_of(const step_program& program);
  void send_tables(std::span<const step_rows* const> batch);
  template <class T>
  std::span<T> input(const step_program& program, buffer_id id);
  template <class T>
  std::span<const T> output(const step_program& program, buffer_id id) const;
  void fill_rows(const step_program& program, std::span<const step_rows* const> batch);
  void fill_heals(const step_program& program, std::span<const step_rows* const> batch);
  void fill_logit_rows(const step_program& program, std::span<const step_rows* const> batch);
  void fill_sampling(const step_program& program, std::span<const decoding_rows> batch);
  void fill_drafting(const step_program& program, std::span<const decoding_rows> batch);
  void fill_sequence(paged_sequence& to,
                     std::uint32_t pool,
                     std::uint32_t member,
                     const step_rows& rows,
                     std::uint32_t first_position,
                     std::uint32_t count,
                     std::uint32_t first_key) const;
  void keep_hidden(std::span<const float> from,
                   std::span<const step_rows* const> batch,
                   std::vector<float>& values,
                   std::vector<hidden_rows>& rows) const;

  program_model model_;
  runner_limits limits_;
  std::uint32_t drafts_max_;
  step_backend& backend_;
  std::string arithmetic_;
  program_shape most_;  // of forward and draft
  backend_needs needs_;
  table_mirror tables_;
  std::map<program_shape, step_program> programs_;
  std::vector<const step_rows*> batch_;
  std::vector<fetched_part> parts_;
  std::vector<bool> is_cut_off_;  // [batch]
  std::vector<float> logits_;     // of a batch with sequences that were cut off
  std::vector<float> hidden_, mtp_hidden_;
  std::vector<hidden_rows> hidden_of_, mtp_hidden_of_;
  runner_counts counts_;
};

}  // namespace oriel::engine
