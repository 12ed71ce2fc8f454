// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <oriel/kernels/isa.hpp>

#include <catch2/catch.hpp>

using oriel::isa;

TEST_CASE("the best path is supported, and so is every path before it", "[isa]") {
  CHECK(oriel::is_supported(isa::scalar));
  for (const isa path : {isa::scalar, isa::avx2, isa::avx512, isa::avx512_bf16}) {
    if (path <= oriel::best_isa()) {
      CHECK(oriel::is_supported(path));
    }
  }
}
