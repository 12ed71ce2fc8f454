// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "detail/for_rows.hpp"
#include "detail/row_kernels.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/kernels/embed.hpp>

#include <cstring>

namespace oriel::host {

result<embed_plan> plan_embed(const embed_shape& shape, isa path) noexcept {
  if (shape.vocabulary == 0 || shape.width == 0 || shape.table == dtype::e4m3 ||
      !is_supported(path)) {
    return failure{errc::unsupported_shape, 0, "embed: empty table, e4m3 table or missing path"};
  }
  return embed_plan{.shape = shape, .path = path};
}

void run_embed(const embed_plan& plan, const embed_args& args, executor_ref executor) noexcept {
  const detail::row_kernels& kernels = detail::row_kernels_for(plan.path);
  const std::uint32_t width = plan.shape.width;
  const std::size_t row_bytes = width * size_bytes(plan.shape.table);
  const auto rows = static_cast<std::uint32_t>(args.tokens.size());
  detail::for_rows(executor, rows, width, [&](std::uint32_t begin, std::uint32_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      const std::size_t token = to_index(args.tokens[row]);
      ORIEL_EXPECTS(token < plan.shape.vocabulary);
      const auto* source = static_cast<const std::byte*>(args.table) + token * row_bytes;
      float* out = args.out + row * args.out_stride;
      if (plan.shape.table == dtype::bf16) {
        kernels.widen_bf16(out, source, width);
      } else {
        std::memcpy(out, source, row_bytes);
      }
    }
  });
}

}  // namespace oriel::host
