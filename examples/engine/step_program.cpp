// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <engine/step_program_builder.hpp>

#include <algorithm>
#include <bit>

namespace oriel::engine {
namespace {

constexpr std::uint32_t rows_least = 16;            // of a prompt's bucket
constexpr std::uint32_t product_rows_least = 1024;  // where products are order-fixed

}  // namespace

std::uint32_t program_model::pools() const noexcept {
  std::uint32_t pools = 0;
  for (const std::uint32_t pool : pool_of) {
    pools = std::max(pools, pool + 1);
  }
  return pools;
}

program_shape bucket_of(const program_shape& shape, const program_shape& most) {
  const auto up_to = [](std::uint32_t wanted, std::uint32_t limit) {
    return std::min(wanted, limit);
  };
  program_shape bucket = shape;
  const std::uint32_t sequences =
      shape.sequences <= 8 ? std::bit_ceil(shape.sequences) : (shape.sequences + 7) / 8 * 8;
  bucket.sequences = up_to(sequences, most.sequences);
  if (shape.kind == program_kind::decode) {
    bucket.rows = bucket.sequences * (1 + shape.drafts);
    bucket.logit_rows = bucket.rows;
    return bucket;
  }
  bucket.rows = up_to(std::bit_ceil(std::max(shape.rows, rows_least)), most.rows);
  bucket.logit_rows =
      shape.logit_rows == 0 ? 0 : up_to(std::bit_ceil(shape.logit_rows), most.logit_rows);
  return bucket;
}

std::uint32_t order_fixed_rows(const program_model& model,
                               const program_shape& most,
                               std::uint32_t drafts_max) noexcept {
  const std::uint32_t decoding = most.sequences * (1 + drafts_max);
  return std::bit_ceil(std::max({most.rows,
                                 most.logit_rows,
                                 carried_rows_of(model, most.sequences) + decoding,
                                 product_rows_least}));
}

step_program make_program(const program_model& model, const program_shape& shape) {
  return program_builder(model, shape).make();
}

}  // namespace oriel::engine
