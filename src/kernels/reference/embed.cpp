// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include "rounding.hpp"

#include <oriel/core/contract.hpp>
#include <oriel/kernels/embed.hpp>

void oriel::reference::embed(const embed_shape& shape, const embed_args& args) {
  for (std::size_t row = 0; row < args.tokens.size(); ++row) {
    const std::size_t token = to_index(args.tokens[row]);
    ORIEL_EXPECTS(token < shape.vocabulary);
    for (std::uint32_t i = 0; i < shape.width; ++i) {
      args.out[row * args.out_stride + i] =
          detail::element(args.table, shape.table, token * shape.width + i);
    }
  }
}
