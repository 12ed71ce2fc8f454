// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
/// @file
/// `tensor_claims`: the book-keeping behind plan_layout. Each tensor is claimed once under an
/// expected name and shape; what is missing, misshapen or left over is told in one message.
#pragma once

#include <engine/checkpoint_layout.hpp>

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace oriel::engine {

class tensor_claims {
 public:
  tensor_claims(const safetensors_store& store, weight_quantization quantization);

  /// True if any of the names is there.
  [[nodiscard]] bool has(const std::string& name) const { return store_.find(name) != nullptr; }

  /// A plain f32 or bf16 vector of `size` elements.
  const tensor_entry* vector(const std::string& name, std::uint64_t size);

  /// The tensor NAME.weight [rows, columns], whole, with NAME.weight_scale_inv where it is e4m3.
  /// `shards` grids of scales, one for each run of rows / shards rows, lie one after another.
  /// `shards` must divide `rows`.
  row_range matrix(const std::string& name,
                   std::uint32_t rows,
                   std::uint32_t columns,
                   std::uint32_t shards = 1);

  /// A plain tensor [planes, rows, columns], seen as [planes * rows, columns].
  row_range stack(const std::string& name,
                  std::uint32_t planes,
                  std::uint32_t rows,
                  std::uint32_t columns);

  /// Claims all tensors whose names start with `prefix`. @returns how many
  std::size_t claim_prefix(std::string_view prefix);

  /// @throws error when a claim failed or a tensor was not claimed
  void finish();

 private:
  const tensor_entry* claim(const std::string& name,
                            std::initializer_list<std::uint64_t> shape,
                            bool may_be_e4m3);
  void add_problem(std::string problem);

  const safetensors_store& store_;
  weight_quantization quantization_;
  std::vector<bool> claimed_;  ///< by index of store_.entries()
  std::vector<std::string> problems_;
  std::size_t problem_count_ = 0;
};

}  // namespace oriel::engine
