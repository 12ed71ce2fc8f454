// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/checkpoint_claims.hpp>
#include <engine/error.hpp>
#include <engine/printable.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

namespace oriel::engine {
namespace {

constexpr std::size_t problems_shown = 8;
constexpr std::size_t problems_max = 4096;  ///< enough seen: the configuration is another model's

constexpr std::uint64_t blocks(std::uint64_t n) {
  return (n + scale_block - 1) / scale_block;
}

}  // namespace

tensor_claims::tensor_claims(const safetensors_store& store, weight_quantization quantization)
    : store_(store), quantization_(quantization), claimed_(store.entries().size(), false) {}

void tensor_claims::add_problem(std::string problem) {
  if (problems_.size() < problems_shown) {
    problems_.push_back(std::move(problem));
  }
  if (++problem_count_ == problems_max) {
    finish();
  }
}

const tensor_entry* tensor_claims::claim(const std::string& name,
                                         std::initializer_list<std::uint64_t> shape,
                                         bool may_be_e4m3) {
  const tensor_entry* const entry = store_.find(name);
  if (entry == nullptr) {
    add_problem(fmt::format("{} is missing", printable(name)));
    return nullptr;
  }
  claimed_[static_cast<std::size_t>(entry - store_.entries().data())] = true;
  if (!std::equal(shape.begin(), shape.end(), entry->shape.begin(), entry->shape.end())) {
    add_problem(fmt::format("{} is {}, expected [{}]",
                            printable(name),
                            shape_words(entry->shape),
                            fmt::join(shape, ", ")));
    return nullptr;
  }
  if (!entry->type || (*entry->type == dtype::e4m3 && !may_be_e4m3)) {
    add_problem(fmt::format("{} is stored as {}; supported here: F32, BF16{}",
                            printable(name),
                            entry->stored_as,
                            may_be_e4m3 ? ", F8_E4M3" : ""));
    return nullptr;
  }
  return entry;
}

const tensor_entry* tensor_claims::vector(const std::string& name, std::uint64_t size) {
  return claim(name, {size}, false);
}

row_range tensor_claims::matrix(const std::string& name,
                                std::uint32_t rows,
                                std::uint32_t columns,
                                std::uint32_t shards) {
  row_range range{.rows = rows, .columns = columns};
  range.weight = claim(name + ".weight", {rows, columns}, true);
  if (range.weight == nullptr || *range.weight->type != dtype::e4m3) {
    return range;
  }
  if (quantization_ == weight_quantization::none) {
    add_problem(fmt::format("{} is F8_E4M3, but config.json has no quantization_config",
                            printable(range.weight->name)));
  }
  range.scale =
      claim(name + ".weight_scale_inv", {shards * blocks(rows / shards), blocks(columns)}, false);
  if (range.scale != nullptr && *range.scale->type != dtype::f32) {
    add_problem(fmt::format("{} must be F32", printable(range.scale->name)));
  }
  return range;
}

row_range tensor_claims::stack(const std::string& name,
                               std::uint32_t planes,
                               std::uint32_t rows,
                               std::uint32_t columns) {
  return {.weight = claim(name, {planes, rows, columns}, false), .rows = rows, .columns = columns};
}

std::size_t tensor_claims::claim_prefix(std::string_view prefix) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < claimed_.size(); ++i) {
    if (!claimed_[i] && store_.entries()[i].name.starts_with(prefix)) {
      claimed_[i] = true;
      ++count;
    }
  }
  return count;
}

void tensor_claims::finish() {
  const std::size_t misfits = problem_count_;
  for (std::size_t i = 0; i < claimed_.size() && misfits < problems_max; ++i) {
    if (!claimed_[i]) {
      const tensor_entry& extra = store_.entries()[i];
      ++problem_count_;
      if (problems_.size() < problems_shown) {
        problems_.push_back(fmt::format("{} {} of {} is not part of the model",
                                        printable(extra.name),
                                        shape_words(extra.shape),
                                        store_.file_of(extra).filename().string()));
      }
    }
  }
  if (problem_count_ != 0) {
    const std::size_t unshown = problem_count_ - problems_.size();
    throw error(fmt::format("{}: the tensors do not fit config.json: {}{}",
                            store_.directory().string(),
                            fmt::join(problems_, "; "),
                            unshown != 0 ? fmt::format("; and {} more", unshown) : ""));
  }
}

}  // namespace oriel::engine
